//! Packets are looked at ahead of their turn, so that what they need is in the
//! processor's cache when it comes: first where it is found, then it itself.

use super::{
    Replay,
    capture::Frame,
    headers::{self, Seen},
};
use crate::{engine::Foreseen, sys::prefetch::IntoCache};

/// So many packets lie between one step and the next: time enough for memory to answer.
pub(super) const AHEAD: usize = 8;

/// What was seen of a packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) seen: Seen,
    /// The hash by which its row is found.
    pub(super) hash: u32,
    /// Where the engines look for its connection; all of them in the same place.
    engine: Option<Foreseen>,
}

impl Replay<'_> {
    /// Reads a packet's headers. `None`: it has no tuple.
    pub(super) fn look(&self, bytes: &[u8], wire_len: u32) -> Option<Look> {
        let seen = headers::look(bytes, wire_len)?;
        let engine = self.sides.first().and_then(|side| side.foresee(&seen.flow));
        Some(Look { seen, hash: self.rows.hash(&seen.flow), engine })
    }

    /// The first step: reads its headers, and asks for the places where it is looked up.
    pub(super) fn foresee(&self, frame: &Frame<'_>) -> Option<Look> {
        let look = self.look(frame.bytes, frame.wire_len)?;
        self.rows.fetch_place(look.hash, &IntoCache);
        for (side, foreseen) in self.sides.iter().zip(look.engine.iter().cycle()) {
            side.fetch_place(foreseen, &IntoCache);
        }
        Some(look)
    }

    /// The second step: asks for what was found there.
    pub(super) fn fetch(&self, look: &Look) {
        self.rows.fetch(look.hash, &IntoCache);
        for (side, foreseen) in self.sides.iter().zip(look.engine.iter().cycle()) {
            side.fetch(foreseen, &IntoCache);
        }
    }
}
