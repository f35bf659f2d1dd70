//! Sources that the kernel blocks for a time: the book of them, and the thread that
//! tells the kernel. Workers only leave a note, and never wait for it.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use parking_lot::{Condvar, Mutex};

use super::{
    governor::{Governor, Written},
    log, protocol,
    recorder::{EVENTS_PER_SECOND, KINDS},
    shared::{Pulse, Shared},
    text,
};
use crate::{
    conntrack::Instant,
    engine,
    policy::{Limit, LimitTable, Live, Policy, RuleId},
    sys::{
        clock::Clock,
        table::{self, Blocked, Lengths, MOST_BLOCKED},
    },
};

/// How long the thread waits before it looks whether it should go home.
const TURN: Duration = Duration::from_millis(200);

/// Notes that may wait; a source whose note is lost passes its limit again.
const WAITING: usize = 4096;

/// The lengths of prefixes that sources can be blocked by under these rules.
#[must_use]
pub fn lengths(policy: &Policy) -> Lengths {
    let limits = LimitTable::resolve(policy, &Live::default());
    let own = policy.rules.iter().map(|rule| (rule.id, &rule.open_limits));
    std::iter::once((RuleId::DEFAULT, &policy.settings.open_limits))
        .chain(own)
        .filter(|(_, open)| open.block.is_some())
        .fold(Lengths::default(), |lengths, (id, _)| lengths.with(limits.source_prefix(id)))
}

/// A source as it is counted.
type Source = (IpAddr, u8);

/// Who is blocked, and who is to be.
#[derive(Debug, Default)]
pub struct Blocks {
    waiting: Mutex<Vec<engine::Block>>,
    bell: Condvar,
    book: Mutex<Book>,
}

#[derive(Debug, Default)]
struct Book {
    /// For which there are sets in the kernel.
    lengths: Lengths,
    entries: HashMap<Source, Entry>,
    /// How many were blocked since the start.
    ever: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    block: engine::Block,
    since: Instant,
    until: Instant,
}

impl Blocks {
    /// Asks for a source to be blocked.
    pub fn ask(&self, block: engine::Block) {
        let mut waiting = self.waiting.lock();
        if waiting.len() < WAITING {
            waiting.push(block);
            self.bell.notify_one();
        }
    }

    /// How many are blocked now, and how many were since the start.
    #[must_use]
    pub fn counts(&self, now: Instant) -> (u64, u64) {
        let mut book = self.book.lock();
        book.forget(now);
        (book.entries.len() as u64, book.ever)
    }

    /// The kernel's table was installed with sets for these lengths, all of them empty.
    /// Blocks what still is to be blocked.
    ///
    /// # Errors
    /// If nft refuses.
    pub fn installed(&self, lengths: Lengths, now: Instant) -> Result<(), table::TableError> {
        let mut book = self.book.lock();
        book.forget(now);
        book.lengths = lengths;
        book.entries.retain(|(source, prefix), _| lengths.has(*source, *prefix));
        let all: Vec<Blocked> = book.entries.values().map(|entry| entry.left(now)).collect();
        table::block(&all)
    }

    /// Those that are blocked, the latest first.
    #[must_use]
    pub fn list(&self, policy: &Policy, now: Instant) -> Vec<protocol::Blocked> {
        let mut book = self.book.lock();
        book.forget(now);
        let mut entries: Vec<Entry> = book.entries.values().copied().collect();
        drop(book);
        entries.sort_unstable_by_key(|entry| (std::cmp::Reverse(entry.since), entry.block.source));
        entries.iter().map(|entry| entry.row(policy, now)).collect()
    }

