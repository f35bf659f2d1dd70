//! Timestamps and PAWS, SACK, ECN, and options that nobody knows.

use super::*;

/// A connection that negotiated timestamps: the client's are at 1000, the server's at
/// 5000. Both have sent and acknowledged 100 octets.
fn stamped() -> Lab {
    let mut lab = Lab::new();
    lab.pass(&[
        client("S", 0).timestamp(990),
        server("S.", 0).ack(1).timestamp(4990),
        client(".", 1).ack(1).timestamp(991),
        client("P.", 1).ack(1).len(100).timestamp(995),
        server("P.", 1).ack(101).len(100).timestamp(5000),
        client(".", 101).ack(101).timestamp(1000),
    ]);
    assert_eq!(lab.phase(), Some(Phase::Established));
    lab
}

/// RFC 7323 §5.3, R1 (C7323-10): what PAWS has its receiver drop passes, because the ACK
/// that it draws tells its sender, but closes nothing and buys no time.
#[test]
fn what_paws_rejects_passes_and_changes_nothing() {
    let mut lab = stamped();
    for say in [
        client(".", 101).ack(101).timestamp(999),
        client("P.", 101).ack(101).len(10).timestamp(0),
        client("F.", 111).ack(101).timestamp(1000_u32.wrapping_sub(1 << 30)),
        server("F.", 101).ack(101).timestamp(4999),
    ] {
        lab.changes_nothing(say);
    }
    // The duplicate ACKs that they draw.
    lab.pass(&[server(".", 101).ack(101).timestamp(5001), client(".", 101).ack(101).timestamp(1001)]);
    assert_eq!(lab.phase(), Some(Phase::Established));
    // The connection goes on where it was, beyond where the false FINs were.
    lab.pass(&[
        client("P.", 101).ack(101).len(50).timestamp(1002),
        server("P.", 101).ack(151).len(50).timestamp(5002),
        client("F.", 151).ack(151).timestamp(1003),
        server(".", 151).ack(152).timestamp(5003),
    ]);
    assert_eq!(lab.phase(), Some(Phase::HalfClosed));
}

/// RFC 7323 §5.3, R1 (C7323-10): what PAWS rejects and lies beyond the true FIN does not
/// keep its acknowledgement from counting.
#[test]
fn what_paws_rejects_beyond_a_fin_was_never_sent() {
    for forged in [client("F.", 141).ack(101).timestamp(1), client("P.", 101).ack(101).len(90).timestamp(1)] {
        let mut lab = stamped();
        lab.pass(&[forged, client("F.", 101).ack(101).timestamp(1001)]);
        assert_eq!(lab.phase(), Some(Phase::FinWait));
        lab.dropped(client("P.", 102).ack(101).len(10).timestamp(1002), DropReason::AfterFin);
        lab.pass(&[server(".", 101).ack(102).timestamp(5001)]);
        assert_eq!(lab.phase(), Some(Phase::HalfClosed));
        lab.pass(&[server("F.", 101).ack(102).timestamp(5002), client(".", 102).ack(102).timestamp(1003)]);
        assert_eq!(lab.phase(), Some(Phase::TimeWait));
    }
}

/// RFC 7323 §5.3, R1 (C7323-10): in `half_closed`, `closing` and `time_wait` as well.
#[test]
fn paws_holds_while_the_connection_closes() {
    let mut lab = stamped();
    lab.pass(&[client("F.", 101).ack(101).timestamp(1001), server(".", 101).ack(102).timestamp(5001)]);
    lab.changes_nothing(server("P.", 101).ack(102).len(10).timestamp(5000));
    lab.changes_nothing(server("F.", 111).ack(102).timestamp(5000));
    assert_eq!(lab.phase(), Some(Phase::HalfClosed));
    lab.pass(&[server("P.", 101).ack(102).len(20).timestamp(5002)]);
    lab.pass(&[client(".", 102).ack(121).timestamp(1002), server("F.", 121).ack(102).timestamp(5003)]);
    assert_eq!(lab.phase(), Some(Phase::Closing));
    // An old ACK is not the last one.
    lab.changes_nothing(client(".", 102).ack(122).timestamp(1000));
    lab.pass(&[client(".", 102).ack(122).timestamp(1003)]);
    assert_eq!(lab.phase(), Some(Phase::TimeWait));
    lab.changes_nothing(server("F.", 121).ack(102).timestamp(4000));
}

