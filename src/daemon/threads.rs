//! The threads beside the control thread: queue workers, the ticker, the watcher
//! of interfaces; and how a death among them is noticed. The sender and the recorder
//! have files of their own.

use std::{net::IpAddr, thread::JoinHandle, time::Duration};

use tokio::sync::mpsc::UnboundedSender;

use super::{
    kernel,
    shared::{Outbox, Pulse, Shared},
    start::SYN_WAITING_LONG,
};
use crate::{
    conntrack::Flow,
    engine::{Candidacy, DropReason, IfIndex, Meta, Prepared, Ride, Shift, Verdict, Worker},
    policy::{Hook, Marks},
    sys::{
        clock::{Moderation, Pace},
        cpus,
        ctnetlink::Ctnetlink,
        interfaces,
        prefetch::IntoCache,
        queue::{Answer, LookAhead, Queue, Queued, UNTIL_RUNG},
        route::Routes,
        table::Lane,
    },
};

/// How long a thread waits before it looks whether it should go home.
const TURN: Duration = Duration::from_millis(200);

/// The ticker looks at least this often, so that a deadline that a packet made
/// sooner is not late by more.
const TICK: Duration = Duration::from_millis(100);

/// How often the kernel is asked where its default routes lead.
const ROUTES: Duration = Duration::from_secs(30);

/// Why a thread ended, for the control thread.
#[derive(Debug)]
pub struct Death {
    /// Its name.
    pub name: String,
    /// Why.
    pub why: String,
}

/// Starts a thread whose end is reported, however it comes.
///
/// # Errors
/// If the kernel has no thread left.
pub fn spawn(
    name: &str,
    deaths: &UnboundedSender<Death>,
    body: impl FnOnce() -> Result<(), String> + Send + 'static,
) -> std::io::Result<JoinHandle<()>> {
    let deaths = deaths.clone();
    let reported = name.to_owned();
    // The kernel shows 15 octets of it in ps and top.
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body));
        let why = match result {
            Ok(Ok(())) => "it ended".to_owned(),
            Ok(Err(error)) => error,
            Err(panic) => format!("it panicked: {}", panic_text(panic.as_ref())),
        };
        // The control thread decides whether it was time for it.
        let _ = deaths.send(Death { name: reported, why });
    })
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}

/// Serves one queue until everybody goes home.
///
/// # Errors
/// What made the queue useless.
pub fn serve(
    shared: &Shared,
    mut queue: Queue,
    lane: Lane,
    outbox: &Outbox,
    pulse: &Pulse,
) -> Result<(), String> {
    let mut serving = Serving {
        shared,
        outbox,
        worker: shared.engine.worker(),
        parents: Parents::default(),
        ways: Ways::default(),
    };
    let usual = cpus::niceness();
    let mut goes_first = None;
    let mut moderation = Moderation::begin();
    while !shared.stopping() {
        pulse.beat();
        let wanted = shared.do_live_connections_go_first();
        if goes_first != Some(wanted) {
            goes_first = Some(wanted);
            // Where it may not, that was said at the start.
            let _ = if wanted {
                cpus::be_nice(usual + kernel::niceness(lane))
            } else {
                // Who runs as soon as one packet has come never takes many at once.
                cpus::be_patient(usual)
            };
        }
        let taken = queue.serve_ahead(UNTIL_RUNG, &mut serving).map_err(|error| error.to_string())?;
        if lane == Lane::Known {
            continue;
        }
        // Who has proven himself need not wait.
        let hurries = lane == Lane::Proven;
        if moderation.after(taken, queue.may_hold_more(), hurries) >= SYN_WAITING_LONG {
            moderation = Moderation::begin();
            shared.shields.look_at_queues(lane == Lane::Syns);
        }
    }
    Ok(())
}

/// One queue's judge.
struct Serving<'a> {
    shared: &'a Shared,
    outbox: &'a Outbox,
    worker: Worker,
    parents: Parents,
    ways: Ways,
}

