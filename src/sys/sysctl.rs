//! Kernel settings that halfgate needs, saved and put back.
//!
//! Conntrack must not forget a connection before we do: its
//! timers are raised where ours are longer, its table where ours is larger, and
//! never lowered. They belong to a network namespace: that of the calling thread.
//!
//! Read first: the kernel's `Documentation/networking/nf_conntrack-sysctl.rst`.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::conntrack::{Timer, TimerValues};

/// How much longer than ours the kernel's timers are, so that ours end a
/// connection and not a race.
const MARGIN: Duration = Duration::from_secs(60);

/// The kernel counts milliseconds in 31 bits and refuses more.
const MAX_SECONDS: u64 = i32::MAX as u64 / 1000;

const PREFIX: &str = "net.netfilter.nf_conntrack_";

/// What conntrack has to hold: our timers, under our names, and our table.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Needs {
    /// The longest of these timers in any rule.
    pub syn_sent: Duration,
    /// As above.
    pub syn_received: Duration,
    /// As above.
    pub established: Duration,
    /// As above.
    pub unacknowledged: Duration,
    /// As above.
    pub fin_wait: Duration,
    /// As above.
    pub half_closed: Duration,
    /// As above.
    pub closing: Duration,
    /// As above.
    pub time_wait: Duration,
    /// As above.
    pub reset: Duration,
    /// As above.
    pub unverified_rst: Duration,
    /// As above.
    pub udp_new: Duration,
    /// As above.
    pub udp_stream: Duration,
    /// As above.
    pub icmp: Duration,
    /// As above.
    pub other: Duration,
    /// Connections that our table holds.
    pub connections: u64,
    /// Whether packets must be counted (`nf_conntrack_acct`).
    pub accounting: bool,
}

impl Needs {
    /// What one set of timers needs; timers that are off need nothing.
    #[must_use]
    pub fn of(timers: &TimerValues, connections: u64) -> Self {
        let value = |timer| timers.value(timer).unwrap_or_default();
        Self {
            syn_sent: value(Timer::SynSent),
            syn_received: value(Timer::SynReceived),
            established: value(Timer::Established),
            unacknowledged: value(Timer::Unacknowledged),
            fin_wait: value(Timer::FinWait),
            half_closed: value(Timer::HalfClosed),
            closing: value(Timer::Closing),
            time_wait: value(Timer::TimeWait),
            reset: value(Timer::Reset),
            unverified_rst: value(Timer::UnverifiedRst),
            udp_new: value(Timer::UdpNew),
            udp_stream: value(Timer::UdpStream),
            icmp: value(Timer::Icmp),
            other: value(Timer::Other),
            connections,
            accounting: false,
        }
    }

    /// What serves both, as the timers of two rules.
    #[must_use]
    pub fn and(&self, other: &Self) -> Self {
        Self {
            syn_sent: self.syn_sent.max(other.syn_sent),
            syn_received: self.syn_received.max(other.syn_received),
            established: self.established.max(other.established),
            unacknowledged: self.unacknowledged.max(other.unacknowledged),
            fin_wait: self.fin_wait.max(other.fin_wait),
            half_closed: self.half_closed.max(other.half_closed),
            closing: self.closing.max(other.closing),
            time_wait: self.time_wait.max(other.time_wait),
            reset: self.reset.max(other.reset),
            unverified_rst: self.unverified_rst.max(other.unverified_rst),
            udp_new: self.udp_new.max(other.udp_new),
            udp_stream: self.udp_stream.max(other.udp_stream),
            icmp: self.icmp.max(other.icmp),
            other: self.other.max(other.other),
            connections: self.connections.max(other.connections),
            accounting: self.accounting || other.accounting,
        }
    }

