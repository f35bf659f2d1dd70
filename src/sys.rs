//! The only place with system calls: NFQUEUE, nftables, raw socket, ctnetlink,
//! interfaces, listeners, sysctls, clock, random numbers, network namespaces, control
//! socket, memory, processors and their caches.
//!
//! Types of `nfq` and `nftables` never leave this room.
#![allow(unsafe_code)]

pub mod clock;
pub mod control;
pub mod cpus;
pub mod ctnetlink;
pub mod interfaces;
pub mod listeners;
pub mod machine;
pub mod memory;
mod netlink;
pub mod netns;
pub mod prefetch;
pub mod queue;
pub mod random;
pub mod raw;
pub mod route;
pub mod synproxy;
pub mod sysctl;
pub mod table;