impl LookAhead for Serving<'_> {
    type Seen<'p> = Prepared<'p>;

    fn look<'p>(&mut self, packet: &Queued<'p>) -> Prepared<'p> {
        self.worker.prepare(packet.bytes, packet.wire_len, packet.checksums)
    }

    fn prepare<'s, 'p: 's>(&mut self, seen: impl Iterator<Item = &'s Prepared<'p>> + Clone)
    where
        Self: 's,
    {
        self.worker.look_ahead(seen, &IntoCache);
    }

    fn judge(&mut self, packet: &Queued<'_>, seen: &Prepared<'_>, rewritten: &mut Vec<u8>) -> Answer {
        let Self { shared, worker, .. } = self;
        let marks = shared.marks;
        let meta =
            Meta { parent: packet.parent.map(|parent| self.parents.seen(parent)), ..meta(packet, marks) };
        let (bytes, now) = (packet.bytes, shared.clock.now());
        let verdict = match Errand::of(packet, marks) {
            Errand::Judge => worker.handle_prepared(&meta, seen, now),
            Errand::Opening => {
                let meta = Meta { hook: Hook::Forward, in_if: self.ways.back(bytes), ..meta };
                worker.handle_opening(&meta, bytes, now)
            }
            Errand::Behind => {
                let verdict = worker.handle_behind(&meta, bytes, None, now);
                match worker.wants_numbers().and_then(|flow| self.parents.shift(&flow)) {
                    Some(shift) => worker.handle_behind(&meta, bytes, Some(shift), now),
                    None => verdict,
                }
            }
            Errand::Translated => worker.handle_translated(&meta, bytes, now),
            Errand::Stray => worker.handle_stray(&meta, bytes, now),
        };
        // Before the verdict leaves: the packet's answer may come by another
        // queue, and its events must not be told first.
        self.outbox.drain(worker, &shared.tally);
        while let Some(block) = worker.poll_block() {
            shared.blocks.ask(block);
        }
        while let Some(shield) = worker.poll_shield() {
            shared.shields.ask(shield);
        }
        if let Some(bytes) = worker.rewritten() {
            rewritten.extend_from_slice(bytes);
        }
        let is_rewritten = !rewritten.is_empty();
        Turn { verdict, is_rewritten, is_proof: worker.is_proof(), ride: worker.ride() }
            .answer(packet.mark, marks)
    }
}

/// What the kernel's rules have brought a packet for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Errand {
    /// The rules.
    Judge,
    /// The rules; it has another destination than its sender wrote.
    Translated,
    /// It may answer a challenge; the rules do not cover its hook.
    Stray,
    /// The rules; it is a SYN that the kernel sends behind a cookie.
    Opening,
    /// The rules; its connection is behind a cookie.
    Behind,
}

impl Errand {
    fn of(packet: &Queued<'_>, marks: Marks) -> Self {
        match packet.mark {
            mark if mark & marks.behind() == marks.behind() => {
                if packet.hook == Hook::Output {
                    Self::Opening
                } else {
                    Self::Behind
                }
            }
            mark if mark & marks.translated() != 0 => Self::Translated,
            mark if mark & marks.challenge() != 0 => Self::Stray,
            _ => Self::Judge,
        }
    }
}

fn meta(packet: &Queued<'_>, marks: Marks) -> Meta {
    Meta {
        hook: packet.hook,
        in_if: packet.in_if,
        out_if: packet.out_if,
        wire_len: packet.wire_len,
        checksums: packet.checksums,
        kernel_knows: packet.mark & marks.known() != 0,
        parent: None,
        renumbered: packet.renumbered,
        is_invalid: packet.mark & marks.may_begin() == marks.invalid(),
        candidacy: candidacy(packet.mark, marks),
    }
}

/// How a packet with this mark stands to the one that may begin its connection's ride.
const fn candidacy(mark: u32, marks: Marks) -> Option<Candidacy> {
    if mark & marks.may_begin() == marks.may_begin() {
        Some(Candidacy::Stands)
    } else if mark & marks.overtaken() != 0 {
        Some(Candidacy::Lost)
    } else {
        None
    }
}

/// How the hooks show the connections whose helpers announce others.
#[derive(Debug, Default)]
struct Parents {
    /// Opened by the first packet that needs it; `None` again where it fails.
    conntrack: Option<Ctnetlink>,
}

impl Parents {
    /// The kernel names a parent before its NAT, and our table has it behind DNAT. The
    /// kernel answers at once, and announced connections are few.
    fn seen(&mut self, original: Flow) -> Flow {
        if self.conntrack.is_none() {
            self.conntrack = Ctnetlink::open().ok();
        }
        let seen = self.conntrack.as_mut().and_then(|conntrack| conntrack.between_nats(&original).ok());
        seen.flatten().unwrap_or(original)
    }

    /// How the kernel translates the numbers of a connection behind a cookie: asked once,
    /// where one is met in its middle.
    fn shift(&mut self, flow: &Flow) -> Option<Shift> {
        if self.conntrack.is_none() {
            self.conntrack = Ctnetlink::open().ok();
        }
        self.conntrack.as_mut()?.shift(flow).ok().flatten()
    }
}

/// Where packets of clients come in that the kernel speaks for.
#[derive(Debug, Default)]
struct Ways {
    /// As above.
    routes: Option<Routes>,
}

