//! Plain lines on standard error, with a priority in front where journald reads.

use std::{
    fmt,
    io::{IsTerminal, Write},
    os::linux::fs::MetadataExt,
    sync::OnceLock,
    time::Duration,
};

use super::text;
use crate::sys::clock::Clock;

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
}
