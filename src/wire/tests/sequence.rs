//! Sequence numbers: what wraps, and where an order ends.

use proptest::prelude::*;

use super::*;

const HALF: u32 = 1 << 31;

#[test]
fn order_wraps() {
    let last = SeqNum(u32::MAX);
    assert!(last.before(SeqNum(0)) && SeqNum(0).after(last));
    assert!(last.before_or_at(last) && last.after_or_at(last));
    assert!(!last.before(last) && !last.after(last));
    assert_eq!(last.plus(2), SeqNum(1));
    assert_eq!(SeqNum(1).minus(2), last);
    assert_eq!(SeqNum(1).since(last), 2);
    assert_eq!(last.latest(SeqNum(3)), SeqNum(3));
}

#[test]
fn half_way_round_there_is_no_order() {
    for start in [0, 1, HALF, u32::MAX] {
        let (near, far) = (SeqNum(start), SeqNum(start).plus(HALF));
        assert!(!near.before(far) && !far.before(near));
        assert!(!near.after(far) && !far.after(near));
        assert!(near.before(far.minus(1)) && near.after(far.plus(1)));
    }
}

#[test]
fn syn_and_fin_take_a_number_each() {
    let tuple = v4();
    for (flags, len) in [(0, 9), (Flags::SYN.0, 10), (Flags::FIN.0, 10), (Flags::SYN.0 | Flags::FIN.0, 11)] {
        let packet = SegmentBuilder::new(tuple)
            .seq(SeqNum(u32::MAX - 4))
            .flags(Flags(flags))
            .payload(b"some data")
            .build();
        let crate::wire::Transport::Tcp(segment) = read(&packet).unwrap().transport else { panic!() };
        assert_eq!((segment.seq_len(), segment.end()), (len, SeqNum(len - 5)));
    }
}

proptest! {
    #![proptest_config(config(1000))]

    #[test]
    fn of_two_numbers_one_order_holds(a in any::<u32>(), b in any::<u32>()) {
        let (x, y) = (SeqNum(a), SeqNum(b));
        prop_assert_eq!(x.before(y), y.after(x));
        prop_assert_eq!(x.plus(y.since(x)), y);
        let orders = [x.before(y), x.after(y), x == y, a.wrapping_sub(b) == HALF];
        prop_assert_eq!(orders.iter().filter(|holds| **holds).count(), 1);
    }

    #[test]
    fn shifting_both_changes_no_order(a in any::<u32>(), b in any::<u32>(), shift in any::<u32>()) {
        let (x, y) = (SeqNum(a), SeqNum(b));
        prop_assert_eq!(x.before(y), x.plus(shift).before(y.plus(shift)));
        prop_assert_eq!(x.plus(shift).minus(shift), x);
    }
}
