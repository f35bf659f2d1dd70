//! One rule, and what a connection's first packet must be to match it.

use std::{net::IpAddr, sync::Arc};

use crate::{conntrack::Timer, wire::Protocol};

use super::{EmbryonicLimits, NetworkSet, OnExpire, PickupMode};

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
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ports {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

/// What is asked of the transport header.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
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
    /// How its connections end when `established` or `half_closed` fires.
    pub on_expire: Option<OnExpire>,
    /// How packets of unknown connections are met.
    pub pickup: Option<PickupMode>,
}

impl Rule {
    /// Whether a new connection matches.
    #[must_use]
    pub fn matches(&self, flow: &NewFlow) -> bool {
        let _ = flow;
        false
    }
}
