//! Answers the requests of the control socket.

use super::{
    events,
    events::Ring,
    explain::{self, Question},
    filter::Filter,
    outlet::{Outlet, Refusal},
    protocol::{Explanation, Killed, Lifted, Line, Request},
    session::Backend,
    state::{Daemon, Order},
    text,
};
use crate::{
    conntrack::{Flow, SourcePrefix},
    engine::{Bookmark, View},
    policy::{Limit, LimitTable, RuleId},
    wire::Protocol,
};

/// Connections that are gathered, about, before they are handed over: what is done with them,
/// too, must not keep the processor for long.
const BATCH: usize = 32;

impl Backend for Daemon {
    fn handle(&self, request: Request, out: &mut dyn Outlet) -> Result<(), Refusal> {
        match request {
            Request::Status {} => out.send(Line::Status(Box::new(self.status()))),
            Request::Connections { filter } => self.connections(&filter, out),
            Request::Kill { filter, dry_run, silent, all } => self.kill(&filter, dry_run, silent, all, out),
            Request::Events { last, follow: _ } => self.events(last, out),
            Request::Timers { rule } => self.timers(rule.as_deref(), out),
            Request::TimerSet { timer, value, scope } => self.timer_set(&timer, &value, &scope, out),
            Request::TimerUnset { timer, rule } => self.timer_unset(&timer, rule.as_deref(), out),
            Request::Limits {} => self.limits(out),
            Request::LimitSuggest { hours } => self.limit_suggest(hours, out),
            Request::HalfOpen { filter, top } => self.half_open(&filter, top.unwrap_or(10), out),
            Request::Exposure {} => self.exposure(out),
            Request::LimitSet { limit, value, scope } => self.limit_set(&limit, &value, &scope, out),
            Request::LimitUnset { limit, rule } => self.limit_unset(&limit, rule.as_deref(), out),
            Request::Blocked {} => self.blocked(out),
            Request::Unblock { source, all } => self.unblock(source.as_deref(), all, out),
            Request::Reload { rules, confirm, existing } => self.reload(rules, confirm, existing, out),
            Request::Confirm {} => self.confirm(),
            Request::Unload {} => {
                self.orders.send(Order::Unload).map_err(|_| Refusal::from("the daemon is ending already"))
            }
            Request::Explain { packet, in_if, out_if } => {
                let question = Question::parse(&packet, in_if, out_if)?;
                out.send(Line::Explanation(Box::new(self.explain(&question))))
            }
        }
    }

    fn ring(&self) -> &Ring {
        &self.shared.ring
    }
}

/// A look at all connections, a bounded piece at a time, with breaks for the packets.
struct Look<'a> {
    daemon: &'a Daemon,
    next: Option<Bookmark>,
    rest: Box<dyn FnMut() + 'a>,
}

impl<'a> Look<'a> {
    fn begin(daemon: &'a Daemon) -> Self {
        Self { daemon, next: Some(Bookmark::default()), rest: Box::new(daemon.breaks()) }
    }

    /// Looks at some more, until `each` has seen enough. `false`: there are none.
    fn at_some(&mut self, each: &mut dyn FnMut(&View) -> bool) -> bool {
        let (shared, now) = (&self.daemon.shared, self.daemon.now());
        self.next = self.next.and_then(|from| shared.engine.look(from, now, each));
        (self.rest)();
        self.next.is_some()
    }
}

impl Daemon {
    /// Looks at every connection, until `each` has seen enough.
    pub(super) fn look_at_all(&self, each: &mut dyn FnMut(&View) -> bool) {
        let mut look = Look::begin(self);
        while look.at_some(each) {}
    }

    /// Hands over every connection that passes the filter, a bounded number at
    /// a time, without a lock held meanwhile; between what is done with them `rest` may be
    /// called. None comes twice, since each stays where it is, and none that stays is missed.
    fn each_batch(
        &self,
        filter: &[String],
        mut each: impl FnMut(Vec<View>, &mut dyn FnMut()) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let filter = Filter::parse(filter)?.bind(&self.shared.engine.policy())?;
        let (mut look, mut there_is_more) = (Look::begin(self), true);
        while there_is_more {
            let mut batch = Vec::with_capacity(BATCH);
            while there_is_more && batch.len() < BATCH {
                there_is_more = look.at_some(&mut |view| {
                    if filter.matches(view) {
                        batch.push(*view);
                    }
                    true
                });
            }
            each(batch, &mut look.rest)?;
        }
        Ok(())
    }

