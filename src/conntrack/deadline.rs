//! When a connection ends if nothing more is heard: a function of its phase,
//! its last packets and the timers' values, so that a changed value acts at once.

use std::time::Duration;

use super::{Connection, Instant, Phase, Stamp, Timer, rare::Whole};

/// The timer that a connection is under, and when it fires.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deadline {
    /// When.
    pub at: Instant,
    /// Which timer.
    pub timer: Timer,
}

impl Deadline {
    fn sooner(self, other: Self) -> Self {
        if other.at < self.at { other } else { self }
    }
}

impl Phase {
    /// The phase's own timer.
    #[must_use]
    pub const fn timer(self) -> Timer {
        match self {
            Self::SynSent => Timer::SynSent,
            Self::SynReceived => Timer::SynReceived,
            Self::Established => Timer::Established,
            Self::FinWait => Timer::FinWait,
            Self::HalfClosed => Timer::HalfClosed,
            Self::Closing => Timer::Closing,
            Self::TimeWait => Timer::TimeWait,
            Self::Reset => Timer::Reset,
            Self::UdpNew => Timer::UdpNew,
            Self::UdpStream => Timer::UdpStream,
            Self::Icmp => Timer::Icmp,
            Self::Other => Timer::Other,
        }
    }
}

impl Whole {
    /// When this connection ends, or its ends are to be asked (again) whether they
    /// live. `value` gives each timer's value for it, `None` for one that is off;
    /// `interval` is how long after one question the next is due, `None` if nobody asks.
    pub fn deadline(
        &self,
        now: Instant,
        interval: Option<Duration>,
        value: impl Fn(Timer) -> Option<Duration>,
    ) -> Deadline {
        let count = |from: Stamp, timer: Timer| {
            value(timer).map(|silence| Deadline { at: from.instant(now).after(silence), timer })
        };
        let own = self.phase.timer();
        let mut deadline =
            count(self.refreshed, own).unwrap_or(Deadline { at: Instant(u64::MAX), timer: own });
        if self.phase == Phase::Established
            && self.has_unacknowledged()
            && let Some(other) = count(self.refreshed, Timer::Unacknowledged)
        {
            deadline = deadline.sooner(other);
        }
        if let Some(since) = self.rare.unverified_rst
            && let Some(other) = count(since, Timer::UnverifiedRst)
        {
            deadline = deadline.sooner(other);
        }
        if let (Some(asked), Some(interval)) = (self.rare.asked, interval) {
            deadline.at = asked.instant(now).after(interval);
        }
        // No answer makes up for this one.
        if matches!(self.phase, Phase::FinWait | Phase::HalfClosed)
            && let Some(first_fin) = self.rare.first_fin
            && let Some(other) = count(first_fin, Timer::HalfClosedMax)
        {
            deadline = deadline.sooner(other);
        }
        deadline
    }
}

impl Connection {
    /// When its owner must look at it to find its end in time: at its deadline, or
    /// before. Packets that leave its [`Standing`](super::connection::Standing) as it is
    /// never move its deadline before that, so that they need not work it out: they only
    /// refresh it, and put it under the unacknowledged timer or take it from there.
    pub fn look_at(
        &self,
        deadline: Deadline,
        now: Instant,
        value: impl Fn(Timer) -> Option<Duration>,
    ) -> Instant {
        match value(Timer::Unacknowledged) {
            Some(silence) if self.phase == Phase::Established => deadline.at.min(now.after(silence)),
            _ => deadline.at,
        }
    }
}
