//! Destinations whose SYNs the kernel answers by cookies (`on_excess: syncookies`): the book
//! of them, and the thread that turns them on, and off when the pressure is gone. Workers
//! only leave a note, and never wait for it.
//!
//! Behind cookies hardly a connection is half-open, so that no limit tells when they may
//! end. The kernel's own counts do: SYNs that nobody follows up. They are low when, each
//! left open as long as `syn_received` lets it, they would not pass the limit; and when that
//! has lasted for `calm`, the destination is on its own again. For a while then its cookies
//! are still taken.
//!
//! Handshakes under way when they begin are finished as they were begun (`under_way`).
//!
//! The thread also watches the queues of SYNs: while they overflow, or one is long, challenges
//! are not enough, and limits that are far from full not either; the engine is told.

mod load;
mod under_way;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use parking_lot::{Condvar, Mutex};

use self::{load::Load, under_way::Handshakes};
use super::{
    kernel, log, protocol,
    shared::{Pulse, Shared},
    text,
};
use crate::{
    conntrack::{Instant, Timer},
    engine::{Engine, IfIndex, Raise, Shield},
    policy::{OnExcess, Policy, RuleId},
    sys::{
        clock::Clock,
        control::namespace_file,
        cpus, interfaces, queue,
        synproxy::{self, Counts},
        sysctl,
        table::{self, Diversion, Lane, MOST_SHIELDED, ShieldChange, Shielded, TableError},
    },
};

/// How long the thread waits before it looks whether it should go home.
const TURN: Duration = Duration::from_millis(200);

/// How often it reads what the kernel has counted.
const LOOK: Duration = Duration::from_secs(1);

/// Notes that may wait; a destination whose note is lost passes its limit again.
const WAITING: usize = 256;

/// How long cookies are taken at most after the last one was given: a client's
/// acknowledgement may be lost some times.
const STILL_TAKEN: Duration = Duration::from_secs(60);

/// And at least, however soon calm is enough: for a slow path there and back.
const STILL_TAKEN_AT_LEAST: Duration = Duration::from_secs(10);

/// How long challenges stay raised after a queue of SYNs has lost some.
const RAISED: Duration = Duration::from_secs(10);

/// No client has sent its SYN again so soon (RFC 6298 §2 has a second), so that the kernel may be told of
/// its handshake later.
const NOT_YET: Duration = Duration::from_millis(500);

/// Handshakes in one transaction: more would hold up what the destination needs most, and
/// not every process may send the kernel so much at once.
const PART: usize = 1024;

/// After the kernel has refused, limits challenge for so long.
const REFUSED: Duration = Duration::from_secs(10);

/// Where the old value of the setting is kept that must be other while cookies are given.
///
/// # Errors
/// If `/proc` can't be read.
pub fn settings_file() -> std::io::Result<PathBuf> {
    namespace_file("cookies.json")
}

/// Whether these rules need the kernel's cookies: those that ask for them, and those that
/// challenge, where the kernel has them.
///
/// # Errors
/// If rules ask for them and the kernel does not have them.
pub fn wanted(policy: &Policy, diversion: Diversion) -> Result<bool, TableError> {
    if !policy.settings.hooks.forward || !policy.challenges() {
        return Ok(false);
    }
    match table::probe_cookies(diversion) {
        Ok(()) => {
            if !has_ipv6(diversion) && policy.syncookies() {
                log::notice(
                    "IPv6 is challenged where the rules say syncookies: nftables' synproxy drops packets of it \
                     whose checksum no network card has verified",
                );
            }
            Ok(true)
        }
        Err(error) if policy.syncookies() => Err(error),
        Err(error) => {
            log::notice(format_args!("challenges can't be raised when SYNs flood a queue: {error}"));
            Ok(false)
        }
    }
}

/// Whether the kernel can answer SYNs of IPv6.
const fn has_ipv6(diversion: Diversion) -> bool {
    matches!(diversion, Diversion::Xtables)
}

/// Destinations whose SYNs the kernel answers, and those that it should.
#[derive(Debug, Default)]
pub struct Shields {
    waiting: Mutex<Waiting>,
    bell: Condvar,
    are_long: AtomicBool,
    book: Mutex<Book>,
}

