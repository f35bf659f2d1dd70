//! Live changes that survive a restart (`--save`).
//!
//! They are kept in a file of their own in the state directory, one for each
//! rule file, not written into the rule file: that belongs to the person who
//! wrote it, with its comments and its order, and to their version control.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use super::{live, rules::Source};
use crate::{
    conntrack::Timer,
    policy::{Limit, Live, LiveLimit, LiveTimer},
};

/// Where state is kept, unless systemd says otherwise.
pub const STATE_DIRECTORY: &str = "/var/lib/halfgate";

/// One saved change.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// The timer or limit.
    name: String,
    /// The rule it is for; absent: all without their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    /// As on the command line.
    value: String,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    #[serde(default)]
    timers: Vec<Entry>,
    #[serde(default)]
    limits: Vec<Entry>,
}

/// The saved changes of one rule file.
#[derive(Clone, Debug)]
pub struct Saved {
    path: PathBuf,
    contents: Contents,
}

impl Saved {
    /// Reads the changes saved for these rules; none if there is no such file.
    ///
    /// # Errors
    /// A sentence, if the file is there and can't be understood.
    pub fn load(directory: &Path, source: &Source) -> Result<Self, String> {
        let path = directory.join(file_name(source));
        let contents = match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map_err(|error| {
                format!("saved live changes {}: {error}: mend or remove the file", path.display())
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Contents::default(),
            Err(error) => return Err(format!("saved live changes {}: {error}", path.display())),
        };
        Ok(Self { path, contents })
    }

    /// Where they are.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The changes as live changes.
    ///
    /// # Errors
    /// A sentence that names the entry that makes no sense.
    pub fn live(&self) -> Result<Live, String> {
        let mut all = Live::default();
        let wrong = |entry: &Entry, why: String| {
            format!("saved live changes {}: {}: {why}", self.path.display(), entry.name)
        };
        for entry in &self.contents.timers {
            let fail = |why| wrong(entry, why);
            let timer = live::timer_named(&entry.name).map_err(fail)?;
            let value = live::timer_value(timer, &entry.value).map_err(fail)?;
            let rule = entry.rule.as_deref().map(Arc::from);
            let change = LiveTimer { timer, rule, value, until: None, from_epoch: 0 };
            all.set_timer(change).map_err(|error| fail(error.to_string()))?;
        }
        for entry in &self.contents.limits {
            let fail = |why| wrong(entry, why);
            let limit = live::limit_named(&entry.name).map_err(fail)?;
            let value = live::limit_value(limit, &entry.value).map_err(fail)?;
            let rule = entry.rule.as_deref().map(Arc::from);
            let change = LiveLimit { limit, rule, value, until: None };
            all.set_limit(change).map_err(|error| fail(error.to_string()))?;
        }
        Ok(all)
    }

    /// Whether a change is saved.
    #[must_use]
    pub fn has_timer(&self, timer: Timer, rule: Option<&str>) -> bool {
        has(&self.contents.timers, timer.name(), rule)
    }

    /// Whether a change is saved.
    #[must_use]
    pub fn has_limit(&self, limit: Limit, rule: Option<&str>) -> bool {
        has(&self.contents.limits, limit.name(), rule)
    }

    /// Saves a timer; `None` for the value takes it out.
    ///
    /// # Errors
    /// A sentence, if the file can't be written; nothing is changed then.
    pub fn set_timer(&mut self, timer: Timer, rule: Option<&str>, value: Option<&str>) -> Result<(), String> {
        self.change(|contents| put(&mut contents.timers, timer.name(), rule, value))
    }

    /// Saves a limit; `None` for the value takes it out.
    ///
    /// # Errors
    /// A sentence, if the file can't be written; nothing is changed then.
    pub fn set_limit(&mut self, limit: Limit, rule: Option<&str>, value: Option<&str>) -> Result<(), String> {
        self.change(|contents| put(&mut contents.limits, limit.name(), rule, value))
    }

    fn change(&mut self, edit: impl Fn(&mut Contents)) -> Result<(), String> {
        let mut next = self.contents.clone();
        edit(&mut next);
        if next != self.contents {
            write(&self.path, &next)
                .map_err(|error| format!("can't save to {}: {error}", self.path.display()))?;
            self.contents = next;
        }
        Ok(())
    }
}

fn has(entries: &[Entry], name: &str, rule: Option<&str>) -> bool {
    entries.iter().any(|entry| entry.name == name && entry.rule.as_deref() == rule)
}

fn put(entries: &mut Vec<Entry>, name: &str, rule: Option<&str>, value: Option<&str>) {
    entries.retain(|entry| entry.name != name || entry.rule.as_deref() != rule);
    if let Some(value) = value {
        entries.push(Entry { name: name.to_owned(), rule: rule.map(str::to_owned), value: value.to_owned() });
    }
}

/// The whole file or the old one, whatever happens in between.
fn write(path: &Path, contents: &Contents) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut text = serde_json::to_string_pretty(contents)?;
    text.push('\n');
    let new = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)
}

