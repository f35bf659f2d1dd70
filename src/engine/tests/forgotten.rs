//! Ends that know another story than the table: both have forgotten a
//! connection, or this gateway has not seen its beginning.

use super::*;

/// A new attempt of the client's, with numbers of its own.
const AGAIN: u32 = 0x9000_0000;

/// The server has forgotten the connection too and answers the client's new SYN:
/// the table must follow, or nothing would pass until the old one's timer.
#[test]
fn both_ends_forgot_and_begin_anew() {
    for phase in [Phase::Established, Phase::FinWait, Phase::HalfClosed, Phase::Closing, Phase::TimeWait] {
        let mut lab = Lab::in_phase(phase);
        // Older than the last one, so that time-wait does not simply end.
        lab.pass(&[client("S", AGAIN).scale(3)]);
        assert_eq!(lab.phase(), Some(phase), "a SYN alone changes nothing");
        lab.pass(&[server("S.", 700_000).ack(AGAIN + 1).scale(5)]);
        assert_eq!(lab.phase(), Some(Phase::SynReceived), "from {phase}");
        assert_eq!(lab.engine.counters().embryonic, 1);
        assert_eq!(lab.view().unwrap().expires_in, Duration::from_secs(30));
        lab.pass(&[
            client(".", AGAIN + 1).ack(700_001),
            client("P.", AGAIN + 1).ack(700_001).len(1000),
            server("P.", 700_001).ack(AGAIN + 1001).len(1000),
        ]);
        assert_eq!(lab.phase(), Some(Phase::Established));
        assert_eq!(lab.engine.counters().embryonic, 0);
        lab.dropped(client("P.", 1).ack(1).len(10), DropReason::SeqBeyond);
    }
}

/// With SYN cookies a server answers any SYN, without knowing that it has answered
/// another one before.
#[test]
fn a_cookie_server_answers_the_clients_second_attempt() {
    let mut lab = Lab::in_phase(Phase::SynReceived);
    lab.seconds(20);
    lab.pass(&[client("S", AGAIN), server("S.", 5_000).ack(AGAIN + 1)]);
    assert_eq!(lab.engine.counters().embryonic, 1);
    lab.pass(&[client(".", AGAIN + 1).ack(5_001)]);
    assert_eq!(lab.phase(), Some(Phase::Established));
}

/// Nobody can bring a connection into a new handshake from outside: it takes the
/// opener's SYN and an answer that acknowledges it.
#[test]
fn a_forged_syn_or_syn_ack_moves_nothing() {
    let mut lab = Lab::in_phase(Phase::Established);
    lab.pass(&[server("S.", 700_000).ack(AGAIN + 1)]);
    lab.pass(&[client("S", AGAIN), server("S.", 700_000).ack(AGAIN + 2)]);
    lab.pass(&[server("S", 700_000), client("S.", AGAIN).ack(700_001)]);
    assert_eq!(lab.phase(), Some(Phase::Established));
    lab.pass(&[client("P.", 1).ack(1).len(10), server(".", 1).ack(11)]);
}

/// A duplicate of the handshake that comes late is not a new one.
#[test]
fn late_duplicates_of_the_handshake_change_nothing() {
    for phase in [Phase::Established, Phase::FinWait, Phase::HalfClosed] {
        let mut lab = Lab::in_phase(phase);
        lab.pass(&[server("P.", 1).ack(1).len(1000), client("S", 0), server("S.", 0).ack(1)]);
        assert_eq!(lab.phase(), Some(phase));
        lab.pass(&[server("P.", 1001).ack(1).len(1000)]);
    }
}

/// What one end sent before this gateway met the connection is acknowledged after.
#[test]
fn what_was_under_way_when_a_connection_was_met_may_be_acknowledged() {
    let mut settings = open_settings();
    settings.pickup.grace = Duration::from_secs(60);
    let mut lab = Lab::with(settings.clone(), Vec::new());
    lab.pass(&[
        client(".", 100).ack(5_000).window(500),
        // The server's data up to 50,000 had passed before.
        client(".", 100).ack(50_000).window(500),
        // It does not know yet that they arrived and sends from the start again.
        server(".", 5_000).ack(100).len(1448),
        client(".", 100).ack(50_000).window(500),
        server(".", 50_000).ack(100).len(1448),
    ]);
    // No window is as large as that.
    lab.dropped(client(".", 100).ack(5_000 + (1 << 29)), DropReason::AckBeyond);
    // Met by an acknowledgement that closes the window: what was sent before still comes.
    let mut lab = Lab::with(settings.clone(), Vec::new());
    lab.pass(&[
        client(".", 100).ack(5_000).window(0),
        server(".", 90_000).ack(100).len(1448).window(0),
        client(".", 500_000).ack(5_000).window(0),
    ]);
    // Met by a retransmission of old data.
    let mut lab = Lab::with(settings, Vec::new());
    lab.pass(&[
        server(".", 5_000).ack(100).len(1448),
        client(".", 100).ack(50_000),
        server("F.", 50_000).ack(100),
    ]);
    lab.dropped(client(".", 100).ack(50_002), DropReason::AckBeyond);
    lab.pass(&[client(".", 100).ack(50_001)]);
    assert_eq!(lab.engine.counters().phases.iter().find(|p| p.0 == "half_closed").unwrap().1, 1);
}

/// A handshake that begins anew is half-open like any other: where a limit has no
/// room for it, its SYN-ACK is dropped and the table stays as it was.
#[test]
fn a_handshake_that_begins_anew_passes_no_limit() {
    let mut settings = open_settings();
    settings.limits.total = Some(1);
    let mut lab = Lab::with(settings, Vec::new());
    lab.handshake();
    lab.client.1 += 1;
    lab.pass(&[client("S", 0)]);
    lab.client.1 -= 1;
    lab.pass(&[client("S", AGAIN)]);
    lab.dropped(server("S.", 700_000).ack(AGAIN + 1), DropReason::Limit);
    assert_eq!((lab.phase(), lab.engine.counters().embryonic), (Some(Phase::Established), 1));
    lab.pass(&[client("P.", 1).ack(1).len(10)]);
}
