//! Connections of which one direction takes another path (`pickup: loose`), and
//! what was met mid-stream.

use super::*;

const REACH: u32 = 1 << 25;

/// How far the ends of the only connection are.
fn ends(lab: &Lab) -> [SeqNum; 2] {
    let found = lab.engine.shards.iter().find_map(|shard| {
        let shard = shard.lock();
        let bound = shard.ipv4.bound();
        (0..bound).find_map(|slot| shard.ipv4.get(slot).map(|entry| entry.connection))
    });
    let connection = found.expect("a connection");
    [connection.original.end, connection.reply.end]
}

fn loose() -> Lab {
    let mut settings = open_settings();
    settings.pickup.mode = crate::policy::PickupMode::Loose;
    Lab::with(settings, Vec::new())
}

fn grace() -> Lab {
    let mut settings = open_settings();
    settings.pickup.grace = Duration::from_secs(60);
    Lab::with(settings, Vec::new())
}

/// The client's packets alone; the server's SYN-ACK would have been 0 of its numbers.
fn only_the_client() -> Lab {
    let mut lab = loose();
    lab.pass(&[client("S", 0).scale(7), client(".", 1).ack(1).window(500)]);
    assert_eq!(lab.phase(), Some(Phase::Established));
    assert_eq!(lab.engine.counters().embryonic, 0);
    lab
}

/// The server's packets alone.
fn only_the_server() -> Lab {
    let mut lab = loose();
    lab.pass(&[server("S.", 0).ack(1).scale(7)]);
    assert_eq!((lab.phase(), lab.engine.counters().embryonic), (Some(Phase::SynReceived), 1));
    lab.pass(&[server("S.", 0).ack(1).scale(7)]);
    assert_eq!(lab.phase(), Some(Phase::SynReceived), "a SYN-ACK again shows nothing");
    lab.pass(&[server("P.", 1).ack(200).len(100).window(500)]);
    assert_eq!((lab.phase(), lab.engine.counters().embryonic), (Some(Phase::Established), 0));
    lab
}

#[test]
fn a_connection_seen_from_the_client_alone() {
    let mut lab = only_the_client();
    // A long transfer in each direction.
    for block in 0..200_u32 {
        lab.pass(&[
            client("P.", 1 + block * 60_000).ack(1 + block * 900_000).len(1400),
            client("P.", 1 + block * 60_000).ack(1 + block * 900_000).len(60_000),
        ]);
    }
    let view = lab.view().unwrap();
    assert_eq!((view.timer, view.expires_in), (Timer::Established, Duration::from_secs(2 * 3600 + 240)));
    // Its FIN is acknowledged where nobody sees it; what the server still sends shows
    // in the client's acknowledgements.
    let (end, ack) = (1 + 200 * 60_000, 1 + 199 * 900_000);
    lab.pass(&[client("F.", end).ack(ack)]);
    assert_eq!(lab.view().unwrap().timer, Timer::FinWait);
    lab.seconds(100);
    lab.pass(&[client(".", end + 1).ack(ack + 5000)]);
    lab.seconds(100);
    assert_eq!(lab.phase(), Some(Phase::FinWait), "an acknowledgement is a sign of life");
    lab.seconds(21);
    assert_eq!(lab.phase(), None);
    assert!(matches!(lab.closed()[..], [CloseReason::Expired { timer: Timer::FinWait, .. }]));
    assert!(lab.resets().is_empty());
}

#[test]
fn a_connection_seen_from_the_server_alone() {
    let mut lab = only_the_server();
    for block in 0..200_u32 {
        lab.pass(&[server("P.", 101 + block * 60_000).ack(200 + block * 900_000).len(60_000)]);
    }
    lab.pass(&[server("F.", 101 + 200 * 60_000).ack(200 + 199 * 900_000)]);
    assert_eq!(lab.view().unwrap().timer, Timer::FinWait);
    lab.seconds(121);
    assert_eq!(lab.phase(), None);
}

#[test]
fn one_way_nothing_far_from_what_was_seen_passes() {
    for (mut lab, who, seq, ack) in
        [(only_the_client(), From::Client, 1, 1), (only_the_server(), From::Server, 101, 200)]
    {
        let far = 1 << 26;
        lab.dropped(say(who, "P.", seq + far).ack(ack).len(10), DropReason::SeqBeyond);
        lab.dropped(say(who, ".", seq).ack(ack + far), DropReason::AckBeyond);
        lab.dropped(say(who, ".", seq).ack(ack.wrapping_sub(3 << 29)), DropReason::AckOld);
        lab.dropped(say(who, "R", seq + far), DropReason::BadRst);
        lab.pass(&[say(who, "P.", seq).ack(ack).len(10)]);
    }
}

