//! What passes on `input` and `output` without inspection, whatever the rules say:
//! one list for the table and for those who explain it.

use std::net::IpAddr;

use crate::{
    policy::{Hook, Hooks},
    wire::{Flags, Protocol},
};

/// ICMPv6 types of neighbour discovery that pass, with hop limit 255 (RFC 4861
/// §6.1, §7.1). Redirects are left to the rules.
pub(super) const NEIGHBOUR_DISCOVERY: [(u8, &str); 4] = [
    (133, "nd-router-solicit"),
    (134, "nd-router-advert"),
    (135, "nd-neighbor-solicit"),
    (136, "nd-neighbor-advert"),
];

/// ICMPv6 types of multicast listener discovery, with hop limit 1 (RFC 3810 §5).
pub(super) const LISTENER_DISCOVERY: [(u8, &str); 4] = [
    (130, "mld-listener-query"),
    (131, "mld-listener-report"),
    (132, "mld-listener-done"),
    (143, "mld2-listener-report"),
];

/// UDP ports of the DHCP client and its server (RFC 2131 §4.1, RFC 8415 §7.2).
pub(super) const DHCP_V4: (u16, u16) = (68, 67);
/// The same for IPv6.
pub(super) const DHCP_V6: (u16, u16) = (546, 547);

/// A kind of packets that passes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exempt {
    /// What never leaves the gateway.
    Loopback,
    /// IPv6 neighbour discovery.
    NeighbourDiscovery,
    /// IPv6 multicast listener discovery.
    ListenerDiscovery,
    /// The kernel's own refusals, about a packet that it has: they share the
    /// conntrack entry of that packet, and one that is not confirmed does not
    /// survive a queue.
    Refusal,
    /// The gateway's DHCP client.
    DhcpClient,
}

/// Whether a packet is of a kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Covered {
    /// It is.
    Yes,
    /// It looks like it; the kernel knows the rest.
    Perhaps,
    /// It is not.
    No,
}

/// What can be told of a packet by its looks.
#[derive(Clone, Copy, Debug)]
pub struct Looks<'a> {
    /// Where it would be diverted.
    pub hook: Hook,
    /// The interface of that hook.
    pub interface: Option<&'a str>,
    /// Its protocol.
    pub protocol: Protocol,
    /// Where it goes.
    pub dst: IpAddr,
    /// Source and destination port.
    pub ports: (u16, u16),
    /// TCP flags.
    pub flags: Flags,
    /// ICMP type.
    pub icmp: Option<u8>,
}

impl Exempt {
    /// The kinds that pass on a hook.
    #[must_use]
    pub const fn on(hook: Hook) -> &'static [Self] {
        match hook {
            Hook::Forward => &[],
            Hook::Input => {
                &[Self::Loopback, Self::NeighbourDiscovery, Self::ListenerDiscovery, Self::DhcpClient]
            }
            Hook::Output => &[
                Self::Loopback,
                Self::NeighbourDiscovery,
                Self::ListenerDiscovery,
                Self::Refusal,
                Self::DhcpClient,
            ],
        }
    }

    /// What it is, in words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Loopback => "loopback",
            Self::NeighbourDiscovery => "IPv6 neighbour discovery (with hop limit 255)",
            Self::ListenerDiscovery => "multicast listener discovery (with hop limit 1)",
            Self::Refusal => "an RST or ICMP message that the kernel itself sends about a packet",
            Self::DhcpClient => "the DHCP client",
        }
    }

    /// Whether a packet on one of this kind's hooks is of it.
    #[must_use]
    pub fn covers(self, packet: &Looks<'_>) -> Covered {
        let icmpv6 = |types: &[(u8, &str)]| {
            packet.protocol == Protocol::ICMPV6
                && packet.icmp.is_some_and(|kind| types.iter().any(|(one, _)| *one == kind))
        };
        let yes = match self {
            Self::Loopback => packet.interface == Some("lo"),
            Self::NeighbourDiscovery => icmpv6(&NEIGHBOUR_DISCOVERY),
            Self::ListenerDiscovery => icmpv6(&LISTENER_DISCOVERY),
            Self::Refusal => {
                let rst = packet.protocol == Protocol::TCP && packet.flags.contains(Flags::RST);
                let icmp = packet.protocol == Protocol::ICMP || packet.protocol == Protocol::ICMPV6;
                return if rst || icmp { Covered::Perhaps } else { Covered::No };
            }
            Self::DhcpClient => {
                let (client, server) = match packet.dst {
                    IpAddr::V4(_) => DHCP_V4,
                    IpAddr::V6(_) => DHCP_V6,
                };
                let expected = if packet.hook == Hook::Output { (client, server) } else { (server, client) };
                packet.protocol == Protocol::UDP && packet.ports == expected
            }
        };
        if yes { Covered::Yes } else { Covered::No }
    }
}

/// Which packets of a hook are inspected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Share {
    /// All of them.
    All,
    /// Those of connections that were opened in this direction, and those that
    /// belong to none: the answers to the other direction's are not ours.
    Originals,
    /// Only the answers to connections that the opposite hook lets in.
    Replies,
}

impl Share {
    /// How much of a hook a table covers. A connection of the gateway itself runs
    /// through `input` and `output`: where the rule file names only one of them,
    /// its connections must be seen both ways, and the others' not at all.
    #[must_use]
    pub const fn of(hooks: Hooks, hook: Hook) -> Option<Self> {
        let (own, other) = match hook {
            Hook::Forward => (hooks.forward, hooks.forward),
            Hook::Input => (hooks.input, hooks.output),
            Hook::Output => (hooks.output, hooks.input),
        };
        match (own, other) {
            (true, true) => Some(Self::All),
            (true, false) => Some(Self::Originals),
            (false, true) => Some(Self::Replies),
            (false, false) => None,
        }
    }
}