    fn connections(&self, filter: &[String], out: &mut dyn Outlet) -> Result<(), Refusal> {
        self.look_at_riders();
        self.each_batch(filter, |batch, rest| {
            let policy = self.shared.engine.policy();
            batch.iter().try_for_each(|view| {
                rest();
                out.send(Line::Connection(events::connection(view, &policy)))
            })
        })
    }

    fn kill(
        &self,
        filter: &[String],
        dry_run: bool,
        silent: bool,
        all: bool,
        out: &mut dyn Outlet,
    ) -> Result<(), Refusal> {
        if Filter::parse(filter)?.is_empty() && !all {
            return Err("this would end every connection: say which, or say --all".into());
        }
        self.look_at_riders();
        let mut killed = Killed { dry_run, ..Killed::default() };
        self.each_batch(filter, |batch, _| {
            killed.matched += batch.len() as u64;
            if dry_run {
                return Ok(());
            }
            let now = self.now();
            let gone = self.with_worker(|worker| {
                batch.iter().filter(|view| worker.kill(&view.flow, silent, now)).count()
            });
            killed.killed += gone as u64;
            Ok(())
        })?;
        if !dry_run && killed.killed > 0 {
            let filter = if filter.is_empty() { "--all".to_owned() } else { filter.join(" ") };
            let how = if silent { " silently" } else { "" };
            self.tell(format!("killed {} connections{how}: {filter}", killed.killed));
        }
        out.send(Line::Killed(killed))
    }

    fn blocked(&self, out: &mut dyn Outlet) -> Result<(), Refusal> {
        let policy = self.shared.engine.policy();
        let rows = self.shared.blocks.list(&policy, self.now());
        rows.into_iter().try_for_each(|row| out.send(Line::Blocked(row)))
    }

    fn unblock(&self, source: Option<&str>, all: bool, out: &mut dyn Outlet) -> Result<(), Refusal> {
        let address = match source {
            None if !all => return Err("this would unblock every source: say which, or say --all".into()),
            None => None,
            Some(text) => {
                // As `blocked` shows it, or an address in it.
                let address = text.split_once('/').map_or(text, |(address, _)| address);
                Some(address.parse().map_err(|_| format!("\"{text}\" is no address"))?)
            }
        };
        let unblocked = self.shared.blocks.lift(address, self.now()).map_err(|error| error.to_string())?;
        if let (Some(text), 0) = (source, unblocked) {
            return Err(Refusal::Said(format!("{text} is not blocked")));
        }
        if unblocked > 0 {
            self.tell(match source {
                Some(text) => format!("{text} is no longer blocked"),
                None => format!("{unblocked} sources are no longer blocked"),
            });
        }
        out.send(Line::Lifted(Lifted { unblocked }))
    }

    fn events(&self, last: Option<usize>, out: &mut dyn Outlet) -> Result<(), Refusal> {
        let ring = &self.shared.ring;
        let mut next = ring.start(last);
        // Those that happen meanwhile are for the next request, so that this
        // one ends.
        let end = ring.start(Some(0));
        while next < end {
            let most = usize::try_from(end - next).unwrap_or(usize::MAX).min(256);
            let (_, events, after) = ring.since(next, most);
            next = after;
            for event in events {
                out.send(Line::Event(Box::new((*event).clone())))?;
            }
        }
        Ok(())
    }

