//! The four legs between the ends and the firewall: loss, delay, reordering, duplicates.

use super::{packet::Side, rng::Rng};

/// A leg's nature.
#[derive(Clone, Copy, Debug)]
pub struct Leg {
    loss: u64,
    duplicates: u64,
    delay: u64,
    jitter: u64,
    strays: u64,
}

#[derive(Clone, Debug)]
pub struct Network {
    toward_firewall: [Leg; 2],
    toward_end: [Leg; 2],
}

impl Leg {
    fn of(rng: &mut Rng) -> Self {
        Self {
            loss: rng.pick(&[0, 0, 1, 5, 15]),
            duplicates: rng.pick(&[0, 0, 2, 10]),
            delay: rng.pick(&[0, 1, 10, 80]),
            jitter: rng.pick(&[0, 0, 5, 100]),
            strays: rng.pick(&[0, 0, 0, 3]),
        }
    }

    /// When the copies of a packet arrive, counted from now.
    pub fn arrivals(self, rng: &mut Rng) -> [Option<u64>; 2] {
        let one = |rng: &mut Rng| {
            let stray = if rng.percent(self.strays) { rng.range(100, 3000) } else { 0 };
            self.delay + rng.range(0, self.jitter) + stray
        };
        let first = (!rng.percent(self.loss)).then(|| one(rng));
        let second = (first.is_some() && rng.percent(self.duplicates)).then(|| one(rng));
        [first, second]
    }
}

impl Network {
    pub fn of(rng: &mut Rng) -> Self {
        Self { toward_firewall: [Leg::of(rng), Leg::of(rng)], toward_end: [Leg::of(rng), Leg::of(rng)] }
    }

    pub const fn from_end(&self, side: Side) -> Leg {
        self.toward_firewall[side as usize]
    }

    pub const fn to_end(&self, side: Side) -> Leg {
        self.toward_end[side as usize]
    }
}