/// What the thread has not seen to yet.
#[derive(Debug, Default)]
struct Waiting {
    asked: Vec<Shield>,
    /// A queue of SYNs may be long.
    is_busy: bool,
    /// It would be, if its SYNs were not taken so fast.
    is_flooded: bool,
}

/// A destination, and the interface by which its SYNs come.
type Place = (IpAddr, u16, IfIndex);

#[derive(Debug, Default)]
struct Book {
    /// Whether the table has the sets.
    possible: bool,
    /// And those of IPv6.
    ipv6: bool,
    entries: BTreeMap<Place, Entry>,
    /// Destinations of which cookies are still taken, until when.
    leaving: BTreeMap<(IpAddr, u16), Instant>,
    /// Handshakes that were under way.
    under_way: Handshakes,
    /// How many were on since the start.
    ever: u64,
    /// The kernel takes nobody's acknowledgement for a connection that it does not know.
    strict: Option<sysctl::Saved>,
    /// What the kernel had counted at the last look.
    looked: Option<(Instant, Counts)>,
    /// What it counted at the start of this.
    before: Option<Counts>,
    raised: bool,
    /// Until when live connections go first.
    long_until: Instant,
    lost: u64,
    refused_until: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Entry {
    shield: Shield,
    interface: String,
    since: Instant,
    /// Since when the kernel has counted little.
    calm_since: Option<Instant>,
    /// So many SYNs a second that nobody follows up are little.
    little: f64,
}

impl Entry {
    fn shielded(&self) -> Shielded {
        Shielded { interface: self.interface.clone(), address: self.shield.address, port: self.shield.port }
    }

    fn place(&self) -> (IpAddr, u16) {
        (self.shield.address, self.shield.port)
    }
}

impl Shields {
    /// Asks for a destination to be shielded.
    pub fn ask(&self, shield: Shield) {
        let mut waiting = self.waiting.lock();
        if waiting.asked.len() < WAITING {
            waiting.asked.push(shield);
            self.bell.notify_one();
        }
    }

    /// Has the thread look at once how long the queues of SYNs are. `flooded`: so many have come
    /// fast to one that it counts as long, though they are taken as fast.
    pub fn look_at_queues(&self, flooded: bool) {
        let mut waiting = self.waiting.lock();
        waiting.is_flooded |= flooded;
        // While they are long, the next turn is soon enough.
        if !self.are_queues_long() {
            waiting.is_busy = true;
            self.bell.notify_one();
        }
    }

    /// The kernel's table was installed, its sets empty; `possible`: it has them. Puts into
    /// them what belongs there.
    ///
    /// # Errors
    /// If nft refuses.
    pub fn installed(
        &self,
        engine: &Engine,
        (possible, diversion): (bool, Diversion),
        now: Instant,
    ) -> Result<(), TableError> {
        let mut book = self.book.lock();
        (book.possible, book.ipv6) = (possible, possible && has_ipv6(diversion));
        engine.set_cookies_available(book.possible, book.ipv6);
        if !possible {
            book.entries.clear();
            book.leaving.clear();
            book.under_way.clear();
            book.relax();
            return Ok(());
        }
        book.leaving.retain(|_, until| now < *until);
        let on: Vec<Shielded> = book.entries.values().map(Entry::shielded).collect();
        let known: BTreeSet<(IpAddr, u16)> =
            book.entries.values().map(Entry::place).chain(book.leaving.keys().copied()).collect();
        let known = known.into_iter().collect();
        let under_way = book.under_way.all(now);
        table::shield(&ShieldChange { on, known, ..ShieldChange::default() })?;
        under_way.chunks(PART).try_for_each(|part| table::shield(&ShieldChange::of_handshakes(part)))
    }

    /// Everything ends: the kernel's setting is as it was before.
    pub fn end(&self) {
        self.book.lock().relax();
    }

    /// What was set in the kernel beside, in words.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let book = self.book.lock();
        let changes = book.strict.iter().flat_map(sysctl::Saved::changes);
        changes.map(|change| format!("{} = {} (was {})", change.name, change.new, change.old)).collect()
    }

