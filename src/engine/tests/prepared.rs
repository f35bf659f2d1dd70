//! Packets that were looked at before the first of their batch was judged.

use super::*;
use crate::wire::build;

/// What comes of all: verdicts, counts, connections.
fn outcome(lab: &Lab, verdicts: &[Verdict]) -> String {
    let mut connections = Vec::new();
    lab.engine.visit(lab.now, &mut || {}, &mut |view, connection| {
        connections.push((*view, *connection));
        true
    });
    format!("{verdicts:?} {:?} {connections:?}", lab.engine.counters())
}

#[test]
fn a_batch_is_judged_as_its_packets_are_one_by_one() {
    let script = [
        client("S", 0),
        server("S.", 0).ack(1),
        client(".", 1).ack(1),
        client("P.", 1).ack(1).len(100),
        server(".", 1).ack(101),
        server("P.", 1 << 30).ack(101).len(10),
        server("P.", 1).ack(101).len(1000),
        client(".", 101).ack(1001).timestamp(7),
        client("F.", 101).ack(1001),
        server("R", 1001),
        server(".", 1001).ack(102),
    ];
    for (make, checksums) in [
        (Lab::new as fn() -> Lab, Checksums::Trust),
        (Lab::new, Checksums::Verify),
        (Lab::ipv6, Checksums::Trust),
    ] {
        let (mut one, mut all) = (make(), make());
        let mut packets: Vec<_> = script.map(|say| (say.from, one.packet(say).bytes)).to_vec();
        packets.push((From::Client, build::udp(one.tuple(From::Client), b"x").bytes));
        packets.push((From::Client, vec![0x45; 30]));
        let meta = |(from, bytes): &(From, Vec<u8>)| Meta { checksums, ..Lab::meta(*from, bytes.len()) };
        let single: Vec<Verdict> = packets.iter().map(|packet| one.raw(meta(packet), &packet.1)).collect();
        let prepared: Vec<_> = packets
            .iter()
            .map(|packet| all.worker.prepare(&packet.1, meta(packet).wire_len, checksums))
            .collect();
        let batch: Vec<Verdict> = packets
            .iter()
            .zip(&prepared)
            .map(|(packet, prepared)| all.worker.handle_prepared(&meta(packet), prepared, all.now))
            .collect();
        assert!(single.contains(&Verdict::Drop(DropReason::SeqBeyond)), "{single:?}");
        assert!(single.iter().filter(|verdict| **verdict == Verdict::Accept).count() > 7, "{single:?}");
        assert_eq!(outcome(&one, &single), outcome(&all, &batch));
    }
}