/// An RST that is exact ends it; of another only the receiver knows, whose answer
/// nobody sees: it passes and changes nothing.
#[test]
fn one_way_an_exact_rst_ends_it() {
    for (mut lab, who, seq) in [(only_the_client(), From::Client, 1), (only_the_server(), From::Server, 101)]
    {
        let before = lab.view();
        lab.pass(&[say(who, "R", seq - 1), say(who, "R", seq + 500)]);
        assert_eq!(lab.view().map(|view| view.timer), before.map(|view| view.timer));
        lab.pass(&[say(who, "R", seq)]);
        assert_eq!(lab.phase(), Some(Phase::Reset));
        lab.seconds(11);
        assert_eq!(lab.phase(), None);
    }
}

/// The path changes, and both directions come by: from then on all is tested as ever.
#[test]
fn one_way_until_the_other_direction_appears() {
    let mut lab = only_the_client();
    lab.pass(&[
        server("P.", 1).ack(1).len(1000).window(1000),
        client("P.", 1).ack(1001).len(1000).window(500),
        server(".", 1001).ack(1001).window(0),
    ]);
    lab.dropped(client("R", 900), DropReason::BadRst);
    // The shift is not known: the largest that is legal.
    lab.dropped(client("P.", 1002 + (1000 << 14) + REACH).ack(1001).len(10), DropReason::SeqBeyond);
    // What the server has not sent can't be acknowledged, once a window has passed.
    lab.pass(&[client("F.", 1001).ack(1001), server(".", 1001).ack(1002)]);
    assert_eq!(lab.phase(), Some(Phase::HalfClosed));
    lab.pass(&[server("F.", 1001).ack(1002), client(".", 1002).ack(1002)]);
    assert_eq!(lab.phase(), Some(Phase::TimeWait));

    let mut lab = only_the_server();
    lab.pass(&[client("P.", 200).ack(101).len(50).window(500), server(".", 101).ack(250).window(500)]);
    lab.pass(&[client("F.", 250).ack(101), server(".", 101).ack(251)]);
    assert_eq!(lab.phase(), Some(Phase::HalfClosed));
}

/// The same ports again, after the FIN or the RST that was seen.
#[test]
fn one_way_ports_are_used_again() {
    for last in [client("F.", 1).ack(1), client("R", 1)] {
        let mut lab = only_the_client();
        lab.pass(&[last, client("S", 100_000).scale(7)]);
        assert_eq!(lab.phase(), Some(Phase::SynSent));
        lab.pass(&[client(".", 100_001).ack(7_000)]);
        assert_eq!(lab.phase(), Some(Phase::Established));
    }
    for last in [server("F.", 101).ack(200), server("R", 101)] {
        let mut lab = only_the_server();
        lab.pass(&[last, server("S.", 100_000).ack(0x1000_0000).scale(7)]);
        assert_eq!(lab.phase(), Some(Phase::SynReceived));
        lab.pass(&[server(".", 100_001).ack(0x1000_0000)]);
        assert_eq!(lab.phase(), Some(Phase::Established));
    }
    // A late duplicate of the SYN opens nothing.
    let mut lab = only_the_client();
    lab.pass(&[client("F.", 1).ack(1), client("S", 0).scale(7)]);
    assert_eq!(lab.phase(), Some(Phase::FinWait));
    // Both have forgotten a live one: what follows the SYN passes, and moves nothing,
    // because one forger could send both.
    for (mut lab, new) in [
        (only_the_client(), client("S", 0x4000_0000).scale(7)),
        (only_the_server(), server("S.", 0x4000_0000).ack(77).scale(7)),
    ] {
        let next = say(new.from, "P.", 0x4000_0001).ack(0x2000_0000).len(10);
        lab.dropped(next, DropReason::AckBeyond);
        lab.pass(&[new, next]);
        assert_eq!(lab.phase(), Some(Phase::Established));
        let seq = if new.from == From::Client { 1 } else { 101 };
        lab.pass(&[say(new.from, "P.", seq).ack(200).len(10)]);
    }
}

