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

/// Has this thread go before others by so many steps of niceness, each a quarter more of the
/// processor's time where they compete for it (`setpriority(2)`).
///
/// # Errors
/// The kernel's word: neither `CAP_SYS_NICE` nor `RLIMIT_NICE` allows it.
pub fn precede(steps: u8) -> io::Result<()> {
    // SAFETY: no memory is passed; 0 is this thread.
    let done = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -i32::from(steps)) };
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
}
