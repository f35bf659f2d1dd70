//! What all threads of the daemon see.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc::{SyncSender, TrySendError},
    },
    time::Duration,
};

use parking_lot::Mutex;

use super::{blocks::Blocks, events::Ring, memory::AtStart, observer::Observer, shields::Shields};
use crate::{
    conntrack::{Flow, Instant},
    engine::{Engine, Event, Transmit, Worker},
    policy::Marks,
    sys::{clock::Clock, queue::Bell},
};

/// How many transmits may wait for the sender.
pub const TRANSMITS_WAITING: usize = 8192;

/// How many ended connections may wait until the kernel's conntrack forgets them: as many
/// as a reload may end at once.
pub const FORGETS_WAITING: usize = 1 << 17;

/// From so many on nobody is evicted for a SYN, until half of them are forgotten: by so
/// many the kernel's table may be larger than ours. It is what a flood evicts in about a
/// fifth of a second, so that a forgetter who finds no processor for a moment holds nothing
/// up.
pub const FORGETS_BEHIND: usize = 1 << 14;

/// How many events may wait for the recorder.
pub const EVENTS_WAITING: usize = 16384;

/// Counters of the shell, beside the engine's.
#[derive(Debug, Default)]
pub struct Tally {
    /// Events given up because the recorder was behind.
    pub events_lost: AtomicU64,
    /// Transmits given up because the sender was behind.
    pub transmits_lost: AtomicU64,
    /// Ended connections that the kernel was not told of, because the forgetter was behind.
    pub forgets_lost: AtomicU64,
    /// Ended connections that wait for the forgetter now.
    pub forgets_waiting: AtomicUsize,
    /// RSTs sent.
    pub rst_sent: AtomicU64,
    /// Keepalives sent.
    pub keepalives_sent: AtomicU64,
    /// Challenges sent, but for those that the kernel makes of its own refusals.
    pub challenges_sent: AtomicU64,
    /// Challenges given up because the challenger was behind.
    pub challenges_lost: AtomicU64,
    /// Challenges that the kernel did not take: a forged source may have no route.
    pub challenges_failed: AtomicU64,
    /// Questions to conntrack given up because who asks was behind; they are asked again.
    pub questions_lost: AtomicU64,
    /// Packets that the kernel did not take.
    pub send_failed: AtomicU64,
    /// Conntrack entries deleted.
    pub forgotten: AtomicU64,
    /// Conntrack lookups that failed.
    pub lookup_failed: AtomicU64,
}