impl Ways {
    /// The interface that leads back to the source of this packet: a SYN that the kernel
    /// sends has come in by none. Its client has got the kernel's answer there.
    fn back(&mut self, bytes: &[u8]) -> IfIndex {
        if self.routes.is_none() {
            self.routes = Routes::open().ok();
        }
        let routes = self.routes.as_mut();
        let toward = routes.zip(source(bytes)).and_then(|(routes, source)| routes.toward(source).ok());
        toward.flatten().unwrap_or_default()
    }
}

/// The source of an IP packet.
fn source(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.first()? >> 4 {
        4 => bytes.get(12..)?.first_chunk::<4>().map(|octets| IpAddr::from(*octets)),
        6 => bytes.get(8..)?.first_chunk::<16>().map(|octets| IpAddr::from(*octets)),
        _ => None,
    }
}

/// What the engine makes of a packet.
#[derive(Clone, Copy, Debug)]
struct Turn {
    verdict: Verdict,
    is_rewritten: bool,
    is_proof: bool,
    ride: Option<Ride>,
}

impl Turn {
    /// A verdict's mark replaces the packet's whole mark: the operator's bits stay
    /// as they are, ours say that it was inspected. What is refused goes on as well, to
    /// the kernel's rule behind the queue that answers it; and so does what proves its
    /// source, to the one that notes that.
    fn answer(self, mark: u32, marks: Marks) -> Answer {
        let proof = if self.is_proof { marks.proof() } else { 0 };
        let ride = match self.ride {
            Some(Ride::MayBegin) => marks.ride_may_begin(),
            Some(Ride::Begins) => marks.ride_begins(),
            Some(Ride::BeginsAtOnce) => marks.ride_begins_at_once(),
            Some(Ride::Ends) => marks.ride_ends(),
            None => 0,
        };
        let ours = |bits| mark & !marks.mask() | marks.inspected() | proof | bits;
        match self.verdict {
            Verdict::Accept if self.is_rewritten => Answer::Rewrite { mark: ours(ride) },
            Verdict::Accept => Answer::Accept { mark: ours(ride) },
            Verdict::Reset(DropReason::Challenged) => {
                Answer::Rewrite { mark: ours(marks.refuse() | marks.challenge()) }
            }
            Verdict::Reset(_) => Answer::Accept { mark: ours(marks.refuse()) },
            Verdict::Drop(_) if self.is_proof => Answer::Accept { mark: ours(marks.discard()) },
            Verdict::Drop(_) => Answer::Drop,
        }
    }
}

/// Ends what is over, when it is over.
///
/// # Errors
/// None.
pub fn tick(shared: &Shared, outbox: &Outbox, pulse: &Pulse) -> Result<(), String> {
    let mut worker = shared.engine.worker();
    while !shared.stopping() {
        pulse.beat();
        let mut pace: Option<Pace> = None;
        while worker.handle_timeout(shared.clock.now()) {
            outbox.drain(&mut worker, &shared.tally);
            let taken = pace.get_or_insert_with(Pace::begin).step();
            shared.rush.note(taken, shared.clock.now());
            pulse.beat();
            if shared.stopping() {
                break;
            }
        }
        outbox.drain(&mut worker, &shared.tally);
        let now = shared.clock.now();
        let wait = worker.poll_timeout().map_or(TICK, |due| due.since(now).min(TICK));
        // A deadline that is due but bounded work did not reach comes at the
        // next turn; a millisecond keeps that from spinning.
        std::thread::sleep(wait.max(Duration::from_millis(1)));
    }
    Ok(())
}

/// Follows interfaces as they come and go.
///
/// # Errors
/// If the kernel no longer tells.
pub fn watch_interfaces(shared: &Shared, watch: &interfaces::Watch, pulse: &Pulse) -> Result<(), String> {
    let mut routes_due = shared.clock.now();
    while !shared.stopping() {
        pulse.beat();
        let now = shared.clock.now();
        if now >= routes_due {
            routes_due = now.after(ROUTES);
            let outside = interfaces::default_route_interfaces().unwrap_or_default();
            shared.observer.lock().set_outside(outside.into_iter().map(|(index, _)| index).collect());
        }
        if watch.wait(TURN).map_err(|error| format!("interfaces: {error}"))? {
            let list = interfaces::list().map_err(|error| format!("interfaces: {error}"))?;
            shared.engine.set_interfaces(&list);
            routes_due = now;
        }
    }
    Ok(())
}

/// Whether every pulse still beats, asked once a second: those who wait until somebody rings
/// are asked each time, for the next.
#[derive(Debug, Default)]
pub struct Watchman {
    seen: Vec<(u64, u32)>,
}

