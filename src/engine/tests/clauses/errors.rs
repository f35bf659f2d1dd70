//! ICMP errors: which are believed, and what they may do.

use super::*;
use crate::wire::build;

/// Every error of either family that a router or host may send about TCP.
fn errors(ipv4: bool) -> Vec<(u8, u8)> {
    if ipv4 {
        // Unreachable with all its codes (4: fragmentation needed), source quench, time
        // exceeded, parameter problem.
        let unreachable = (0..=15).map(|code| (3, code));
        unreachable.chain([(4, 0), (11, 0), (11, 1), (12, 0), (12, 1), (12, 2)]).collect()
    } else {
        // Unreachable, packet too big, time exceeded, parameter problem.
        let unreachable = (0..=7).map(|code| (1, code));
        unreachable.chain([(2, 0), (3, 0), (3, 1), (4, 0), (4, 1), (4, 2)]).collect()
    }
}

fn router(lab: &Lab) -> IpAddr {
    let text = if lab.client.0.is_ipv4() { "203.0.113.1" } else { "2001:db8:ffff::1" };
    text.parse().unwrap()
}

/// An error about a segment, to its sender, quoting this many octets of it behind the IP
/// header.
fn error(lab: &Lab, (kind, code): (u8, u8), about: Say, quoted: usize) -> RawPacket {
    let packet = lab.packet(about);
    let header = if lab.client.0.is_ipv4() { 20 } else { 40 };
    let to = lab.tuple(about.from).src;
    build::icmp_error(router(lab), to, kind, code, &packet.bytes[..(header + quoted).min(packet.bytes.len())])
}

#[track_caller]
fn judged(lab: &mut Lab, about: Say, packet: &RawPacket) -> Verdict {
    // It comes from the way that the quoted packet went.
    let from = if about.from == From::Client { From::Server } else { From::Client };
    lab.raw(Lab::meta(from, packet.bytes.len()), &packet.bytes)
}

const UNRELATED: Verdict = Verdict::Drop(DropReason::IcmpUnrelated);

/// RFC 5927 §4.1 (C5927-01), RFC 4890 §4.3.1 (C4890-01), RFC 5382 §7.3, REQ-9
/// (C5382-02): every error about a live
/// connection passes to the end that sent what it quotes, if its sequence number may be
/// under way.
#[test]
fn every_error_about_what_is_under_way_passes() {
    for new in [Lab::new, Lab::ipv6] {
        for kind in errors(new().client.0.is_ipv4()) {
            for about in [client("P.", 1).ack(1).len(100), server("P.", 1).ack(1).len(100)] {
                let mut lab = new();
                lab.handshake();
                lab.pass(&[about]);
                let packet = error(&lab, kind, about, 200);
                assert_eq!(judged(&mut lab, about, &packet), Verdict::Accept, "{kind:?}");
            }
        }
    }
}

/// RFC 5927 §4.1 (C5927-02): an error that quotes a number which is not under way is
/// dropped, whatever its type.
#[test]
fn an_error_about_a_number_that_is_not_under_way_is_dropped() {
    for new in [Lab::new, Lab::ipv6] {
        for kind in errors(new().client.0.is_ipv4()) {
            for (from, to) in [(From::Client, From::Server), (From::Server, From::Client)] {
                let mut lab = new();
                lab.handshake();
                lab.pass(&[say(from, "P.", 1).ack(1).len(1000), say(to, ".", 1).ack(1001)]);
                // Beyond what was sent; longer ago than a window; anywhere.
                for seq in [1002, 70_000, 1 << 31, 1000_u32.wrapping_sub(66_000), 0x9000_0000] {
                    let about = say(from, "P.", seq).ack(1).len(10);
                    let packet = error(&lab, kind, about, 200);
                    assert_eq!(judged(&mut lab, about, &packet), UNRELATED, "{kind:?} {seq}");
                }
            }
        }
    }
}

/// RFC 792 (C792-01): eight octets of the quoted TCP header are enough; with fewer nobody
/// can tell what it is about.
#[test]
fn eight_octets_of_the_quoted_header_are_enough() {
    for new in [Lab::new, Lab::ipv6] {
        let mut lab = new();
        lab.handshake();
        let about = client("P.", 1).ack(1).len(100);
        lab.pass(&[about]);
        let kind = if lab.client.0.is_ipv4() { (3, 4) } else { (2, 0) };
        let packet = error(&lab, kind, about, 8);
        assert_eq!(judged(&mut lab, about, &packet), Verdict::Accept);
        let packet = error(&lab, kind, about, 7);
        let verdict = judged(&mut lab, about, &packet);
        assert_eq!(verdict, Verdict::Drop(DropReason::Malformed(crate::wire::Malformed::EmbeddedTooShort)));
    }
}

