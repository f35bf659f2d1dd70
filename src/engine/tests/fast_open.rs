//! Fast Open (RFC 7413) as it is allowed, stripped and denied.

use super::*;
use crate::{
    policy::FastOpen,
    wire::{Segment, Transport},
};

fn lab(mode: FastOpen) -> Lab {
    Lab::with(open_settings(), vec![Rule { fast_open: mode, ..rule("web", 1) }])
}

/// The segment that went on in place of the last one, checked as a receiver would.
fn behind(lab: &Lab) -> Option<Segment> {
    let bytes = lab.worker.rewritten()?;
    let len = u32::try_from(bytes.len()).unwrap();
    let packet = wire::parse(bytes, len, Checksums::Verify).expect("a legal packet");
    assert_eq!(packet.len, len);
    let Transport::Tcp(segment) = packet.transport else { panic!("{packet:?}") };
    Some(segment)
}

#[track_caller]
fn stripped(lab: &mut Lab, say: Say) {
    assert_eq!(lab.send(say), Verdict::Accept, "{say:?}");
    let segment = behind(lab).expect("another packet goes on");
    let packet = lab.packet(Say { len: 0, fast_open: false, ..say });
    let packet = wire::parse(&packet.bytes, packet.wire_len(), Checksums::Verify).unwrap();
    assert_eq!(Transport::Tcp(segment), packet.transport, "as if it had never been tried");
}

#[track_caller]
fn as_it_is(lab: &mut Lab, say: Say) {
    lab.pass(&[say]);
    assert_eq!(behind(lab), None, "{say:?}");
}

#[test]
fn allowed_it_passes_as_it_is() {
    for mode in [FastOpen::Allow, FastOpen::default()] {
        let mut lab = lab(mode);
        for say in [
            client("S", 0).fast_open().len(100),
            server("S.", 0).ack(101).fast_open(),
            server("P.", 1).ack(101).len(500),
            client(".", 101).ack(501),
        ] {
            as_it_is(&mut lab, say);
        }
        assert_eq!(lab.phase(), Some(Phase::Established));
        assert_eq!(lab.engine.counters().stripped, 0);
    }
    // The default action has no rule that could say otherwise.
    as_it_is(&mut Lab::new(), client("S", 0).fast_open().len(100));
}

/// RFC 7413 §4.1.2: a request for a cookie is answered with one, or not.
#[test]
fn allowed_a_cookie_is_asked_for_and_given() {
    let mut lab = lab(FastOpen::Allow);
    for say in [client("S", 0).fast_open(), server("S.", 0).ack(1).fast_open(), client(".", 1).ack(1)] {
        as_it_is(&mut lab, say);
    }
    assert_eq!(lab.phase(), Some(Phase::Established));
}

/// RFC 7413 §4.1.3.1, §4.2.2: the SYN is lost, and comes again without cookie and data.
#[test]
fn allowed_the_client_may_fall_back() {
    let mut lab = lab(FastOpen::Allow);
    lab.pass(&[
        client("S", 0).fast_open().len(100),
        client("S", 0),
        server("S.", 0).ack(1),
        client("P.", 1).ack(1).len(100),
        server(".", 1).ack(101),
    ]);
    assert_eq!(lab.phase(), Some(Phase::Established));
}

#[test]
fn stripped_the_syn_goes_on_bare_and_the_data_come_again() {
    for (v6, len) in [(false, 0), (false, 100), (true, 1), (true, 1400)] {
        let mut lab = lab(FastOpen::Strip);
        if v6 {
            let policy = policy(open_settings(), vec![Rule { fast_open: FastOpen::Strip, ..rule("web", 1) }]);
            lab = Lab::at(policy, "[2001:db8::7]:4000", "[2001:db8:1::20]:80");
        }
        stripped(&mut lab, client("S", 0).fast_open().len(len).scale(7).timestamp(5));
        assert_eq!(lab.phase(), Some(Phase::SynSent));
        // The cookie that a server gives unasked does not reach the client.
        stripped(&mut lab, server("S.", 0).ack(1).fast_open().scale(7).timestamp(9));
        for say in
            [client(".", 1).ack(1), client("P.", 1).ack(1).len(len), server(".", 1).ack(1 + len as u32)]
        {
            as_it_is(&mut lab, say);
        }
        assert_eq!(lab.phase(), Some(Phase::Established));
        assert_eq!(lab.engine.counters().stripped, 2);
    }
}

/// What did not go on was not sent: nothing acknowledges it, and no RST at its end is
/// exact.
#[test]
fn stripped_data_count_as_never_sent() {
    let mut lab = lab(FastOpen::Strip);
    stripped(&mut lab, client("S", 0).fast_open().len(100));
    lab.dropped(server("R.", 0).ack(101), DropReason::BadRst);
    assert_eq!(lab.send(server("S.", 0).ack(101)), Verdict::Accept, "it passes as stale");
    assert_eq!(lab.phase(), Some(Phase::SynSent));
    lab.pass(&[server("S.", 0).ack(1)]);
    lab.dropped(server(".", 1).ack(101), DropReason::BadAck);
}

