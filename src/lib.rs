//! halfgate: a stateful firewall for Linux gateways.
//!
//! The map of the house. Dependencies point one way:
//! `wire <- conntrack <- policy <- engine <- config <- sys <- daemon, cli`.
//!
//! * [`wire`]: bytes <-> packets.
//! * [`conntrack`]: the connection table and its timers.
//! * [`policy`]: the compiled rule set.
//! * [`engine`]: packet in, verdict out.
//! * [`config`]: YAML as typed by a person -> policy.
//! * [`sys`]: the only place with system calls.
//! * [`daemon`]: threads, reload, shutdown.
//! * [`cli`]: one file per subcommand.
//!
//! Everything up to `config` is pure: no socket, file, thread, clock,
//! randomness or environment.

pub mod cli;
pub mod config;
pub mod conntrack;
pub mod daemon;
pub mod engine;
pub mod policy;
pub mod sys;
pub mod wire;
