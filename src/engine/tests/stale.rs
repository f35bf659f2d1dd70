//! Half-open in RFC 9293's sense (§3.5.1): one end has forgotten the connection, the
//! other learns it by an RST.

use super::*;

/// The numbers of a new attempt.
const AGAIN: u32 = 500_000;

impl Lab {
    fn stale(&self) -> (Option<Peer>, u64, u64) {
        let counters = self.engine.counters();
        (self.view().and_then(|view| view.forgotten_by), counters.stale, counters.forgotten)
    }
}

/// Figure 10: the client lost its memory, and opens anew from the same port.
#[test]
fn an_end_that_opens_again_is_stale_until_its_rst_tells_the_other() {
    for phase in [Phase::Established, Phase::FinWait, Phase::HalfClosed] {
        let mut lab = Lab::in_phase(phase);
        assert_eq!(lab.stale(), (None, 0, 0));
        // In these phases the client has sent its FIN, if any: the server forgets.
        lab.pass(&[server("S", AGAIN)]);
        assert_eq!(lab.stale(), (Some(Peer::Server), 1, 0), "{phase}");
        let next = if phase == Phase::Established { 1 } else { 2 };
        lab.pass(&[client(".", next).ack(1)]);
        assert_eq!((lab.phase(), lab.stale().0), (Some(phase), Some(Peer::Server)), "a challenge ACK");
        lab.pass(&[server("R", 1)]);
        assert_eq!((lab.phase(), lab.stale()), (Some(Phase::Reset), (Some(Peer::Server), 1, 0)));
        lab.seconds(11);
        assert_eq!(lab.closed(), [CloseReason::Forgotten(Peer::Server)]);
        assert_eq!(lab.stale(), (None, 0, 1));
        assert!(lab.resets().is_empty(), "the living end has had its RST");
    }
}

/// The new attempt comes before the old connection's entry has gone.
#[test]
fn the_next_attempt_takes_the_place_of_what_was_forgotten() {
    let mut lab = Lab::in_phase(Phase::Established);
    lab.pass(&[client("S", AGAIN), server(".", 1).ack(1), client("R", 1), client("S", AGAIN)]);
    assert_eq!((lab.phase(), lab.stale()), (Some(Phase::SynSent), (None, 0, 1)));
    assert_eq!(lab.closed(), [CloseReason::Forgotten(Peer::Client)]);
}

/// It did not speak first, but answers as a closed port does: the other end's data,
/// or its keepalive.
#[test]
fn an_end_that_denies_what_it_is_sent_had_forgotten() {
    for asked in [client("P.", 1).ack(1).len(100), client(".", 0).ack(1)] {
        let mut lab = Lab::in_phase(Phase::Established);
        lab.pass(&[asked, server("R", 1)]);
        assert_eq!((lab.phase(), lab.stale()), (Some(Phase::Reset), (Some(Peer::Server), 1, 0)));
        lab.seconds(11);
        assert_eq!(lab.closed(), [CloseReason::Forgotten(Peer::Server)]);
    }
}

/// An end that gives the connection up, closes before it gets data, or was asked
/// nothing has forgotten nothing.
#[test]
fn an_rst_of_an_end_that_knows_the_connection_is_no_more_than_that() {
    let asked = client("P.", 1).ack(1).len(100);
    let cases: [(&[Say], Say, Peer); 4] = [
        (&[asked], server("R.", 1).ack(101), Peer::Server),
        (&[asked], server("R.", 1).ack(1), Peer::Server),
        (&[], server("R", 1), Peer::Server),
        (&[server("F.", 1).ack(1), asked], server("R", 1), Peer::Server),
    ];
    for (before, rst, who) in cases {
        let mut lab = Lab::in_phase(Phase::Established);
        lab.pass(before);
        if lab.phase() == Some(Phase::FinWait) {
            // The FIN takes a number.
            lab.pass(&[Say { seq: 2, ..rst }]);
        } else {
            lab.pass(&[rst]);
        }
        assert_eq!((lab.phase(), lab.stale()), (Some(Phase::Reset), (None, 0, 0)), "{rst:?}");
        lab.seconds(11);
        assert_eq!(lab.closed(), [CloseReason::Rst(who)], "{rst:?}");
    }
}

/// Old duplicates and forgers don't make a connection stale for long, or at all.
#[test]
fn an_end_that_speaks_has_not_forgotten() {
    let mut lab = Lab::in_phase(Phase::Established);
    lab.pass(&[client("S", 0)]);
    assert_eq!(lab.stale(), (None, 0, 0), "its own SYN, late");
    lab.pass(&[client("S", AGAIN), server("P.", 1).ack(1).len(10)]);
    assert_eq!(lab.stale(), (Some(Peer::Client), 1, 0), "the other end can't know");
    lab.dropped(client("P.", 140_000).ack(11).len(5), DropReason::SeqBeyond);
    assert_eq!(lab.stale(), (Some(Peer::Client), 1, 0));
    lab.pass(&[client(".", 1).ack(11)]);
    assert_eq!(lab.stale(), (None, 0, 0));
    // What comes by another way than the connection's own says nothing.
    let packet = lab.packet(client("S", AGAIN));
    assert_eq!(lab.raw(Lab::meta(From::Server, packet.bytes.len()), &packet.bytes), Verdict::Accept);
    assert_eq!(lab.stale(), (None, 0, 0));
    // The other end's own RST is its own.
    lab.pass(&[client("S", AGAIN), server("R.", 11).ack(1)]);
    assert_eq!((lab.phase(), lab.stale()), (Some(Phase::Reset), (None, 0, 0)));
}

#[test]
fn becoming_stale_and_not_is_told() {
    let mut lab = Lab::in_phase(Phase::Established);
    lab.pass(&[client("S", AGAIN), client("S", AGAIN), client(".", 1).ack(1)]);
    let flow = lab.flow();
    let told: Vec<_> = std::iter::from_fn(|| lab.worker.poll_event())
        .filter(|event| matches!(event, Event::Stale { .. }))
        .collect();
    assert_eq!(told, [Event::Stale { flow, by: Some(Peer::Client) }, Event::Stale { flow, by: None }]);
}

/// Whoever ends a stale connection otherwise leaves the books right.
#[test]
fn a_stale_connection_that_ends_otherwise_is_counted_out() {
    let mut lab = Lab::in_phase(Phase::Established);
    lab.pass(&[client("S", AGAIN)]);
    let flow = lab.flow();
    assert!(lab.worker.kill(&flow, false, lab.now));
    assert_eq!((lab.closed(), lab.stale()), (vec![CloseReason::Killed], (None, 0, 0)));
    assert_eq!(lab.resets().len(), 2);
    // Both have forgotten it and begin anew: it is another connection.
    let mut lab = Lab::in_phase(Phase::Established);
    lab.pass(&[client("S", AGAIN), server("S.", 700_000).ack(AGAIN + 1)]);
    assert_eq!((lab.phase(), lab.stale()), (Some(Phase::SynReceived), (None, 0, 1)));
    // Its timer fires.
    let mut lab = Lab::in_phase(Phase::Established);
    lab.pass(&[server("S", AGAIN)]);
    lab.seconds(7441);
    assert_eq!((lab.phase(), lab.stale()), (None, (None, 0, 0)));
}
