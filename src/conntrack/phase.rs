//! What a connection is in, seen from the middle.

use std::fmt;

/// The phase of a connection (docs/CONNTRACK.md). A middle box sees packets, not
/// states, so these are not the states of RFC 9293 §3.3.2.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Phase {
    /// A SYN went by.
    SynSent,
    /// A SYN-ACK came back, or the other side's SYN (simultaneous open).
    SynReceived,
    /// The handshake is complete.
    Established,
    /// A FIN that nobody has acknowledged yet.
    FinWait,
    /// One FIN acknowledged; the other side may still send.
    HalfClosed,
    /// Both FINs seen, not both acknowledged.
    Closing,
    /// Both FINs acknowledged.
    TimeWait,
    /// A valid RST went by.
    Reset,
    /// UDP seen one way.
    UdpNew,
    /// UDP seen both ways.
    UdpStream,
    /// ICMP echo.
    Icmp,
    /// Any other protocol.
    Other,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Self; 12] = [
        Self::SynSent,
        Self::SynReceived,
        Self::Established,
        Self::FinWait,
        Self::HalfClosed,
        Self::Closing,
        Self::TimeWait,
        Self::Reset,
        Self::UdpNew,
        Self::UdpStream,
        Self::Icmp,
        Self::Other,
    ];

    /// The phase's name, as people write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SynSent => "syn_sent",
            Self::SynReceived => "syn_received",
            Self::Established => "established",
            Self::FinWait => "fin_wait",
            Self::HalfClosed => "half_closed",
            Self::Closing => "closing",
            Self::TimeWait => "time_wait",
            Self::Reset => "reset",
            Self::UdpNew => "udp_new",
            Self::UdpStream => "udp_stream",
            Self::Icmp => "icmp",
            Self::Other => "other",
        }
    }

    /// The phase with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|phase| phase.name() == name)
    }

    /// Half-open: the three-way handshake has not finished.
    #[must_use]
    pub const fn is_embryonic(self) -> bool {
        matches!(self, Self::SynSent | Self::SynReceived)
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
