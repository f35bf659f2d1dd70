//! End to end: the built binary as the firewall of a gateway, the kernel's own
//! TCP on both sides, IPv4 and IPv6.
//!
//! Every test has three network namespaces of its own, so all of them may run
//! at once. Timers are a few seconds; waits poll a condition until a deadline. Some
//! of them run once more under Debian's kernel in a virtual machine.
//! Must run as root.

/// Runs a test for IPv4 and for IPv6.
macro_rules! both_families {
    ($($name:ident)*) => {$(
        mod $name {
            use halfgate::sys::netns::Family;

            #[test]
            fn ipv4() {
                super::$name(Family::V4);
            }

            #[test]
            fn ipv6() {
                super::$name(Family::V6);
            }
        }
    )*};
}

mod allowance;
mod asymmetric;
mod blocked;
mod challenge;
mod clients;
mod closing;
mod cookies;
mod datagram;
mod documented;
mod errors;
mod fast_open;
mod fast_path;
mod flood;
mod forbidden;
mod fragments;
mod ground;
mod handshake;
mod harness;
mod hooks;
mod kill;
mod lifecycle;
mod limits;
mod live;
mod mend;
mod nat;
mod native;
mod overrun;
mod overtaking;
mod player;
mod pressure;
mod probe;
mod proven;
mod queue;
mod related;
mod reload;
mod scripts;
mod seen;
mod stale;