    /// Blocks a source no longer, or none (`None`); how many it were.
    ///
    /// # Errors
    /// If nft refuses; they stay blocked then.
    pub fn lift(&self, source: Option<IpAddr>, now: Instant) -> Result<u64, table::TableError> {
        let mut book = self.book.lock();
        book.forget(now);
        let is_meant = |(blocked, prefix): &Source| {
            let Some(source) = source else { return true };
            let prefix = crate::conntrack::SourcePrefix { ipv4: *prefix, ipv6: *prefix };
            blocked.is_ipv4() == source.is_ipv4() && prefix.source(source) == *blocked
        };
        let meant: Vec<Blocked> =
            book.entries.iter().filter(|(key, _)| is_meant(key)).map(|(_, entry)| entry.left(now)).collect();
        // One by one if one of them is over in the kernel just now.
        if table::unblock(&meant).is_err() {
            for one in &meant {
                match table::unblock(std::slice::from_ref(one)) {
                    Ok(()) => {}
                    Err(error) if error.is_absent() => {}
                    Err(error) => return Err(error),
                }
            }
        }
        for one in &meant {
            book.entries.remove(&(one.source, one.prefix));
        }
        Ok(meant.len() as u64)
    }

    /// The notes that wait, if some come within a turn.
    fn take(&self) -> Vec<engine::Block> {
        let mut waiting = self.waiting.lock();
        if waiting.is_empty() {
            self.bell.wait_for(&mut waiting, TURN);
        }
        std::mem::take(&mut waiting)
    }

    /// Blocks those that are not blocked yet; who they are.
    fn block(
        &self,
        asked: Vec<engine::Block>,
        now: Instant,
    ) -> Result<Vec<engine::Block>, table::TableError> {
        let mut book = self.book.lock();
        book.forget(now);
        let mut new: HashMap<Source, Entry> = HashMap::new();
        for block in asked {
            let key = (block.source, block.prefix);
            let has_room = book.entries.len() + new.len() < MOST_BLOCKED as usize;
            if has_room && book.lengths.has(block.source, block.prefix) && !book.entries.contains_key(&key) {
                new.entry(key).or_insert(Entry { block, since: now, until: now.after(block.time) });
            }
        }
        let all: Vec<Blocked> = new.values().map(|entry| entry.left(now)).collect();
        table::block(&all)?;
        book.ever += all.len() as u64;
        let told = new.values().map(|entry| entry.block).collect();
        book.entries.extend(new);
        Ok(told)
    }
}

impl Book {
    fn forget(&mut self, now: Instant) {
        self.entries.retain(|_, entry| now < entry.until);
    }
}

impl Entry {
    fn left(&self, now: Instant) -> Blocked {
        Blocked { source: self.block.source, prefix: self.block.prefix, time: self.until.since(now) }
    }

    fn row(&self, policy: &Policy, now: Instant) -> protocol::Blocked {
        protocol::Blocked {
            source: source_text(&self.block),
            limit: limit_text(&self.block, policy),
            rule: policy.name(self.block.rule).to_owned(),
            since: Duration::from_secs(now.since(self.since).as_secs()),
            ends_in: Duration::from_secs(self.until.since(now).as_secs()),
        }
    }
}

fn source_text(block: &engine::Block) -> String {
    let whole = if block.source.is_ipv4() { 32 } else { 128 };
    if block.prefix == whole {
        block.source.to_string()
    } else {
        format!("{}/{}", block.source, block.prefix)
    }
}

fn limit_text(block: &engine::Block, policy: &Policy) -> String {
    let name = Limit::OpenPerSource.name();
    block.of_rule.map_or_else(|| name.to_owned(), |rule| format!("{name} of rule {}", policy.name(rule)))
}

/// Of which kind it is that a source is blocked: the source makes no difference.
type Kind = (RuleId, Option<RuleId>);

/// Where kinds are too many to be told apart.
const REST: Kind = (RuleId::DEFAULT, None);

/// What is told of those that were blocked: a flood of them is a line a second, as
/// anything else is.
#[derive(Debug)]
struct Telling(Governor<Kind, engine::Block>);

impl Telling {
    fn new() -> Self {
        Self(Governor::new(EVENTS_PER_SECOND, KINDS))
    }

