//! What nearly every segment is, taken at a fraction of the cost: an acknowledgement in
//! window, with data or without, on an open connection of which nothing is in doubt.
//!
//! Knows nothing that [`super::step`] doesn't: whatever it takes, that would take in the
//! same way, which the test below holds it to. So it asks for more than the window test
//! wherever that is shorter, and leaves the rest to that.

use super::{
    super::{
        Connection, Direction, Instant, Phase, Stamp,
        window::{self, Half, Seen},
    },
    Segment,
};
use crate::wire::{InHeader, Plain, SeqNum};

/// While an end has done one of these, a segment from it or to it may mean more.
const IN_DOUBT: Seen = Seen::FIN
    .and(Seen::FIN_ACKED)
    .and(Seen::PROBE)
    .and(Seen::MET)
    .and(Seen::DOUBTED)
    .and(Seen::FORGOT)
    .and(Seen::UNTAKEN)
    .and(Seen::UNTAKEN_FIN)
    .and(Seen::SYN_DATA)
    .and(Seen::ASKED);

/// The largest distance between numbers of which one is before the other.
const AHEAD: u32 = u32::MAX / 2;

/// What it looks at of a segment of kind [`super::Kind::Ack`].
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// SEG.SEQ.
    pub seq: SeqNum,
    /// SEG.ACK.
    pub ack: SeqNum,
    /// SEG.WND as on the wire.
    pub window: u16,
    /// Octets of data.
    pub payload_len: u32,
    /// TSval.
    pub timestamp: Option<u32>,
}

impl From<&Segment> for Progress {
    #[inline(always)]
    fn from(segment: &Segment) -> Self {
        Self {
            seq: segment.seq,
            ack: segment.ack,
            window: segment.window,
            payload_len: segment.payload_len,
            timestamp: segment.options.timestamps.map(|(value, _)| value),
        }
    }
}

impl<A: InHeader> From<&Plain<'_, A>> for Progress {
    #[inline(always)]
    fn from(plain: &Plain<'_, A>) -> Self {
        // First what may take a call.
        let timestamp = plain.timestamps().map(|(value, _)| value);
        Self {
            seq: plain.seq(),
            ack: plain.ack(),
            window: plain.window(),
            payload_len: plain.payload_len,
            timestamp,
        }
    }
}

/// Takes a segment as [`super::step`] would with the outcome `Pass`, where all that it changes
/// is how far its connection has come, and not what others have to hear of. `false`: it may be
/// anything else, and nothing has changed. What the segment says is read last.
#[inline(always)]
pub fn take_usual<S>(connection: &mut Connection, direction: Direction, segment: S, now: Instant) -> bool
where
    Progress: From<S>,
{
    // Nobody is asked, and nothing else is rare.
    let is_open = connection.phase == Phase::Established && !connection.has_rare();
    // Timestamps hold.
    let is_lively = !connection.last_seen.is_older(window::TIMESTAMPS_HOLD, now);
    let (sender, receiver) = connection.halves(direction);
    if !is_open || !is_lively || !are_settled(sender, receiver) {
        return false;
    }
    let segment = Progress::from(segment);
    let end = segment.seq.plus(segment.payload_len);
    // The inequalities of the window test: 1, for the end as well, and where the sender
    // has sent nothing beyond the window before.
    let room = sender.max_end.since(segment.seq);
    if room > AHEAD || segment.payload_len > room || sender.max_end.since(sender.end) > AHEAD {
        return false;
    }
    // 2.
    if end.before(sender.end.minus(receiver.max_win).minus(1)) {
        return false;
    }
    // 3 and 4.
    let behind = receiver.end.since(segment.ack);
    if behind > window::LEAST_ACK_REACH && behind > window::ack_reach(sender) {
        return false;
    }
    // It may be a probe.
    if segment.payload_len <= 1 && segment.seq.plus(1) == sender.end {
        return false;
    }
    if let Some(value) = segment.timestamp {
        let both_stamp = sender.seen.has(Seen::TIMESTAMPS) && receiver.seen.has(Seen::TIMESTAMPS);
        if !both_stamp || SeqNum(value).before(SeqNum(sender.ts_recent)) {
            return false;
        }
        if segment.seq.before_or_at(receiver.ack) {
            sender.ts_recent = SeqNum(value).latest(SeqNum(sender.ts_recent)).0;
        }
    }
    let window = u32::from(segment.window) << sender.shift();
    sender.max_win = sender.max_win.max(window);
    sender.end = end.latest(sender.end);
    sender.ack = sender.ack.latest(segment.ack);
    receiver.max_end = receiver.max_end.latest(segment.ack.plus(window.max(1)));
    connection.refreshed = Stamp::of(now);
    true
}