/// RFC 7323 §5.2 and §5.3, R1 (C7323-11): an equal timestamp is not older, and the clock wraps.
#[test]
fn an_equal_timestamp_is_not_old_and_the_clock_wraps() {
    let mut lab = Lab::new();
    let start = u32::MAX - 1;
    lab.pass(&[
        client("S", 0).timestamp(start),
        server("S.", 0).ack(1).timestamp(7),
        client(".", 1).ack(1).timestamp(start),
        client("P.", 1).ack(1).len(10).timestamp(start.wrapping_add(3)),
        server(".", 1).ack(11).timestamp(7),
    ]);
    lab.changes_nothing(client("F.", 11).ack(1).timestamp(start));
    lab.pass(&[client("F.", 11).ack(1).timestamp(start.wrapping_add(3))]);
    assert_eq!(lab.phase(), Some(Phase::FinWait));
}

/// RFC 7323 §4.3 (C7323-12): only a segment that is not ahead of what its receiver has
/// acknowledged makes others old; one that has overtaken them does not.
#[test]
fn what_was_overtaken_is_not_old() {
    let mut lab = stamped();
    lab.pass(&[
        // Sent last, seen first.
        client(".", 212).ack(101).timestamp(1012),
        client("P.", 201).ack(101).len(10).timestamp(1010),
        client("P.", 101).ack(101).len(100).timestamp(1002),
        client("F.", 211).ack(101).timestamp(1011),
    ]);
    assert_eq!(lab.phase(), Some(Phase::FinWait));
    lab.pass(&[server(".", 101).ack(212).timestamp(5001)]);
    assert_eq!(lab.phase(), Some(Phase::HalfClosed));
}

/// RFC 7323 §5.3 (C7323-13): what made a FIN look old here may have been lost or
/// overtaken behind the gateway. The receiver's acknowledgement is the proof.
#[test]
fn a_fin_that_looked_old_counts_once_it_is_acknowledged() {
    let mut lab = stamped();
    // A retransmission that was sent after the FIN is seen before it.
    lab.pass(&[client("P.", 101).ack(101).len(10).timestamp(1001)]);
    lab.pass(&[client("P.", 1).ack(101).len(100).timestamp(1010)]);
    lab.pass(&[client("F.", 111).ack(101).timestamp(1005)]);
    assert_eq!(lab.phase(), Some(Phase::Established));
    lab.seconds(10);
    lab.pass(&[server(".", 101).ack(112).timestamp(5010)]);
    assert_eq!((lab.phase(), lab.timer()), (Some(Phase::HalfClosed), (Timer::HalfClosed, 600)));
    // Not if its sender goes on with data where the FIN was.
    let mut lab = stamped();
    lab.changes_nothing(client("F.", 101).ack(101).timestamp(900));
    lab.pass(&[client("P.", 101).ack(101).len(1).timestamp(1010), server(".", 101).ack(102).timestamp(5010)]);
    assert_eq!(lab.phase(), Some(Phase::Established));
}

/// RFC 7323 §5.3 (C7323-10): no false acknowledgement is due after what PAWS rejects, and
/// no RST at its end is an exact one.
#[test]
fn what_paws_rejects_makes_no_later_number_right() {
    let mut lab = stamped();
    lab.pass(&[client("P.", 101).ack(101).len(50).timestamp(1)]);
    assert_eq!(lab.timer(), (Timer::Established, 7440));
    lab.pass(&[client("R", 151)]);
    assert_eq!((lab.phase(), lab.timer().0), (Some(Phase::Established), Timer::UnverifiedRst));
}

/// RFC 7323 §5.2 (C7323-14): an RST is not subject to PAWS.
#[test]
fn an_rst_is_judged_by_its_number_whatever_its_timestamp() {
    for time in [0, 999, 1000, 2000] {
        let mut lab = stamped();
        lab.pass(&[client("R", 101).timestamp(time)]);
        assert_eq!(lab.phase(), Some(Phase::Reset));
    }
}

