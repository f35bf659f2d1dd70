//! The checksum against RFC 1071's example, itself and etherparse.

use etherparse::checksum::Sum16BitWords;
use proptest::prelude::*;

use super::*;

#[test]
fn the_example_of_rfc_1071() {
    let octets = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
    assert_eq!(Sum::new().bytes(&octets).folded(), 0xddf2);
    assert_eq!(Sum::new().bytes(&octets).checksum(), 0x220d);
    assert!(Sum::new().bytes(&octets).bytes(&[0x22, 0x0d]).is_sound());
}

#[test]
fn nothing_is_not_sound() {
    assert!(!Sum::new().is_sound());
    assert!(!Sum::new().bytes(&[0; 20]).is_sound());
}

#[test]
fn carries_of_the_longest_packet_are_kept() {
    let octets = vec![0xff; 1 << 20];
    assert_eq!(Sum::new().bytes(&octets).folded(), 0xffff);
    assert_eq!(Sum::new().bytes(&octets).bytes(&[0, 1]).folded(), 1);
}

proptest! {
    #![proptest_config(config(500))]

    #[test]
    fn pieces_add_up_wherever_they_are_cut(
        octets in prop::collection::vec(any::<u8>(), 0..200),
        first in 0_usize..200,
        second in 0_usize..200,
    ) {
        let (first, second) = (first.min(octets.len()), second.min(octets.len()));
        let (from, to) = (first.min(second), first.max(second));
        let pieces =
            Sum::new().bytes(&octets[..from]).bytes(&octets[from..to]).bytes(&[]).bytes(&octets[to..]);
        prop_assert_eq!(pieces.folded(), Sum::new().bytes(&octets).folded());
    }

    #[test]
    fn agrees_with_etherparse(octets in prop::collection::vec(any::<u8>(), 0..2000)) {
        let theirs = Sum16BitWords::new().add_slice(&octets).ones_complement();
        prop_assert_eq!(Sum::new().bytes(&octets).checksum().to_be_bytes(), theirs.to_ne_bytes());
    }

    #[test]
    fn a_checksum_makes_its_octets_sound(mut octets in prop::collection::vec(any::<u8>(), 2..200)) {
        octets[..2].fill(0);
        let checksum = Sum::new().bytes(&octets).checksum();
        octets[..2].copy_from_slice(&checksum.to_be_bytes());
        prop_assert!(Sum::new().bytes(&octets).is_sound());
    }
}