    /// How it is, for `status`; `rsts`: those that the table has dropped.
    #[must_use]
    pub fn status(&self, policy: &Policy, rsts: u64, now: Instant) -> protocol::Syncookies {
        let book = self.book.lock();
        let counts = synproxy::counts().unwrap_or_default();
        let counts = book.before.map_or_else(Counts::default, |before| counts.since(before));
        protocol::Syncookies {
            on: book.entries.values().map(|entry| entry.row(policy, now)).collect(),
            ever: book.ever,
            raised: book.raised,
            syns: counts.syns.into(),
            valid: counts.valid.into(),
            invalid: counts.invalid.into(),
            rsts,
        }
    }

    /// Whether the queues of SYNs have lost some lately, or were long.
    #[must_use]
    pub fn are_queues_long(&self) -> bool {
        self.are_long.load(Ordering::Relaxed)
    }

    /// The notes that wait, or come within a turn.
    fn take(&self) -> Waiting {
        let mut waiting = self.waiting.lock();
        if waiting.asked.is_empty() && !waiting.is_busy {
            self.bell.wait_for(&mut waiting, TURN);
        }
        std::mem::take(&mut *waiting)
    }

    /// Turns on what is asked for; what that was.
    fn turn_on(&self, shared: &Shared, asked: Vec<Shield>) -> Result<Vec<Entry>, String> {
        let now = shared.clock.now();
        let mut book = self.book.lock();
        let mut new: BTreeMap<Place, Entry> = BTreeMap::new();
        let mut names = None;
        for shield in asked {
            let place = (shield.address, shield.port, shield.in_if);
            if !book.possible || book.entries.contains_key(&place) || new.contains_key(&place) {
                continue;
            }
            if book.entries.len() + new.len() >= MOST_SHIELDED as usize {
                return Err(format!("the kernel answers SYNs for {MOST_SHIELDED} destinations already"));
            }
            if names.is_none() {
                names = Some(interfaces::list().map_err(|error| error.to_string())?);
            }
            let name = names.iter().flatten().find(|(index, _)| *index == shield.in_if);
            // It is gone, and its packets with it.
            let Some((_, interface)) = name else { continue };
            let open_for = shared.engine.timer_value(shield.rule, Timer::SynReceived).0.unwrap_or(LOOK);
            let little = (f64::from(shield.most) / open_for.as_secs_f64().max(1.0)).max(1.0);
            let interface = interface.clone();
            new.insert(place, Entry { shield, interface, since: now, calm_since: None, little });
        }
        if new.is_empty() {
            return Ok(Vec::new());
        }
        if book.entries.is_empty() {
            book.begin(now)?;
        }
        let places: BTreeSet<(IpAddr, u16)> = new.values().map(Entry::place).collect();
        let mut under_way = book.under_way.found(&shared.engine, &places, NOT_YET, now);
        under_way.truncate(PART);
        let known = places.into_iter().filter(|place| !book.takes(place)).collect();
        let on = new.values().map(Entry::shielded).collect();
        let change = ShieldChange { on, known, under_way, ..ShieldChange::default() };
        if let Err(error) = table::shield(&change) {
            book.relax_if_idle();
            return Err(error.to_string());
        }
        book.under_way.note(&change.under_way, now);
        for entry in new.values() {
            book.leaving.remove(&entry.place());
        }
        book.ever += new.len() as u64;
        let told = new.values().cloned().collect();
        book.entries.extend(new);
        Ok(told)
    }

    /// Tells the kernel of handshakes to these destinations that it was not told of with
    /// them, or that were let in meanwhile.
    fn turned_on(
        &self,
        engine: &Engine,
        places: &BTreeSet<(IpAddr, u16)>,
        now: Instant,
    ) -> Result<(), String> {
        let mut book = self.book.lock();
        if !book.possible {
            return Ok(());
        }
        for part in book.under_way.found(engine, places, Duration::ZERO, now).chunks(PART) {
            table::shield(&ShieldChange::of_handshakes(part)).map_err(|error| error.to_string())?;
            book.under_way.note(part, now);
        }
        Ok(())
    }

