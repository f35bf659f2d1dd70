//! What the daemon takes of the kernel: queue numbers, and settings that make
//! conntrack remember as long as we do.

use std::{path::PathBuf, time::Duration};

use crate::{
    conntrack::Timer,
    engine::Engine,
    policy::{Queues, RuleId},
    sys::{
        control::namespace_file,
        sysctl::{self, Needs, SysctlError},
        table::Lane,
    },
};

/// More workers than this would only wait for each other.
const MOST_WORKERS: u16 = 64;

/// How much nicer than usual is who serves a lane while those of SYNs are long: a flood of strangers
/// must not keep live connections from the processor. At other times all are alike, and
/// patient.
#[must_use]
pub const fn niceness(lane: Lane) -> i8 {
    match lane {
        Lane::Known => -6,
        // One who serves strangers' SYNs has the turns of two: there are half as many.
        Lane::Proven | Lane::Syns => -3,
    }
}

/// Where the settings' old values are kept while a daemon runs.
///
/// # Errors
/// If `/proc` can't be read.
pub fn settings_file() -> std::io::Result<PathBuf> {
    namespace_file("sysctls.json")
}

/// Kernel settings that were changed, to be put back.
#[derive(Debug, Default)]
pub struct KernelSettings {
    saved: Option<sysctl::Saved>,
}

impl KernelSettings {
    /// Raises what the rules and live changes in force need.
    ///
    /// # Errors
    /// If conntrack is not there, or the old values can't be kept.
    pub fn adjust(&mut self, engine: &Engine) -> Result<(), SysctlError> {
        let needs = needs(engine);
        match &mut self.saved {
            Some(saved) => saved.raise(&needs),
            None => {
                self.saved = Some(sysctl::raise_for(&needs, settings_file().ok().as_deref())?);
                Ok(())
            }
        }
    }

    /// Puts the old values back.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn restore(&mut self) -> std::io::Result<()> {
        self.saved.take().map_or(Ok(()), sysctl::Saved::restore)
    }

    /// What was changed, in words.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        let changes = self.saved.iter().flat_map(sysctl::Saved::changes);
        changes.map(|change| format!("{} = {} (was {})", change.name, change.new, change.old)).collect()
    }

    /// What should have been changed and could not, in words.
    #[must_use]
    pub fn shortfalls(&self) -> Vec<String> {
        let shortfalls = self.saved.iter().flat_map(sysctl::Saved::shortfalls);
        let words = shortfalls.map(|short| {
            format!(
                "{} is {} and should be {}: the kernel may forget connections before halfgate does ({})",
                short.name, short.value, short.needed, short.reason
            )
        });
        words.collect()
    }
}

/// The longest value of each timer in any rule, and the size of the table.
fn needs(engine: &Engine) -> Needs {
    let policy = engine.policy();
    let longest = |timer: Timer| -> Duration {
        let rules = std::iter::once(RuleId::DEFAULT).chain(policy.rules.iter().map(|rule| rule.id));
        rules.filter_map(|rule| engine.timer_value(rule, timer).0).max().unwrap_or_default()
    };
    Needs {
        syn_sent: longest(Timer::SynSent),
        syn_received: longest(Timer::SynReceived),
        established: longest(Timer::Established),
        unacknowledged: longest(Timer::Unacknowledged),
        fin_wait: longest(Timer::FinWait),
        half_closed: longest(Timer::HalfClosed),
        closing: longest(Timer::Closing),
        time_wait: longest(Timer::TimeWait),
        reset: longest(Timer::Reset),
        unverified_rst: longest(Timer::UnverifiedRst),
        udp_new: longest(Timer::UdpNew),
        udp_stream: longest(Timer::UdpStream),
        icmp: longest(Timer::Icmp),
        other: longest(Timer::Other),
        connections: u64::from(policy.settings.max_connections),
        // Of connections that pass in the kernel only its own counts know.
        accounting: true,
    }
}

/// How many queues of each kind.
#[must_use]
pub fn queue_count(queues: &Queues, cores: usize) -> u16 {
    let cores = if queues.cpus.is_empty() { cores } else { queues.cpus.len() };
    queues.count.unwrap_or_else(|| u16::try_from(cores).unwrap_or(MOST_WORKERS).clamp(1, MOST_WORKERS))
}

