//! Plain lines on standard error, with a priority in front where journald reads.

use std::{
    collections::HashMap,
    fmt,
    io::{IsTerminal, Write},
    os::linux::fs::MetadataExt,
    sync::OnceLock,
    time::Duration,
};

use super::text;
use crate::{conntrack::Instant, policy::RuleId, sys::clock::Clock};

/// How much a line matters; the numbers are syslog's.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// The daemon can't do its work.
    Error = 3,
    /// It can, but not as meant.
    Warning = 4,
    /// Worth keeping.
    Notice = 5,
    /// Business as usual.
    Info = 6,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Style {
    Journal,
    Terminal,
    File,
}

/// Writes one line. Never fails: without standard error there is nobody to tell.
pub fn line(level: Level, message: &dyn fmt::Display) {
    static STYLE: OnceLock<Style> = OnceLock::new();
    let style = *STYLE.get_or_init(detect);
    let text = render(style, level, &message.to_string(), || text::timestamp(Clock::wall(Duration::ZERO)));
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// An error line.
pub fn error(message: impl fmt::Display) {
    line(Level::Error, &message);
}

/// A warning line.
pub fn warning(message: impl fmt::Display) {
    line(Level::Warning, &message);
}

/// A notice line.
pub fn notice(message: impl fmt::Display) {
    line(Level::Notice, &message);
}

/// An info line.
pub fn info(message: impl fmt::Display) {
    line(Level::Info, &message);
}

fn render(style: Style, level: Level, message: &str, now: impl Fn() -> String) -> String {
    let word = match level {
        Level::Error => "error: ",
        Level::Warning => "warning: ",
        Level::Notice | Level::Info => "",
    };
    let mut text = String::new();
    // A message of several lines keeps its priority in each.
    for part in message.lines() {
        match style {
            Style::Journal => text.push_str(&format!("<{}>{part}\n", level as u8)),
            Style::Terminal => text.push_str(&format!("halfgate: {word}{part}\n")),
            Style::File => text.push_str(&format!("{} {word}{part}\n", now())),
        }
    }
    text
}

/// `JOURNAL_STREAM` is inherited by everything that a service starts; only if
/// it names our own standard error does journald read there
/// (systemd.exec(5)).
fn detect() -> Style {
    let journal = std::env::var("JOURNAL_STREAM").ok();
    let own =
        std::fs::metadata("/proc/self/fd/2").ok().map(|meta| format!("{}:{}", meta.st_dev(), meta.st_ino()));
    if journal.is_some() && journal == own {
        Style::Journal
    } else if std::io::stderr().is_terminal() {
        Style::Terminal
    } else {
        Style::File
    }
}

/// Lets a rule write so many lines in a second; the rest is counted.
#[derive(Debug)]
pub struct RateLimiter {
    per_second: u32,
    rules: HashMap<RuleId, Window>,
}

#[derive(Debug, Default)]
struct Window {
    start: Instant,
    written: u32,
    suppressed: u64,
}

/// What to do with a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pass {
    /// Write it; before it, say that so many were not written (if not 0).
    Write {
        /// Lines that were kept back since the last one.
        suppressed: u64,
    },
    /// Keep it back.
    Suppress,
}

impl RateLimiter {
    /// A limiter of so many lines a second and rule.
    #[must_use]
    pub fn new(per_second: u32) -> Self {
        Self { per_second, rules: HashMap::new() }
    }

    /// Asks for one more line. There are at most 65,536 rules, so the map is
    /// bounded.
    pub fn ask(&mut self, rule: RuleId, now: Instant) -> Pass {
        let window = self.rules.entry(rule).or_insert_with(|| Window { start: now, ..Window::default() });
        if now.since(window.start) >= Duration::from_secs(1) {
            window.start = now;
            window.written = 0;
        }
        if window.written >= self.per_second {
            window.suppressed += 1;
            return Pass::Suppress;
        }
        window.written += 1;
        Pass::Write { suppressed: std::mem::take(&mut window.suppressed) }
    }

    /// What was kept back by rules whose second is over, so that the last burst
    /// is accounted for even if nothing follows it.
    pub fn overdue(&mut self, now: Instant) -> Vec<(RuleId, u64)> {
        let second = Duration::from_secs(1);
        let over = self.rules.iter_mut().filter(|(_, window)| window.suppressed > 0);
        over.filter(|(_, window)| now.since(window.start) >= second)
            .map(|(rule, window)| (*rule, std::mem::take(&mut window.suppressed)))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reader_gets_its_style() {
        let now = || "T".to_owned();
        assert_eq!(render(Style::Journal, Level::Warning, "a\nb", now), "<4>a\n<4>b\n");
        assert_eq!(render(Style::Terminal, Level::Error, "a", now), "halfgate: error: a\n");
        assert_eq!(render(Style::File, Level::Info, "a", now), "T a\n");
    }

    #[test]
    fn a_burst_is_cut_and_counted() {
        let mut limiter = RateLimiter::new(2);
        let rule = RuleId(3);
        assert_eq!(limiter.ask(rule, Instant(0)), Pass::Write { suppressed: 0 });
        assert_eq!(limiter.ask(rule, Instant(1)), Pass::Write { suppressed: 0 });
        assert_eq!(limiter.ask(rule, Instant(2)), Pass::Suppress);
        assert_eq!(limiter.ask(rule, Instant(3)), Pass::Suppress);
        // Another rule is not affected.
        assert_eq!(limiter.ask(RuleId(4), Instant(3)), Pass::Write { suppressed: 0 });
        assert_eq!(limiter.ask(rule, Instant(1000)), Pass::Write { suppressed: 2 });
        assert_eq!(limiter.ask(rule, Instant(1001)), Pass::Write { suppressed: 0 });
    }

    #[test]
    fn a_burst_that_ends_is_accounted_for() {
        let mut limiter = RateLimiter::new(1);
        let rule = RuleId(3);
        limiter.ask(rule, Instant(0));
        limiter.ask(rule, Instant(1));
        assert!(limiter.overdue(Instant(999)).is_empty());
        assert_eq!(limiter.overdue(Instant(1000)), [(rule, 1)]);
        assert!(limiter.overdue(Instant(5000)).is_empty());
    }
}