    /// Tells the kernel that handshakes are over. A host that exists answers by RST what was sent
    /// in its name, and the same SYN may come again as fast as its sender likes.
    fn forget_finished(&self, engine: &Engine, now: Instant) -> Result<(), String> {
        let mut book = self.book.lock();
        if !book.possible {
            return Ok(());
        }
        for part in book.under_way.over(|flow| engine.is_half_open(flow), now).chunks(PART) {
            // Also if the kernel refuses: there they end by themselves.
            book.under_way.forget(part);
            let change = ShieldChange { over: part.to_vec(), ..ShieldChange::default() };
            table::shield(&change).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Looks at what the kernel has counted, and turns off what is calm; what that was.
    fn look(&self, now: Instant) -> Result<Vec<Entry>, String> {
        let mut book = self.book.lock();
        if book.entries.is_empty() && book.leaving.is_empty() {
            return Ok(Vec::new());
        }
        let counts = synproxy::counts().map_err(|error| error.to_string())?;
        book.measure(now, counts);
        let is_over =
            |entry: &Entry| entry.calm_since.is_some_and(|since| now >= since.after(entry.shield.calm));
        let (over, still): (BTreeMap<_, _>, BTreeMap<_, _>) =
            book.entries.clone().into_iter().partition(|(_, entry)| is_over(entry));
        let mut leaving = book.leaving.clone();
        for entry in over.values() {
            let is_still_on = still.values().any(|other| other.place() == entry.place());
            if !is_still_on {
                leaving.insert(
                    entry.place(),
                    now.after(entry.shield.calm.clamp(STILL_TAKEN_AT_LEAST, STILL_TAKEN)),
                );
            }
        }
        let unknown: Vec<(IpAddr, u16)> =
            leaving.iter().filter(|(_, until)| **until <= now).map(|(place, _)| *place).collect();
        let off = over.values().map(Entry::shielded).collect();
        let change = ShieldChange { off, unknown: unknown.clone(), ..ShieldChange::default() };
        table::shield(&change).map_err(|error| error.to_string())?;
        leaving.retain(|place, _| !unknown.contains(place));
        (book.entries, book.leaving) = (still, leaving);
        book.relax_if_idle();
        Ok(over.into_values().collect())
    }

    /// What can be asked for again, some time after the kernel has refused: told once.
    fn may_try_again(&self, now: Instant) -> Option<(bool, bool)> {
        let mut book = self.book.lock();
        let is_over = book.refused_until.is_some_and(|until| until <= now);
        if is_over {
            book.refused_until = None;
        }
        is_over.then_some((book.possible, book.ipv6))
    }

    /// Whether challenges are to be raised: the queues of SYNs have lost some lately, or were
    /// about to. `true` the second time if that has changed.
    fn watch(&self, load: Load, now: Instant) -> (bool, bool) {
        let mut book = self.book.lock();
        let was = book.raised;
        if load.lost > book.lost || load.is_long {
            book.long_until = now.after(RAISED);
        }
        let are_long = now < book.long_until;
        self.are_long.store(are_long, Ordering::Relaxed);
        book.raised = are_long && book.possible;
        book.lost = load.lost;
        (book.raised, book.raised != was)
    }
}

impl Book {
    /// Whether the kernel takes cookies of this destination.
    fn takes(&self, place: &(IpAddr, u16)) -> bool {
        self.leaving.contains_key(place) || self.entries.values().any(|entry| entry.place() == *place)
    }

    /// Before the first of them.
    fn begin(&mut self, now: Instant) -> Result<(), String> {
        if self.strict.is_none() {
            let file = settings_file().ok();
            self.strict =
                Some(sysctl::hold("tcp_loose", 0, file.as_deref()).map_err(|error| error.to_string())?);
        }
        let counts = synproxy::counts().map_err(|error| error.to_string())?;
        self.looked = Some((now, counts));
        self.before.get_or_insert(counts);
        Ok(())
    }

    /// After the last of them.
    fn relax_if_idle(&mut self) {
        if self.entries.is_empty() && self.leaving.is_empty() {
            self.relax();
        }
    }

    fn relax(&mut self) {
        self.looked = None;
        if let Some(Err(error)) = self.strict.take().map(sysctl::Saved::restore) {
            log::warning(format_args!("a kernel setting could not be put back: {error}"));
        }
    }

    /// Notes for each whether little was counted since the last look.
    fn measure(&mut self, now: Instant, counts: Counts) {
        let Some((then, before)) = self.looked.replace((now, counts)) else { return };
        let seconds = now.since(then).as_secs_f64().max(0.001);
        let rate = f64::from(counts.since(before).unanswered()) / seconds;
        for entry in self.entries.values_mut() {
            entry.calm_since = if rate <= entry.little { entry.calm_since.or(Some(then)) } else { None };
        }
    }
}

impl Entry {
    fn row(&self, policy: &Policy, now: Instant) -> protocol::ShieldedRow {
        protocol::ShieldedRow {
            dst: self.shield.address.to_string(),
            dport: self.shield.port,
            interface: self.interface.clone(),
            limit: self.shield.limit.name().to_owned(),
            rule: (self.shield.of_rule != RuleId::DEFAULT)
                .then(|| policy.name(self.shield.of_rule).to_owned()),
            raised: self.shield.raised.is_some(),
            since: Duration::from_secs(now.since(self.since).as_secs()),
            calm: self.calm_since.map(|since| Duration::from_secs(now.since(since).as_secs())),
        }
    }

    /// What is told of it.
    fn told(&self, is_on: bool, policy: &Policy, now: Instant) -> protocol::Event {
        let place = match self.shield.address {
            IpAddr::V4(address) => format!("{address}:{}", self.shield.port),
            IpAddr::V6(address) => format!("[{address}]:{}", self.shield.port),
        };
        let rule = self.shield.of_rule;
        let whose =
            if rule == RuleId::DEFAULT { String::new() } else { format!(" of rule {}", policy.name(rule)) };
        let message = if is_on {
            let limit = self.shield.limit.name();
            let why = match self.shield.raised {
                None => format!("{limit}{whose} is passed"),
                Some(Raise::QueuesFill) => {
                    format!("SYNs flood a queue, and {limit}{whose} is close or passed")
                }
                Some(Raise::AllProven) => {
                    format!("{limit}{whose} is passed, by sources that answer challenges")
                }
            };
            format!("the kernel answers SYNs from {} to {place} by cookies: {why}", self.interface)
        } else {
            format!(
                "the kernel no longer answers SYNs from {} to {place}: it has been calm for {}, after {}",
                self.interface,
                text::duration(self.shield.calm),
                text::duration(Duration::from_secs(now.since(self.since).as_secs())),
            )
        };
        protocol::Event {
            time: text::timestamp(Clock::wall(Duration::ZERO)),
            event: "syncookies".to_owned(),
            dst: Some(self.shield.address.to_string()),
            dport: Some(self.shield.port),
            rule: (rule != RuleId::DEFAULT).then(|| policy.name(rule).to_owned()),
            limit: Some(self.shield.limit.name().to_owned()),
            action: Some(if is_on { "on" } else { "off" }.to_owned()),
            message: Some(message),
            ..protocol::Event::default()
        }
    }
}

/// Looks after them until everybody goes home. `syn_queues`: the numbers of the queues of
/// SYNs, those of proven sources among them, whose losses raise challenges.
///
/// # Errors
/// None; what the kernel refuses is said once.
pub fn run(
    shared: &Arc<Shared>,
    syn_queues: std::ops::RangeInclusive<u16>,
    pulse: &Pulse,
) -> Result<(), String> {
    let mut thread = Thread { shared, syn_queues, complained: false, turned_on: Vec::new() };
    // What ends a flood must not wait for it, nor must the tools that this thread starts. Who may
    // not go first has been said of the workers.
    let _ = cpus::be_nice(cpus::niceness() + kernel::niceness(Lane::Known));
    let mut look_at = shared.clock.now();
    while !shared.stopping() {
        pulse.beat();
        let Waiting { asked, is_flooded, .. } = shared.shields.take();
        if !asked.is_empty() {
            thread.turn_on(asked);
        }
        let now = shared.clock.now();
        thread.look_for_handshakes(now);
        if now >= look_at {
            look_at = now.after(LOOK);
            thread.look(now);
        }
        thread.watch_queues(is_flooded, now);
    }
    Ok(())
}

struct Thread<'a> {
    shared: &'a Arc<Shared>,
    syn_queues: std::ops::RangeInclusive<u16>,
    complained: bool,
    /// Destinations whose SYNs the kernel has just begun to answer: when to look for
    /// handshakes to them again.
    turned_on: Vec<((IpAddr, u16), Instant)>,
}

impl Thread<'_> {
    fn turn_on(&mut self, asked: Vec<Shield>) {
        match self.shared.shields.turn_on(self.shared, asked) {
            Ok(entries) => {
                let now = self.shared.clock.now();
                for at in [now.after(TURN), now.after(2 * TURN)] {
                    self.turned_on.extend(entries.iter().map(|entry| (entry.place(), at)));
                }
                self.tell(&entries, true);
            }
            Err(error) => {
                // Nobody is let in unchallenged, and nobody is shut out.
                self.shared.engine.set_cookies_available(false, false);
                let until = self.shared.clock.now().after(REFUSED);
                self.shared.shields.book.lock().refused_until = Some(until);
                self.complain(&error);
            }
        }
    }

