//! Bytes <-> packets: IPv4, IPv6, TCP, UDP, ICMP, sequence numbers.
//!
//! Knows nothing of connections or rules. Parsing never panics, never
//! allocates and reads each header once; what it refuses it names
//! ([`Malformed`]). Read first: RFC 791, RFC 8200, RFC 9293 §3.1.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

mod bare;
pub mod build;
pub mod checksum;
pub mod malformed;
pub mod packet;
pub mod parse;
pub mod seq;

#[cfg(test)]
mod tests;

pub use bare::without_fast_open;
pub use build::{Echo, FourTuple, RawPacket, SegmentBuilder, opening};
pub use malformed::Malformed;
pub use packet::{Datagram, Embedded, Flags, IcmpMessage, Packet, Protocol, Segment, TcpOptions, Transport};
pub use parse::{Checksums, InHeader, Loopback, Plain, parse, parse_where};
pub use seq::SeqNum;
