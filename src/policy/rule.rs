//! One rule, and what a connection's first packet must be to match it.

use std::{fmt, net::IpAddr, sync::Arc};

use crate::{conntrack::Timer, wire::Protocol};

use super::{EmbryonicLimits, NetworkSet, OnExpire, OpenLimits, PickupMode};

/// A rule's number; stable as long as its name is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub struct RuleId(pub u16);

impl RuleId {
    /// No rule matched: the default action decided. Its name is `default`.
    pub const DEFAULT: Self = Self(0);
}

/// An index into [`super::Policy::zones`]; at most 64 zones.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct ZoneId(pub u8);

/// A set of zones, a bit each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ZoneBits(pub u64);

/// What to do with a new connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Action {
    /// Let it through and track it.
    Accept,
    /// Silence.
    Drop,
    /// RST for TCP, ICMP administratively prohibited for the rest.
    Reset,
}

/// What becomes of Fast Open (RFC 7413) in a rule's connections.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum FastOpen {
    /// It passes.
    #[default]
    Allow,
    /// SYN and SYN-ACK go on without its option, the SYN also without data: both
    /// ends fall back to the ordinary handshake.
    Strip,
    /// A SYN with its option or with data is dropped: the client falls back when it
    /// sends its SYN again.
    Deny,
}

impl FastOpen {
    /// The name that people write.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Strip => "strip",
            Self::Deny => "deny",
        }
    }
}

/// Which packets of a rule's connections are inspected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Inspect {
    /// Those that open, close or don't fit; the rest of what is established passes in the
    /// kernel (the fast path).
    #[default]
    Lifecycle,
    /// Each.
    Full,
}

impl Inspect {
    /// The name that people write.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lifecycle => "lifecycle",
            Self::Full => "full",
        }
    }
}

/// Where in the kernel a packet was diverted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Hook {
    /// Routed through the gateway.
    Forward,
    /// For the gateway itself.
    Input,
    /// From the gateway itself.
    Output,
}

/// A set of hooks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hooks {
    /// Routed traffic.
    pub forward: bool,
    /// Traffic for the gateway.
    pub input: bool,
    /// Traffic from the gateway.
    pub output: bool,
}

/// The first packet of a connection, as a rule sees it: after DNAT, before SNAT.
#[derive(Clone, Copy, Debug)]
pub struct NewFlow {
    /// Where it was diverted; `gateway` in a rule looks here.
    pub hook: Hook,
    /// Zones of the source (by incoming interface and source address).
    pub from_zones: ZoneBits,
    /// Zones of the destination (by outgoing interface and destination address).
    pub to_zones: ZoneBits,
    /// Source address.
    pub src: IpAddr,
    /// Destination address.
    pub dst: IpAddr,
    /// Protocol.
    pub protocol: Protocol,
    /// Source port, 0 where there is none.
    pub src_port: u16,
    /// Destination port, 0 where there is none.
    pub dst_port: u16,
    /// ICMP type and code, for ICMP and ICMPv6.
    pub icmp: Option<(u8, u8)>,
}

/// One way of saying who: a zone, addresses, the gateway itself.
#[derive(Clone, Debug)]
pub enum Term {
    /// A zone.
    Zone(ZoneId),
    /// A list, a network or an address.
    Networks(Arc<NetworkSet>),
    /// The gateway itself: as a source the `output` hook, as a destination `input`.
    Gateway,
}

/// Who may be at one end: any of `any_of` (anyone if empty) and none of `none_of`.
#[derive(Clone, Debug, Default)]
pub struct Selector {
    /// One of these must hold; empty means anyone.
    pub any_of: Vec<Term>,
    /// None of these may hold (`not X`).
    pub none_of: Vec<Term>,
}

/// An inclusive range of ports.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Ports {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

/// What is asked of the transport header.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum ServiceKind {
    /// Destination ports of TCP, UDP or another protocol with ports.
    Ports(Protocol, Ports),
    /// A whole protocol.
    Protocol(Protocol),
    /// ICMP or ICMPv6 of one type (and code).
    Icmp {
        /// ICMP or ICMPv6.
        protocol: Protocol,
        /// Type.
        kind: u8,
        /// Code, any if `None`.
        code: Option<u8>,
    },
}

/// A service with the way it is written (`tcp/80`).
pub type Service = ServiceKind;

/// A compiled rule.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Its number.
    pub id: RuleId,
    /// Its name.
    pub name: Arc<str>,
    /// Where it stands: `file:line`.
    pub place: Arc<str>,
    /// The comment, empty if none.
    pub comment: Arc<str>,
    /// Who opens the connection.
    pub from: Selector,
    /// To whom.
    pub to: Selector,
    /// For which services; any if empty.
    pub services: Vec<Service>,
    /// What to do.
    pub action: Action,
    /// Whether to write a line when it decides.
    pub log: bool,
    /// Its own timers.
    pub timers: Vec<(Timer, Option<std::time::Duration>)>,
    /// Its own limits; `total` counts the rule's embryonic connections.
    pub limits: EmbryonicLimits,
    /// Its own limits of open connections.
    pub open_limits: OpenLimits,
    /// How its connections end when `established` or `half_closed` fires.
    pub on_expire: Option<OnExpire>,
    /// How packets of unknown connections are met.
    pub pickup: Option<PickupMode>,
    /// What becomes of Fast Open.
    pub fast_open: FastOpen,
    /// Which packets are inspected.
    pub inspect: Inspect,
    /// Whether its open connections may make room in a full table.
    pub evictable: bool,
}