/// Whether all is known of both ends.
fn are_settled(one: &Half, other: &Half) -> bool {
    let settled = |half: &Half| half.seen.among(IN_DOUBT.and(Seen::ACK)) == Seen::ACK;
    settled(one) && settled(other) && one.are_plain(other)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use proptest::{prelude::*, test_runner::TestRunner};

    use super::{
        super::{Kind, Outcome, step},
        *,
    };
    use crate::{
        conntrack::{Whole, key::Sender},
        wire::{Flags, TcpOptions},
    };

    /// How far two numbers are apart: mostly little, and where comparisons turn.
    fn apart() -> impl Strategy<Value = u32> {
        prop_oneof![
            4 => 0_u32..3,
            6 => 0_u32..3000,
            3 => (0_u32..3000).prop_map(u32::wrapping_neg),
            1 => (0_u32..3).prop_map(|some| (1_u32 << 31).wrapping_add(some).wrapping_sub(1)),
            1 => any::<u32>(),
        ]
    }

    fn seen() -> impl Strategy<Value = Seen> {
        let usual = Seen::SYN.and(Seen::ACK).and(Seen::SCALE);
        let odd = [
            Seen::FIN,
            Seen::FIN_ACKED,
            Seen::PROBE,
            Seen::CHALLENGED,
            Seen::RST,
            Seen::MET,
            Seen::DOUBTED,
            Seen::FORGOT,
            Seen::UNTAKEN,
            Seen::UNTAKEN_FIN,
            Seen::SYN_DATA,
            Seen::ASKED,
        ];
        let stamps = any::<bool>().prop_map(|does| if does { Seen::TIMESTAMPS } else { Seen::default() });
        let odd = prop_oneof![8 => Just(Seen::default()), 1 => prop::sample::select(odd.to_vec())];
        let acks = prop_oneof![20 => Just(usual), 1 => Just(Seen::SYN)];
        (acks, stamps, odd).prop_map(|(acks, stamps, odd)| acks.and(stamps).and(odd))
    }

    /// An end whose data are numbered from about `base`.
    fn half(base: u32, other: u32) -> impl Strategy<Value = Half> {
        let scale = prop_oneof![8 => 0_u8..=14, 1 => Just(0x2e), 1 => Just(0x87)];
        let numbers = (apart(), apart(), apart());
        let elsewhere = prop::bool::weighted(0.03);
        (numbers, 1_u32..70_000, scale, seen(), elsewhere, apart()).prop_map(
            move |((end, room, ack), max_win, scale, seen, elsewhere, stamp)| {
                let mut half = Half {
                    iss: SeqNum(base.wrapping_sub(5000)),
                    end: SeqNum(base.wrapping_add(end)),
                    max_end: SeqNum(base.wrapping_add(end).wrapping_add(room)),
                    ack: SeqNum(other.wrapping_add(ack)),
                    max_win,
                    ts_recent: stamp,
                    scale,
                    seen,
                };
                if elsewhere {
                    half.be_elsewhere();
                }
                half
            },
        )
    }

    fn segment(base: u32, other: u32) -> impl Strategy<Value = Segment> {
        let stamps = prop::option::of(apart().prop_map(|value| (value, 0)));
        (apart(), apart(), 0_u32..3000, any::<u16>(), stamps, any::<bool>()).prop_map(
            move |(seq, ack, payload_len, window, timestamps, is_empty)| Segment {
                src_port: 1,
                dst_port: 2,
                seq: SeqNum(base.wrapping_add(seq)),
                ack: SeqNum(other.wrapping_add(ack)),
                flags: Flags::ACK,
                window,
                payload_len: if is_empty { 0 } else { payload_len },
                options: TcpOptions { timestamps, ..TcpOptions::default() },
            },
        )
    }

    fn phase() -> impl Strategy<Value = Phase> {
        let tcp = Phase::ALL
            .into_iter()
            .filter(|phase| super::super::meaning(Direction::Original, Kind::Ack, *phase).is_some());
        prop_oneof![9 => Just(Phase::Established), 1 => prop::sample::select(tcp.collect::<Vec<_>>())]
    }

    /// It takes some of what comes here, which is mostly odd, and each as the table and the
    /// window test do.
    #[test]
    fn what_is_taken_is_taken_as_any_segment_would_be() {
        let numbers = (any::<u32>(), any::<u32>());
        let cases = numbers.prop_flat_map(|(client, server)| {
            let ends = (half(client, server), half(server, client));
            let ways = prop_oneof![
                segment(client, server).prop_map(|segment| (Direction::Original, segment)),
                segment(server, client).prop_map(|segment| (Direction::Reply, segment)),
            ];
            let asked = prop::bool::weighted(0.03);
            let silence = prop_oneof![9 => 0_u64..10_000, 1 => 2_073_590_000_u64..2_073_610_000];
            (ends, ways, phase(), asked, silence)
        });
        let (all, taken) = (Cell::new(0_u32), Cell::new(0_u32));
        let begun = Instant(1_000_000);
        let law = |((original, reply), (direction, segment), phase, asked, silence)| {
            let mut before = Whole::from(Connection::new(phase, Sender::Low, begun));
            (before.original, before.reply) = (original, reply);
            before.rare.asked = bool::then(asked, || Stamp::of(begun));
            before.set_has_rare(asked);
            let now = begun.after(std::time::Duration::from_millis(silence));
            let (mut usual, mut any) = (before, before);
            all.set(all.get() + 1);
            if !take_usual(&mut usual.common, direction, &segment, now) {
                prop_assert_eq!(format!("{usual:?}"), format!("{before:?}"));
                return Ok(());
            }
            taken.set(taken.get() + 1);
            let mut live = any.live();
            prop_assert!(!live.take_answer(direction, Kind::Ack, &segment, now));
            prop_assert_eq!(step(&mut live, direction, Kind::Ack, &segment, now), Outcome::Pass);
            live.is_alive(direction, now);
            drop(live);
            prop_assert_eq!(format!("{usual:?}"), format!("{any:?}"));
            prop_assert_eq!(usual.standing(), before.standing());
            Ok(())
        };
        let config = ProptestConfig { cases: 5_000, failure_persistence: None, ..ProptestConfig::default() };
        TestRunner::new(config).run(&cases, law).unwrap();
        assert!(taken.get() > all.get() / 100, "{} of {}", taken.get(), all.get());
    }
}
