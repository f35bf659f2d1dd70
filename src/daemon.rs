//! The running gateway: threads, reload, live changes, shutdown, and the control
//! socket.
//!
//! Threads (DESIGN: the house): a blocking worker for each queue; the ticker,
//! which ends connections on time; the sender; the recorder of events; the
//! watcher of interfaces; and the control thread. Workers hand over through
//! bounded channels that they never wait for. Every thread's death or
//! standstill is noticed, and ends the daemon: systemd starts it again.
//!
//! Knows the engine by its grammar only, and the kernel by `sys`.

mod backend;
mod control;
pub mod events;
pub mod explain;
pub mod filter;
mod kernel;
mod live;
mod log;
mod outlet;
pub mod protocol;
pub mod rules;
mod saved;
mod sender;
mod session;
mod shared;
mod start;
mod state;
mod status;
pub mod text;
mod threads;

pub use saved::STATE_DIRECTORY;
pub use start::{Options, hold_static, run};
