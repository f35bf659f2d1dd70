//! `conn_state` and `history` of packets written by hand.

use super::*;

const NOW: Instant = Instant(1_000_000);

/// Direction and control bits, sequence number, acknowledgement, octets of data.
type Given = (&'static str, u32, u32, u32);

/// State, history, packets after the handshake.
type Told = (&'static str, &'static str, &'static [Given]);

/// A connection whose packets are given as `>` or `<` (from the originator or the
/// responder), control bits, sequence number, acknowledgement and octets of data.
fn told(packets: &[Given]) -> (&'static str, String) {
    let connection = made(packets);
    (connection.state(), connection.history().to_owned())
}

fn made(packets: &[Given]) -> Connection {
    let mut connection = Connection::new(false);
    for given in packets {
        let (forth, tcp) = packet(given);
        connection.take(forth, &tcp, NOW);
    }
    connection
}

/// Whether it comes from the originator, and the packet.
fn packet((what, seq, ack, payload): &Given) -> (bool, Tcp) {
    let mut letters = what.chars();
    let forth = letters.next() == Some('>');
    let flags = letters.fold(Flags::default(), |flags, letter| {
        flags.with(match letter {
            'S' => Flags::SYN,
            'A' => Flags::ACK,
            'F' => Flags::FIN,
            'R' => Flags::RST,
            other => panic!("{other}"),
        })
    });
    let (seq, ack) = (SeqNum(*seq), SeqNum(*ack));
    (forth, Tcp { flags, seq, ack, window: 1000, payload: *payload, is_whole: true })
}

const HANDSHAKE: [Given; 3] = [(">S", 99, 0, 0), ("<SA", 499, 100, 0), (">A", 100, 500, 0)];

fn after_handshake(more: &[Given]) -> (&'static str, String) {
    told(&[&HANDSHAKE[..], more].concat())
}

#[test]
fn states_are_made_by_both_ends() {
    let cases: [Told; 8] = [
        ("S1", "ShA", &[]),
        ("S2", "ShAF", &[(">FA", 100, 500, 0)]),
        ("S3", "ShAf", &[("<FA", 500, 100, 0)]),
        (
            "SF",
            "ShADadFf",
            &[
                (">A", 100, 500, 10),
                ("<A", 500, 110, 0),
                ("<A", 500, 110, 20),
                (">FA", 110, 520, 0),
                ("<FA", 520, 111, 0),
            ],
        ),
        ("RSTO", "ShAR", &[(">R", 100, 0, 0)]),
        ("RSTR", "ShAr", &[("<R", 500, 0, 0)]),
        ("S1", "ShADTd", &[(">A", 100, 500, 10), (">A", 100, 500, 10), ("<A", 500, 110, 5)]),
        ("S1", "ShAQi", &[(">SFA", 100, 500, 0), ("<FRA", 500, 100, 0)]),
    ];
    // The last case is here for its letters alone.
    for (state, history, packets) in &cases[..7] {
        assert_eq!(after_handshake(packets), (*state, (*history).to_owned()));
    }
    let (_, history) = after_handshake(cases[7].2);
    assert_eq!(history, "ShAQi");
    assert_eq!(told(&[(">S", 9, 0, 0)]), ("S0", "S".to_owned()));
    assert_eq!(told(&[(">S", 9, 0, 0), ("<RA", 0, 10, 0)]), ("REJ", "Sr".to_owned()));
    assert_eq!(told(&[(">S", 9, 0, 0), (">R", 10, 0, 0)]), ("RSTOS0", "SR".to_owned()));
    assert_eq!(told(&[(">S", 9, 0, 0), (">FA", 10, 0, 0)]), ("SH", "SF".to_owned()));
    assert_eq!(told(&[(">A", 9, 20, 4), ("<A", 20, 13, 4)]), ("OTH", "Dd".to_owned()));
    assert_eq!(told(&[("<SA", 9, 20, 0), ("<FA", 10, 20, 0)]), ("SHR", "hf".to_owned()));
}

#[test]
fn letters_come_again_only_as_zeek_repeats_them() {
    assert_eq!(told(&[(">S", 9, 0, 0), (">S", 9, 0, 0)]).1, "S");
    assert_eq!(after_handshake(&[("<R", 500, 0, 0), ("<R", 501, 0, 0)]).1, "ShArr", "another number shows");
    let mut many = vec![(">A", 100, 500, 10); 101];
    assert_eq!(after_handshake(&many).1, "ShADTTT", "the 1st, 10th, 100th retransmission");
    many.truncate(10);
    assert_eq!(after_handshake(&many).1, "ShADT");
}

#[test]
fn a_gap_shows_when_it_is_acknowledged() {
    let (_, history) = after_handshake(&[("<A", 600, 100, 50), (">A", 100, 650, 0)]);
    assert_eq!(history, "ShAdg");
    let (_, history) = after_handshake(&[("<A", 600, 100, 50), ("<A", 500, 100, 100), (">A", 100, 650, 0)]);
    assert_eq!(history, "ShAdt", "reordered, which shows as a retransmission, but no gap");
}

#[test]
fn a_zero_window_shows() {
    let mut connection = Connection::new(false);
    let tcp =
        Tcp { flags: Flags::SYN, seq: SeqNum(5), ack: SeqNum(0), window: 0, payload: 0, is_whole: true };
    connection.take(true, &tcp, NOW);
    assert_eq!(connection.history(), "SW");
}

#[test]
fn a_syn_behind_its_answer_turns_the_direction_round() {
    let mut connection = Connection::new(false);
    let answer = Tcp {
        flags: Flags::SYN.with(Flags::ACK),
        seq: SeqNum(9),
        ack: SeqNum(20),
        window: 1,
        payload: 0,
        is_whole: true,
    };
    assert!(!connection.take(true, &answer, NOW));
    let syn =
        Tcp { flags: Flags::SYN, seq: SeqNum(19), ack: SeqNum(0), window: 1, payload: 0, is_whole: true };
    assert!(connection.take(false, &syn, NOW));
    assert_eq!((connection.state(), connection.history()), ("S1", "Hs^"));
}

#[test]
fn datagrams_show_which_side_sent() {
    assert_eq!(datagrams(true, "^d"), ("SHR", "^d"));
    assert_eq!(datagrams(true, "Dd"), ("SF", "Dd"));
    assert_eq!(datagrams(true, "D"), ("S0", "D"));
    assert_eq!(datagrams(true, "C"), ("OTH", "C"));
    assert_eq!(datagrams(false, "Dd"), ("OTH", ""));
}

#[test]
fn a_connection_is_reused_by_another_syn() {
    let mut connection = Connection::new(false);
    let syn =
        Tcp { flags: Flags::SYN, seq: SeqNum(9), ack: SeqNum(0), window: 1, payload: 0, is_whole: true };
    connection.take(true, &syn, NOW);
    assert!(!connection.is_reused_by(&syn), "the same again");
    assert!(connection.is_reused_by(&Tcp { seq: SeqNum(500), ..syn }));
    let refusal = Tcp { flags: Flags::RST.with(Flags::ACK), seq: SeqNum(0), ack: SeqNum(10), ..syn };
    connection.take(false, &refusal, NOW);
    assert!(connection.is_reused_by(&syn), "the same again, after it was refused");
    assert!(!connection.is_reused_by(&refusal));
}

/// Seconds after the first packet, and what comes then.
type Timed = (u64, Given);

/// What is told, and before which packet it was forgotten, if at all.
type Case<'a> = (&'a str, &'a [Timed], Option<(usize, Forgotten)>);

/// The first of some packets, by number, that comes after the connection was forgotten, and why.
fn forgotten_before(packets: &[Timed]) -> Option<(usize, Forgotten)> {
    let mut connection = Connection::new(false);
    packets.iter().enumerate().find_map(|(number, (seconds, given))| {
        let (forth, tcp) = packet(given);
        let now = Instant(NOW.0 + seconds * 1000);
        let forgotten = connection.is_forgotten(now, 80);
        connection.take(forth, &tcp, now);
        forgotten.map(|why| (number, why))
    })
}

#[test]
fn connections_are_forgotten_as_zeek_forgets() {
    let syn = (0, (">S", 99, 0, 0));
    let ack = |at| (at, (">A", 100, 500, 0));
    let cases: [Case<'_>; 9] = [
        ("no answer", &[syn, ack(4), ack(5)], Some((2, Forgotten::Over))),
        ("a late answer", &[syn, (4, ("<SA", 499, 100, 0)), ack(60)], None),
        ("refused", &[syn, (0, ("<RA", 0, 100, 0)), ack(4), ack(5)], Some((3, Forgotten::Over))),
        (
            "both closed",
            &[syn, (0, ("<SA", 499, 100, 0)), (1, (">FA", 100, 500, 0)), (1, ("<FA", 500, 101, 0)), ack(6)],
            Some((4, Forgotten::Over)),
        ),
        (
            "one closed, the other not heard of",
            &[(0, (">A", 100, 500, 0)), (0, (">FA", 100, 500, 0)), ack(4), ack(5)],
            Some((3, Forgotten::Over)),
        ),
        (
            "one closed, the other there",
            &[syn, (0, ("<SA", 499, 100, 0)), (1, (">FA", 100, 500, 0)), (200, ("<A", 500, 101, 9))],
            None,
        ),
        (
            "silent",
            &[syn, (0, ("<SA", 499, 100, 0)), ack(1), ack(300), ack(600)],
            Some((4, Forgotten::Silent)),
        ),
        ("in the middle", &[ack(0), ack(299), ack(600)], Some((2, Forgotten::Silent))),
        (
            "no answer to a SYN-ACK",
            &[(0, (">SA", 99, 5, 0)), (5, ("<A", 5, 100, 0))],
            Some((1, Forgotten::Over)),
        ),
    ];
    for (what, packets, expected) in cases {
        assert_eq!(forgotten_before(packets), expected, "{what}");
    }
    let mut shell = Connection::new(false);
    for given in &HANDSHAKE {
        let (forth, tcp) = packet(given);
        shell.take(forth, &tcp, NOW);
    }
    let later = |minutes: u64| Instant(NOW.0 + minutes * 60_000);
    assert_eq!(shell.is_forgotten(later(59), 22), None, "a shell may be silent");
    assert_eq!(shell.is_forgotten(later(60), 22), Some(Forgotten::Silent));
}

#[test]
fn an_end_closes_when_all_before_was_seen() {
    let hole =
        [HANDSHAKE.as_slice(), &[("<A", 500, 100, 10), (">A", 100, 510, 0), ("<FA", 520, 100, 0)]].concat();
    let connection = made(&hole);
    assert!(!connection.ends[1].is_closed, "octets before the FIN are missing");
    let filled = [hole.as_slice(), &[("<A", 510, 100, 10)], &[(">A", 100, 521, 0)]].concat();
    assert!(made(&filled).ends[1].is_closed);
}

#[test]
fn a_syn_ack_that_begins_is_turned_by_what_goes_on() {
    assert_eq!(told(&[(">SA", 499, 100, 0)]).1, "H");
    assert_eq!(told(&[(">SA", 499, 100, 0), ("<R", 100, 0, 0)]).1, "Hr", "a scan");
    // Behind the turn the directions are the other way round.
    let answered = [(">SA", 499, 100, 0), ("<A", 100, 500, 0), (">A", 100, 500, 9), ("<A", 500, 109, 9)];
    assert_eq!(told(&answered).1, "^hADd");
    let mut connection = Connection::new(false);
    let turns = answered.map(|given| {
        let (forth, tcp) = packet(&given);
        connection.take(forth, &tcp, NOW)
    });
    assert_eq!(turns, [false, true, false, false]);
}

#[test]
fn what_was_not_recorded_is_a_gap() {
    let mut connection = made(&HANDSHAKE);
    let (_, data) = packet(&("<A", 500, 100, 50));
    connection.take(false, &Tcp { is_whole: false, ..data }, NOW);
    let (_, ack) = packet(&(">A", 100, 550, 0));
    connection.take(true, &ack, NOW);
    assert_eq!(connection.history(), "ShAdg");
}

#[test]
fn numbers_may_wrap() {
    let top = u32::MAX - 2;
    let (state, history) = told(&[
        (">S", top, 0, 0),
        ("<SA", 1, top + 1, 0),
        (">A", top + 1, 2, 0),
        (">A", top + 1, 2, 10),
        ("<A", 2, 8, 0),
        (">FA", 8, 2, 0),
        ("<FA", 2, 9, 0),
        (">A", 9, 3, 0),
    ]);
    assert_eq!((state, history.as_str()), ("SF", "ShADaFf"));
}