/// A file name for each rule file: its path with `-` for `/`, and what would
/// be ambiguous escaped, as systemd does it.
fn file_name(source: &Source) -> String {
    let Source::File(path) = source else { return "default.live.json".to_owned() };
    let mut name = String::new();
    for octet in path.as_os_str().as_encoded_bytes() {
        match octet {
            b'/' if name.is_empty() => {}
            b'/' => name.push('-'),
            b'.' | b'_' | b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => name.push(char::from(*octet)),
            other => name.push_str(&format!("\\x{other:02x}")),
        }
    }
    // The longest file name is 255 octets; the end of a path says more.
    let start = name.len().saturating_sub(200);
    format!("{}.live.json", name.get(start..).unwrap_or(&name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn home(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("halfgate-saved-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn what_is_saved_is_there_at_the_next_start() {
        let home = home("again");
        let source = Source::File(PathBuf::from("/etc/halfgate/rules.yaml"));
        let mut saved = Saved::load(&home, &source).unwrap();
        saved.set_timer(Timer::HalfClosed, None, Some("30s")).unwrap();
        saved.set_timer(Timer::HalfClosed, Some("web"), Some("5s")).unwrap();
        saved.set_timer(Timer::HalfClosed, Some("web"), Some("6s")).unwrap();
        saved.set_limit(Limit::PerSource, None, Some("off")).unwrap();
        let again = Saved::load(&home, &source).unwrap();
        let live = again.live().unwrap();
        assert_eq!(live.timers.len(), 2);
        assert_eq!(live.timers[1].value, Some(Duration::from_secs(6)));
        assert_eq!(live.timers[1].rule.as_deref(), Some("web"));
        assert_eq!(live.limits[0].value, None);
        assert!(again.has_timer(Timer::HalfClosed, None) && !again.has_timer(Timer::Icmp, None));
        // Another rule file has its own.
        let other = Source::File(PathBuf::from("/etc/halfgate/other.yaml"));
        assert_eq!(Saved::load(&home, &other).unwrap().live().unwrap(), Live::default());
        let mut again = again;
        again.set_timer(Timer::HalfClosed, Some("web"), None).unwrap();
        assert!(!Saved::load(&home, &source).unwrap().has_timer(Timer::HalfClosed, Some("web")));
        fs::remove_dir_all(home).unwrap();
    }

    #[test]
    fn a_broken_file_is_named() {
        let home = home("broken");
        fs::create_dir_all(&home).unwrap();
        let path = home.join("default.live.json");
        for text in ["{", r#"{"timers":[{"name":"x"}]}"#, r#"{"colours":[]}"#] {
            fs::write(&path, text).unwrap();
            let error = Saved::load(&home, &Source::Embedded).unwrap_err();
            assert!(error.contains("default.live.json"), "{error}");
        }
        for text in [
            r#"{"timers":[{"name":"half_shut","value":"30s"}]}"#,
            r#"{"timers":[{"name":"icmp","value":"30"}]}"#,
            r#"{"timers":[{"name":"icmp","value":"10ms"}]}"#,
            r#"{"limits":[{"name":"embryonic.total","value":"many"}]}"#,
        ] {
            fs::write(&path, text).unwrap();
            let error = Saved::load(&home, &Source::Embedded).unwrap().live().unwrap_err();
            assert!(error.contains("default.live.json"), "{error}");
        }
        fs::remove_dir_all(home).unwrap();
    }

    #[test]
    fn rule_files_do_not_share_a_name() {
        let name = |path: &str| file_name(&Source::File(PathBuf::from(path)));
        assert_eq!(name("/etc/halfgate/rules.yaml"), "etc-halfgate-rules.yaml.live.json");
        assert_ne!(name("/etc/a/b.yaml"), name("/etc/a-b.yaml"));
        assert!(name(&format!("/{}", "x".repeat(4000))).len() < 255);
    }
}