    /// Right after the kernel has begun to answer, and once more when the queues have been
    /// emptied: before a client sends its SYN again, after a second (RFC 6298 §2).
    fn look_for_handshakes(&mut self, now: Instant) {
        let due = self.turned_on.extract_if(.., |(_, at)| *at <= now);
        let places: BTreeSet<_> = due.map(|(place, _)| place).collect();
        if places.is_empty() {
            return;
        }
        let (shields, engine) = (&self.shared.shields, &self.shared.engine);
        let told = shields.forget_finished(engine, now).and(shields.turned_on(engine, &places, now));
        if let Err(error) = told {
            self.complain_of_handshakes(&error);
        }
    }

    fn complain_of_handshakes(&self, error: &str) {
        log::warning(format_args!("the kernel can't be told of handshakes under way: {error}"));
    }

    fn look(&mut self, now: Instant) {
        match self.shared.shields.look(now) {
            Ok(entries) => self.tell(&entries, false),
            Err(error) => self.complain(&error),
        }
        if let Err(error) = self.shared.shields.forget_finished(&self.shared.engine, now) {
            self.complain_of_handshakes(&error);
        }
        if let Some((ipv4, ipv6)) = self.shared.shields.may_try_again(now) {
            self.shared.engine.set_cookies_available(ipv4, ipv6);
        }
    }