/// Nothing is weaker for the rest: without `pickup: loose` both directions must be seen.
#[test]
fn one_way_is_for_loose_rules_alone() {
    let mut lab = Lab::new();
    lab.pass(&[client("S", 0)]);
    lab.dropped(client(".", 1).ack(1), DropReason::Unexpected);
    lab.dropped(client("F.", 1).ack(1), DropReason::Unexpected);
    let mut lab = Lab::new();
    assert_eq!(lab.send(server("S.", 0).ack(1)), Verdict::Reset(DropReason::OutOfState));
    let mut lab = grace();
    assert_eq!(lab.send(server("S.", 0).ack(1)), Verdict::Reset(DropReason::OutOfState));
    // A rule of its own.
    let mut own = rule("second-uplink", 1);
    own.pickup = Some(crate::policy::PickupMode::Loose);
    let mut lab = Lab::with(open_settings(), vec![own]);
    lab.pass(&[client("S", 0), client(".", 1).ack(1)]);
    assert_eq!(lab.phase(), Some(Phase::Established));
    // Where the answer is seen, a loose rule is as strict as any.
    let mut lab = loose();
    lab.pass(&[client("S", 0).window(1000), server("S.", 0).ack(1).window(1000)]);
    lab.dropped(client(".", 1).ack(2), DropReason::BadAck);
    lab.pass(&[client(".", 1).ack(1).window(1000)]);
    lab.dropped(client("P.", 3001).ack(1).len(10), DropReason::SeqBeyond);
    // No rule lets in what this would be the answer to.
    let mut lab = Lab::with(Settings { default: Action::Drop, ..open_settings() }, Vec::new());
    lab.dropped(server("S.", 0).ack(1), DropReason::OutOfState);
}

/// A connection that is met at its SYN-ACK counts as half-open, and is limited.
#[test]
fn one_way_half_open_connections_are_limited() {
    let mut settings = open_settings();
    settings.pickup.mode = crate::policy::PickupMode::Loose;
    settings.limits.total = Some(1);
    let mut lab = Lab::with(settings, Vec::new());
    lab.pass(&[server("S.", 0).ack(1)]);
    lab.client.1 += 1;
    lab.dropped(server("S.", 0).ack(1), DropReason::Limit);
    assert_eq!(lab.engine.counters().connections, 1);
    lab.seconds(31);
    lab.pass(&[server("S.", 0).ack(1)]);
    // Nor does it come to rest half-open.
    lab.seconds(31);
    assert_eq!(lab.engine.counters().connections, 0);
}

/// Met mid-stream: who knows the addresses and ports and nothing else moves little.
#[test]
fn a_blind_segment_moves_a_picked_up_connection_not_far() {
    let met = || {
        let mut lab = grace();
        lab.pass(&[
            client("P.", 1).ack(1).len(100).window(500),
            server("P.", 1).ack(101).len(100).window(500),
            client(".", 101).ack(101).window(500),
        ]);
        lab
    };
    // Of guesses all over the space few pass, and none moves it further than that.
    let mut moved = 0_u32;
    for number in 0..1024_u32 {
        let mut lab = met();
        let (seq, ack) = (number.wrapping_mul(0x9e37_79b9), number.wrapping_mul(0x85eb_ca6b));
        let who = if number % 2 == 0 { From::Client } else { From::Server };
        let before = ends(&lab);
        let _ = lab.send(say(who, "P.", seq).ack(ack).len(50));
        let far = [0, 1].map(|end: usize| ends(&lab)[end].since(before[end]));
        moved += u32::from(far != [0, 0]);
        assert!(far.iter().all(|far| *far <= REACH + 50), "{far:?}");
        // The ends go on undisturbed.
        lab.pass(&[
            client("P.", 101).ack(101).len(1000).window(500),
            server("P.", 101).ack(1101).len(1000).window(500),
            client(".", 1101).ack(1101).window(500),
            server(".", 1101).ack(1101).window(500),
        ]);
    }
    assert!(moved <= 2, "{moved} of 1024");
    // One that sees nothing of it but hits again and again does not walk it away.
    let mut lab = met();
    let before = ends(&lab);
    for step in 1..8_u32 {
        let _ = lab.send(client("P.", 101 + step * (REACH - 1000)).ack(101).len(900).window(65_535));
    }
    assert!(ends(&lab)[0].since(before[0]) <= REACH);
    lab.pass(&[server("P.", 101).ack(101).len(1000).window(500), client("P.", 101).ack(1101).len(10)]);
}

