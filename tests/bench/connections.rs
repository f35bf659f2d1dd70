//! An engine full of connections, and packets of them, the same every time.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use halfgate::{
    conntrack::Instant,
    engine::{IfIndex, Meta, Verdict, Worker},
    policy::{Action, Adaptive, Hook, Policy, Settings},
    sys::prefetch::IntoCache,
    wire::{Checksums, Flags, FourTuple, RawPacket, SegmentBuilder, SeqNum},
};

/// When all packets arrive.
pub(crate) const NOW: Instant = Instant(2000);

/// Lets everything in, and has room for this many.
pub(crate) fn open_policy(connections: u32) -> Policy {
    let settings = Settings {
        default: Action::Accept,
        max_connections: connections.max(1000),
        adaptive: Adaptive { start: 200, end: 300 },
        ..Settings::default()
    };
    Policy::new(settings, Vec::new(), Vec::new(), vec!["default".into()])
}

/// What the connections run over.
#[derive(Clone, Copy)]
pub(crate) enum Family {
    Ipv4,
    #[allow(dead_code, reason = "not every program runs over both")]
    Ipv6,
}

pub(crate) fn tuple(family: Family, n: u32) -> FourTuple {
    let [src, dst]: [IpAddr; 2] = match family {
        Family::Ipv4 => [Ipv4Addr::from(0x0a00_0000 | (n >> 12)).into(), Ipv4Addr::new(192, 0, 2, 1).into()],
        Family::Ipv6 => {
            let network = 0x2001_0db8 << 96;
            [Ipv6Addr::from(network | u128::from(n >> 12) << 64 | 1), Ipv6Addr::from(network | 2)]
                .map(IpAddr::from)
        }
    };
    FourTuple { src, src_port: 1024 + u16::try_from(n & 0xfff).unwrap_or(0), dst, dst_port: 80 }
}

pub(crate) fn meta(packet: &RawPacket) -> Meta {
    Meta {
        hook: Hook::Forward,
        in_if: IfIndex(1),
        out_if: IfIndex(2),
        wire_len: packet.wire_len(),
        checksums: Checksums::Trust,
        kernel_knows: false,
        parent: None,
        renumbered: None,
        is_invalid: false,
        candidacy: None,
    }
}

pub(crate) fn syn(family: Family, n: u32) -> RawPacket {
    SegmentBuilder::new(tuple(family, n)).flags(Flags::SYN).seq(SeqNum(n)).build()
}

/// A packet in window of an established connection.
pub(crate) fn acknowledgement(family: Family, n: u32) -> RawPacket {
    SegmentBuilder::new(tuple(family, n)).seq(SeqNum(n + 1)).ack(SeqNum(10)).build()
}

/// The handshakes of connections 0 to `connections`.
pub(crate) fn establish(worker: &mut Worker, family: Family, connections: u32) {
    for n in 0..connections {
        let answer = SegmentBuilder::new(tuple(family, n).reversed()).seq(SeqNum(9)).ack(SeqNum(n + 1));
        for packet in [syn(family, n), answer.flags(Flags::SYN).build(), acknowledgement(family, n)] {
            assert_eq!(worker.handle_packet(&meta(&packet), &packet.bytes, NOW), Verdict::Accept);
        }
        while worker.poll_event().is_some() {}
    }
}

/// Packets that are taken and judged together, as by a queue's worker.
#[allow(dead_code, reason = "not all count batches")]
pub(crate) const BATCH: usize = 32;

/// Judges packets as a queue's worker does: reads those of a batch, has what they need
/// fetched, and judges one after the other.
#[allow(dead_code, reason = "not all count batches")]
pub(crate) fn judge_batches(worker: &mut Worker, packets: &[RawPacket], expected: Verdict) {
    for batch in packets.chunks(BATCH) {
        let prepared: [_; BATCH] = std::array::from_fn(|at| {
            let packet = batch.get(at)?;
            Some(worker.prepare(&packet.bytes, packet.wire_len(), Checksums::Trust))
        });
        worker.look_ahead(prepared.iter().flatten(), &IntoCache);
        for (packet, prepared) in batch.iter().zip(prepared.iter().flatten()) {
            assert_eq!(worker.handle_prepared(&meta(packet), prepared, NOW), expected);
        }
    }
}

/// Packets in window of these connections, in a fixed order that a prefetcher can't guess.
pub(crate) fn in_window(family: Family, connections: u32, packets: usize) -> Vec<RawPacket> {
    let mut n = 1_u32;
    let mut next = || {
        n = n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        acknowledgement(family, (n >> 4) % connections)
    };
    (0..packets).map(|_| next()).collect()
}

/// Octets of memory that this process has, without what it has of files, as its code.
pub(crate) fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let mut pages = statm.split(' ').skip(1).map(|pages| pages.parse::<usize>().unwrap_or(0));
    let (all, of_files) = (pages.next().unwrap_or(0), pages.next().unwrap_or(0));
    all.saturating_sub(of_files) * 4096
}
