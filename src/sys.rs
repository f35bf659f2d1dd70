//! The only place with system calls: NFQUEUE, nftables, raw socket, ctnetlink,
//! interfaces, listeners, sysctls, clock, random numbers, network namespaces, control
//! socket.
//!
//! Types of `nfq` and `nftables` never leave this room.
#![allow(unsafe_code)]

pub mod clock;
pub mod control;
pub mod ctnetlink;
pub mod interfaces;
pub mod listeners;
mod netlink;
pub mod netns;
pub mod queue;
pub mod random;
pub mod raw;
pub mod sysctl;
pub mod table;