    /// What is written of them, and of those whose second is over.
    fn take(&mut self, blocked: &[engine::Block], now: Instant) -> Vec<Written<engine::Block>> {
        let mut written = self.0.overdue(now);
        let offered =
            blocked.iter().filter_map(|block| self.0.offer((block.rule, block.of_rule), REST, *block, now));
        written.extend(offered);
        written
    }
}

/// Tells the kernel until everybody goes home.
///
/// # Errors
/// None; what the kernel refuses is said once.
pub fn run(shared: &Arc<Shared>, pulse: &Pulse) -> Result<(), String> {
    let mut complained = false;
    let mut telling = Telling::new();
    while !shared.stopping() {
        pulse.beat();
        let asked = shared.blocks.take();
        let blocked = if asked.is_empty() {
            Vec::new()
        } else {
            shared.blocks.block(asked, shared.clock.now()).unwrap_or_else(|error| {
                if !std::mem::replace(&mut complained, true) {
                    log::warning(format_args!("a source could not be blocked: {error}"));
                }
                Vec::new()
            })
        };
        let now = shared.clock.now();
        let written = telling.take(&blocked, now);
        if !written.is_empty() {
            let policy = shared.engine.policy();
            shared.ring.push(written.iter().map(|written| told(written, &policy, now)));
        }
    }
    Ok(())
}

fn told(written: &Written<engine::Block>, policy: &Policy, now: Instant) -> protocol::Event {
    let block = &written.what;
    protocol::Event {
        time: text::timestamp(Clock::wall(now.since(written.at))),
        event: "blocked".to_owned(),
        src: Some(source_text(block)),
        rule: Some(policy.name(block.rule).to_owned()),
        limit: Some(limit_text(block, policy)),
        message: Some(format!(
            "{} is blocked for {}: it passed {} by a connection that it had made",
            source_text(block),
            text::duration(block.time),
            limit_text(block, policy)
        )),
        left_out: (written.left_out > 0).then_some(written.left_out),
        ..protocol::Event::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{daemon::events, policy::Settings};

    const WEB: RuleId = RuleId(1);

    fn block(number: u32, of_rule: Option<RuleId>) -> engine::Block {
        let source = std::net::Ipv4Addr::from_bits(0x0a00_0000 + number).into();
        engine::Block { source, prefix: 32, time: Duration::from_secs(600), rule: WEB, of_rule }
    }

    #[test]
    fn a_flood_of_blocked_sources_is_a_line_a_second_and_every_one_is_counted() {
        let mut telling = Telling::new();
        let mut rows = Vec::new();
        // Ten thousand sources a second for twenty seconds, as many notes as wait at most.
        for turn in 0..100_u64 {
            let now = Instant(turn * 200);
            let asked: Vec<_> = (0..2000).map(|n| block(turn as u32 * 2000 + n, None)).collect();
            rows.extend(telling.take(&asked, now));
            if turn == 52 {
                let other = telling.take(&[block(1, Some(WEB))], now);
                assert_eq!(other.len(), 1, "the flood does not hide one of another limit");
            }
        }
        rows.extend(telling.take(&[], Instant(22_000)));
        assert!(rows.len() <= 200 + 2 * 22, "{} lines of 200,000", rows.len());
        assert_eq!(rows.iter().map(|row| 1 + row.left_out).sum::<u64>(), 200_000);
        assert!(telling.take(&[], Instant(60_000)).is_empty());
    }

    #[test]
    fn what_was_left_out_is_told_with_the_line() {
        let policy =
            Policy::new(Settings::default(), Vec::new(), Vec::new(), vec!["default".into(), "web".into()]);
        let row = |left_out| {
            let written = Written { what: block(1, None), at: Instant(5), left_out };
            let row = told(&written, &policy, Instant(5));
            (events::sentence(&row), row.left_out)
        };
        let (plain, none) = row(0);
        assert_eq!(none, None);
        assert!(plain.contains("10.0.0.1 is blocked for 10m"), "{plain}");
        assert_eq!(row(12), (format!("{plain}; 12 more like it left out before"), Some(12)));
    }
}
