//! Rule sets of any size and packets that meet them, the same every time.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use halfgate::{
    config,
    policy::{Hook, NewFlow, Policy},
    wire::Protocol,
};

/// Numbers without a pattern that a prefetcher knows (SplitMix64).
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// Two lists of this many networks, an eighth of them IPv6, all outside the
/// addresses that rules name.
pub(crate) fn list_file(name: &str, networks: usize) -> String {
    let mut numbers = Numbers(name.len() as u64);
    let mut text = String::new();
    for _ in 0..networks {
        let bits = numbers.next();
        if bits.is_multiple_of(8) {
            let _ = writeln!(text, "2a00:{:x}:{:x}::/48", bits >> 48, bits >> 32 & 0xffff);
        } else {
            let prefix = 18 + (bits >> 8) % 11;
            let address = 0x4000_0000 | u32::try_from(bits >> 34).unwrap_or(0);
            let _ = writeln!(text, "{}/{prefix}", Ipv4Addr::from(address & (u32::MAX << (32 - prefix))));
        }
    }
    text
}

fn server(n: u64) -> Ipv4Addr {
    Ipv4Addr::from(0x0a80_0000 | u32::try_from(n & 0xffff).unwrap_or(0))
}

fn client_net(n: u64) -> (Ipv4Addr, u64) {
    (Ipv4Addr::from(0xac10_0000 | (u32::try_from(n & 0x3fff).unwrap_or(0) << 6)), 26)
}

fn port(n: u64) -> u64 {
    1024 + n % 30_000
}

/// A rule file of `rules` rules over zones, lists, networks, addresses and ports.
pub(crate) fn rule_file(rules: u64) -> String {
    let mut text = String::from(
        "version: 1\nhooks: [forward, input]\ndefault: drop\n\
         limits: { embryonic: {} }\n\
         zones:\n  lan: { interfaces: [eth1, 'vlan*'], networks: [10.0.0.0/8, 'fd00::/8'] }\n  \
         wan: { interfaces: [ppp0] }\n  guests: { networks: [172.16.0.0/12] }\n\
         lists:\n  blocked: { file: blocked }\n  partners: { file: partners }\n\
         services: { web: [tcp/80, tcp/443], mail: [tcp/25, tcp/465, tcp/587] }\nrules:\n",
    );
    for n in 0..rules {
        let (host, (net, bits), port) = (server(n), client_net(n), port(n));
        let body = match n % 8 {
            0 => format!("from: wan, to: {host}, service: tcp/{port}"),
            1 => format!("from: {net}/{bits}, to: {host}, service: tcp/{port}-{}", port + 10),
            2 => format!("from: blocked, to: {host}, service: web"),
            3 => format!("from: partners, to: {host}, service: mail"),
            4 => format!("from: [guests, {net}/{bits}], to: [{host}, 'not partners'], service: udp/{port}"),
            5 => format!("from: wan, to: 'fd00::{:x}', service: tcp/{port}", n + 1),
            6 => format!("from: {net}/{bits}, to: gateway, service: [tcp/22, icmp/echo-request, tcp/{port}]"),
            _ => format!("from: [lan, 'not {net}/{bits}'], to: wan, service: tcp/{port}"),
        };
        let _ = writeln!(text, "  - {{ name: r{n}, {body}, action: accept }}");
    }
    text
}

/// The rule file compiled, with lists of this many networks each.
pub(crate) fn policy(rules: u64, networks: usize) -> Policy {
    compiled(&rule_file(rules), networks)
}

/// A rule file over those two lists, compiled.
pub(crate) fn compiled(rule_file: &str, networks: usize) -> Policy {
    let mut read = |name: &str| Ok(list_file(name, networks));
    match config::compile("bench.yaml", rule_file, &mut read, None) {
        Ok(compiled) => compiled.policy,
        Err(diagnostics) => panic!("{diagnostics:?}"),
    }
}

/// The interfaces that packets come in and leave by.
pub(crate) const INTERFACES: [&str; 3] = ["ppp0", "eth1", "eth2"];

/// A connection's first packet, and the interfaces that it comes in and leaves by
/// (empty: none). One in eight matches nothing; the others are made for a rule.
pub(crate) fn question(policy: &Policy, rules: u64, numbers: &mut Numbers) -> (NewFlow, [&'static str; 2]) {
    let n = numbers.below(rules);
    let noise = numbers.next();
    let low = u32::try_from(noise & 0x3f).unwrap_or(0);
    let client = Ipv4Addr::from(u32::from(client_net(n).0) | low);
    let far = Ipv4Addr::from(0x4000_0000 | u32::try_from(noise >> 34).unwrap_or(0));
    let (hook, in_if, out_if, src, dst, protocol, port): (_, _, _, IpAddr, IpAddr, _, _) = match n % 8 {
        _ if noise % 8 == 7 => {
            (Hook::Forward, "ppp0", "eth1", far.into(), server(noise).into(), Protocol::TCP, 1)
        }
        0 => (Hook::Forward, "ppp0", "eth1", far.into(), server(n).into(), Protocol::TCP, port(n)),
        1 => (Hook::Forward, "ppp0", "eth1", client.into(), server(n).into(), Protocol::TCP, port(n) + 3),
        2 => (Hook::Forward, "ppp0", "eth1", far.into(), server(n).into(), Protocol::TCP, 80),
        3 => (Hook::Forward, "ppp0", "eth1", far.into(), server(n).into(), Protocol::TCP, 25),
        4 => (Hook::Forward, "eth2", "eth1", client.into(), server(n).into(), Protocol::UDP, port(n)),
        5 => {
            let src = Ipv6Addr::from(0x2a00_u128 << 112 | u128::from(noise));
            let dst = Ipv6Addr::from(0xfd00_u128 << 112 | u128::from(n + 1));
            (Hook::Forward, "ppp0", "eth1", src.into(), dst.into(), Protocol::TCP, port(n))
        }
        6 => (
            Hook::Input,
            "ppp0",
            "",
            client.into(),
            Ipv4Addr::new(10, 0, 0, 1).into(),
            Protocol::TCP,
            port(n),
        ),
        _ => (Hook::Forward, "eth1", "ppp0", server(noise >> 20).into(), far.into(), Protocol::TCP, port(n)),
    };
    let flow = NewFlow {
        hook,
        from_zones: policy.zones_of(Some(in_if), src),
        to_zones: policy.zones_of(Some(out_if).filter(|name| !name.is_empty()), dst),
        src,
        dst,
        protocol,
        src_port: 4000,
        dst_port: u16::try_from(port).unwrap_or(0),
        icmp: None,
    };
    (flow, [in_if, out_if])
}