#[test]
fn stripped_are_also_repetitions_crossing_syns_and_those_that_are_stale() {
    let again = client("S", 0).fast_open().len(100);
    let mut lab = lab(FastOpen::Strip);
    stripped(&mut lab, again);
    stripped(&mut lab, again);
    as_it_is(&mut lab, client("S", 0));
    stripped(&mut lab, server("S", 0).fast_open().len(7));
    assert_eq!(lab.phase(), Some(Phase::SynReceived));
    stripped(&mut lab, again);
    lab.pass(&[server("S.", 0).ack(1), client("S.", 0).ack(1)]);
    assert_eq!(lab.phase(), Some(Phase::Established));
    stripped(&mut lab, client("S", 70_000).fast_open().len(3));
    assert_eq!(lab.phase(), Some(Phase::Established));
    stripped(&mut lab, server("S.", 900_000).ack(70_001).fast_open());
    assert_eq!(lab.phase(), Some(Phase::SynReceived), "both ends had forgotten it");
}

/// Data alone, without the option, are cut off a SYN; a SYN-ACK keeps them.
#[test]
fn stripped_is_what_fast_open_brings_and_nothing_else() {
    let mut lab = lab(FastOpen::Strip);
    stripped(&mut lab, client("S", 0).len(4));
    as_it_is(&mut lab, server("S.", 0).ack(1).len(4));
    for say in [client("S", 0), client(".", 1).ack(5), client("P.", 1).ack(5).fast_open().len(9)] {
        as_it_is(&mut lab, say);
    }
}

#[test]
fn denied_the_syn_is_dropped_and_a_plain_one_passes() {
    for syn in [client("S", 0).fast_open(), client("S", 0).len(10), client("S", 0).fast_open().len(10)] {
        let mut lab = lab(FastOpen::Deny);
        lab.dropped(syn, DropReason::FastOpen);
        assert_eq!(lab.phase(), None);
        assert_eq!(lab.engine.counters().embryonic, 0, "no limit has counted it");
        lab.pass(&[client("S", 0)]);
        lab.dropped(syn, DropReason::FastOpen);
        lab.pass(&[server("S.", 0).ack(1), client(".", 1).ack(1)]);
        // Also where one changes nothing: it is not even remembered.
        lab.dropped(Say { seq: 70_000, ..syn }, DropReason::FastOpen);
        lab.pass(&[server("S.", 900_000).ack(70_001)]);
        assert_eq!(lab.phase(), Some(Phase::Established));
    }
}

/// In `time_wait` and `reset` it may be another connection, whose rule is asked.
#[test]
fn the_rule_of_the_new_connection_decides_where_it_begins_in_place_of_an_old_one() {
    for phase in [Phase::TimeWait, Phase::Reset] {
        let syn = client("S", 10_000).fast_open().len(10);
        let mut lab = lab(FastOpen::Deny);
        lab.bring_to(phase);
        assert_eq!(lab.send(syn), Verdict::Drop(DropReason::FastOpen));
        assert_eq!(lab.phase(), None, "a new attempt ends the old connection");

        let mut lab = self::lab(FastOpen::Deny);
        lab.bring_to(phase);
        let names = lab.engine.policy().names.clone();
        let mut policy = policy(open_settings(), vec![Rule { fast_open: FastOpen::Strip, ..rule("new", 1) }]);
        policy.names[0] = Arc::clone(&names[0]);
        let now = lab.now;
        lab.engine.install(policy, Existing::Keep, &mut lab.worker, now);
        stripped(&mut lab, syn);
        assert_eq!(lab.phase(), Some(Phase::SynSent));
    }
    let mut lab = lab(FastOpen::Deny);
    lab.bring_to(Phase::TimeWait);
    lab.dropped(client("S", 0).fast_open(), DropReason::FastOpen);
    assert_eq!(lab.phase(), Some(Phase::TimeWait));
}

/// Where it can't be taken out, the SYN does not go on at all.
#[test]
fn what_cannot_be_stripped_is_dropped() {
    let mut lab = lab(FastOpen::Strip);
    let packet = lab.packet(client("S", 0).fast_open().len(100));
    // The first fragment of a SYN: its data go on elsewhere.
    let mut fragment = packet.bytes;
    fragment[6] |= 0x20;
    fragment.truncate(20 + 32 + 40);
    let len = u16::try_from(fragment.len()).unwrap();
    fragment[2..4].copy_from_slice(&len.to_be_bytes());
    let mut meta = Lab::meta(From::Client, fragment.len());
    meta.checksums = Checksums::Trust;
    assert_eq!(lab.raw(meta, &fragment), Verdict::Drop(DropReason::FastOpen));
    assert_eq!(lab.worker.rewritten(), None);
    assert_eq!(lab.engine.counters().stripped, 0);
}

/// The queue copies the first octets only; that is enough.
#[test]
fn a_syn_that_was_copied_in_part_is_stripped() {
    let mut lab = lab(FastOpen::Strip);
    let say = client("S", 0).fast_open().len(1300);
    let packet = lab.packet(say);
    let meta = Lab::meta(From::Client, packet.bytes.len());
    assert_eq!(lab.raw(meta, &packet.bytes[..60]), Verdict::Accept);
    let bare = behind(&lab).expect("rewritten");
    assert_eq!((bare.payload_len, bare.options.fast_open), (0, false));
    // The next packet has nothing of it.
    as_it_is(&mut lab, client("S", 0));
}
