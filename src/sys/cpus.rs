//! On which processors threads run, and who goes first.

use std::io;

/// As many as fit into `cpu_set_t`.
pub const MOST: u16 = 1024;

/// The processors on which this process may run (`sched_getaffinity(2)`), in order.
///
/// # Errors
/// The kernel's word.
pub fn allowed() -> io::Result<Vec<u16>> {
    // SAFETY: a set of bits, for which all zeroes are the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set outlives the call, which is told its size.
    let done = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: every number is below the number of bits.
    Ok((0..MOST).filter(|cpu| unsafe { libc::CPU_ISSET(usize::from(*cpu), &set) }).collect())
}

/// Has this thread run on one processor only (`sched_setaffinity(2)`).
///
/// # Errors
/// The kernel's word; there is no such processor, or it is not allowed.
pub fn pin(cpu: u16) -> io::Result<()> {
    if cpu >= MOST {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: a set of bits, for which all zeroes are the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the number is below the number of bits.
    unsafe { libc::CPU_SET(usize::from(cpu), &mut set) };
    // SAFETY: the set outlives the call, which is told its size; 0 is this thread.
    let done = unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// How much nicer work is that can wait for packets: listing a million connections, judging them again.
pub const NICE: i8 = 10;

/// The shortest slice of a processor's time that the kernel knows, in nanoseconds (since 6.12;
/// older ones take no notice).
const SHORT: u64 = 100_000;

/// This thread's niceness (`getpriority(2)`).
#[must_use]
pub fn niceness() -> i8 {
    // SAFETY: no memory is passed; 0 is this thread, which is there.
    let niceness = unsafe { libc::getpriority(libc::PRIO_PROCESS, 0) };
    i8::try_from(niceness).unwrap_or_default()
}

/// Gives this thread a niceness (`sched_setattr(2)`): each step down is a quarter more of the
/// processor's time where threads compete for it. Below zero its slices are short, so that it
/// runs as soon as it wakes, whoever is there. Past the ends of the scale it is the last there.
///
/// # Errors
/// The kernel's word; for less than before, that neither `CAP_SYS_NICE` nor `RLIMIT_NICE`
/// allows it.
pub fn be_nice(niceness: i8) -> io::Result<()> {
    compete(libc::SCHED_OTHER, niceness, if niceness < 0 { SHORT } else { 0 })
}

/// The same, but when it wakes it takes the processor from nobody, and runs once whoever is
/// there pauses, or the kernel's next tick finds that his time is up (`SCHED_BATCH`). On an
/// idle processor it runs at once.
///
/// # Errors
/// As [`be_nice`].
pub fn be_patient(niceness: i8) -> io::Result<()> {
    compete(libc::SCHED_BATCH, niceness, 0)
}

/// Whom the operator has put under real time stays there.
fn compete(policy: libc::c_int, niceness: i8, slice: u64) -> io::Result<()> {
    // SAFETY: no memory is passed; 0 is this thread.
    let current = unsafe { libc::sched_getscheduler(0) } & !libc::SCHED_RESET_ON_FORK;
    if matches!(current, libc::SCHED_FIFO | libc::SCHED_RR | libc::SCHED_DEADLINE) {
        return Ok(());
    }
    // SAFETY: numbers, for which zero means nothing special.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    attributes.size = size_of::<libc::sched_attr>() as u32;
    attributes.sched_policy = policy as u32;
    attributes.sched_nice = niceness.into();
    attributes.sched_runtime = slice;
    // SAFETY: the attributes outlive the call, and say their size; 0 is this thread.
    let done = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_runs_where_it_is_put() {
        let all = allowed().unwrap();
        for cpu in all.iter().copied() {
            let own = std::thread::spawn(move || {
                pin(cpu).unwrap();
                allowed().unwrap()
            });
            assert_eq!(own.join().unwrap(), [cpu]);
        }
        assert_eq!(allowed().unwrap(), all, "the others stay");
        assert!(pin(MOST).is_err() && pin(MOST - 1).is_err());
    }

    #[test]
    fn a_thread_is_as_nice_as_it_is_told_and_the_others_stay() {
        let usual = niceness();
        let own = std::thread::spawn(move || {
            be_nice(usual.saturating_add(3)).unwrap();
            let some = niceness();
            be_nice(i8::MAX).unwrap();
            (some, niceness())
        });
        assert_eq!(own.join().unwrap(), (usual.saturating_add(3).min(19), 19));
        assert_eq!(niceness(), usual);
    }

    #[test]
    fn a_thread_is_patient_until_it_is_only_nice_again_and_stays_under_real_time() {
        // SAFETY: no memory is passed; 0 is this thread.
        let policy = || unsafe { libc::sched_getscheduler(0) };
        let usual = niceness();
        let own = std::thread::spawn(move || {
            be_patient(usual.saturating_add(3)).unwrap();
            let patient = (policy(), niceness());
            be_nice(usual.saturating_add(3)).unwrap();
            let nice = (policy(), niceness());
            let lowest = libc::sched_param { sched_priority: 1 };
            // SAFETY: the parameter outlives the call; 0 is this thread.
            let done = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const lowest) };
            be_nice(i8::MAX).unwrap();
            be_patient(i8::MAX).unwrap();
            (patient, nice, done, policy())
        });
        let expected = usual.saturating_add(3).min(19);
        let (patient, nice, done, last) = own.join().unwrap();
        assert_eq!((patient, nice), ((libc::SCHED_BATCH, expected), (libc::SCHED_OTHER, expected)));
        assert_eq!((done, last), (0, libc::SCHED_FIFO), "as root, as all of this suite");
    }
}
