//! Interfaces and raw sockets against the kernel.
#![allow(clippy::disallowed_methods)]

#[path = "sys_common/net.rs"]
mod net;

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use etherparse::PacketBuilder;
use halfgate::{
    sys::{
        interfaces::{self, Forwarding, Watch},
        raw::RawSender,
    },
    wire::RawPacket,
};
use net::{Net, SERVER, inside, run};

fn names(interfaces: Vec<(halfgate::engine::IfIndex, String)>) -> Vec<String> {
    let mut names: Vec<_> = interfaces.into_iter().map(|(_, name)| name).collect();
    names.sort();
    names
}

#[test]
fn interfaces_are_listed_and_followed() {
    let net = Net::new();
    inside(&net.gateway, || {
        assert_eq!(names(interfaces::list().unwrap()), ["g0", "g1", "lo"]);
        let watch = Watch::open().unwrap();
        let wait = || watch.wait(Duration::from_secs(5)).unwrap();
        assert!(!watch.wait(Duration::from_millis(1)).unwrap());
        run(&net.gateway, "ip link add ppp0 type veth peer name far");
        assert!(wait());
        assert_eq!(names(interfaces::list().unwrap()), ["far", "g0", "g1", "lo", "ppp0"]);
        run(&net.gateway, "ip link set ppp0 name ppp1");
        assert!(wait());
        let first = interfaces::list().unwrap().into_iter().find(|(_, name)| name == "ppp1").unwrap();
        run(&net.gateway, "ip link delete ppp1");
        assert!(wait());
        run(&net.gateway, "ip link add ppp1 type veth peer name far");
        assert!(wait());
        let second = interfaces::list().unwrap().into_iter().find(|(_, name)| name == "ppp1").unwrap();
        assert_ne!(first.0, second.0);
        assert!(!watch.wait(Duration::from_millis(1)).unwrap());
    });
}

#[test]
fn default_routes_of_both_families_and_all_tables() {
    let net = Net::new();
    inside(&net.gateway, || {
        let routes = || {
            let routes = interfaces::default_route_interfaces().unwrap();
            routes.into_iter().map(|(_, name)| name).collect::<Vec<_>>()
        };
        assert_eq!(routes(), Vec::<String>::new());
        run(&net.gateway, "ip route add default via 10.91.1.2 dev g0 table 100");
        assert_eq!(routes(), ["g0"]);
        run(&net.gateway, "ip -6 route add default via fd91:2::2 dev g1");
        assert_eq!(routes(), ["g1", "g0"]);
        run(&net.gateway, "ip route add unreachable default metric 9000");
        assert_eq!(routes(), ["g1", "g0"]);
    });
    let both = "ip route add default nexthop via 10.91.1.2 dev g0 nexthop via 10.91.2.2 dev g1";
    let net = Net::new();
    run(&net.gateway, both);
    let routes = inside(&net.gateway, || interfaces::default_route_interfaces().unwrap());
    assert_eq!(names(routes), ["g0", "g1"]);
}

#[test]
fn forwarding_is_told() {
    let net = Net::new();
    inside(&net.gateway, || {
        assert_eq!(interfaces::forwarding().unwrap(), Forwarding { v4: true, v6: true });
        run(&net.gateway, "sysctl -qw net.ipv4.ip_forward=0");
        assert_eq!(interfaces::forwarding().unwrap(), Forwarding { v4: false, v6: true });
    });
}

#[test]
fn raw_packets_leave_with_foreign_addresses_and_our_mark() {
    let net = Net::new();
    let sender = inside(&net.gateway, || RawSender::open(0x0800_0000).unwrap());
    for (family, iptables) in ["iptables-nft", "ip6tables-nft"].into_iter().enumerate() {
        run(&net.gateway, &format!("{iptables} -A OUTPUT -m mark --mark 0x08000000 -p udp -j ACCEPT"));
        run(&net.gateway, &format!("{iptables} -A OUTPUT -p udp -j DROP"));
        let server: SocketAddr = (SERVER[family].parse::<std::net::IpAddr>().unwrap(), 700).into();
        let socket = inside(&net.server, || UdpSocket::bind(server).unwrap());
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut bytes = Vec::new();
        let builder = if family == 0 {
            PacketBuilder::ipv4([198, 51, 100, 7], [10, 91, 2, 2], 64)
        } else {
            let from: std::net::Ipv6Addr = "2001:db8::7".parse().unwrap();
            let to: std::net::Ipv6Addr = SERVER[1].parse().unwrap();
            PacketBuilder::ipv6(from.octets(), to.octets(), 64)
        };
        builder.udp(4000, 700).write(&mut bytes, b"raw").unwrap();
        sender.send(&RawPacket { bytes }).unwrap();
        let mut buffer = [0; 8];
        let (length, from) = socket.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"raw");
        let expected = ["198.51.100.7:4000", "[2001:db8::7]:4000"][family];
        assert_eq!(from.to_string(), expected);
    }
    for nonsense in [vec![], vec![0x45; 8], vec![0x60; 30], vec![0x99; 60]] {
        assert!(sender.send(&RawPacket { bytes: nonsense }).is_err());
    }
}
