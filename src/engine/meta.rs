//! What comes with a packet, and what goes back.

use crate::{
    conntrack::{
        Flow,
        keepalive::Keepalive,
        tcp::Invalid,
        window::{Bound, Outside},
    },
    policy::Hook,
    wire::{Checksums, FourTuple, Malformed, Segment, SeqNum},
};

/// The kernel's number for an interface; 0 is none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash, Default)]
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
    /// Which of its checksums are to be verified.
    pub checksums: Checksums,
    /// The kernel's conntrack knows this connection both ways (pickup).
    pub kernel_knows: bool,
    /// The kernel's conntrack says that this packet can't belong to its connection.
    pub is_invalid: bool,
    /// How it stands to the packet that may begin its connection's ride ([`super::Ride`]).
    /// Where there is no kernel, none may.
    pub candidacy: Option<Candidacy>,
    /// The connection whose helper in the kernel announced this one (FTP's control
    /// connection of its data connection), as the hooks show it.
    pub parent: Option<Flow>,
    /// What a helper in the kernel has made of the numbers that this segment
    /// acknowledges.
    pub renumbered: Option<Renumbering>,
}

/// A connection that was made a candidate goes on in the kernel from its next packet on, unless
/// another has come to the queue behind that one, and would be overtaken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Candidacy {
    /// This is that packet. The kernel will know whether another has come behind it.
    Stands,
    /// This one has come behind it: whatever its verdict was, it has begun nothing.
    Lost,
}

/// A helper that writes other addresses into what an end sends (FTP through NAT) may
/// make it longer or shorter. What follows has other numbers for the receiver, and so
/// have its acknowledgements until they have passed the hooks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Renumbering {
    /// Where the last change is, in the sender's numbers.
    pub position: SeqNum,
    /// How much longer all that stands before it has become, modulo 2^32.
    pub before: u32,
    /// And all that stands behind it.
    pub after: u32,
}

impl Renumbering {
    /// An acknowledged number as the sender of the data knows it.
    #[must_use]
    pub fn undo(&self, ack: SeqNum) -> SeqNum {
        let before = ack.minus(self.before);
        if before.after(self.position) { ack.minus(self.after) } else { before }
    }

    /// A segment with acknowledgements as the sender of the data knows them.
    pub(super) fn undone(&self, mut segment: Segment) -> Segment {
        segment.ack = self.undo(segment.ack);
        segment.options.sack_high = segment.options.sack_high.map(|high| self.undo(high));
        segment
    }
}

/// What to do with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Let it through, as it is or, if there is one, as [`super::Worker::rewritten`].
    Accept,
    /// Drop it, silently.
    Drop(DropReason),
    /// Drop it and tell its sender: RST for TCP, ICMP prohibited for the rest. The
    /// kernel does that behind the queue, because only it knows the addresses of a
    /// packet whose translation is not settled yet. Where the budget for RSTs is
    /// used up the verdict is `Drop`.
    Reset(DropReason),
}

/// Why a packet was dropped. Every drop is counted under one of these.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum DropReason {
    /// Its headers make no sense.
    Malformed(Malformed),
    /// A rule or the default action.
    Rule,
    /// A limit on half-open connections.
    Limit,
    /// The table holds all the connections it may.
    TableFull,
    /// A fragment without its transport header.
    Fragment,
    /// No legal segment has these TCP control bits.
    ImpossibleFlags,
    /// Fast Open where its rule denies it (`fast_open: deny`), or in a packet that it
    /// can't be stripped from.
    FastOpen,
    /// It belongs to no connection and opens none.
    OutOfState,
    /// No honest end sends this in this phase.
    Unexpected,
    /// It acknowledges something else than the SYN.
    BadAck,
    /// An RST outside the window (RFC 5961 §3).
    BadRst,
    /// Data beyond the sender's FIN.
    AfterFin,
    /// Beyond the receiver's window.
    SeqBeyond,
    /// Older than the receiver's window.
    SeqOld,
    /// Acknowledges what was never sent.
    AckBeyond,
    /// Acknowledges what is long past.
    AckOld,
    /// It answers a keepalive of ours, and says nothing else.
    KeepaliveAnswer,
    /// It asks for a handshake's last ACK, which it gets again (behind a SYN cookie).
    AckRepeated,
    /// The kernel's conntrack calls it invalid, and its connection's numbers were not seen
    /// lately (the fast path).
    ConntrackInvalid,
    /// Its connection was ended by halfgate, and its sender is told.
    Ended,
    /// A SYN past a limit, whose sender must prove first that it is there
    /// (`on_excess: challenge`).
    Challenged,
    /// An RST that proves it.
    ChallengeAnswer,
    /// An ICMP error about no live connection (RFC 5927 §4.1).
    IcmpUnrelated,
}

impl DropReason {
    /// The reasons that are not [`Self::Malformed`].
    const OWN: [Self; 22] = [
        Self::Rule,
        Self::Limit,
        Self::TableFull,
        Self::Fragment,
        Self::ImpossibleFlags,
        Self::FastOpen,
        Self::OutOfState,
        Self::Unexpected,
        Self::BadAck,
        Self::BadRst,
        Self::AfterFin,
        Self::SeqBeyond,
        Self::SeqOld,
        Self::AckBeyond,
        Self::AckOld,
        Self::KeepaliveAnswer,
        Self::AckRepeated,
        Self::ConntrackInvalid,
        Self::Ended,
        Self::Challenged,
        Self::ChallengeAnswer,
        Self::IcmpUnrelated,
    ];

