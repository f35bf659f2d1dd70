//! A packet in window costs the engine no allocation, nor does one that is dropped.
//!
//! Counts on this thread only, because the test harness has others.

#![allow(unsafe_code)]

#[path = "sys_common/counting.rs"]
mod counting;

use std::cell::Cell;

use halfgate::{
    conntrack::{Fetch, Instant},
    engine::{DropReason, Engine, IfIndex, Meta, Transmit, Verdict, Worker},
    policy::{Action, EmbryonicLimits, FastOpen, Hook, OnExcess, Policy, Rule, RuleId, Selector, Settings},
    wire::{Checksums, Flags, FourTuple, RawPacket, SegmentBuilder, SeqNum},
};

const NOW: Instant = Instant(5_000);

fn meta(packet: &RawPacket) -> Meta {
    Meta {
        hook: Hook::Forward,
        in_if: IfIndex(1),
        out_if: IfIndex(2),
        wire_len: packet.wire_len(),
        checksums: Checksums::Verify,
        kernel_knows: false,
        parent: None,
        renumbered: None,
        is_invalid: false,
        candidacy: None,
    }
}

fn judge(worker: &mut Worker, packet: &RawPacket) -> Verdict {
    worker.handle_packet(&meta(packet), &packet.bytes, NOW)
}

fn allocations(work: impl FnOnce()) -> u64 {
    let before = counting::allocations();
    work();
    counting::allocations() - before
}

#[test]
fn packets_of_a_connection_allocate_nothing() {
    for (src, dst) in [("192.0.2.1", "198.51.100.2"), ("2001:db8::1", "2001:db8::2")] {
        let settings = Settings { default: Action::Accept, ..Settings::default() };
        let policy = Policy::new(settings, Vec::new(), Vec::new(), vec!["default".into()]);
        let engine = Engine::new(policy, [1, 2], NOW);
        let mut worker = engine.worker();
        let there =
            FourTuple { src: src.parse().unwrap(), src_port: 4000, dst: dst.parse().unwrap(), dst_port: 80 };
        let segment = |tuple, seq, ack| SegmentBuilder::new(tuple).seq(SeqNum(seq)).ack(SeqNum(ack));
        let opening = [
            SegmentBuilder::new(there).flags(Flags::SYN).seq(SeqNum(0)).build(),
            segment(there.reversed(), 100, 1).flags(Flags::SYN).build(),
            segment(there, 1, 101).build(),
        ];
        for packet in &opening {
            assert_eq!(judge(&mut worker, packet), Verdict::Accept);
        }
        while worker.poll_event().is_some() {}
        let data = segment(there, 1, 101).payload(&[1; 500]).build();
        let ack = segment(there.reversed(), 101, 501).build();
        let outside = segment(there, 1 << 30, 101).build();
        let mut passed = 0;
        let count = allocations(|| {
            for _ in 0..1000 {
                for packet in [&data, &ack, &outside] {
                    passed += u32::from(judge(&mut worker, packet) == Verdict::Accept);
                }
            }
        });
        assert_eq!(passed, 2000);
        assert_eq!(count, 0, "{src}");
    }
}

