//! Choosing what the daemon takes of the kernel: queue numbers.

use crate::policy::Queues;

/// More workers than this would only wait for each other.
const MOST_WORKERS: u16 = 64;

/// How many queues of each kind.
#[must_use]
pub fn queue_count(queues: Queues, cores: usize) -> u16 {
    queues.count.unwrap_or_else(|| u16::try_from(cores).unwrap_or(MOST_WORKERS).clamp(1, MOST_WORKERS))
}

/// The first of `2 * count` numbers from `base` on that nobody has, outside of
/// `avoid`: the range of a daemon that was killed. Its rules may still divert to
/// it, and packets that arrive while a queue is configured are lost and hang
/// in the kernel.
#[must_use]
pub fn free_range(base: u16, count: u16, taken: &[u16], avoid: Option<(u16, u16)>) -> Option<u16> {
    let width = u32::from(count) * 2;
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
    format!("{pid} {base} {}", u32::from(base) + u32::from(count) * 2 - 1)
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
        assert_eq!(free_range(10, 2, &[9, 14], None), Some(10));
    }

    #[test]
    fn taken_numbers_are_stepped_over() {
        assert_eq!(free_range(0, 2, &[3], None), Some(4));
        assert_eq!(free_range(0, 1, &[0, 3, 5], None), Some(1));
        assert_eq!(free_range(0, 2, &[0, 5], None), Some(1));
        assert_eq!(free_range(0, 2, &[2, 6], None), Some(7));
    }

    #[test]
    fn a_killed_daemons_range_is_avoided() {
        assert_eq!(free_range(0, 2, &[], noted_range(&note(99, 0, 2))), Some(4));
        assert_eq!(free_range(0, 2, &[], noted_range(&note(99, 4, 2))), Some(0));
        assert_eq!(noted_range(""), None);
        assert_eq!(noted_range("99"), None);
    }

    #[test]
    fn there_is_an_end() {
        assert_eq!(free_range(65532, 2, &[], None), Some(65532));
        assert_eq!(free_range(65533, 2, &[], None), None);
        assert_eq!(free_range(65000, 2, &[65535], Some((65000, 65531))), None);
    }

    #[test]
    fn workers_follow_the_cores_unless_told() {
        let queues = |count| Queues { base: 0, count };
        assert_eq!(queue_count(queues(Some(3)), 16), 3);
        assert_eq!(queue_count(queues(None), 4), 4);
        assert_eq!(queue_count(queues(None), 0), 1);
        assert_eq!(queue_count(queues(None), 4096), 64);
    }
}