impl Tally {
    /// One more.
    pub fn count(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// For how long live connections go first after something wanted the processor for long: what it has left to
/// others is done by then.
const RUSH: Duration = Duration::from_secs(10);

/// What takes longer is much. Timers that come near together each ten seconds, as the wheel turns, do not.
const LONG: Duration = Duration::from_millis(50);

/// Whether much is done beside the packets: all connections are listed or judged again, timers fire by the
/// thousand.
#[derive(Debug, Default)]
pub struct Rush(AtomicU64);

impl Rush {
    /// Something beside the packets has taken so long until now.
    pub fn note(&self, taken: Duration, now: Instant) {
        if taken > LONG {
            self.0.fetch_max(now.after(RUSH).0, Ordering::Relaxed);
        }
    }

    /// Whether there is, or was a moment ago.
    #[must_use]
    pub fn is_on(&self, now: Instant) -> bool {
        now.0 < self.0.load(Ordering::Relaxed)
    }
}

/// A thread's pulse: it beats at each turn of its loop, and the control thread
/// looks whether it still does.
#[derive(Clone, Debug)]
pub struct Pulse {
    /// The thread's name.
    pub name: String,
    beats: Arc<AtomicU64>,
    /// Where it waits until somebody rings.
    bell: Option<Arc<Bell>>,
}

impl Pulse {
    /// A pulse that has not beaten yet.
    #[must_use]
    pub fn new(name: String) -> Self {
        Self { name, beats: Arc::default(), bell: None }
    }

    /// That of a thread which takes its turn when it is rung for.
    #[must_use]
    pub fn with_bell(self, bell: Bell) -> Self {
        Self { bell: Some(Arc::new(bell)), ..self }
    }

    /// Has the thread take its turn, if it waits for somebody to say so.
    pub fn ask(&self) {
        if let Some(bell) = &self.bell {
            // What the kernel does not do shows in the beats.
            let _ = bell.ring();
        }
    }

    /// Beats once.
    pub fn beat(&self) {
        self.beats.fetch_add(1, Ordering::Relaxed);
    }

    /// How often it has beaten.
    #[must_use]
    pub fn beats(&self) -> u64 {
        self.beats.load(Ordering::Relaxed)
    }
}

/// What all threads see.
pub struct Shared {
    /// The firewall.
    pub engine: Arc<Engine>,
    /// The engine's clock.
    pub clock: Clock,
    /// Everybody goes home.
    pub stop: AtomicBool,
    /// Counters of the shell.
    pub tally: Tally,
    /// What happened lately.
    pub ring: Ring,
    /// What the events add up to.
    pub observer: Mutex<Observer>,
    /// Our mark bits.
    pub marks: Marks,
    /// Whom the kernel blocks.
    pub blocks: Blocks,
    /// For which destinations the kernel answers SYNs.
    pub shields: Shields,
    /// What memory it had before the first packet.
    pub at_start: AtStart,
    /// Whether much is done beside the packets.
    pub rush: Rush,
}

impl Shared {
    /// Whether live connections go before whoever else wants the processor: a flood waits in the queues of
    /// SYNs, or much is done beside the packets.
    #[must_use]
    pub fn do_live_connections_go_first(&self) -> bool {
        self.shields.are_queues_long() || self.rush.is_on(self.clock.now())
    }

    /// Whether everybody should go home.
    #[must_use]
    pub fn stopping(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Events that nobody could take, since the start.
    #[must_use]
    pub fn events_lost(&self) -> u64 {
        self.tally.events_lost.load(Ordering::Relaxed).saturating_add(self.engine.events_lost())
    }
}

/// A worker's way out: what it has to tell and to send, never waited for.
#[derive(Clone)]
pub struct Outbox {
    events: SyncSender<Event>,
    transmits: SyncSender<Transmit>,
    /// Apart, so that a flood of them takes no RST's place.
    challenges: SyncSender<Transmit>,
    /// Apart, so that those of a flood's that were evicted take no RST's place either.
    forgets: Forgets,
    /// Apart, so that timers that fire together delay no RST.
    questions: SyncSender<Transmit>,
}

impl Outbox {
    /// Into these channels.
    #[must_use]
    pub fn new(
        events: SyncSender<Event>,
        transmits: SyncSender<Transmit>,
        challenges: SyncSender<Transmit>,
        forgets: Forgets,
        questions: SyncSender<Transmit>,
    ) -> Self {
        Self { events, transmits, challenges, forgets, questions }
    }

    /// Takes everything out of the worker. What finds no room is counted.
    pub fn drain(&self, worker: &mut Worker, tally: &Tally) {
        // Whose RSTs are still to be sent.
        let mut on_its_way = None;
        while let Some(transmit) = worker.poll_transmit() {
            self.put(transmit, &mut on_its_way, tally);
        }
        if tally.forgets_waiting.load(Ordering::Relaxed) > FORGETS_BEHIND {
            worker.hold_evictions();
        }
        while let Some(event) = worker.poll_event() {
            self.tell(event, tally);
        }
    }

    /// Tells the recorder. What finds no room is counted.
    pub(super) fn tell(&self, event: Event, tally: &Tally) {
        pass(&self.events, event, &tally.events_lost);
    }

    fn put(&self, transmit: Transmit, on_its_way: &mut Option<Flow>, tally: &Tally) {
        match transmit {
            Transmit::Challenge { .. } => {
                pass(&self.challenges, transmit, &tally.challenges_lost);
            }
            Transmit::Ask { .. } => {
                pass(&self.questions, transmit, &tally.questions_lost);
            }
            Transmit::Reset { .. }
            | Transmit::Keepalive { .. }
            | Transmit::Acknowledge { .. }
            | Transmit::Release { .. } => {
                let flow = transmit.flow();
                if pass(&self.transmits, transmit, &tally.transmits_lost) {
                    *on_its_way = flow;
                }
            }
            // An RST finds its addresses by the entry. It came just before, and the sender
            // hands this on when it has sent that; who has got none, as nearly all that a
            // flood has evicted, waits for nobody. And rather an RST without its entry than
            // an entry that stays.
            Transmit::Forget { flow } => {
                if *on_its_way != Some(flow) || self.transmits.try_send(transmit).is_err() {
                    self.forgets.pass(flow, tally);
                }
            }
        }
    }
}

/// The way to the forgetter.
#[derive(Clone)]
pub struct Forgets(SyncSender<Flow>);

impl Forgets {
    /// Into this channel.
    #[must_use]
    pub const fn new(into: SyncSender<Flow>) -> Self {
        Self(into)
    }

    /// Has an ended connection forgotten. What finds no room is counted.
    pub fn pass(&self, flow: Flow, tally: &Tally) {
        // First, so that it is not forgotten before it is counted.
        tally.forgets_waiting.fetch_add(1, Ordering::Relaxed);
        if !pass(&self.0, flow, &tally.forgets_lost) {
            tally.forgets_waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

/// `false`: it found no room, and is counted.
fn pass<T>(channel: &SyncSender<T>, thing: T, lost: &AtomicU64) -> bool {
    match channel.try_send(thing) {
        Ok(()) => true,
        // Without a reader the daemon is ending, and says so itself.
        Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
            Tally::count(lost);
            false
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::{
        policy::{Hook, Policy, Settings},
        wire::SeqNum,
    };
    use std::sync::mpsc::sync_channel;

    /// A daemon's shared part without a daemon.
    pub(crate) fn shared() -> Shared {
        let settings = Settings::default();
        let policy = Policy::new(settings, Vec::new(), Vec::new(), vec!["default".into()]);
        let clock = Clock::start();
        Shared {
            engine: Engine::new(policy, [1, 2], clock.now()),
            clock,
            stop: AtomicBool::new(false),
            tally: Tally::default(),
            ring: Ring::new(64),
            observer: Mutex::new(Observer::new([3, 4])),
            marks: Marks { shift: 24 },
            blocks: Blocks::default(),
            shields: Shields::default(),
            at_start: AtStart::default(),
            rush: Rush::default(),
        }
    }

    #[test]
    fn live_connections_go_first_while_much_is_done_and_a_moment_longer() {
        let shared = shared();
        assert!(!shared.do_live_connections_go_first());
        shared.rush.note(Duration::from_secs(1), shared.clock.now());
        assert!(shared.do_live_connections_go_first());
        let (rush, at) = (Rush::default(), |seconds: u64| Instant(1000 * seconds));
        rush.note(LONG, at(4));
        assert!(!rush.is_on(at(4)), "that is not much");
        rush.note(2 * LONG, at(5));
        rush.note(2 * LONG, at(1));
        assert!(rush.is_on(at(14)) && !rush.is_on(at(15)));
    }

    #[test]
    fn who_gets_an_rst_is_forgotten_after_it_and_the_others_wait_for_nobody() {
        let (into_sender, sender) = sync_channel(2);
        let (into_forgetter, forgetter) = sync_channel(4);
        let (events, others) = (sync_channel(1).0, || sync_channel(1).0);
        let outbox = Outbox::new(events, into_sender, others(), Forgets::new(into_forgetter), others());
        let flow = |src_port| Flow::tcp("192.0.2.7", src_port, "198.51.100.1", 80);
        let reset = |port| {
            let (seq, hook) = (SeqNum(7), Hook::Forward);
            Transmit::Reset {
                flow: flow(port),
                tuple: flow(port).tuple(),
                seq,
                ack: None,
                hook,
                untranslated: false,
            }
        };
        let (tally, mut on_its_way) = (Tally::default(), None);
        let mut put = |transmit| outbox.put(transmit, &mut on_its_way, &tally);
        put(reset(1));
        put(Transmit::Forget { flow: flow(1) });
        // Its RST was suppressed.
        put(Transmit::Forget { flow: flow(2) });
        // The sender has no room: the entry does not stay for that.
        put(reset(3));
        put(Transmit::Forget { flow: flow(3) });
        let sent = [reset(1), Transmit::Forget { flow: flow(1) }];
        assert_eq!(sender.try_iter().collect::<Vec<_>>(), sent);
        assert_eq!(forgetter.try_iter().collect::<Vec<_>>(), [flow(2), flow(3)]);
        assert_eq!(tally.forgets_waiting.load(Ordering::Relaxed), 2);
        assert_eq!(tally.transmits_lost.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn what_finds_no_room_is_counted_not_waited_for() {
        let (into, out) = sync_channel(2);
        let lost = AtomicU64::new(0);
        for number in 0..5 {
            pass(&into, number, &lost);
        }
        assert_eq!(lost.load(Ordering::Relaxed), 3);
        assert_eq!(out.try_iter().collect::<Vec<i32>>(), [0, 1]);
        drop(out);
        pass(&into, 9, &lost);
        assert_eq!(lost.load(Ordering::Relaxed), 4);
    }
}
