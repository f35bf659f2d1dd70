//! Fast Open (RFC 7413) under a rule that does not want it.

use crate::{
    conntrack::tcp::Kind,
    policy::FastOpen,
    wire::{Segment, TcpOptions},
};

/// What a rule makes of a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Passage {
    /// It goes on as it is.
    Whole,
    /// It goes on without Fast Open.
    Bare,
    /// It does not go on.
    Denied,
}

/// What becomes of a segment of a connection whose rule has this `fast_open`, and the
/// segment that goes on, or would, if it is another one.
///
/// Data in a SYN are Fast Open's whether or not its option says so; a SYN-ACK may
/// have some without (RFC 9293 §3.4), and is looked at for the cookie only.
#[inline(always)]
pub(super) fn passage(
    mode: impl FnOnce() -> FastOpen,
    kind: Kind,
    segment: &Segment,
) -> (Passage, Option<Segment>) {
    let tries = match kind {
        Kind::Syn => segment.options.fast_open || segment.payload_len > 0,
        Kind::SynAck => segment.options.fast_open,
        Kind::Ack | Kind::Fin | Kind::Rst => false,
    };
    let mode = if tries { mode() } else { FastOpen::Allow };
    if mode == FastOpen::Allow { (Passage::Whole, None) } else { bared(mode, kind, segment) }
}

fn bared(mode: FastOpen, kind: Kind, segment: &Segment) -> (Passage, Option<Segment>) {
    let options = TcpOptions { fast_open: false, ..segment.options };
    let bare = Segment { payload_len: 0, options, ..*segment };
    match (mode, kind) {
        (FastOpen::Deny, Kind::Syn) => (Passage::Denied, Some(bare)),
        // Also a cookie that nobody was let ask for.
        (FastOpen::Allow | FastOpen::Strip | FastOpen::Deny, _) => (Passage::Bare, Some(bare)),
    }
}
