//! The connection table: keys, entries, the timer wheel, the TCP step and its
//! window test, UDP, ICMP, the embryonic counters.
//!
//! Knows packets (`wire`), not rules: what a rule decides (timers, limits)
//! comes in as values. Pure: time and the hash seed are arguments.
//! Read first: RFC 9293 §3.3.2 and §3.4, RFC 5382.

pub mod flow;
pub mod phase;
pub mod time;
pub mod timer;

pub use flow::{Direction, Flow};
pub use phase::Phase;
pub use time::Instant;
pub use timer::{Timer, TimerValues};
