//! A process in a namespace that does not outlive its owner.

use std::{
    io,
    process::{Child, Command, ExitStatus},
    thread,
    time::Duration,
};

use crate::sys::clock::Clock;

/// A running process; terminated, then killed, when this value goes away.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// How long a process may take to clean up behind itself.
    const GRACE: Duration = Duration::from_secs(5);

    /// Starts it.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        Ok(Self { child: command.spawn()? })
    }

    /// Its pid.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The child, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// How it ended, if it has.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits up to `timeout` for its end.
    ///
    /// # Errors
    /// The kernel's word; `TimedOut` if it still runs.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<ExitStatus> {
        let clock = Clock::start();
        let start = clock.now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if clock.now().since(start) >= timeout {
                return Err(io::Error::new(io::ErrorKind::TimedOut, format!("pid {} still runs", self.id())));
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Sends a signal (`libc::SIGTERM`, ...). Nothing happens if it has ended.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn signal(&mut self, signal: i32) -> io::Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        let pid = libc::pid_t::try_from(self.child.id()).map_err(io::Error::other)?;
        // SAFETY: the child has not been waited for, so the pid is still its.
        if unsafe { libc::kill(pid, signal) } == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Asks it to end and waits; kills it if it takes too long.
    ///
    /// # Errors
    /// The kernel's word; `TimedOut` if it had to be killed.
    pub fn terminate(&mut self) -> io::Result<ExitStatus> {
        self.signal(libc::SIGTERM)?;
        let ended = self.wait(Self::GRACE);
        if ended.is_err() {
            self.child.kill()?;
            self.child.wait()?;
        }
        ended
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.terminate();
    }
}