    /// How many reasons there are.
    pub const COUNT: usize = Malformed::ALL.len() + Self::OWN.len();

    /// Every reason.
    pub fn all() -> impl Iterator<Item = Self> {
        Malformed::ALL.iter().copied().map(Self::Malformed).chain(Self::OWN)
    }

    /// Its place in [`Self::all`].
    #[must_use]
    pub fn index(self) -> usize {
        match self {
            Self::Malformed(malformed) => malformed.index(),
            own @ (Self::Rule
            | Self::Limit
            | Self::TableFull
            | Self::Fragment
            | Self::ImpossibleFlags
            | Self::FastOpen
            | Self::OutOfState
            | Self::Unexpected
            | Self::BadAck
            | Self::BadRst
            | Self::AfterFin
            | Self::SeqBeyond
            | Self::SeqOld
            | Self::AckBeyond
            | Self::AckOld
            | Self::KeepaliveAnswer
            | Self::AckRepeated
            | Self::ConntrackInvalid
            | Self::Ended
            | Self::Challenged
            | Self::ChallengeAnswer
            | Self::IcmpUnrelated) => {
                let place = Self::OWN.iter().position(|reason| *reason == own).unwrap_or(0);
                Malformed::ALL.len().saturating_add(place)
            }
        }
    }

    /// The name that counters and events use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed(malformed) => malformed.name(),
            Self::Rule => "rule",
            Self::Limit => "limit",
            Self::TableFull => "table_full",
            Self::Fragment => "fragment",
            Self::ImpossibleFlags => "impossible_flags",
            Self::FastOpen => "fast_open",
            Self::OutOfState => "out_of_state",
            Self::Unexpected => "unexpected",
            Self::BadAck => "bad_ack",
            Self::BadRst => "bad_rst",
            Self::AfterFin => "after_fin",
            Self::SeqBeyond => "seq_beyond",
            Self::SeqOld => "seq_old",
            Self::AckBeyond => "ack_beyond",
            Self::AckOld => "ack_old",
            Self::KeepaliveAnswer => "keepalive_answer",
            Self::AckRepeated => "ack_repeated",
            Self::ConntrackInvalid => "conntrack_invalid",
            Self::Ended => "ended",
            Self::Challenged => "challenged",
            Self::ChallengeAnswer => "challenge_answer",
            Self::IcmpUnrelated => "icmp_unrelated",
        }
    }
}

impl From<Invalid> for DropReason {
    fn from(invalid: Invalid) -> Self {
        match invalid {
            Invalid::Unexpected(..) => Self::Unexpected,
            Invalid::BadAck => Self::BadAck,
            Invalid::BadRst => Self::BadRst,
            Invalid::AfterFin => Self::AfterFin,
            Invalid::Outside(Outside { bound, .. }) => match bound {
                Bound::SeqBeyond => Self::SeqBeyond,
                Bound::SeqOld => Self::SeqOld,
                Bound::AckBeyond => Self::AckBeyond,
                Bound::AckOld => Self::AckOld,
            },
        }
    }
}

/// Something that halfgate sends itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transmit {
    /// An RST toward one end. Addresses are those that the hook shows; the
    /// sender translates them where the kernel does NAT.
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
        /// Its numbers are its receiver's, and the kernel must not translate them.
        untranslated: bool,
    },
    /// A keepalive toward one end, in the name of the other. Addresses as above.
    Keepalive {
        /// The connection, in its original direction.
        flow: Flow,
        /// Its own addresses: from the peer it speaks for, to its receiver.
        tuple: FourTuple,
        /// Its numbers.
        keepalive: Keepalive,
    },
    /// The last ACK of a handshake once more, toward the server in the name of the client,
    /// with the client's numbers: the kernel translates it.
    Acknowledge {
        /// The connection, in its original direction.
        flow: Flow,
        /// Its own addresses.
        tuple: FourTuple,
        /// Its sequence number.
        seq: SeqNum,
        /// Its acknowledgement.
        ack: SeqNum,
        /// Its window, as on the wire.
        window: u16,
        /// TSval and TSecr.
        timestamps: Option<(u32, u32)>,
    },
    /// A challenge: a SYN-ACK toward the sender of a SYN, in the name of where that went.
    /// Its addresses are those of the packet, for nothing was translated.
    Challenge {
        /// Its own addresses.
        tuple: FourTuple,
        /// Its sequence number.
        seq: SeqNum,
        /// Its acknowledgement, the cookie.
        ack: SeqNum,
    },
    /// The kernel's conntrack must be asked what has become of this connection, of which
    /// packets pass unseen: the answer goes to [`super::Worker::handle_word`].
    Ask {
        /// The connection, in its original direction.
        flow: Flow,
    },
    /// The packets of this connection must come to the queue again.
    Release {
        /// The connection, in its original direction.
        flow: Flow,
    },
    /// The kernel's conntrack entry of this connection should go: we ended it.
    Forget {
        /// The connection, in its original direction.
        flow: Flow,
    },
}

impl Transmit {
    /// The connection that it is about; `None`: a challenge, which is about none.
    #[must_use]
    pub const fn flow(&self) -> Option<Flow> {
        match self {
            Self::Reset { flow, .. }
            | Self::Keepalive { flow, .. }
            | Self::Acknowledge { flow, .. }
            | Self::Ask { flow }
            | Self::Release { flow }
            | Self::Forget { flow } => Some(*flow),
            Self::Challenge { .. } => None,
        }
    }
}
