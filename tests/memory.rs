//! The engine never takes more memory than it says: with a full table of connections of
//! one address family and later of the other, with as many half-open ones, each from a
//! source and to a destination of its own, and with limits that count all of them.
//!
//! The only test of its file: it measures what the whole process takes.

#![allow(unsafe_code)]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::atomic::{AtomicUsize, Ordering},
};

use halfgate::{
    conntrack::Instant,
    engine::{Engine, Existing, IfIndex, Meta, Verdict, Worker},
    policy::{
        Action, Adaptive, EmbryonicLimits, FastOpen, Hook, OpenLimits, Policy, Rule, RuleId, Selector,
        Settings,
    },
    wire::{Checksums, Flags, FourTuple, RawPacket, SegmentBuilder, SeqNum},
};

/// The system's allocator, and how much is taken of it now and was at most.
struct Measured;

static NOW_TAKEN: AtomicUsize = AtomicUsize::new(0);
static MOST_TAKEN: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is handed to the system's allocator as it came.
unsafe impl GlobalAlloc for Measured {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let taken = NOW_TAKEN.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST_TAKEN.fetch_max(taken, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        NOW_TAKEN.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: `pointer` came from `alloc` above with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    // SAFETY: zeroed memory comes from the system, so that what nobody touches costs nothing.
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let taken = NOW_TAKEN.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST_TAKEN.fetch_max(taken, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `alloc_zeroed`.
        unsafe { System.alloc_zeroed(layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Measured = Measured;

fn taken() -> usize {
    NOW_TAKEN.load(Ordering::Relaxed)
}

fn judge(worker: &mut Worker, packet: &RawPacket, now: Instant) -> Verdict {
    let meta = Meta {
        hook: Hook::Forward,
        in_if: IfIndex(1),
        out_if: IfIndex(2),
        wire_len: packet.wire_len(),
        checksums: Checksums::Verify,
        kernel_knows: true,
        parent: None,
        renumbered: None,
        is_invalid: false,
        candidacy: None,
    };
    let verdict = worker.handle_packet(&meta, &packet.bytes, now);
    while worker.poll_event().is_some() || worker.poll_transmit().is_some() || worker.poll_block().is_some() {
    }
    verdict
}

/// A connection whose source and destination nobody else has.
fn tuple(number: u32, is_ipv6: bool) -> FourTuple {
    let [src, dst]: [IpAddr; 2] = if is_ipv6 {
        let address = |net: u128| Ipv6Addr::from(net << 112 | u128::from(number) << 64 | 1).into();
        [address(0x2001), address(0x2002)]
    } else {
        [Ipv4Addr::from(0x0a00_0000 | number).into(), Ipv4Addr::from(0x0b00_0000 | number).into()]
    };
    FourTuple { src, src_port: 4000, dst, dst_port: 80 }
}

/// The packets up to the third of a handshake.
fn handshake(tuple: FourTuple) -> [RawPacket; 3] {
    let segment = |tuple, seq, ack| SegmentBuilder::new(tuple).seq(SeqNum(seq)).ack(SeqNum(ack));
    [
        SegmentBuilder::new(tuple).flags(Flags::SYN).seq(SeqNum(0)).build(),
        segment(tuple.reversed(), 100, 1).flags(Flags::SYN).build(),
        segment(tuple, 1, 101).build(),
    ]
}

fn policy(most: u32, counts_open: bool) -> Policy {
    let many = Some(u32::MAX);
    let limits =
        EmbryonicLimits { total: many, per_source: many, per_destination: many, ..Default::default() };
    let open = || OpenLimits { total: many, per_source: many, per_destination: many, ..Default::default() };
    let open_limits = || if counts_open { open() } else { OpenLimits::default() };
    let rule = Rule {
        id: RuleId(1),
        name: "all".into(),
        place: "test:1".into(),
        comment: "".into(),
        from: Selector::default(),
        to: Selector::default(),
        services: Vec::new(),
        action: Action::Accept,
        log: false,
        timers: Vec::new(),
        limits,
        on_expire: None,
        pickup: None,
        fast_open: FastOpen::Allow,
        evictable: false,
        inspect: Default::default(),
        open_limits: open_limits(),
    };
    let settings = Settings {
        max_connections: most,
        // A full table is to stay full.
        adaptive: Adaptive { start: 200, end: 300 },
        limits,
        open_limits: open_limits(),
        ..Settings::default()
    };
    Policy::new(settings, Vec::new(), vec![rule], vec!["default".into(), "all".into()])
}

/// Lets every timer fire that there is.
fn empty(engine: &Engine, worker: &mut Worker, now: &mut Instant) {
    *now = Instant(now.0 + 30 * 24 * 3600 * 1000);
    while worker.handle_timeout(*now) {
        while worker.poll_event().is_some() || worker.poll_transmit().is_some() {}
    }
    while worker.poll_event().is_some() || worker.poll_transmit().is_some() {}
    assert_eq!(engine.counters().connections, 0);
}

/// Fills the table, half-open and then open, with one family and then the other. What
/// was taken at most, and what the engine had said.
fn most_taken(most: u32, counts_open: bool) -> (u64, u64) {
    let policy = policy(most, counts_open);
    let other = self::policy(most, !counts_open);
    let mut now = Instant(1_000_000);
    let before = taken();
    MOST_TAKEN.store(before, Ordering::Relaxed);
    let engine = Engine::new(policy, [11, 13], now);
    let mut worker = engine.worker();
    let mut said = engine.memory_bound().total();
    for is_ipv6 in [false, true, false] {
        let refused = (0..most + 100)
            .filter(|number| {
                let [syn, ..] = handshake(tuple(*number, is_ipv6));
                judge(&mut worker, &syn, now) != Verdict::Accept
            })
            .count();
        assert!(engine.counters().connections <= u64::from(most));
        assert!(engine.counters().embryonic * 10 >= u64::from(most) * 9, "{refused} refused");
        empty(&engine, &mut worker, &mut now);
        for number in 0..most {
            for packet in handshake(tuple(number, is_ipv6)) {
                judge(&mut worker, &packet, now);
            }
        }
        let counters = engine.counters();
        assert!(counters.connections * 10 >= u64::from(most) * 9, "{most}: {counters:?}");
        if is_ipv6 {
            // What is counted changes while all are there, and back again.
            engine.install(other.clone(), Existing::Keep, &mut worker, now);
            said = said.max(engine.memory_bound().total());
            engine.install(self::policy(most, counts_open), Existing::Keep, &mut worker, now);
        }
        empty(&engine, &mut worker, &mut now);
    }
    let own = MOST_TAKEN.load(Ordering::Relaxed) - before;
    (own as u64, said)
}

#[test]
fn no_flood_makes_the_engine_take_more_than_it_says() {
    for (most, counts_open) in [(1, false), (100, true), (5_000, true), (5_000, false), (40_000, true)] {
        let (taken, said) = most_taken(most, counts_open);
        assert!(taken <= said, "{most} connections took {taken} octets, said were {said}");
        // A bound that nothing comes near says nothing. (Here no queue of events is ever full.)
        assert!(
            most < 40_000 || taken * 5 > said * 2,
            "{most} connections took {taken} octets, said were {said}"
        );
    }
}