/// RFC 7323 §3.2 (C7323-15): timestamps mean something only if both SYNs had them, and a
/// segment that leaves them out is for its receiver to judge.
#[test]
fn timestamps_that_were_not_negotiated_mean_nothing() {
    let mut lab = Lab::new();
    lab.pass(&[client("S", 0).timestamp(990), server("S.", 0).ack(1), client(".", 1).ack(1).timestamp(995)]);
    lab.pass(&[client("F.", 1).ack(1).timestamp(5)]);
    assert_eq!(lab.phase(), Some(Phase::FinWait));
    let mut lab = stamped();
    lab.pass(&[client("F.", 101).ack(101)]);
    assert_eq!(lab.phase(), Some(Phase::FinWait));
}

/// RFC 7323 §5.5 (C7323-16): after 24 days of silence a timestamp says nothing about old
/// and new.
#[test]
fn after_24_days_of_silence_timestamps_start_anew() {
    for (days, phase) in [(24, Phase::Established), (25, Phase::FinWait)] {
        let mut settings = open_settings();
        settings.timers.push((Timer::Established, Some(Duration::from_hours(24 * 100))));
        let mut lab = Lab::with(settings, Vec::new());
        lab.pass(&[
            client("S", 0).timestamp(1000),
            server("S.", 0).ack(1).timestamp(7),
            client(".", 1).ack(1).timestamp(1000),
        ]);
        lab.advance(Duration::from_hours(24 * days));
        lab.pass(&[client("F.", 1).ack(1).timestamp(5)]);
        assert_eq!(lab.phase(), Some(phase), "after {days} days");
    }
}

/// RFC 2018 §3, §8 (C2018-01, C2018-02): SACK is advisory. Blocks beyond what was sent, or
/// behind it, neither keep the segment from passing nor move any window.
#[test]
fn sack_blocks_move_nothing_wherever_they_point() {
    let mut lab = Lab::in_phase(Phase::Established);
    lab.pass(&[client("P.", 1).ack(1).len(100), client("P.", 201).ack(1).len(100)]);
    let honest = (of_client(201), of_client(301));
    let beyond = (of_client(70_000), of_client(80_000));
    let behind = (of_client(0_u32.wrapping_sub(90_000)), of_client(0_u32.wrapping_sub(80_000)));
    let inverted = (of_client(301), of_client(201));
    for blocks in [&[honest][..], &[beyond], &[behind], &[inverted], &[honest, beyond, behind]] {
        let ack = server(".", 1).ack(1);
        assert_eq!(lab.send_with(ack, |segment| segment.sack(blocks)), Verdict::Accept);
    }
    // The client may still send up to the server's window and not further, and nobody
    // may acknowledge what only a block has named.
    lab.unbelieved(server(".", 1).ack(302));
    lab.dropped(client(".", 1 + 0xffff + 0xffff).ack(1), DropReason::SeqBeyond);
    lab.pass(&[client("P.", 101).ack(1).len(100), server(".", 1).ack(301)]);
}

/// RFC 2883 §4 (C2883-01): a duplicate SACK lies below the acknowledgement.
#[test]
fn a_duplicate_sack_passes() {
    let mut lab = Lab::in_phase(Phase::Established);
    lab.pass(&[client("P.", 1).ack(1).len(100), server(".", 1).ack(101)]);
    let duplicate = [(of_client(1), of_client(101))];
    assert_eq!(lab.send_with(server(".", 1).ack(101), |s| s.sack(&duplicate)), Verdict::Accept);
}

/// RFC 3168 §6.1 (C3168-01, C3168-02): the bits of ECN change no segment's kind, in the
/// handshake or later.
#[test]
fn congestion_bits_change_no_kind() {
    let mut lab = Lab::new();
    lab.pass(&[client("SEW", 0), server("S.E", 0).ack(1), client(".", 1).ack(1)]);
    assert_eq!(lab.phase(), Some(Phase::Established));
    lab.pass(&[
        client("P.W", 1).ack(1).len(10),
        server(".E", 1).ack(11),
        client("P.EW", 11).ack(1).len(10),
        client("F.W", 21).ack(1),
        server(".E", 1).ack(22),
    ]);
    assert_eq!(lab.phase(), Some(Phase::HalfClosed));
    // A retransmitted SYN without them is the same SYN (RFC 3168 §6.1.1.1).
    let mut lab = Lab::new();
    lab.pass(&[client("SEW", 0), client("S", 0), server("S.", 0).ack(1), client(".", 1).ack(1)]);
    assert_eq!(lab.phase(), Some(Phase::Established));
}

