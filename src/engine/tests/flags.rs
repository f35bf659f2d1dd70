//! Control bits: every combination, in every phase.

use super::{cells::TCP_PHASES, *};
use crate::conntrack::tcp::Kind;

/// The only sets of SYN, FIN, RST and ACK that RFC 9293 knows (§3.10.7; §3.5.3 for an
/// RST with and without ACK). All others are somebody's probe.
const LEGAL: [&str; 6] = ["S", "S.", ".", "F.", "R", "R."];

/// Those four.
const DECISIVE: Flags = Flags(0x17);

/// What this segment does in a phase (`None`: without a connection), and the phase
/// that it leaves.
fn fate(phase: Option<Phase>, flags: Flags, change: impl FnOnce(&mut [u8])) -> (Verdict, Option<Phase>) {
    let mut lab = phase.map_or_else(Lab::new, Lab::in_phase);
    let mut say = client("", 1);
    say.flags = flags;
    if flags.contains(Flags::ACK) {
        say = say.ack(1);
    }
    let mut packet = lab.packet(say);
    change(&mut packet.bytes[20..]);
    let mut meta = Lab::meta(From::Client, packet.bytes.len());
    meta.checksums = Checksums::Trust;
    (lab.raw(meta, &packet.bytes), lab.phase())
}

#[test]
fn every_combination_of_flags_is_impossible_or_means_what_its_decisive_ones_mean() {
    let legal = LEGAL.map(|letters| client(letters, 0).flags);
    let phases = TCP_PHASES.map(Some).into_iter().chain([None]);
    let mut cases = 0;
    for phase in phases {
        let fates = legal.map(|flags| fate(phase, flags, |_| ()));
        let mut lab = phase.map_or_else(Lab::new, Lab::in_phase);
        for bits in 0..=u8::MAX {
            cases += 1;
            let decisive = Flags(bits & DECISIVE.0);
            let place = format!("{bits:08b} in {phase:?}");
            if let Some(expected) = legal.iter().zip(fates).find(|(flags, _)| **flags == decisive) {
                // PSH, URG, and ECE and CWR (RFC 3168), decide nothing.
                let fate = fate(phase, Flags(bits), |_| ());
                assert_eq!(fate, expected.1, "{place}");
                assert_ne!(fate.0, Verdict::Drop(DropReason::ImpossibleFlags), "{place}");
            } else {
                let mut say = client("", 1).ack(1);
                say.flags = Flags(bits);
                // Without the ACK bit its field means nothing.
                say.ack = say.ack.filter(|_| decisive.contains(Flags::ACK));
                lab.dropped(say, DropReason::ImpossibleFlags);
                assert_eq!(lab.phase(), phase, "{place}");
            }
        }
    }
    assert_eq!(cases, 9 * 256);
}

/// Null, Xmas and the rest of a port scanner's, by name.
#[test]
fn the_segments_of_port_scanners_are_impossible() {
    for letters in ["", "FPU", "F", "SF", "SFPU", "SFRPU.", "SR", "FR"] {
        let (verdict, _) = fate(None, client(letters, 0).flags, |_| ());
        assert_eq!(verdict, Verdict::Drop(DropReason::ImpossibleFlags), "{letters}");
    }
}

#[test]
fn legal_segments_pass_with_ecn_and_urgent_data() {
    // RFC 3168 §6.1.1: an ECN-setup SYN, and a SYN-ACK; RFC 9768 §3.1: AccECN's, which
    // also has the bit beside the data offset.
    let bits = |flags: Flags, more: u8| flags.with(Flags(more));
    let (ece, cwr) = (0x40, 0x80);
    for (syn, syn_ack) in [(ece | cwr, ece), (ece | cwr, cwr), (ece | cwr, ece | cwr), (0, 0)] {
        for accurate in [false, true] {
            let mut lab = Lab::new();
            let mut pass = |mut say: Say, more| {
                say.flags = bits(say.flags, more);
                let mut packet = lab.packet(say);
                packet.bytes[20 + 12] |= u8::from(accurate);
                let mut meta = Lab::meta(say.from, packet.bytes.len());
                meta.checksums = Checksums::Trust;
                assert_eq!(lab.raw(meta, &packet.bytes), Verdict::Accept, "{say:?}");
            };
            pass(client("S", 0), syn);
            pass(server("S.", 0).ack(1), syn_ack);
            pass(client(".", 1).ack(1), ece | cwr);
            pass(client("P.", 1).ack(1).len(10), cwr);
            pass(server(".", 1).ack(11), ece);
            assert_eq!(lab.phase(), Some(Phase::Established));
        }
    }
    // RFC 9293 §3.8.5: urgent data, the pointer in the segment, behind it, or zero; and a
    // pointer without URG, which means nothing.
    for flags in ["U.", "PU.", "FPU.", "P."] {
        for pointer in [0_u16, 1, 5, u16::MAX] {
            let (verdict, after) = fate(Some(Phase::Established), client(flags, 0).flags, |tcp| {
                tcp[18..20].copy_from_slice(&pointer.to_be_bytes());
            });
            let expected = if flags.contains('F') { Phase::FinWait } else { Phase::Established };
            assert_eq!((verdict, after), (Verdict::Accept, Some(expected)), "{flags} {pointer}");
        }
    }
    assert_eq!(Kind::of(Flags(!0x07)), Some(Kind::Ack), "all but SYN, FIN and RST");
}
