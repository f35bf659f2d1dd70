//! UDP, ICMP, other protocols, bytes that are no packets.

use super::*;
use crate::wire::{
    Malformed,
    build::{self, Echo},
};

fn udp(lab: &mut Lab, from: From) -> Verdict {
    let packet = build::udp(lab.tuple(from), b"x");
    lab.raw(Lab::meta(from, packet.bytes.len()), &packet.bytes)
}

fn only(lab: &Lab) -> View {
    let mut views = Vec::new();
    lab.engine.connections(lab.now, &mut |view| {
        views.push(*view);
        true
    });
    assert_eq!(views.len(), 1);
    views[0]
}

#[test]
fn udp_one_way_and_both_ways() {
    for mut lab in [Lab::new(), Lab::ipv6()] {
        assert_eq!(udp(&mut lab, From::Client), Verdict::Accept);
        assert_eq!((only(&lab).phase, only(&lab).expires_in), (Phase::UdpNew, Duration::from_secs(30)));
        lab.seconds(20);
        assert_eq!(udp(&mut lab, From::Client), Verdict::Accept);
        assert_eq!(only(&lab).expires_in, Duration::from_secs(30));
        assert_eq!(udp(&mut lab, From::Server), Verdict::Accept);
        assert_eq!((only(&lab).phase, only(&lab).expires_in), (Phase::UdpStream, Duration::from_secs(180)));
        lab.seconds(181);
        assert_eq!(lab.engine.counters().connections, 0);
    }
}

#[test]
fn an_echo_reply_needs_its_request() {
    let mut lab = Lab::new();
    let (client, server) = (lab.client.0, lab.server.0);
    let request = build::icmp_echo(client, server, Echo::Request, 77, 1, b"ping");
    let reply = build::icmp_echo(server, client, Echo::Reply, 77, 1, b"ping");
    let back = Lab::meta(From::Server, reply.bytes.len());
    assert_eq!(lab.raw(back, &reply.bytes), Verdict::Drop(DropReason::OutOfState));
    assert_eq!(lab.raw(Lab::meta(From::Client, request.bytes.len()), &request.bytes), Verdict::Accept);
    assert_eq!(lab.raw(back, &reply.bytes), Verdict::Accept);
    assert_eq!(only(&lab).reply.packets, 1);
    lab.seconds(31);
    assert_eq!(lab.raw(back, &reply.bytes), Verdict::Drop(DropReason::OutOfState));
}

#[test]
fn an_icmp_error_must_be_about_something_under_way() {
    let mut lab = Lab::in_phase(Phase::Established);
    lab.pass(&[client("P.", 1).ack(1).len(100)]);
    let router: IpAddr = "203.0.113.1".parse().unwrap();
    let error = |lab: &Lab, say| {
        let quoted = lab.packet(say);
        build::icmp_error(router, lab.client.0, 3, 4, &quoted.bytes).bytes
    };
    let judge = |lab: &mut Lab, bytes: &[u8]| lab.raw(Lab::meta(From::Server, bytes.len()), bytes);
    let good = error(&lab, client("P.", 1).ack(1).len(100));
    assert_eq!(judge(&mut lab, &good), Verdict::Accept);
    let guessed = error(&lab, client("P.", 1 << 30).ack(1));
    assert_eq!(judge(&mut lab, &guessed), Verdict::Drop(DropReason::IcmpUnrelated));
    // Also the SYN itself, whatever it carries.
    let mut opening = Lab::new();
    opening.pass(&[client("S", 0).len(900)]);
    let refused = error(&opening, client("S", 0).len(900));
    assert_eq!(judge(&mut opening, &refused), Verdict::Accept);
    // The server may send data before the last ACK: all that the SYN's window allows.
    opening.pass(&[server("S.", 0).ack(901)]);
    let of_server = |seq| {
        let quoted = opening.packet(server("P.", seq).ack(901));
        build::icmp_error(router, opening.server.0, 3, 4, &quoted.bytes).bytes
    };
    let (allowed, beyond) = (of_server(5000), of_server(1 << 20));
    let meta = |bytes: &[u8]| Lab::meta(From::Client, bytes.len());
    assert_eq!(opening.raw(meta(&allowed), &allowed), Verdict::Accept);
    assert_eq!(opening.raw(meta(&beyond), &beyond), Verdict::Drop(DropReason::IcmpUnrelated));
    lab.client.1 += 1;
    let other = error(&lab, client("P.", 1).ack(1));
    assert_eq!(judge(&mut lab, &other), Verdict::Drop(DropReason::IcmpUnrelated));
}

#[test]
fn udp_that_a_rule_resets_gets_icmp_prohibited() {
    let mut no = rule("no", 1);
    no.action = Action::Reset;
    let mut lab = Lab::with(open_settings(), vec![no]);
    assert_eq!(udp(&mut lab, From::Client), Verdict::Reset(DropReason::Rule));
}

#[test]
fn bytes_that_are_no_packet_are_counted_by_reason() {
    let mut lab = Lab::new();
    let meta = Lab::meta(From::Client, 3);
    let verdict = lab.raw(meta, &[0x45, 0, 0]);
    let Verdict::Drop(DropReason::Malformed(reason)) = verdict else { panic!("{verdict:?}") };
    assert!(Malformed::ALL.contains(&reason));
    assert_eq!(lab.engine.counters().dropped, [(reason.name(), 1)]);
}

#[test]
fn every_drop_reason_has_a_name_and_a_place_of_its_own() {
    let mut names = std::collections::HashSet::new();
    for (place, reason) in DropReason::all().enumerate() {
        assert_eq!(reason.index(), place, "{reason:?}");
        assert!(names.insert(reason.name()), "{} twice", reason.name());
    }
    assert_eq!(names.len(), DropReason::COUNT);
}

proptest::proptest! {
    /// Whatever arrives, the books agree and nothing panics.
    #[test]
    fn arbitrary_bytes_do_no_harm(packets in proptest::collection::vec(proptest::collection::vec(proptest::num::u8::ANY, 0..120), 1..20)) {
        let mut lab = Lab::new();
        for bytes in packets {
            let meta = Meta { checksums: Checksums::Trust, ..Lab::meta(From::Client, bytes.len()) };
            lab.raw(meta, &bytes);
        }
    }
}