    /// The least value of each setting. The kernel's states are not our phases:
    /// where it may be in one of several while we are in one, the longest counts.
    fn settings(&self) -> Vec<(&'static str, u64)> {
        let closing = self.closing.max(self.fin_wait);
        let unanswered = self.unacknowledged.max(self.half_closed).max(closing);
        // What is left of the kernel's timer must say from which of them it counts down:
        // where ours fires, more than the longest of the shorter ones has.
        let established = match self.accounting {
            true => self.established.max(unanswered).saturating_mul(3),
            false => self.established,
        };
        let timers = [
            ("tcp_timeout_syn_sent", self.syn_sent),
            ("tcp_timeout_syn_recv", self.syn_received),
            ("tcp_timeout_established", established),
            ("tcp_timeout_fin_wait", self.fin_wait),
            // Any ACK takes the kernel from FIN_WAIT to CLOSE_WAIT, also one
            // that does not cover the FIN.
            ("tcp_timeout_close_wait", self.half_closed.max(self.fin_wait)),
            ("tcp_timeout_last_ack", closing),
            ("tcp_timeout_time_wait", self.time_wait.max(closing)),
            // The kernel takes a RST in window at its word, we may not.
            ("tcp_timeout_close", self.reset.max(self.unverified_rst)),
            // Caps every state while the last data has no ACK.
            ("tcp_timeout_unacknowledged", unanswered),
            // Caps every state after retransmissions and at a window of zero.
            ("tcp_timeout_max_retrans", unanswered.max(self.established)),
            // The kernel calls UDP a stream only two seconds after its start.
            ("udp_timeout", self.udp_new.max(self.udp_stream)),
            ("udp_timeout_stream", self.udp_stream),
            ("icmp_timeout", self.icmp),
            ("icmpv6_timeout", self.icmp),
            ("generic_timeout", self.other),
            ("gre_timeout", self.other),
            ("gre_timeout_stream", self.other),
            ("sctp_timeout_established", self.other),
        ];
        let seconds = |timer: Duration| {
            let whole = timer.as_secs().saturating_add(u64::from(timer.subsec_nanos() > 0));
            whole.saturating_add(MARGIN.as_secs()).min(MAX_SECONDS)
        };
        let mut settings: Vec<_> = timers
            .into_iter()
            .filter(|(_, timer)| !timer.is_zero())
            .map(|(name, timer)| (name, seconds(timer)))
            .collect();
        // What is not diverted (loopback, the gateway's own) takes entries too.
        settings.push(("max", self.connections.saturating_add(self.connections / 8)));
        settings.push(("acct", u64::from(self.accounting)));
        settings
    }
}

/// A setting that was raised.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Raised {
    /// `net.netfilter.nf_conntrack_max`.
    pub name: String,
    /// What it was before halfgate.
    pub old: u64,
    /// What it is now.
    pub new: u64,
}

/// A setting that the kernel would not raise.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shortfall {
    /// Its name.
    pub name: String,
    /// What it is.
    pub value: u64,
    /// What it should be.
    pub needed: u64,
    /// The kernel's word.
    pub reason: String,
}

/// Why settings could not be raised.
#[derive(Debug, thiserror::Error)]
pub enum SysctlError {
    /// There are no such settings.
    #[error("conntrack is not loaded, its settings are missing: run `modprobe nf_conntrack`")]
    NoConntrack,
    /// A setting can't be read.
    #[error("{name}: {source}")]
    Unreadable {
        /// Which.
        name: String,
        /// The kernel's word.
        source: io::Error,
    },
    /// The file of old values.
    #[error("{}: {source}: the kernel's old settings are kept there, so that they can be put back", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What went wrong.
        source: io::Error,
    },
}

/// The settings that were raised, with their old values.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Saved {
    raised: Vec<Raised>,
    shortfalls: Vec<Shortfall>,
    file: Option<PathBuf>,
}

/// Raises what must be raised. The old values are kept in `file`, if one is
/// given, from before the first change; what a killed daemon left there are the
/// true old values, unless somebody has changed the setting since.
///
/// # Errors
/// If conntrack is not there or the file can't be written. That the kernel
/// refuses a single value is no error: see [`Saved::shortfalls`].
pub fn raise_for(needs: &Needs, file: Option<&Path>) -> Result<Saved, SysctlError> {
    let mut saved = Saved { file: file.map(Path::to_owned), ..Saved::default() };
    if let Some(path) = file {
        saved.raised = load(path).map_err(|source| SysctlError::File { path: path.to_owned(), source })?;
        saved.raised.retain(|raised| read(&raised.name).is_ok_and(|now| now == Some(raised.new)));
    }
    saved.raise(needs)?;
    Ok(saved)
}

/// Holds a setting (`tcp_loose`) at a value for a time, whatever it was. Its old value is
/// kept in `file`, if one is given, as [`raise_for`] does; [`Saved::restore`] puts it back.
///
/// # Errors
/// If there is no such setting, the kernel refuses, or the file can't be written.
pub fn hold(name: &str, value: u64, file: Option<&Path>) -> Result<Saved, SysctlError> {
    let name = format!("{PREFIX}{name}");
    let unreadable = |source| SysctlError::Unreadable { name: name.clone(), source };
    let old = read(&name).map_err(unreadable)?.ok_or(SysctlError::NoConntrack)?;
    let mut saved = Saved { file: file.map(Path::to_owned), ..Saved::default() };
    if old != value {
        saved.note(Raised { name: name.clone(), old, new: value });
        saved.store()?;
        write(&name, value).map_err(unreadable)?;
    }
    Ok(saved)
}