impl Rule {
    /// Whether a new connection matches. This is what a rule means; packets get
    /// the same answer from [`super::Policy::first_match`], sooner.
    #[must_use]
    pub fn matches(&self, flow: &NewFlow) -> bool {
        (self.services.is_empty() || self.services.iter().any(|service| service.matches(flow)))
            && self.from.matches(|term| term.is_source(flow))
            && self.to.matches(|term| term.is_destination(flow))
    }
}

/// A range of more ports than this names none of them.
const NAMED_AT_ONCE: u16 = 1000;

impl Rule {
    /// Whether it names this port: `service: any`, a whole protocol, or a range of more
    /// than a thousand ports lets it be reached without having meant it.
    #[must_use]
    pub fn names(&self, protocol: Protocol, port: u16) -> bool {
        self.services.iter().any(|service| match *service {
            ServiceKind::Ports(own, ports) => {
                own == protocol
                    && ports.contains(port)
                    && ports.last.saturating_sub(ports.first) < NAMED_AT_ONCE
            }
            ServiceKind::Protocol(_) | ServiceKind::Icmp { .. } => false,
        })
    }
}

impl ZoneBits {
    /// Whether a zone is in the set.
    #[must_use]
    pub const fn contains(self, zone: ZoneId) -> bool {
        self.0 & zone.bit() != 0
    }

    /// The set with one more zone.
    #[must_use]
    pub const fn with(self, zone: ZoneId) -> Self {
        Self(self.0 | zone.bit())
    }

    /// The zones that are in both sets.
    #[must_use]
    pub const fn both(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

impl ZoneId {
    /// How many zones a rule set may have.
    pub const MAX: usize = 64;

    const fn bit(self) -> u64 {
        1_u64.wrapping_shl(self.0 as u32)
    }
}

impl Selector {
    /// Whether it says nothing: anyone.
    #[must_use]
    pub const fn is_any(&self) -> bool {
        self.any_of.is_empty() && self.none_of.is_empty()
    }

    fn matches(&self, holds: impl Fn(&Term) -> bool) -> bool {
        (self.any_of.is_empty() || self.any_of.iter().any(&holds)) && !self.none_of.iter().any(&holds)
    }
}

impl Term {
    fn is_source(&self, flow: &NewFlow) -> bool {
        match self {
            Self::Zone(zone) => flow.from_zones.contains(*zone),
            Self::Networks(networks) => networks.contains(flow.src),
            Self::Gateway => flow.hook == Hook::Output,
        }
    }

    fn is_destination(&self, flow: &NewFlow) -> bool {
        match self {
            Self::Zone(zone) => flow.to_zones.contains(*zone),
            Self::Networks(networks) => networks.contains(flow.dst),
            Self::Gateway => flow.hook == Hook::Input,
        }
    }
}

impl ServiceKind {
    /// Whether a new connection asks for this service.
    #[must_use]
    pub fn matches(&self, flow: &NewFlow) -> bool {
        match *self {
            // ICMP has no ports, and an echo's identifier stands where they do.
            Self::Ports(protocol, ports) => {
                flow.protocol == protocol && flow.icmp.is_none() && ports.contains(flow.dst_port)
            }
            Self::Protocol(protocol) => flow.protocol == protocol,
            Self::Icmp { protocol, kind, code } => {
                flow.protocol == protocol
                    && flow.icmp.is_some_and(|(k, c)| k == kind && code.is_none_or(|code| c == code))
            }
        }
    }

    /// Whether everything that asks for `other` also asks for `self`.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        match (*self, *other) {
            (Self::Ports(ours, ports), Self::Ports(theirs, others)) => {
                ours == theirs && ports.first <= others.first && others.last <= ports.last
            }
            (
                Self::Protocol(ours),
                Self::Ports(theirs, _) | Self::Protocol(theirs) | Self::Icmp { protocol: theirs, .. },
            ) => ours == theirs,
            (
                Self::Icmp { protocol: ours, kind, code },
                Self::Icmp { protocol: theirs, kind: other_kind, code: other_code },
            ) => ours == theirs && kind == other_kind && (code.is_none() || code == other_code),
            (Self::Ports(ours, ports), Self::Protocol(theirs)) => {
                ours == theirs && ports == Ports { first: 0, last: u16::MAX }
            }
            (Self::Ports(..), Self::Icmp { .. })
            | (Self::Icmp { .. }, Self::Ports(..) | Self::Protocol(_)) => false,
        }
    }
}

impl Ports {
    /// Whether a port is in the range.
    #[must_use]
    pub const fn contains(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }
}

impl Action {
    /// The name that people write.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::Drop => "drop",
            Self::Reset => "reset",
        }
    }
}

impl Hook {
    /// The name that people write.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Input => "input",
            Self::Output => "output",
        }
    }
}

impl fmt::Display for ServiceKind {
    /// As it is written: `tcp/80`, `tcp/8000-8100`, `udp`, `icmpv4/8`, `icmpv6/1/4`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Ports(protocol, Ports { first, last }) if first == last => write!(f, "{protocol}/{first}"),
            Self::Ports(protocol, Ports { first, last }) => write!(f, "{protocol}/{first}-{last}"),
            // `icmp` would mean both families.
            Self::Protocol(Protocol::ICMP) => f.write_str("icmpv4"),
            Self::Protocol(protocol @ (Protocol::TCP | Protocol::UDP | Protocol::ICMPV6)) => {
                write!(f, "{protocol}")
            }
            Self::Protocol(Protocol(number)) => write!(f, "ip/{number}"),
            Self::Icmp { protocol, kind, code } => {
                write!(f, "{}/{kind}", if protocol == Protocol::ICMP { "icmpv4" } else { "icmpv6" })?;
                code.map_or(Ok(()), |code| write!(f, "/{code}"))
            }
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests;
