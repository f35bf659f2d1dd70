//! What was seen of packets ahead of their turn, so that they need not be looked at
//! twice.

use super::{
    headers::Seen,
    rows::{AHEAD, Rows},
};
use crate::conntrack::Flow;

/// A packet's headers, and the hash of its tuple.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) seen: Seen,
    pub(super) hash: u32,
}

/// Where a packet lies: its first octet's address, and how many it has.
type Whereabouts = (usize, usize);

fn whereabouts(bytes: &[u8]) -> Whereabouts {
    (bytes.as_ptr().addr(), bytes.len())
}

/// The packets that come next, in their order. Their octets stay where they are as
/// long as they are listed here.
#[derive(Debug, Default)]
pub(super) struct Foreseen {
    packets: [Option<(Whereabouts, Look)>; AHEAD],
    len: usize,
    next: usize,
}

impl Foreseen {
    pub(super) fn clear(&mut self) {
        (self.len, self.next) = (0, 0);
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// One more packet.
    pub(super) fn add(&mut self, bytes: &[u8], look: Option<Look>) {
        if let Some(place) = self.packets.get_mut(self.len) {
            *place = look.map(|look| (whereabouts(bytes), look));
            self.len += 1;
        }
    }

    pub(super) fn looks(&self) -> impl Iterator<Item = &Look> {
        self.packets[..self.len].iter().flatten().map(|(_, look)| look)
    }

    pub(super) fn flows(&self) -> [Option<Flow>; AHEAD] {
        let mut flows = [None; AHEAD];
        for (flow, look) in flows.iter_mut().zip(self.looks()) {
            *flow = Some(look.seen.flow);
        }
        flows
    }

    /// What was seen of this packet, whose turn has come; `None`: it has to be looked at.
    pub(super) fn turn_of(&mut self, bytes: &[u8]) -> Option<Look> {
        let ahead = self.packets[self.next..self.len].iter();
        let skipped = ahead.take_while(|packet| packet.is_none()).count();
        let (at, look) = self.packets[..self.len].get(self.next + skipped).copied().flatten()?;
        if at != whereabouts(bytes) {
            return None;
        }
        self.next += skipped + 1;
        // Without a length of its own it has the record's, which was not known.
        (look.seen.len > 0).then_some(look)
    }
}

impl Rows {
    /// A look at a packet that has a tuple.
    pub(super) fn look(&self, seen: Seen) -> Look {
        Look { seen, hash: self.hash(&seen.flow) }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::headers, *};
    use crate::wire::{FourTuple, SegmentBuilder};

    #[test]
    fn only_the_very_packet_whose_turn_it_is_is_known() {
        let rows = Rows::default();
        let packets = [1, 2, 3].map(|port| {
            let [src, dst] = ["192.0.2.1", "192.0.2.2"].map(|text| text.parse().unwrap());
            SegmentBuilder::new(FourTuple { src, src_port: port, dst, dst_port: 80 }).build().bytes
        });
        let [one, two, three] = &packets;
        let look = |bytes: &[u8]| headers::look(bytes, 0).map(|seen| rows.look(seen));
        let port = |look: Option<Look>| look.map(|look| look.seen.flow.src_port);
        let mut foreseen = Foreseen::default();
        foreseen.add(one, look(one));
        foreseen.add(&[0x45], None);
        foreseen.add(two, look(two));
        foreseen.add(three, look(three));
        assert_eq!(port(foreseen.turn_of(&one.clone())), None, "other octets");
        assert_eq!(port(foreseen.turn_of(&one[..39])), None, "another length");
        assert_eq!(port(foreseen.turn_of(two)), None, "not its turn");
        assert_eq!(port(foreseen.turn_of(one)), Some(1));
        assert_eq!(port(foreseen.turn_of(two)), Some(2), "behind one without a tuple");
        foreseen.clear();
        assert_eq!(port(foreseen.turn_of(three)), None, "it may lie elsewhere now");
    }
}