impl Saved {
    /// Raises again, after a timer or the table grew. Nothing is lowered, and
    /// the old values stay those from before halfgate.
    ///
    /// # Errors
    /// As [`raise_for`].
    pub fn raise(&mut self, needs: &Needs) -> Result<(), SysctlError> {
        let mut wanted = Vec::new();
        let mut present = false;
        for (name, needed) in needs.settings() {
            let name = format!("{PREFIX}{name}");
            let value =
                read(&name).map_err(|source| SysctlError::Unreadable { name: name.clone(), source })?;
            // Older kernels lack some, and with them what they are for.
            let Some(value) = value else { continue };
            present = true;
            if value < needed {
                wanted.push(Raised { name, old: value, new: needed });
            }
        }
        if !present {
            return Err(SysctlError::NoConntrack);
        }
        self.shortfalls.clear();
        // First the file, then the kernel: a daemon killed between the two
        // leaves lines that its successor sees to be untrue and forgets.
        let before = self.raised.clone();
        for change in &wanted {
            self.note(change.clone());
        }
        self.store()?;
        for Raised { name, old: value, new: needed } in wanted {
            if let Err(error) = write(&name, needed) {
                self.raised.retain(|raised| raised.name != name);
                self.raised.extend(before.iter().find(|raised| raised.name == name).cloned());
                self.shortfalls.push(Shortfall { name, value, needed, reason: error.to_string() });
            }
        }
        if self.shortfalls.is_empty() { Ok(()) } else { self.store() }
    }

    /// Puts the old values back, except where somebody has changed the value
    /// since, and removes the file.
    ///
    /// # Errors
    /// The kernel's word about the first that it refused; the others are put
    /// back all the same, and the file stays.
    pub fn restore(self) -> io::Result<()> {
        let mut first_error = None;
        for Raised { name, old, new } in &self.raised {
            let result = match read(name) {
                Ok(Some(now)) if now == *new => write(name, *old),
                Ok(_) => Ok(()),
                Err(error) => Err(error),
            };
            if let Err(error) = result {
                first_error.get_or_insert(io::Error::new(error.kind(), format!("{name}: {error}")));
            }
        }
        match (first_error, &self.file) {
            (Some(error), _) => Err(error),
            (None, Some(path)) => match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
            (None, None) => Ok(()),
        }
    }

    /// What was raised, for `status`.
    #[must_use]
    pub fn changes(&self) -> &[Raised] {
        &self.raised
    }

    /// What should have been raised and was not. A network namespace other than
    /// the first can't raise the size of the table, which all of them share.
    #[must_use]
    pub fn shortfalls(&self) -> &[Shortfall] {
        &self.shortfalls
    }

    fn note(&mut self, change: Raised) {
        match self.raised.iter_mut().find(|raised| raised.name == change.name) {
            // Still what we made it: the value from before us stays the old one.
            Some(known) if known.new == change.old => known.new = change.new,
            Some(known) => *known = change,
            None => self.raised.push(change),
        }
    }

    fn store(&self) -> Result<(), SysctlError> {
        let Some(path) = &self.file else { return Ok(()) };
        store(path, &self.raised).map_err(|source| SysctlError::File { path: path.clone(), source })
    }
}

/// Puts back what a killed daemon left, without becoming its successor (for
/// `unload`). `false`: there was nothing.
///
/// # Errors
/// As [`Saved::restore`], or if the file can't be read.
pub fn restore_from(file: &Path) -> io::Result<bool> {
    let raised = load(file)?;
    let any = !raised.is_empty();
    Saved { raised, shortfalls: Vec::new(), file: Some(file.to_owned()) }.restore()?;
    Ok(any)
}

fn load(path: &Path) -> io::Result<Vec<Raised>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let raised: Vec<Raised> = serde_json::from_str(&text).map_err(io::Error::other)?;
    // The file names what root writes to: nothing but these settings.
    if let Some(other) = raised.iter().find(|raised| !is_ours(&raised.name)) {
        return Err(io::Error::other(format!("{:?} is not a setting of conntrack", other.name)));
    }
    Ok(raised)
}

fn is_ours(name: &str) -> bool {
    name.strip_prefix(PREFIX)
        .is_some_and(|rest| rest.bytes().all(|octet| octet.is_ascii_alphanumeric() || octet == b'_'))
}

