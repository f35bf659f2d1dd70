//! Bytes <-> packets: IPv4, IPv6, TCP, UDP, ICMP, sequence numbers.
//!
//! Knows nothing of connections or rules. Parsing never panics, never
//! allocates and reads each header once; what it refuses it names
//! ([`Malformed`]). Read first: RFC 791, RFC 8200, RFC 9293 §3.1.

pub mod build;
pub mod checksum;
pub mod packet;
pub mod parse;
pub mod seq;

pub use build::{FourTuple, RawPacket};
pub use packet::{Datagram, Embedded, Flags, IcmpMessage, Packet, Protocol, Segment, TcpOptions, Transport};
pub use parse::{Checksums, Malformed, parse};
pub use seq::SeqNum;
