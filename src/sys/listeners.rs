//! What listens on this machine: `/proc/net/{tcp,tcp6,udp,udp6}` of the network
//! namespace (proc_pid_net(5)).

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use crate::wire::Protocol;

/// A socket that takes connections, or datagrams of anyone.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Listener {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Where; unspecified (`0.0.0.0`, `::`) is everywhere.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

/// The kernel's numbers for the states that count (include/net/tcp_states.h): TCP_LISTEN,
/// and for UDP TCP_CLOSE, which is a socket that is bound and not connected.
const LISTENING: [(Protocol, &str, &str); 4] = [
    (Protocol::TCP, "/proc/self/net/tcp", "0A"),
    (Protocol::TCP, "/proc/self/net/tcp6", "0A"),
    (Protocol::UDP, "/proc/self/net/udp", "07"),
    (Protocol::UDP, "/proc/self/net/udp6", "07"),
];

/// All of them, in order, without those that only this machine reaches.
///
/// # Errors
/// If `/proc` can't be read.
pub fn listeners() -> io::Result<Vec<Listener>> {
    let mut all = Vec::new();
    for (protocol, path, state) in LISTENING {
        match fs::read_to_string(path) {
            Ok(text) => all.extend(text.lines().skip(1).filter_map(|line| parse(line, protocol, state))),
            // A kernel without IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    all.retain(|listener| !listener.address.is_loopback());
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

/// `0: 0100007F:0035 00000000:0000 0A ...`: the address in words of the host's order.
fn parse(line: &str, protocol: Protocol, state: &str) -> Option<Listener> {
    let mut words = line.split_whitespace().skip(1);
    let (address, port) = words.next()?.split_once(':')?;
    (words.nth(1)? == state).then_some(())?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| Some(u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let address = if address.len() == 8 {
        IpAddr::V4(Ipv4Addr::from(word(0)?))
    } else {
        let mut octets = [0; 16];
        for (place, chunk) in octets.chunks_exact_mut(4).enumerate() {
            chunk.copy_from_slice(&word(place * 8)?);
        }
        match Ipv6Addr::from(octets).to_ipv4_mapped() {
            Some(mapped) => IpAddr::V4(mapped),
            None => IpAddr::V6(octets.into()),
        }
    };
    Some(Listener { protocol, address, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn lines_of_proc_are_read() {
        let tcp = |line| parse(line, Protocol::TCP, "0A").map(|it| (it.address.to_string(), it.port));
        let line =
            "   0: 0A01A8C0:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 1 1 0 100";
        assert_eq!(tcp(line), Some(("192.168.1.10".to_owned(), 80)));
        let line = "   1: 00000000:0016 00000000:0000 0A 00000000:00000000 00:00000000 0 0 0 1";
        assert_eq!(tcp(line), Some(("0.0.0.0".to_owned(), 22)));
        let line = "   2: 00000000000000000000000000000000:01BB 0:0000 0A 00000000:00000000";
        assert_eq!(tcp(line), Some(("::".to_owned(), 443)));
        let line = "   3: B80D0120000000000000000001000000:01BB 0:0000 0A 00000000:00000000";
        assert_eq!(tcp(line), Some(("2001:db8::1".to_owned(), 443)));
        let line = "   4: 0000000000000000FFFF00000A01A8C0:0050 0:0000 0A 00000000:00000000";
        assert_eq!(tcp(line), Some(("192.168.1.10".to_owned(), 80)));
        let established = "   5: 0A01A8C0:0050 0B01A8C0:A000 01 00000000:00000000 00:00000000";
        assert_eq!(tcp(established), None);
        for broken in ["", "x", "0: 0A01A8C0", "0: 0A:0050 0:0 0A", "0: zzzzzzzz:0050 0:0 0A"] {
            assert_eq!(tcp(broken), None, "{broken}");
        }
    }

    #[test]
    fn a_socket_that_listens_everywhere_is_found() {
        let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let found = listeners().unwrap();
        assert!(found.iter().any(|it| it.port == port && it.protocol == Protocol::TCP), "{found:?}");
        let local = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = local.local_addr().unwrap().port();
        let found = listeners().unwrap();
        assert!(!found.iter().any(|it| it.port == port && it.protocol == Protocol::UDP), "only for itself");
    }
}