/// Written beside and renamed, so that a crash leaves the old file or the new.
fn store(path: &Path, raised: &[Raised]) -> io::Result<()> {
    let text = serde_json::to_string_pretty(raised).map_err(io::Error::other)?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    fs::write(&beside, text + "\n")?;
    fs::rename(&beside, path)
}

fn path_of(name: &str) -> PathBuf {
    Path::new("/proc/sys").join(name.replace('.', "/"))
}

/// `None`: this kernel does not have it.
/// The value in force of one of conntrack's timers (`tcp_timeout_established`, say).
///
/// # Errors
/// If it can't be read, or does not exist.
pub fn timeout(name: &str) -> io::Result<Duration> {
    let value = read(&format!("{PREFIX}{name}"))?;
    value.map(Duration::from_secs).ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn read(name: &str) -> io::Result<Option<u64>> {
    match fs::read_to_string(path_of(name)) {
        Ok(text) => text.trim().parse().map(Some).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn write(name: &str, value: u64) -> io::Result<()> {
    fs::write(path_of(name), value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(needs: &Needs) -> Vec<(&'static str, u64)> {
        needs.settings().into_iter().filter(|(_, value)| *value > 0).collect()
    }

    #[test]
    fn each_timer_raises_what_could_forget_first() {
        let seconds = Duration::from_secs;
        let none = Needs::default();
        assert_eq!(settings(&none), []);
        assert_eq!(settings(&Needs { syn_sent: seconds(30), ..none }), [("tcp_timeout_syn_sent", 90)]);
        assert_eq!(
            settings(&Needs { established: seconds(7440), ..none }),
            [("tcp_timeout_established", 7500), ("tcp_timeout_max_retrans", 7500)]
        );
        assert_eq!(
            settings(&Needs { half_closed: seconds(600), ..none }),
            [
                ("tcp_timeout_close_wait", 660),
                ("tcp_timeout_unacknowledged", 660),
                ("tcp_timeout_max_retrans", 660)
            ]
        );
        assert_eq!(
            settings(&Needs { unverified_rst: seconds(30), reset: seconds(10), ..none }),
            [("tcp_timeout_close", 90)]
        );
        assert_eq!(
            settings(&Needs { udp_stream: seconds(180), udp_new: seconds(30), ..none }),
            [("udp_timeout", 240), ("udp_timeout_stream", 240)]
        );
        assert_eq!(settings(&Needs { connections: 1_000_000, ..none }), [("max", 1_125_000)]);
    }

    #[test]
    fn every_timer_is_needed_and_the_longer_of_two_wins() {
        let seconds = Duration::from_secs;
        let none = Needs::default();
        for (at, timer) in
            Timer::ALL.into_iter().enumerate().filter(|(_, timer)| *timer != Timer::HalfClosedMax)
        {
            let mut values = TimerValues::default();
            for timer in Timer::ALL {
                values.set(timer, None);
            }
            assert_eq!(Needs::of(&values, 0), none);
            values.set(timer, Some(seconds(1000 + at as u64)));
            let needs = Needs::of(&values, 0);
            let highest = settings(&needs).into_iter().map(|(_, value)| value).max();
            assert_eq!(highest, Some(1060 + at as u64), "{timer}");
            assert_eq!(none.and(&needs), needs, "{timer}");
            assert_eq!(needs.and(&none), needs, "{timer}");
        }
    }

    #[test]
    fn values_are_rounded_up_and_stay_what_the_kernel_takes() {
        let needs = Needs { syn_sent: Duration::from_millis(1), ..Needs::default() };
        assert_eq!(settings(&needs), [("tcp_timeout_syn_sent", 61)]);
        let needs = Needs { syn_sent: Duration::MAX, ..Needs::default() };
        assert_eq!(settings(&needs), [("tcp_timeout_syn_sent", MAX_SECONDS)]);
    }

    #[test]
    fn the_first_old_value_is_kept_unless_another_hand_was_there() {
        let change = |old, new| Raised { name: "x".to_owned(), old, new };
        let mut saved = Saved::default();
        saved.note(change(30, 90));
        saved.note(change(90, 120));
        assert_eq!(saved.changes(), [change(30, 120)]);
        saved.note(change(50, 130));
        assert_eq!(saved.changes(), [change(50, 130)]);
    }

    #[test]
    fn the_file_can_name_nothing_else() {
        for name in ["net.netfilter.nf_conntrack_max", "net.netfilter.nf_conntrack_udp_timeout"] {
            assert!(is_ours(name));
        }
        for name in
            ["kernel.core_pattern", "net.netfilter.nf_conntrack_../../x", "net.netfilter.nf_conntrack_a.b"]
        {
            assert!(!is_ours(name), "{name}");
        }
    }
}
