//! What comes with a packet, and what goes back.

use crate::{
    conntrack::Flow,
    policy::Hook,
    wire::{Checksums, FourTuple, Malformed, SeqNum},
};

/// The kernel's number for an interface; 0 is none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
pub struct IfIndex(pub u32);

/// What the kernel says about a packet.
#[derive(Clone, Copy, Debug)]
pub struct Meta {
    /// Where it was diverted.
    pub hook: Hook,
    /// Interface it came in by (none on output).
    pub in_if: IfIndex,
    /// Interface it will leave by (none on input).
    pub out_if: IfIndex,
    /// Octets on the wire.
    pub wire_len: u32,
    /// Whether its transport checksum can be believed.
    pub checksums: Checksums,
    /// The kernel's conntrack has known this connection for longer than this
    /// packet (pickup).
    pub kernel_knows: bool,
}

/// What to do with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Let it through.
    Accept,
    /// Drop it, silently.
    Drop(DropReason),
    /// Drop it; a RST (or ICMP prohibited) is waiting in `poll_transmit`.
    Reset(DropReason),
}

/// Why a packet was dropped. Every drop is counted under one of these.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum DropReason {
    /// Its headers make no sense.
    Malformed(Malformed),
    /// A rule or the default action.
    Rule,
    // the rest is the engine's: see DropReason::name
}

impl DropReason {
    /// The name that counters and events use.
    #[must_use]
    pub fn name(self) -> &'static str {
        "rule"
    }
}

/// Something that halfgate sends itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Transmit {
    /// An RST toward one end. Addresses are those that the hook shows; the
    /// sender translates them where the kernel does NAT (DESIGN 3.8).
    Reset {
        /// The connection, in its original direction.
        flow: Flow,
        /// The RST's own addresses: from the peer it speaks for, to its receiver.
        tuple: FourTuple,
        /// Sequence number: what the receiver expects next.
        seq: SeqNum,
        /// Acknowledgement, if any.
        ack: Option<SeqNum>,
        /// The hook by which its connection runs.
        hook: Hook,
    },
    /// ICMP administratively prohibited about this packet (its first octets).
    Prohibited {
        /// The packet, IP header first, at most 548 octets.
        quoted: Vec<u8>,
    },
    /// The kernel's conntrack entry of this connection should go: we ended it.
    Forget {
        /// The connection, in its original direction.
        flow: Flow,
    },
}
