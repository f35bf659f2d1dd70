//! wire + conntrack + policy: packet in, verdict out; events, drop reasons.
//!
//! The engine's grammar: a [`Worker`] takes `handle_packet(meta, bytes, now)`
//! and gives a [`Verdict`]; `handle_timeout(now)` ends what is over,
//! `poll_timeout()` says when to call it; what happened and what is to be sent
//! comes out of `poll_event()` and `poll_transmit()`. It never waits, reads no
//! clock and sends nothing itself.

pub mod event;
pub mod meta;
pub mod view;

pub use event::{CloseReason, Closed, Event, Peer};
pub use meta::{DropReason, IfIndex, Meta, Transmit, Verdict};
pub use view::{Change, Counters, Counts, Existing, TimerRow, View};

use std::{sync::Arc, time::Duration};

use crate::{
    conntrack::{Flow, Instant, Timer},
    policy::{Live, Policy, RuleId},
};

/// The whole firewall but the kernel: shared by all workers.
pub struct Engine {}

/// One thread's way into the engine. Holds no lock between calls.
pub struct Worker {}

impl Engine {
    /// An engine with an empty table. `seed` keys the hashes and must be random
    /// on a gateway; `now` starts the pickup grace.
    #[must_use]
    pub fn new(policy: Policy, seed: [u64; 2], now: Instant) -> Arc<Self> {
        let _ = (policy, seed, now);
        Arc::new(Self {})
    }

    /// A way in for one more thread.
    #[must_use]
    pub fn worker(self: &Arc<Self>) -> Worker {
        Worker {}
    }

    /// The rule set in force.
    #[must_use]
    pub fn policy(&self) -> Arc<Policy> {
        todo!()
    }

    /// Swaps the rule set, all at once. `policy` must have been compiled with the
    /// one in force as its predecessor, so that rule ids agree.
    pub fn install(&self, policy: Policy, existing: Existing, now: Instant) {
        let _ = (policy, existing, now);
    }

    /// Tells which interfaces there are now, by kernel index.
    pub fn set_interfaces(&self, interfaces: &[(IfIndex, String)]) {
        let _ = interfaces;
    }

    /// The live changes in force.
    #[must_use]
    pub fn live(&self) -> Live {
        todo!()
    }

    /// Replaces the live changes; existing connections feel it at once.
    pub fn set_live(&self, live: Live, now: Instant) {
        let _ = (live, now);
    }

    /// Calls `each` for every connection, a bounded piece of a shard at a time;
    /// `each` runs under the shard's lock and must be quick. Stops on `false`.
    pub fn connections(&self, now: Instant, each: &mut dyn FnMut(&View) -> bool) {
        let _ = (now, each);
    }

    /// Counters since the start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        todo!()
    }

    /// How many connections are under each timer, by rule.
    #[must_use]
    pub fn timers(&self) -> Vec<TimerRow> {
        todo!()
    }

    /// Those whose deadline would be past or sooner, if `live` were in force.
    #[must_use]
    pub fn preview(&self, live: &Live, now: Instant) -> Change {
        let _ = (live, now);
        todo!()
    }

    /// What the timer of a connection of this rule would be, and why.
    #[must_use]
    pub fn timer_value(&self, rule: RuleId, timer: Timer) -> (Option<Duration>, crate::policy::Origin) {
        let _ = (rule, timer);
        todo!()
    }
}

impl Worker {
    /// Judges one packet. `bytes` starts at the IP header.
    pub fn handle_packet(&mut self, meta: &Meta, bytes: &[u8], now: Instant) -> Verdict {
        let _ = (meta, bytes, now);
        todo!()
    }

    /// Ends what is over; a bounded amount of work a call. `true`: there is more
    /// to do right now.
    pub fn handle_timeout(&mut self, now: Instant) -> bool {
        let _ = now;
        todo!()
    }

    /// When `handle_timeout` should be called next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        todo!()
    }

    /// Ends one connection. `silent`: no RST. `false` if there is none.
    pub fn kill(&mut self, flow: &Flow, silent: bool, now: Instant) -> bool {
        let _ = (flow, silent, now);
        todo!()
    }

    /// The next thing to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        todo!()
    }

    /// The next thing that happened.
    pub fn poll_event(&mut self) -> Option<Event> {
        todo!()
    }
}
