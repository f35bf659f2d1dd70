//! The connection table: keys, entries, the timer wheel, the TCP step and its
//! window test, the embryonic counters.
//!
//! Knows packets (`wire`), not rules: what a rule decides (timers, limits)
//! comes in as values. Pure: time and the hash seed are arguments.
//! Read first: RFC 9293 §3.3.2 and §3.4, RFC 5382.
#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

pub mod ahead;
pub mod chained;
pub mod connection;
pub mod cookie;
pub mod deadline;
pub mod embryonic;
pub mod fast;
pub mod fetch;
pub mod flow;
pub mod keepalive;
pub mod key;
pub mod line;
mod link;
pub mod phase;
pub mod proven;
pub mod rare;
pub mod scoped;
pub mod secret;
pub mod slab;
pub mod source;
pub mod table;
pub mod tcp;
pub mod time;
pub mod timer;
pub mod wheel;
pub mod window;

pub use ahead::Ahead;
pub use connection::{Connection, Standing, Tally};
pub use deadline::Deadline;
pub use embryonic::{EmbryoId, Embryonic, Scope};
pub use fetch::Fetch;
pub use flow::{Direction, Flow};
pub use key::{Address, Key};
pub use phase::Phase;
pub use rare::{Live, Rare, Whole};
pub use secret::Secret;
pub use source::SourcePrefix;
pub use table::{Entry, Slot, Table};
pub use time::{Instant, Stamp};
pub use timer::{Timer, TimerValues};