    fn explain(&self, question: &Question) -> Explanation {
        self.look_at_riders();
        let engine = &self.shared.engine;
        let (policy, live) = (engine.policy(), engine.live());
        let mut told = explain::explain(question, &policy, &live);
        let (found, counts) = self.look_around(&question.flow, &told.rule);
        if let Some(view) = found {
            told.connection = Some(events::connection(&view, &policy));
            told.rules.clear();
            told.limits.clear();
            told.notes.clear();
            told.rule = policy.name(view.rule).to_owned();
            told.verdict = "accept".to_owned();
            told.because = format!(
                "it belongs to a connection in phase {} that rule {} let in {} ago; its packets must fit that \
                 phase and its windows",
                view.phase,
                told.rule,
                text::rough_duration(view.age)
            );
            told.on_expire = told.on_expire.map(|_| explain::on_expire(&policy, view.rule));
            for row in &mut told.timers {
                let timer = crate::conntrack::Timer::from_name(&row.timer);
                if let Some(timer) = timer {
                    let (value, origin) = engine.timer_value(view.rule, timer);
                    (row.value, row.origin) = (value, origin.name().to_owned());
                }
            }
            return told;
        }
        let rule = policy.names.iter().position(|name| **name == told.rule);
        let rule = rule.and_then(|number| u16::try_from(number).ok()).map(RuleId);
        let mut notes = Vec::new();
        for row in &mut told.limits {
            let scope = Limit::from_name(&row.limit);
            let own = row.rule.is_some();
            match scope {
                Some(limit) if limit.is_open() => {
                    row.open = Some(engine.open_count(limit, rule.filter(|_| own), &question.flow).into());
                }
                other => row.embryonic = other.map(|scope| counts.of(scope, own)),
            }
            if let (Some(value), Some(now)) = (row.value, row.embryonic.or(row.open))
                && now >= u64::from(value)
            {
                let shadow = if row.shadow { " (shadow: it only counts)" } else { "" };
                notes.push(format!(
                    "{} is reached, {now} of {value}: a new connection meets {}{shadow}",
                    row.limit, row.on_excess
                ));
            }
        }
        told.notes.extend(notes);
        told
    }

    /// The connection that a packet belongs to, and the half-open ones that
    /// share a limit's scope with it: one pass over the table.
    fn look_around(&self, flow: &Flow, rule: &str) -> (Option<View>, Embryonic) {
        let engine = &self.shared.engine;
        let policy = engine.policy();
        let rule = policy.names.iter().position(|name| &**name == rule);
        let rule = rule.and_then(|number| u16::try_from(number).ok()).map(RuleId);
        let limits = LimitTable::resolve(&policy, &engine.live());
        let prefixes = (limits.global().source_prefix, limits.source_prefix(rule.unwrap_or(RuleId::DEFAULT)));
        let (mut found, mut counts) = (None, Embryonic::default());
        self.look_at_all(&mut |view| {
            if view.flow == *flow || view.flow == reply_of(flow) {
                found = Some(*view);
            }
            if view.phase.is_embryonic() {
                let own = rule == Some(view.rule);
                let same = |prefix: SourcePrefix| prefix.source(view.flow.src) == prefix.source(flow.src);
                let destination = view.flow.dst == flow.dst && view.flow.dst_port == flow.dst_port;
                for (is, of_rules, [all, of_rule]) in [
                    (true, true, &mut counts.total),
                    (same(prefixes.0), same(prefixes.1), &mut counts.source),
                    (destination, destination, &mut counts.destination),
                ] {
                    *all += u64::from(is);
                    *of_rule += u64::from(of_rules && own);
                }
            }
            true
        });
        (found, counts)
    }
}

/// How a connection that this packet answers is written. An echo has its
/// identifier in front both ways.
fn reply_of(flow: &Flow) -> Flow {
    if flow.protocol == Protocol::ICMP || flow.protocol == Protocol::ICMPV6 {
        Flow { src: flow.dst, dst: flow.src, ..*flow }
    } else {
        flow.reversed()
    }
}

/// Half-open connections: all, and those of the rule.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Embryonic {
    total: [u64; 2],
    source: [u64; 2],
    destination: [u64; 2],
}

impl Embryonic {
    const fn of(&self, limit: Limit, own: bool) -> u64 {
        let [all, of_rule] = match limit {
            Limit::Total => self.total,
            Limit::PerSource => self.source,
            Limit::PerDestination => self.destination,
            Limit::OpenTotal | Limit::OpenPerSource | Limit::OpenPerDestination => [0; 2],
        };
        if own { of_rule } else { all }
    }
}
