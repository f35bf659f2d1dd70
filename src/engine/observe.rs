//! What the engine's events add up to: who scans, which services answer, how many
//! half-open connections there were, how many handshakes were completed.
//!
//! Fed with events and counts beside the packet path, each in memory that is bounded
//! whatever is sent. Nothing here decides about a packet: a scan's source can be
//! forged, so nobody is blocked for one.

pub mod demand;
pub mod distinct;
pub mod handshakes;
pub mod scans;
pub mod services;

pub use demand::{Demand, Observed, Suggestion};
pub use distinct::Distinct;
pub use handshakes::{Handshakes, Rate};
pub use scans::{Answer, Probe, Scan, Scans};
pub use services::{Answered, Service, Services};