/// On which processor a worker runs; `None`: wherever the kernel likes.
#[must_use]
pub fn cpu_of(queues: &Queues, worker: usize) -> Option<u16> {
    queues.cpus.get(worker.checked_rem(queues.cpus.len())?).copied()
}

/// The first of as many numbers as `count` needs, from `base` on, that nobody has, outside of
/// `avoid`: the range of a daemon that was killed. Its rules may still divert to
/// it, and packets that arrive while a queue is configured are lost and hang
/// in the kernel.
#[must_use]
pub fn free_range(base: u16, count: u16, taken: &[u16], avoid: Option<(u16, u16)>) -> Option<u16> {
    let width = Queues::in_all(count);
    let mut first = u32::from(base);
    while first + width <= 1 << 16 {
        let end = first + width;
        let inside = |number: u32| (first..end).contains(&number);
        let overlap = avoid.filter(|(from, to)| u32::from(*from) < end && u32::from(*to) >= first);
        let blocked = taken.iter().map(|number| u32::from(*number)).filter(|number| inside(*number)).max();
        match blocked.max(overlap.map(|(_, to)| u32::from(to))) {
            None => return u16::try_from(first).ok(),
            Some(last) => first = last + 1,
        }
    }
    None
}

/// What a daemon writes into its lock: `pid first last`.
#[must_use]
pub fn note(pid: u32, base: u16, count: u16) -> String {
    format!("{pid} {base} {}", u32::from(base) + Queues::in_all(count) - 1)
}

/// The range of the daemon that had the lock last and did not clean up.
#[must_use]
pub fn noted_range(note: &str) -> Option<(u16, u16)> {
    let mut words = note.split_whitespace().skip(1);
    Some((words.next()?.parse().ok()?, words.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_range_asked_for_is_taken_if_it_is_free() {
        assert_eq!(free_range(0, 2, &[], None), Some(0));
        assert_eq!(free_range(10, 2, &[9, 15], None), Some(10));
    }

    #[test]
    fn taken_numbers_are_stepped_over() {
        assert_eq!(free_range(0, 2, &[4], None), Some(5));
        assert_eq!(free_range(0, 1, &[0, 4, 6], None), Some(1));
        assert_eq!(free_range(0, 2, &[0, 6], None), Some(1));
        assert_eq!(free_range(0, 2, &[2, 7], None), Some(8));
    }

    #[test]
    fn a_killed_daemons_range_is_avoided() {
        assert_eq!(free_range(0, 2, &[], noted_range(&note(99, 0, 2))), Some(5));
        assert_eq!(free_range(0, 2, &[], noted_range(&note(99, 5, 2))), Some(0));
        assert_eq!(noted_range(""), None);
        assert_eq!(noted_range("99"), None);
    }

    #[test]
    fn there_is_an_end() {
        assert_eq!(free_range(65531, 2, &[], None), Some(65531));
        assert_eq!(free_range(65532, 2, &[], None), None);
        assert_eq!(free_range(65000, 2, &[65535], Some((65000, 65530))), None);
    }

    #[test]
    fn workers_take_the_processors_by_turns() {
        let queues = |cpus: &[u16]| Queues { cpus: cpus.to_vec(), ..Queues::default() };
        let of = |queues: &Queues| (0..4).map(|worker| cpu_of(queues, worker)).collect::<Vec<_>>();
        assert_eq!(of(&queues(&[2, 5, 7])), [Some(2), Some(5), Some(7), Some(2)]);
        assert_eq!(of(&queues(&[])), [None; 4]);
    }

    #[test]
    fn workers_follow_the_cores_unless_told() {
        let queues = |count| Queues { count, ..Queues::default() };
        assert_eq!(queue_count(&queues(Some(3)), 16), 3);
        assert_eq!(queue_count(&queues(None), 4), 4);
        assert_eq!(queue_count(&queues(None), 0), 1);
        assert_eq!(queue_count(&queues(None), 4096), 64);
        assert_eq!(queue_count(&Queues { cpus: vec![2, 5, 7], ..queues(None) }, 16), 3);
    }
}