/// RFC 9293 §3.9.2.2, MUST-54 (C9293-29) and RFC 5927 §4.3 (C5927-03): an error is about a
/// connection that exists, and goes to the end that sent the quoted packet.
#[test]
fn an_error_needs_a_live_connection_and_goes_to_the_quoted_sender() {
    for new in [Lab::new, Lab::ipv6] {
        let kind = if new().client.0.is_ipv4() { (3, 1) } else { (1, 0) };
        let about = client("P.", 1).ack(1).len(100);
        let mut lab = new();
        let packet = error(&lab, kind, about, 200);
        assert_eq!(judged(&mut lab, about, &packet), UNRELATED, "no connection");
        lab.handshake();
        lab.pass(&[about]);
        assert_eq!(judged(&mut lab, about, &packet), Verdict::Accept);
        // To the other end: it did not send that.
        let wrong = build::icmp_error(router(&lab), lab.server.0, kind.0, kind.1, &lab.packet(about).bytes);
        assert_eq!(judged(&mut lab, about, &wrong), UNRELATED);
        // Another port.
        lab.client.1 += 1;
        let packet = error(&lab, kind, about, 200);
        assert_eq!(judged(&mut lab, about, &packet), UNRELATED);
        lab.client.1 -= 1;
        // It is over.
        lab.seconds(301);
        let packet = error(&lab, kind, about, 200);
        assert_eq!(judged(&mut lab, about, &packet), UNRELATED);
    }
}

/// RFC 5382 §7.3, REQ-10 (C5382-06), RFC 5927 §5.2 (C5927-04) and RFC 9293 §3.9.2.2, MUST-56
/// (C9293-42): no error ends a connection here, moves its phase or buys it time. What it
/// means is for its receiver to say.
#[test]
fn no_error_ends_a_connection_or_buys_it_time() {
    for new in [Lab::new, Lab::ipv6] {
        for phase in SYNCHRONISED.into_iter().chain([Phase::SynSent, Phase::SynReceived, Phase::TimeWait]) {
            for kind in errors(new().client.0.is_ipv4()) {
                let mut lab = new();
                lab.bring_to(phase);
                lab.seconds(5);
                let before = (lab.phase(), lab.timer());
                let about = client("S", 0);
                let packet = error(&lab, kind, about, 8);
                assert_eq!(judged(&mut lab, about, &packet), Verdict::Accept, "{phase} {kind:?}");
                assert_eq!((lab.phase(), lab.timer()), before, "{phase} {kind:?}");
            }
        }
    }
}

/// RFC 5927 §4.1 (C5927-05): an error about a SYN, with or without data, is believed while
/// that SYN is not answered.
#[test]
fn an_error_about_the_syn_passes() {
    for new in [Lab::new, Lab::ipv6] {
        for octets in [0, 900] {
            let mut lab = new();
            let syn = client("S", 0).len(octets);
            lab.pass(&[syn]);
            let kind = if lab.client.0.is_ipv4() { (3, 3) } else { (1, 4) };
            let packet = error(&lab, kind, syn, 8);
            assert_eq!(judged(&mut lab, syn, &packet), Verdict::Accept);
            let guess = client("S", 5000);
            let packet = error(&lab, kind, guess, 8);
            assert_eq!(judged(&mut lab, guess, &packet), UNRELATED);
        }
    }
}

/// RFC 1122 §3.2.2 (C1122-01), RFC 4443 §2.4 (C4443-01): errors are not sent about errors.
#[test]
fn an_error_about_an_error_is_dropped() {
    for new in [Lab::new, Lab::ipv6] {
        let mut lab = new();
        lab.handshake();
        let about = client("P.", 1).ack(1).len(10);
        lab.pass(&[about]);
        let kind = if lab.client.0.is_ipv4() { (3, 1) } else { (1, 0) };
        let first = error(&lab, kind, about, 8);
        let second = build::icmp_error(lab.server.0, router(&lab), kind.0, kind.1, &first.bytes);
        let verdict = lab.raw(Lab::meta(From::Server, second.bytes.len()), &second.bytes);
        assert_eq!(verdict, Verdict::Drop(DropReason::Malformed(crate::wire::Malformed::EmbeddedError)));
    }
}

/// RFC 1122 §3.2.2.2 (C1122-02): a redirect changes routes. No
/// connection lets it in, only a rule.
#[test]
fn a_redirect_is_let_in_by_a_rule_only() {
    let closed = || Settings { default: Action::Drop, ..open_settings() };
    for (default_drops, expected) in [(true, Verdict::Drop(DropReason::Rule)), (false, Verdict::Accept)] {
        let mut tcp = rule("tcp", 1);
        tcp.services = vec![crate::policy::ServiceKind::Ports(
            Protocol::TCP,
            crate::policy::Ports { first: 0, last: 65_535 },
        )];
        let mut lab = Lab::with(if default_drops { closed() } else { open_settings() }, vec![tcp]);
        lab.handshake();
        let about = client("P.", 1).ack(1).len(10);
        lab.pass(&[about]);
        let packet = error(&lab, (5, 1), about, 8);
        assert_eq!(judged(&mut lab, about, &packet), expected);
    }
}
