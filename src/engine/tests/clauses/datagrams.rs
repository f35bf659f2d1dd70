//! What the requirements for NATs ask that concerns any middle box: timers, UDP, and
//! unsolicited SYNs.

use super::*;
use crate::{
    policy::{NetworkSet, Term},
    wire::build,
};

fn udp(lab: &mut Lab, from: From) -> Verdict {
    let packet = build::udp(lab.tuple(from), b"x");
    lab.raw(Lab::meta(from, packet.bytes.len()), &packet.bytes)
}

/// Only the client may open.
fn one_way() -> Lab {
    let mut out = rule("out", 1);
    let networks = NetworkSet::new(vec!["198.51.100.7/32".parse().unwrap()]);
    out.from.any_of.push(Term::Networks(networks.into()));
    Lab::with(Settings { default: Action::Drop, ..open_settings() }, vec![out])
}

/// RFC 4787 §4.3, REQ-6 (C4787-02): a datagram of either end keeps the flow.
#[test]
fn a_datagram_of_either_end_keeps_the_flow() {
    for from in [From::Client, From::Server] {
        let mut lab = one_way();
        assert_eq!(udp(&mut lab, From::Server), Verdict::Drop(DropReason::Rule));
        assert_eq!(udp(&mut lab, From::Client), Verdict::Accept);
        assert_eq!(udp(&mut lab, From::Server), Verdict::Accept);
        for _ in 0..5 {
            lab.seconds(179);
            assert_eq!(udp(&mut lab, from), Verdict::Accept, "{from:?}");
        }
        lab.seconds(181);
        assert_eq!(udp(&mut lab, From::Server), Verdict::Drop(DropReason::Rule));
    }
}

/// RFC 4787 §9, REQ-12 (C4787-03): an ICMP error about a UDP flow passes and does not end it.
#[test]
fn an_error_about_a_datagram_passes_and_ends_nothing() {
    let mut lab = one_way();
    let packet = build::udp(lab.tuple(From::Client), b"x");
    assert_eq!(udp(&mut lab, From::Client), Verdict::Accept);
    assert_eq!(udp(&mut lab, From::Server), Verdict::Accept);
    let router: IpAddr = "203.0.113.1".parse().unwrap();
    for kind in [(3, 3), (3, 4), (11, 0), (12, 0)] {
        let error = build::icmp_error(router, lab.client.0, kind.0, kind.1, &packet.bytes);
        assert_eq!(lab.raw(Lab::meta(From::Server, error.bytes.len()), &error.bytes), Verdict::Accept);
    }
    assert_eq!(udp(&mut lab, From::Server), Verdict::Accept);
}

/// RFC 5382 §4.3, REQ-4 (C5382-03): a SYN from outside that no rule lets in gets no answer,
/// so that a SYN from inside may cross it and open the connection from there.
#[test]
fn an_unsolicited_syn_gets_no_answer_and_may_be_crossed() {
    let mut lab = one_way();
    lab.dropped(server("S", 0), DropReason::Rule);
    assert!(lab.transmits().is_empty());
    lab.pass(&[client("S", 0), server("S", 0), client("S.", 0).ack(1), server("S.", 0).ack(1)]);
    assert_eq!(lab.phase(), Some(Phase::Established));
}

/// RFC 5382 §5, REQ-5 (C5382-04, C5382-05), RFC 7857 §2.1 (C7857-01) and RFC 4787 §4.3, REQ-5
/// (C4787-01): the defaults, and each can be set by itself.
#[test]
fn the_defaults_are_those_that_the_table_says() {
    let minutes = |timer: Timer| timer.default_value().unwrap().as_secs_f64() / 60.0;
    assert!(minutes(Timer::Established) >= 124.0, "2 hours 4 minutes");
    assert!(minutes(Timer::UdpStream) >= 2.0);
    // Below the four minutes of the open and closing phases, on purpose.
    assert!(minutes(Timer::SynSent) + minutes(Timer::SynReceived) < 4.0);
    for timer in [Timer::SynSent, Timer::SynReceived, Timer::FinWait, Timer::Closing, Timer::TimeWait] {
        let mut settings = open_settings();
        settings.timers.push((timer, Some(Duration::from_secs(240))));
        let mut lab = Lab::with(settings, Vec::new());
        let phase = Phase::ALL.into_iter().find(|phase| phase.timer() == timer).unwrap();
        lab.bring_to(phase);
        lab.seconds(239);
        assert_eq!(lab.phase(), Some(phase));
        lab.seconds(2);
        assert_eq!(lab.phase(), None);
    }
}

/// RFC 7857 §2.2 (C7857-02): an RST passes if it belongs to the connection, and the state
/// stays for a while, so that one that was lost behind the gateway can come again.
#[test]
fn after_an_rst_the_state_stays_for_a_while() {
    let mut lab = Lab::in_phase(Phase::Established);
    lab.pass(&[client("R", 1)]);
    lab.seconds(9);
    lab.pass(&[server("P.", 1).ack(1).len(100), client("R", 1)]);
    lab.seconds(2);
    assert_eq!(lab.phase(), None);
}

/// RFC 5722 §4 (C5722-01), RFC 8200 §4.5 (C8200-04): a fragment that comes here without its
/// transport header belongs to nothing that was judged.
#[test]
fn a_fragment_without_its_header_is_dropped() {
    let mut lab = Lab::new();
    assert_eq!(udp(&mut lab, From::Client), Verdict::Accept);
    let mut later = build::udp(lab.tuple(From::Client), &[0; 64]);
    later.bytes[7] = 4;
    let meta = Meta { checksums: Checksums::Trust, ..Lab::meta(From::Client, later.bytes.len()) };
    assert_eq!(lab.raw(meta, &later.bytes), Verdict::Drop(DropReason::Fragment));

    let mut lab = Lab::ipv6();
    assert_eq!(udp(&mut lab, From::Client), Verdict::Accept);
    let mut body = vec![Protocol::UDP.0, 0, 0, 4 << 3, 0, 0, 0, 1];
    body.extend_from_slice(&[0; 64]);
    let later = build::ip(lab.client.0, lab.server.0, Protocol(44), &body);
    let meta = Lab::meta(From::Client, later.bytes.len());
    assert_eq!(lab.raw(meta, &later.bytes), Verdict::Drop(DropReason::Fragment));
}
