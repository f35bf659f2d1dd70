//! Which end of a flow that was met in the middle is the server: Zeek believes
//! the ports for which it has analyzers.

use crate::{cli::replay::headers::Tcp, wire::Flags};

/// TCP ports that are servers'.
const TCP_SERVERS: [u16; 49] = [
    21, 22, 25, 53, 79, 80, 81, 88, 135, 139, 143, 389, 443, 445, 465, 502, 514, 563, 585, 587, 614, 631,
    636, 989, 990, 992, 993, 995, 1080, 1434, 1883, 2811, 3128, 3268, 3306, 3389, 5222, 5223, 5269, 5432,
    6379, 6666, 6667, 6668, 6669, 8000, 8080, 8888, 20000,
];

/// UDP ports that are servers'.
const UDP_SERVERS: [u16; 24] = [
    53, 67, 88, 123, 137, 161, 162, 389, 443, 514, 1812, 2123, 2152, 3389, 3544, 4011, 4754, 4789, 5060,
    5072, 5353, 5355, 6081, 20000,
];

/// Whether the first packet of a TCP connection seems to come from its server.
pub(in crate::cli::replay) fn is_tcp_reply(first: &Tcp, src_port: u16, dst_port: u16) -> bool {
    let (syn, ack) = (first.flags.contains(Flags::SYN), first.flags.contains(Flags::ACK));
    let server = |port| TCP_SERVERS.binary_search(&port).is_ok();
    if (syn && !ack) || !server(src_port) {
        return false;
    }
    // Between two servers a SYN-ACK is not turned: a scan may begin with one.
    !server(dst_port) || (!syn && src_port < dst_port)
}

/// Whether the first datagram of a flow seems to come from its server.
pub(in crate::cli::replay) fn is_udp_reply(src_port: u16, dst_port: u16) -> bool {
    let server = |port| UDP_SERVERS.binary_search(&port).is_ok();
    server(src_port) && !server(dst_port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::SeqNum;

    #[test]
    fn servers_are_known_by_their_ports() {
        let syn =
            Tcp { flags: Flags::SYN, seq: SeqNum(9), ack: SeqNum(20), window: 1, payload: 0, is_whole: true };
        let answer = Tcp { flags: Flags::SYN.with(Flags::ACK), ..syn };
        let data = Tcp { flags: Flags::ACK, ..syn };
        assert!(is_tcp_reply(&answer, 80, 40_000) && is_tcp_reply(&data, 80, 40_000));
        assert!(!is_tcp_reply(&answer, 80, 6669), "a scan from port 80");
        assert!(is_tcp_reply(&data, 80, 6669) && !is_tcp_reply(&data, 6669, 80));
        assert!(!is_tcp_reply(&answer, 40_000, 80));
        assert!(!is_tcp_reply(&syn, 80, 40_000));
        assert!(is_udp_reply(53, 40_000) && !is_udp_reply(40_000, 53) && !is_udp_reply(53, 123));
        assert!(TCP_SERVERS.is_sorted() && UDP_SERVERS.is_sorted());
    }
}