/// Nor do batches of them in a table that is so large that it is looked ahead in.
#[test]
fn a_batch_that_is_looked_ahead_for_allocates_nothing() {
    struct Counting(Cell<u32>);
    impl Fetch for Counting {
        fn fetch_at(&self, _: *const u8, _: usize) {
            self.0.set(self.0.get() + 1);
        }
    }
    let settings = Settings { default: Action::Accept, max_connections: 10_000, ..Settings::default() };
    let policy = Policy::new(settings, Vec::new(), Vec::new(), vec!["default".into()]);
    let engine = Engine::new(policy, [1, 2], NOW);
    let mut worker = engine.worker();
    let syns: Vec<RawPacket> = (0..5000)
        .map(|port| {
            let (src, dst) = ([192, 0, 2, 1].into(), [198, 51, 100, 2].into());
            SegmentBuilder::new(FourTuple { src, src_port: port, dst, dst_port: 80 })
                .flags(Flags::SYN)
                .build()
        })
        .collect();
    for syn in &syns {
        assert_eq!(judge(&mut worker, syn), Verdict::Accept);
        while worker.poll_event().is_some() {}
    }
    let fetched = Counting(Cell::new(0));
    let count = allocations(|| {
        for batch in syns.chunks(32) {
            let mut prepared = [const { None }; 32];
            for (place, syn) in prepared.iter_mut().zip(batch) {
                *place = Some(worker.prepare(&syn.bytes, syn.wire_len(), Checksums::Verify));
            }
            worker.look_ahead(prepared.iter().flatten(), &fetched);
            for (syn, prepared) in batch.iter().zip(prepared.iter().flatten()) {
                assert_eq!(worker.handle_prepared(&meta(syn), prepared, NOW), Verdict::Accept);
            }
        }
    });
    assert_eq!(count, 0);
    // Where each is looked for, who is first there, and for one of five, with two buckets for
    // each connection, who is second.
    let seconds = fetched.0.get() - 10_000;
    assert!((700..1_300).contains(&seconds), "{seconds}");
}

/// The shorter packet stands in memory that is there.
#[test]
fn a_syn_that_loses_its_fast_open_allocates_nothing() {
    let rule = Rule {
        id: RuleId(1),
        name: "web".into(),
        place: "test:1".into(),
        comment: "".into(),
        from: Selector::default(),
        to: Selector::default(),
        services: Vec::new(),
        action: Action::Accept,
        log: false,
        timers: Vec::new(),
        limits: EmbryonicLimits::default(),
        on_expire: None,
        pickup: None,
        fast_open: FastOpen::Strip,
        inspect: Default::default(),
        evictable: false,
        open_limits: Default::default(),
    };
    let names = vec!["default".into(), "web".into()];
    let policy = Policy::new(Settings::default(), Vec::new(), vec![rule], names);
    let engine = Engine::new(policy, [1, 2], NOW);
    let mut worker = engine.worker();
    let tuple =
        FourTuple { src: [192, 0, 2, 1].into(), src_port: 4000, dst: [198, 51, 100, 2].into(), dst_port: 80 };
    let syn = SegmentBuilder::new(tuple).flags(Flags::SYN).fast_open(&[7; 8]).payload(&[1; 1000]).build();
    let mut stripped = 0;
    let mut send = || {
        assert_eq!(judge(&mut worker, &syn), Verdict::Accept);
        stripped += u32::from(worker.rewritten().is_some_and(|bytes| bytes.len() == 20 + 20 + 12));
    };
    send();
    let count = allocations(|| (0..1000).for_each(|_| send()));
    assert_eq!((stripped, count), (1001, 0));
}

#[test]
fn a_forbidden_syn_allocates_nothing() {
    let policy = Policy::new(Settings::default(), Vec::new(), Vec::new(), vec!["default".into()]);
    let engine = Engine::new(policy, [1, 2], NOW);
    let mut worker = engine.worker();
    let mut tuple =
        FourTuple { src: [192, 0, 2, 1].into(), src_port: 0, dst: [198, 51, 100, 2].into(), dst_port: 80 };
    let packets: Vec<_> = (1..1000)
        .map(|port| {
            tuple.src_port = port;
            SegmentBuilder::new(tuple).flags(Flags::SYN).build()
        })
        .collect();
    // The first one makes room for its event; each is then fetched, as the shell does.
    judge(&mut worker, &packets[0]);
    while worker.poll_event().is_some() {}
    let count = allocations(|| {
        for packet in &packets {
            assert!(matches!(judge(&mut worker, packet), Verdict::Drop(_)));
            while worker.poll_event().is_some() {}
        }
    });
    assert_eq!(count, 0);
}