    fn watch_queues(&self, is_flooded: bool, now: Instant) {
        let losses = queue::losses().unwrap_or_default();
        let of_syns = losses.iter().filter(|loss| self.syn_queues.contains(&loss.number));
        let load = of_syns.fold(Load { is_long: is_flooded, ..Load::default() }, Load::with);
        let (raised, has_changed) = self.shared.shields.watch(load, now);
        self.shared.engine.raise_challenges(raised.then_some(load.waiting));
        if has_changed {
            // Where no limit challenges this changes nothing.
            if self.shared.engine.policy().challenges() {
                let to = OnExcess::Syncookies;
                self.say(if raised {
                    format!("SYNs flood a queue: {} is raised to {to}", OnExcess::Challenge)
                } else {
                    format!(
                        "the queues of SYNs have lost none, had room, and filled slower, for {}: {} is itself again",
                        text::duration(RAISED),
                        OnExcess::Challenge
                    )
                });
            }
        }
    }

    fn say(&self, message: String) {
        log::notice(&message);
        self.shared.ring.push(std::iter::once(protocol::Event {
            time: text::timestamp(Clock::wall(Duration::ZERO)),
            event: "daemon".to_owned(),
            message: Some(message),
            ..protocol::Event::default()
        }));
    }

    fn tell(&self, entries: &[Entry], is_on: bool) {
        let (policy, now) = (self.shared.engine.policy(), self.shared.clock.now());
        let told: Vec<_> = entries.iter().map(|entry| entry.told(is_on, &policy, now)).collect();
        for event in &told {
            log::notice(event.message.as_deref().unwrap_or_default());
        }
        self.shared.ring.push(told);
    }