impl Watchman {
    /// How many questions a thread may leave unanswered. Questions, not time:
    /// a process that was stopped and goes on is not punished for it.
    pub const PATIENCE: u32 = 20;

    /// The first thread that no longer beats.
    pub fn look<'a>(&mut self, pulses: &'a [Pulse]) -> Option<&'a str> {
        self.seen.resize(pulses.len(), (0, 0));
        let mut stuck = None;
        for (pulse, (last, missed)) in pulses.iter().zip(&mut self.seen) {
            let beats = pulse.beats();
            pulse.ask();
            if beats == *last {
                *missed += 1;
            } else {
                (*last, *missed) = (beats, 0);
            }
            if *missed > Self::PATIENCE {
                stuck = stuck.or(Some(pulse.name.as_str()));
            }
        }
        stuck
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_accept_keeps_the_operators_bits_and_says_inspected() {
        let marks = Marks { shift: 24 };
        let mark = 0x0012_3456 | marks.divert() | marks.known();
        let answer = |verdict, is_rewritten, is_proof| {
            Turn { verdict, is_rewritten, is_proof, ride: None }.answer(mark, marks)
        };
        let inspected = 0x0012_3456 | marks.inspected();
        let reset = |reason| Verdict::Reset(reason);
        let dropped = Verdict::Drop(DropReason::Rule);
        for (answered, expected) in [
            (answer(Verdict::Accept, false, false), Answer::Accept { mark: inspected }),
            (answer(Verdict::Accept, true, false), Answer::Rewrite { mark: inspected }),
            (answer(Verdict::Accept, false, true), Answer::Accept { mark: inspected | marks.proof() }),
            (answer(dropped, false, false), Answer::Drop),
            (
                answer(Verdict::Drop(DropReason::ChallengeAnswer), false, true),
                Answer::Accept { mark: inspected | marks.proof() | marks.discard() },
            ),
            (
                answer(reset(DropReason::Rule), false, false),
                Answer::Accept { mark: inspected | marks.refuse() },
            ),
            (
                answer(reset(DropReason::Challenged), true, false),
                Answer::Rewrite { mark: inspected | marks.refuse() | marks.challenge() },
            ),
        ] {
            assert_eq!(answered, expected);
        }
        for (ride, bit) in [
            (Ride::MayBegin, marks.ride_may_begin()),
            (Ride::Begins, marks.ride_begins()),
            (Ride::BeginsAtOnce, marks.ride_begins_at_once()),
            (Ride::Ends, marks.ride_ends()),
        ] {
            let turn =
                Turn { verdict: Verdict::Accept, is_rewritten: false, is_proof: false, ride: Some(ride) };
            assert_eq!(turn.answer(mark, marks), Answer::Accept { mark: inspected | bit });
        }
    }

    #[test]
    fn the_mark_says_of_whom_a_ride_may_begin() {
        let marks = Marks { shift: 24 };
        for (bits, expected) in [
            (0, None),
            (marks.known(), None),
            (marks.invalid(), None),
            (marks.may_begin(), Some(Candidacy::Stands)),
            (marks.known() | marks.overtaken(), Some(Candidacy::Lost)),
            (marks.may_begin() | marks.overtaken(), Some(Candidacy::Stands)),
        ] {
            assert_eq!(candidacy(0x12_3456 | marks.divert() | bits, marks), expected, "{bits:x}");
        }
    }

    #[test]
    fn a_death_is_reported_with_its_reason() {
        let (deaths, mut reports) = tokio::sync::mpsc::unbounded_channel();
        spawn("a", &deaths, || Err("no more packets".to_owned())).unwrap().join().unwrap();
        spawn("b", &deaths, || panic!("table {}", "broken")).unwrap().join().unwrap();
        let first = reports.try_recv().unwrap();
        assert_eq!((first.name.as_str(), first.why.as_str()), ("a", "no more packets"));
        let second = reports.try_recv().unwrap();
        assert_eq!((second.name.as_str(), second.why.as_str()), ("b", "it panicked: table broken"));
    }

    #[test]
    fn a_silent_pulse_is_found_after_patience_and_not_before() {
        let pulses = [Pulse::new("one".to_owned()), Pulse::new("two".to_owned())];
        let mut watchman = Watchman::default();
        for pulse in &pulses {
            pulse.beat();
        }
        for _ in 0..=Watchman::PATIENCE {
            pulses[0].beat();
            assert_eq!(watchman.look(&pulses), None);
        }
        pulses[0].beat();
        assert_eq!(watchman.look(&pulses), Some("two"));
        pulses[1].beat();
        assert_eq!(watchman.look(&pulses), None);
    }
}
