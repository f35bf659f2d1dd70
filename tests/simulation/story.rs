//! What happens to the gateway itself: it starts anew without its table, or only one
//! direction comes by, for good or at first.

use std::time::Duration;

use halfgate::{
    conntrack::Phase,
    engine::Event,
    policy::{Action, PickupMode, Policy, Settings},
};

use super::{packet::Side, rng::Rng};

/// Which kind of story is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Story {
    /// The gateway sees everything and keeps running.
    #[default]
    Plain,
    /// It starts anew, once or more, and its table is lost.
    Restart,
    /// It sees one direction; in some stories both from some time on.
    OneWay,
}

impl Story {
    pub const ALL: [Self; 3] = [Self::Plain, Self::Restart, Self::OneWay];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Restart => "restart",
            Self::OneWay => "one-way",
        }
    }
}

/// What its seed makes of the gateway.
#[derive(Clone, Debug)]
pub struct Gateway {
    pub story: Story,
    /// When it starts anew, counted from the beginning, and for how long nobody answers.
    pub restarts: Vec<(u64, u64)>,
    grace: Duration,
    /// Whether the kernel's conntrack outlives that.
    kernel_stays: bool,
    /// Whether conntrack knows the connection both ways.
    pub kernel_knows: bool,
    /// The only side whose packets come by.
    one_way: Option<Side>,
    /// The other's come by as well from then on.
    both_from: u64,
    /// No packet comes by before then.
    pub down_until: u64,
}

impl Gateway {
    /// Draws from numbers of its own, so that the ends' story is the same as in a plain one.
    pub fn of(story: Story, seed: u64) -> Self {
        let mut rng = Rng::new(seed ^ 0x5157_0e71_0000_0000 ^ ((story as u64) << 56));
        let mut gateway = Self {
            story,
            restarts: Vec::new(),
            grace: Duration::ZERO,
            kernel_stays: true,
            kernel_knows: false,
            one_way: None,
            both_from: u64::MAX,
            down_until: 0,
        };
        match story {
            Story::Plain => {}
            Story::Restart => {
                gateway.grace = Duration::from_millis(rng.pick(&[0, 5_000, 120_000, 120_000]));
                gateway.kernel_stays = rng.percent(50);
                for _ in 0..rng.range(1, 3) {
                    let span = rng.pick(&[1_000, 10_000, 60_000, 300_000]);
                    let down = rng.pick(&[0, 0, 50, 3_000]);
                    gateway.restarts.push((rng.range(0, span), down));
                }
            }
            Story::OneWay => {
                gateway.one_way = Some(rng.pick(&Side::BOTH));
                if rng.percent(30) {
                    let span = rng.pick(&[1_000, 10_000, 60_000]);
                    gateway.both_from = rng.range(0, span);
                }
            }
        }
        gateway
    }

    pub fn policy(&self) -> Policy {
        let mut settings = Settings { default: Action::Accept, max_connections: 4096, ..Settings::default() };
        settings.pickup.grace = self.grace;
        if self.story == Story::OneWay {
            settings.pickup.mode = PickupMode::Loose;
        }
        Policy::new(settings, Vec::new(), Vec::new(), vec!["default".into()])
    }

    /// Whether a side's packets come by.
    pub fn sees(&self, from: Side, now: u64) -> bool {
        now >= self.both_from || self.one_way.is_none_or(|side| side == from)
    }

    /// Whether one side's packets alone come by.
    pub const fn is_one_way(&self) -> bool {
        self.one_way.is_some()
    }

    /// Its table is lost; until when all that goes on is picked up.
    pub fn start_anew(&mut self, now: u64, down: u64) -> u64 {
        self.down_until = now + down;
        self.kernel_knows &= self.kernel_stays;
        self.down_until + u64::try_from(self.grace.as_millis()).unwrap_or(u64::MAX)
    }

    /// What the kernel's conntrack makes of what the firewall let through.
    pub fn learn(&mut self, event: &Event, phase: Option<Phase>) {
        match event {
            Event::Opened { .. } if phase == Some(Phase::SynSent) => self.kernel_knows = false,
            Event::Phase { to: Phase::Established, .. } => self.kernel_knows = true,
            Event::Closed(_) => self.kernel_knows = false,
            _ => {}
        }
    }
}