    fn complain(&mut self, error: &str) {
        if !std::mem::replace(&mut self.complained, true) {
            log::warning(format_args!("SYN cookies can't be had: {error}; limits challenge instead"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{daemon::start::SYN_WAITING_LONG, policy::Limit, sys::queue::QueueLoss};

    fn entry(port: u16, little: f64, calm: u64) -> (Place, Entry) {
        let shield = Shield {
            address: "192.0.2.1".parse().unwrap(),
            port,
            in_if: IfIndex(2),
            limit: Limit::PerDestination,
            of_rule: RuleId::DEFAULT,
            rule: RuleId::DEFAULT,
            most: 100,
            calm: Duration::from_secs(calm),
            raised: None,
        };
        let entry =
            Entry { shield, interface: "wan".to_owned(), since: Instant(0), calm_since: None, little };
        ((shield.address, port, shield.in_if), entry)
    }

    fn calm_since(book: &Book) -> Vec<Option<u64>> {
        book.entries.values().map(|entry| entry.calm_since.map(|at| at.0)).collect()
    }

    #[test]
    fn only_syns_that_nobody_follows_up_are_pressure() {
        let mut book =
            Book { entries: [entry(80, 10.0, 60), entry(81, 1000.0, 60)].into(), ..Book::default() };
        let counts = |syns, valid| Counts { syns, invalid: 0, valid };
        book.measure(Instant(1000), counts(0, 0));
        assert_eq!(calm_since(&book), [None, None], "nothing to compare with yet");
        book.measure(Instant(2000), counts(500, 100));
        assert_eq!(calm_since(&book), [None, Some(1000)]);
        // Honest clients, however many.
        book.measure(Instant(3000), counts(5500, 5095));
        assert_eq!(calm_since(&book), [Some(2000), Some(1000)]);
        book.measure(Instant(4000), counts(5510, 5105));
        assert_eq!(calm_since(&book), [Some(2000), Some(1000)], "it lasts");
        book.measure(Instant(5000), counts(9510, 5105));
        assert_eq!(calm_since(&book), [None, None], "and begins anew");
    }

    #[test]
    fn challenges_are_raised_while_the_queues_lose_and_some_time_after() {
        let shields = Shields::default();
        let lost = |lost| Load { lost, ..Load::default() };
        assert_eq!(shields.watch(lost(5), Instant(0)), (false, false), "there are no sets");
        assert!(shields.are_queues_long(), "live connections go first all the same");
        shields.book.lock().possible = true;
        assert_eq!(shields.watch(lost(5), Instant(1000)), (true, true), "they were long a second ago");
        assert_eq!(shields.watch(lost(6), Instant(2000)), (true, false));
        assert_eq!(shields.watch(lost(7), Instant(9000)), (true, false));
        assert_eq!(shields.watch(lost(7), Instant(18_999)), (true, false));
        assert!(shields.are_queues_long());
        assert_eq!(shields.watch(lost(7), Instant(19_000)), (false, true));
        assert!(!shields.are_queues_long());
    }

    #[test]
    fn a_queue_that_is_long_is_as_bad_as_one_that_overflows() {
        let queue = |waiting, dropped_by_queue, dropped_by_socket| QueueLoss {
            number: 2,
            waiting,
            dropped_by_queue,
            dropped_by_socket,
        };
        let of = |queues: &[QueueLoss]| queues.iter().fold(Load::default(), Load::with);
        let long = SYN_WAITING_LONG as u32;
        let load = of(&[queue(long, 1, 2), queue(0, 3, 4)]);
        assert_eq!((load.lost, load.is_long, load.waiting), (10, false, long));
        let load = of(&[queue(long + 1, 0, 0), queue(0, 0, 0)]);
        assert_eq!((load.lost, load.is_long), (0, true));
        let shields = Shields::default();
        shields.book.lock().possible = true;
        assert_eq!(shields.watch(load, Instant(0)), (true, true));
        shields.look_at_queues(true);
        let waiting = std::mem::take(&mut *shields.waiting.lock());
        assert!(waiting.is_flooded && !waiting.is_busy, "it is known");
        let shields = Shields::default();
        shields.look_at_queues(true);
        shields.look_at_queues(false);
        assert!(shields.take().is_flooded, "or that would be, were it not served so fast");
        shields.look_at_queues(false);
        assert!(!shields.take().is_flooded);
    }

    #[test]
    fn what_is_told_names_the_place_and_whose_limit_it_is() {
        let policy =
            Policy::new(crate::policy::Settings::default(), Vec::new(), Vec::new(), vec!["default".into()]);
        let (_, entry) = entry(443, 1.0, 60);
        let event = entry.told(true, &policy, Instant(0));
        assert_eq!(
            event.message.unwrap(),
            "the kernel answers SYNs from wan to 192.0.2.1:443 by cookies: embryonic.per_destination is passed"
        );
        let event = entry.told(false, &policy, Instant(90_000));
        assert_eq!((event.action.unwrap(), event.dport), ("off".to_owned(), Some(443)));
        assert!(event.message.unwrap().ends_with("it has been calm for 1m, after 1m30s"));
    }
}
