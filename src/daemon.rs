//! The running gateway: threads, reload, live changes, shutdown, and the control
//! socket.
//!
//! Threads: a blocking worker for each queue; the ticker,
//! which ends connections on time; the sender; the recorder of events; the
//! watcher of interfaces; and the control thread. Workers hand over through
//! bounded channels that they never wait for. Every thread's death or
//! standstill is noticed, and ends the daemon: systemd starts it again.
//!
//! Knows the engine by its grammar only, and the kernel by `sys`.

pub mod backend;
pub mod blocks;
pub mod control;
pub mod events;
pub mod explain;
pub mod exposure;
pub mod fast;
pub mod filter;
pub mod forgetter;
pub mod gathering;
pub mod governor;
pub mod half_open;
pub mod kernel;
pub mod live;
pub mod log;
pub mod memory;
pub mod mend;
pub mod observer;
pub mod outlet;
pub mod protocol;
pub mod recorder;
pub mod rules;
pub mod saved;
pub mod seats;
pub mod sender;
pub mod session;
pub mod shared;
pub mod shields;
pub mod start;
pub mod state;
pub mod status;
pub mod suggest;
pub mod text;
pub mod threads;

use crate::sys::sysctl;

pub use saved::STATE_DIRECTORY;
pub use start::{Options, hold_static, run};

/// Whether a timer may be set to this, so that the command line can say so
/// without a daemon.
///
/// # Errors
/// A sentence that says what to write.
pub fn check_timer_change(name: &str, value: &str) -> Result<(), String> {
    live::timer_named(name).and_then(|timer| live::timer_value(timer, value)).map(|_| ())
}

/// Whether a limit may be set to this.
///
/// # Errors
/// A sentence that says what to write.
pub fn check_limit_change(name: &str, value: &str) -> Result<(), String> {
    live::limit_named(name).and_then(|limit| live::limit_value(limit, value)).map(|_| ())
}

/// Puts back kernel settings that a killed daemon left. `false`: there were none.
///
/// # Errors
/// The kernel's word.
pub fn restore_settings() -> std::io::Result<bool> {
    let cookies = sysctl::restore_from(&shields::settings_file()?)?;
    Ok(sysctl::restore_from(&kernel::settings_file()?)? || cookies)
}
