//! What the applications on the ends do, from the seed.

use super::{packet::Side, rng::Rng};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Act {
    Open,
    AlsoOpen(Side),
    Write(Side, u32),
    Pause(Side),
    Resume(Side),
    Shut(Side),
    Close(Side),
    Abort(Side),
    Crash(Side),
    Restart(Side),
    /// The next connection on the same addresses and ports, if there is one.
    Next,
}

#[derive(Clone, Debug)]
pub struct Script {
    pub opener: Side,
    pub opening: bool,
    pub simultaneous: bool,
    pub simultaneous_delay: u64,
    pub close_with_peer: [bool; 2],
    left: u32,
    done: bool,
    /// Nobody crashes, and no SYNs cross.
    pub calm: bool,
}

impl Script {
    pub fn of(rng: &mut Rng) -> Self {
        let mut script = Self {
            opener: Side::A,
            opening: false,
            simultaneous: false,
            simultaneous_delay: 0,
            close_with_peer: [true; 2],
            left: rng.pick(&[0, 0, 1, 2, 3]) as u32,
            done: false,
            calm: false,
        };
        script.roll(rng);
        script
    }

    fn roll(&mut self, rng: &mut Rng) {
        self.opener = if rng.percent(85) { Side::A } else { Side::B };
        self.simultaneous = rng.percent(10) && !self.calm;
        self.simultaneous_delay = rng.range(0, 60);
        self.close_with_peer = [rng.percent(60), rng.percent(60)];
    }

    /// Whether all connections of the script have been made.
    pub const fn over(&self) -> bool {
        self.done
    }

    /// Turns to the next connection; `false`: that was the last.
    pub fn next(&mut self, rng: &mut Rng) -> bool {
        if self.left == 0 {
            self.done = true;
            return false;
        }
        self.left -= 1;
        self.roll(rng);
        true
    }

    /// What happens on a connection, counted from its handshake.
    pub fn plan(&self, rng: &mut Rng) -> Vec<(u64, Act)> {
        let mut plan = Vec::new();
        let mut last = 0;
        let mut at = |plan: &mut Vec<(u64, Act)>, time: u64, act: Act| {
            plan.push((time, act));
            last = last.max(time);
        };
        let span = rng.pick(&[500, 5_000, 20_000, 60_000]);
        for _ in 0..rng.range(0, 6) {
            let side = rng.pick(&Side::BOTH);
            let octets = rng.pick(&[1, 10, 500, 3_000, 20_000, 60_000]);
            at(&mut plan, rng.range(0, span), Act::Write(side, octets));
        }
        if rng.percent(20) {
            let side = rng.pick(&Side::BOTH);
            let from = rng.range(0, span);
            at(&mut plan, from, Act::Pause(side));
            at(&mut plan, from + rng.pick(&[3_000, 40_000, 400_000]), Act::Resume(side));
        }
        if rng.percent(8) {
            // Silence, then more; past the established timer some of the time.
            let silence = rng.pick(&[100_000, 290_000, 310_000, 3_000_000, 8_000_000]);
            at(&mut plan, span + silence, Act::Write(rng.pick(&Side::BOTH), 700));
        }
        if rng.percent(25) {
            // Half-closed use: one end is done, the other goes on.
            let side = rng.pick(&Side::BOTH);
            let from = rng.range(0, span);
            at(&mut plan, from, Act::Shut(side));
            for _ in 0..rng.range(0, 3) {
                let pause = rng.pick(&[1_000, 30_000, 200_000, 700_000]);
                at(&mut plan, from + pause, Act::Write(side.other(), 2_000));
            }
        }
        if rng.percent(25) && !self.calm {
            let side = rng.pick(&Side::BOTH);
            let when = rng.range(0, span * 2);
            at(&mut plan, when, Act::Crash(side));
            at(&mut plan, when + rng.pick(&[50, 1_000, 20_000, 90_000]), Act::Restart(side));
            if rng.percent(30) {
                // The power of the whole house: both forget.
                at(&mut plan, when + 10, Act::Crash(side.other()));
                at(&mut plan, when + rng.pick(&[20, 1_000, 30_000]), Act::Restart(side.other()));
            }
            if rng.percent(50) {
                // It opens again at once, as if it had never been.
                plan.push((when + 91_000, Act::Next));
                return plan;
            }
        }
        if rng.percent(10) {
            at(&mut plan, rng.range(0, span * 2), Act::Abort(rng.pick(&Side::BOTH)));
        }
        let end = last + rng.pick(&[0, 10, 2_000]);
        let first = rng.pick(&Side::BOTH);
        plan.push((end, Act::Close(first)));
        let gap = rng.pick(&[0, 0, 20, 5_000]);
        plan.push((end + gap, Act::Close(first.other())));
        plan.push((end + gap + rng.pick(&[0, 500, 20_000, 130_000]), Act::Next));
        plan
    }
}