/// A blind RST or FIN ends nothing that was met, before or after the other end is seen.
#[test]
fn a_blind_rst_or_fin_ends_nothing_that_was_picked_up() {
    let mut lab = grace();
    lab.pass(&[client("P.", 1).ack(1).len(100).window(500)]);
    lab.dropped(client("R", 1 << 26), DropReason::BadRst);
    lab.dropped(server("R", 1 << 26), DropReason::BadRst);
    lab.pass(&[client("F.", 1 << 26).ack(1)]);
    assert_eq!(lab.phase(), Some(Phase::Established));
    // An end that has less than all of it answers with an RST of its own number.
    lab.pass(&[client("R", 51)]);
    assert_eq!(lab.view().unwrap().timer, Timer::UnverifiedRst);
    lab.pass(&[server(".", 1).ack(101)]);
    assert_eq!(lab.view().unwrap().timer, Timer::Established);
}

/// More under way than any guess: the largest legal windows pass.
#[test]
fn met_in_the_middle_of_much_that_is_under_way() {
    let mut lab = grace();
    // The client's acknowledgements run far ahead of the server's first retransmission.
    lab.pass(&[
        server("P.", 1).ack(1).len(1000),
        client(".", 1).ack(400_000_000).window(65_535),
        server("P.", 400_000_000).ack(1).len(60_000),
        client(".", 1).ack(400_060_000).window(65_535),
    ]);
    // It grows beyond the guess while more and more is under way.
    for block in 1..1000_u32 {
        lab.pass(&[server("P.", 400_000_000 + block * 60_000).ack(1).len(60_000)]);
    }
    // A retransmission of the oldest, and its acknowledgement, are a window old.
    lab.pass(&[
        server("P.", 400_060_000).ack(1).len(60_000),
        client(".", 1).ack(400_060_000).window(65_535),
        client(".", 1).ack(400_000_000 + 1000 * 60_000).window(65_535),
    ]);
}

/// A server that is seen alone may say nothing for long after its SYN-ACK: it has no RST
/// coming, and what it says then is picked up.
#[test]
fn one_way_a_silent_server_is_not_reset() {
    let mut lab = loose();
    lab.pass(&[server("S.", 0).ack(1)]);
    lab.seconds(31);
    assert_eq!(lab.phase(), None);
    assert!(lab.resets().is_empty());
    lab.pass(&[server("P.", 1).ack(1).len(10)]);
    assert_eq!(cells::opened_by_server(&lab), Some(Phase::Established));
}

/// The unseen end has tried again with another number, and is answered.
#[test]
fn one_way_a_syn_ack_to_another_syn_passes() {
    let mut lab = loose();
    lab.pass(&[server("S.", 0).ack(1)]);
    lab.pass(&[server("S.", 900_000).ack(0x4000_0000), server("P.", 900_001).ack(0x4000_0000).len(10)]);
    lab.seconds(31);
    lab.pass(&[server("P.", 900_011).ack(0x4000_0000).len(10)]);
    assert_eq!(cells::opened_by_server(&lab), Some(Phase::Established));
}

/// A keepalive right after a handshake that passed unseen over an old connection.
#[test]
fn one_way_a_keepalive_of_a_new_connection_passes() {
    let mut lab = only_the_client();
    lab.pass(&[
        client("S", 0x4000_0000),
        client(".", 0x4000_0001).ack(0x2000_0000),
        client(".", 0x4000_0000).ack(0x2000_0000),
    ]);
    assert_eq!(lab.phase(), Some(Phase::Established));
}

/// The client's path changes while its handshake waits for what has gone another way.
#[test]
fn who_is_seen_after_all_in_the_handshake_goes_on() {
    for first in [client(".", 1).ack(1), client("P.", 100_001).ack(1).len(100)] {
        let mut lab = loose();
        lab.pass(&[server("S.", 0).ack(1).scale(7).window(500), first, first]);
        assert_eq!((lab.phase(), lab.engine.counters().embryonic), (Some(Phase::Established), 0));
        lab.pass(&[server("P.", 1).ack(100_101).len(100), client("F.", 100_101).ack(101)]);
        lab.pass(&[server("F.", 101).ack(100_102), client(".", 100_102).ack(102)]);
        assert_eq!(lab.phase(), Some(Phase::TimeWait));
    }
    // It has to acknowledge the SYN-ACK all the same.
    let mut lab = loose();
    lab.pass(&[server("S.", 0).ack(1)]);
    lab.dropped(client(".", 1).ack(2), DropReason::BadAck);
    assert_eq!(lab.phase(), Some(Phase::SynReceived));
}