/// Nor does one that is challenged, or the answer that proves its source.
#[test]
fn a_challenge_and_its_answer_allocate_nothing() {
    let limits = EmbryonicLimits {
        total: Some(1),
        on_excess: Some(OnExcess::Challenge),
        ..EmbryonicLimits::default()
    };
    let settings = Settings { default: Action::Accept, limits, ..Settings::default() };
    let policy = Policy::new(settings, Vec::new(), Vec::new(), vec!["default".into()]);
    let engine = Engine::new(policy, [1, 2], NOW);
    let mut worker = engine.worker();
    let syn = |source: u16| {
        let [high, low] = source.to_be_bytes();
        let dst = [198, 51, 100, 2].into();
        let tuple = FourTuple { src: [10, 0, high, low].into(), src_port: 4000, dst, dst_port: 80 };
        SegmentBuilder::new(tuple).flags(Flags::SYN).build()
    };
    assert_eq!(judge(&mut worker, &syn(0)), Verdict::Accept);
    let ask = |worker: &mut Worker, syn: &RawPacket| {
        assert_eq!(judge(worker, syn), Verdict::Drop(DropReason::Challenged));
        while worker.poll_event().is_some() {}
        std::iter::from_fn(|| worker.poll_transmit()).last()
    };
    let syns: Vec<RawPacket> = (1..500).map(syn).collect();
    // What waits to be sent has its room from the first on.
    let answers: Vec<RawPacket> = syns
        .iter()
        .map(|syn| match ask(&mut worker, syn) {
            Some(Transmit::Challenge { tuple, ack, .. }) => (tuple.reversed(), ack),
            other => panic!("{other:?}"),
        })
        .map(|(tuple, ack)| SegmentBuilder::new(tuple).flags(Flags::RST).seq(ack).build())
        .collect();
    let count = allocations(|| {
        for (syn, answer) in syns.iter().zip(&answers) {
            assert!(ask(&mut worker, syn).is_some());
            assert_eq!(judge(&mut worker, answer), Verdict::Drop(DropReason::ChallengeAnswer));
            while worker.poll_event().is_some() {}
        }
    });
    assert_eq!((count, engine.proven(NOW)), (0, (499, 499)));
}

/// Nor does a connection behind a cookie, whatever comes and goes in its place.
#[test]
fn a_connection_behind_a_cookie_allocates_nothing() {
    const COOKIE: u32 = 7_000;
    let settings = Settings { default: Action::Accept, ..Settings::default() };
    let policy = Policy::new(settings, Vec::new(), Vec::new(), vec!["default".into()]);
    let engine = Engine::new(policy, [1, 2], NOW);
    let mut worker = engine.worker();
    let there =
        FourTuple { src: [192, 0, 2, 1].into(), src_port: 4000, dst: [198, 51, 100, 2].into(), dst_port: 80 };
    let segment = |tuple, seq, ack| SegmentBuilder::new(tuple).seq(SeqNum(seq)).ack(SeqNum(ack));
    // The cookie stands where a SYN acknowledges nothing.
    let mut syn = SegmentBuilder::new(there).flags(Flags::SYN).seq(SeqNum(0)).build();
    syn.bytes[28..32].copy_from_slice(&COOKIE.to_be_bytes());
    let answer = segment(there.reversed(), 100, 1).flags(Flags::SYN).build();
    let request = segment(there, 1, COOKIE + 1).payload(&[1; 500]).build();
    let reply = segment(there.reversed(), 101, 501).build();
    let over = segment(there.reversed(), 101, 501).flags(Flags::RST).build();
    let mut pass = |_| {
        let meta = Meta { checksums: Checksums::Trust, ..meta(&syn) };
        assert_eq!(worker.handle_opening(&meta, &syn.bytes, NOW), Verdict::Accept);
        for packet in [&answer, &request, &reply, &over] {
            assert_eq!(worker.handle_behind(&self::meta(packet), &packet.bytes, None, NOW), Verdict::Accept);
        }
        while worker.poll_event().is_some() {}
        while worker.poll_transmit().is_some() {}
    };
    // The first makes room.
    pass(0);
    assert_eq!(allocations(|| (1..1000).for_each(&mut pass)), 0);
}
