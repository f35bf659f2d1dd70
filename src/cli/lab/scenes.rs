//! The scenes of the lab: each sends traffic, says what happens to it, and
//! compares.

mod closing;
mod flood;
mod opening;

use std::{sync::mpsc::Sender, time::Duration};

use super::{
    ground::Ground,
    report::{Compared, Said},
};
use crate::conntrack::Instant;

/// Scenes that run side by side.
#[derive(Debug)]
pub(super) struct Act {
    pub(super) title: &'static str,
    pub(super) scenes: &'static [Scene],
}

/// One story with one kind of connection.
#[derive(Debug)]
pub(super) struct Scene {
    pub(super) name: &'static str,
    pub(super) run: fn(&Stage) -> anyhow::Result<()>,
}

/// All of them, in order.
pub(super) const ACTS: &[Act] = &[
    Act {
        title: "\n1. Connections that the rules allow, and some that they don't",
        scenes: &[
            Scene { name: "normal, IPv4", run: opening::normal_v4 },
            Scene { name: "normal, IPv6", run: opening::normal_v6 },
            Scene { name: "udp", run: opening::udp },
            Scene { name: "forbidden, reset", run: opening::refused },
            Scene { name: "forbidden, dropped", run: opening::dropped },
        ],
    },
    Act {
        title: "\n2. Half-closed, half-open, closed: every timer under your hand",
        scenes: &[
            Scene { name: "half-closed, silent", run: closing::silent },
            Scene { name: "half-closed, sending", run: closing::sending },
            Scene { name: "half-open", run: opening::stalled },
            Scene { name: "closed, time_wait", run: closing::time_wait },
        ],
    },
    Act {
        title: "\n3. A SYN flood from forged sources, and honest clients in the midst of it",
        scenes: &[Scene { name: "SYN flood", run: flood::flood }],
    },
];

/// Where in the order of scenes this one stands.
pub(super) fn place(scene: &str) -> usize {
    let mut all = ACTS.iter().flat_map(|act| act.scenes);
    all.position(|known| known.name == scene).unwrap_or(usize::MAX)
}

/// Where a scene plays, and how it speaks.
#[derive(Debug)]
pub(super) struct Stage {
    name: &'static str,
    ground: Ground,
    say: Sender<Said>,
}

impl Stage {
    pub(super) fn new(name: &'static str, ground: Ground, say: Sender<Said>) -> Self {
        Self { name, ground, say }
    }

    /// A scene that could not be played to its end is a disagreement.
    pub(super) fn failed(&self, error: &anyhow::Error) {
        self.compare("the scene plays to its end", format!("{error:#}"), false);
    }

    /// Says what happens.
    fn say(&self, text: impl Into<String>) {
        let at = self.ground.since(Instant(0));
        // If nobody listens any more, the lab is ending.
        let _ = self.say.send(Said::Live { at, scene: self.name, text: text.into() });
    }

    /// Says what was expected and what was seen.
    fn compare(&self, expected: impl Into<String>, seen: impl Into<String>, agrees: bool) {
        let compared = Compared { scene: self.name, expected: expected.into(), seen: seen.into(), agrees };
        let _ = self.say.send(Said::Result(compared));
    }
}

/// `1.4 s`.
fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
