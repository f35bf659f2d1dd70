//! `conn_state` and `history` of packets written by hand.

use super::*;

/// Direction and control bits, sequence number, acknowledgement, octets of data.
type Given = (&'static str, u32, u32, u32);

/// State, history, packets after the handshake.
type Told = (&'static str, &'static str, &'static [Given]);

/// A connection whose packets are given as `>` or `<` (from the originator or the
/// responder), control bits, sequence number, acknowledgement and octets of data.
fn told(packets: &[Given]) -> (&'static str, String) {
    let mut connection = Connection::new(false);
    for (what, seq, ack, payload) in packets {
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
        let tcp = Tcp { flags, seq: SeqNum(*seq), ack: SeqNum(*ack), window: 1000, payload: *payload };
        connection.take(forth, &tcp);
    }
    (connection.state(), connection.history().to_owned())
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
    let tcp = Tcp { flags: Flags::SYN, seq: SeqNum(5), ack: SeqNum(0), window: 0, payload: 0 };
    connection.take(true, &tcp);
    assert_eq!(connection.history(), "SW");
}

#[test]
fn a_syn_behind_its_answer_turns_the_direction_round() {
    let mut connection = Connection::new(false);
    let answer =
        Tcp { flags: Flags::SYN.with(Flags::ACK), seq: SeqNum(9), ack: SeqNum(20), window: 1, payload: 0 };
    assert!(!connection.take(true, &answer));
    let syn = Tcp { flags: Flags::SYN, seq: SeqNum(19), ack: SeqNum(0), window: 1, payload: 0 };
    assert!(connection.take(false, &syn));
    assert_eq!((connection.state(), connection.history()), ("S1", "Hs^"));
}

#[test]
fn servers_are_known_by_their_ports() {
    let answer =
        Tcp { flags: Flags::SYN.with(Flags::ACK), seq: SeqNum(9), ack: SeqNum(20), window: 1, payload: 0 };
    assert!(is_tcp_reply(&answer, 80, 40_000));
    assert!(is_tcp_reply(&answer, 80, 6669));
    assert!(!is_tcp_reply(&answer, 40_000, 80));
    assert!(!is_tcp_reply(&Tcp { flags: Flags::SYN, ..answer }, 80, 40_000));
    assert!(is_udp_reply(53, 40_000) && !is_udp_reply(40_000, 53) && !is_udp_reply(53, 123));
    assert_eq!(datagrams(true, true, "d"), ("SHR", "^d".to_owned()));
    assert_eq!(datagrams(false, false, "D"), ("OTH", String::new()));
}

#[test]
fn a_connection_is_reused_by_another_syn() {
    let mut connection = Connection::new(false);
    let syn = Tcp { flags: Flags::SYN, seq: SeqNum(9), ack: SeqNum(0), window: 1, payload: 0 };
    connection.take(true, &syn);
    assert!(!connection.is_reused_by(true, &syn), "the same again");
    assert!(connection.is_reused_by(true, &Tcp { seq: SeqNum(500), ..syn }));
    assert!(!connection.is_reused_by(false, &Tcp { seq: SeqNum(500), ..syn }), "simultaneous open");
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