/// RFC 9293 §3.1 (C9293-01): bits that are reserved are ignored.
#[test]
fn reserved_bits_are_ignored() {
    let mut lab = Lab::new();
    for (say, phase) in [
        (client("S", 0), Phase::SynSent),
        (server("S.", 0).ack(1), Phase::SynReceived),
        (client(".", 1).ack(1), Phase::Established),
        (client("F.", 1).ack(1), Phase::FinWait),
    ] {
        let mut packet = lab.packet(say);
        // The four bits behind the data offset.
        packet.bytes[32] |= 0x0f;
        let meta = Meta { checksums: Checksums::Trust, ..Lab::meta(say.from, packet.bytes.len()) };
        assert_eq!(lab.raw(meta, &packet.bytes), Verdict::Accept);
        assert_eq!(lab.phase(), Some(phase));
    }
}

/// RFC 9293 §3.1, MUST-6 (C9293-02): an option that nobody knows is passed over, in the
/// SYN and later.
#[test]
fn options_that_nobody_knows_pass() {
    let mut lab = Lab::new();
    for (say, phase) in [
        (client("S", 0), Phase::SynSent),
        (server("S.", 0).ack(1), Phase::SynReceived),
        (client("P.", 1).ack(1).len(10), Phase::Established),
    ] {
        // Multipath TCP, an authentication option, an unassigned number.
        let verdict =
            lab.send_with(say, |s| s.option(30, &[0, 1, 2, 3]).option(29, &[9; 14]).option(200, &[]));
        assert_eq!((verdict, lab.phase()), (Verdict::Accept, Some(phase)));
    }
}

/// RFC 9293 §3.8.5, MUST-31 (C9293-25) and RFC 6093 §3.4 (C6093-01): urgent data of any
/// length pass as they are, wherever the pointer points.
#[test]
fn urgent_data_pass_as_they_are() {
    let mut lab = Lab::in_phase(Phase::Established);
    for (seq, pointer) in [(1_u32, 0_u16), (11, 1), (21, 10), (31, u16::MAX)] {
        let say = client("PU.", seq).ack(1).len(10);
        let mut packet = lab.packet(say);
        packet.bytes[38..40].copy_from_slice(&pointer.to_be_bytes());
        let meta = Meta { checksums: Checksums::Trust, ..Lab::meta(From::Client, packet.bytes.len()) };
        // Accepted as it is: what is rewritten has another verdict.
        assert_eq!(lab.raw(meta, &packet.bytes), Verdict::Accept);
        lab.pass(&[server(".", 1).ack(seq + 10)]);
    }
    // With nothing but the pointer, and with the FIN.
    lab.pass(&[client("U.", 41).ack(1), client("FU.", 41).ack(1), server(".", 1).ack(42)]);
    assert_eq!(lab.phase(), Some(Phase::HalfClosed));
}

/// RFC 7323 §5.3, R1 (C7323-17): what is older than the last is a forger's, or its receiver
/// takes it and says so. However far ahead it lies, the real FIN closes.
#[test]
fn what_paws_rejects_beyond_the_window_is_in_no_fins_way() {
    let mut lab = Lab::new();
    lab.pass(&[
        client("S", 0).window(300).timestamp(1000),
        server("S.", 0).ack(1).window(10).timestamp(1000),
        client(".", 1).ack(1).window(300).timestamp(1001),
        server("F.", 1).ack(1).window(1).timestamp(1001),
        client(".", 1).ack(2).window(300).timestamp(1002),
    ]);
    assert_eq!(lab.phase(), Some(Phase::HalfClosed));
    // As wide as the window is, which has shrunk, it lies ahead of much that is still to come.
    for (seq, step) in (1..9).zip(1003..) {
        lab.pass(&[
            client("F.", 11 + seq).ack(2).window(300).timestamp(900),
            client("P.", seq).ack(2).window(300).timestamp(step).len(1),
            server(".", 2).ack(seq + 1).window(1).timestamp(step),
        ]);
    }
    lab.pass(&[client("F.", 9).ack(2).window(300).timestamp(1012)]);
    assert_eq!(lab.phase(), Some(Phase::Closing));
    lab.pass(&[server(".", 2).ack(10).window(1).timestamp(1012)]);
    assert_eq!(lab.phase(), Some(Phase::TimeWait));
}
