//! The timers: their names, defaults, and a set of values for all of them.
//!
//! A timer is the silence after which a phase ends the connection.

use std::{fmt, time::Duration};

/// A timer's name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Timer {
    /// From the first SYN; never refreshed.
    SynSent,
    /// From the SYN-ACK; never refreshed.
    SynReceived,
    /// From any packet in window (RFC 5382 §5).
    Established,
    /// From data that nobody acknowledges.
    Unacknowledged,
    /// From a FIN not yet acknowledged.
    FinWait,
    /// From the last data of the side that still sends.
    HalfClosed,
    /// From the first FIN, whatever is sent afterwards; off by default.
    HalfClosedMax,
    /// Both FINs, the last ACK missing.
    Closing,
    /// Both FINs acknowledged.
    TimeWait,
    /// After a valid RST.
    Reset,
    /// After an RST in window but not exact (RFC 5961 §3).
    UnverifiedRst,
    /// UDP one way.
    UdpNew,
    /// UDP both ways.
    UdpStream,
    /// ICMP echo.
    Icmp,
    /// Other protocols.
    Other,
}

impl Timer {
    /// How many there are.
    pub const COUNT: usize = 15;

    /// Every timer.
    pub const ALL: [Self; Self::COUNT] = [
        Self::SynSent,
        Self::SynReceived,
        Self::Established,
        Self::Unacknowledged,
        Self::FinWait,
        Self::HalfClosed,
        Self::HalfClosedMax,
        Self::Closing,
        Self::TimeWait,
        Self::Reset,
        Self::UnverifiedRst,
        Self::UdpNew,
        Self::UdpStream,
        Self::Icmp,
        Self::Other,
    ];

    /// The timer's name, as people write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SynSent => "syn_sent",
            Self::SynReceived => "syn_received",
            Self::Established => "established",
            Self::Unacknowledged => "unacknowledged",
            Self::FinWait => "fin_wait",
            Self::HalfClosed => "half_closed",
            Self::HalfClosedMax => "half_closed_max",
            Self::Closing => "closing",
            Self::TimeWait => "time_wait",
            Self::Reset => "reset",
            Self::UnverifiedRst => "unverified_rst",
            Self::UdpNew => "udp_new",
            Self::UdpStream => "udp_stream",
            Self::Icmp => "icmp",
            Self::Other => "other",
        }
    }

    /// The timer with this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|timer| timer.name() == name)
    }

    /// The value where nobody says otherwise; `None` is off.
    #[must_use]
    pub const fn default_value(self) -> Option<Duration> {
        Some(Duration::from_secs(match self {
            Self::SynSent | Self::SynReceived | Self::UnverifiedRst | Self::UdpNew | Self::Icmp => 30,
            // RFC 5382 §5 REQ-5: not less than 2 hours and 4 minutes.
            Self::Established => 2 * 3600 + 4 * 60,
            Self::Unacknowledged => 300,
            Self::FinWait => 120,
            Self::HalfClosed | Self::Other => 600,
            Self::HalfClosedMax => return None,
            Self::Closing | Self::TimeWait => 60,
            Self::Reset => 10,
            Self::UdpStream => 180,
        }))
    }
}

impl fmt::Display for Timer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A value for every timer; `None` is off (only `half_closed_max` may be).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TimerValues([Option<Duration>; Timer::COUNT]);

impl TimerValues {
    /// The value of one timer.
    #[must_use]
    pub fn value(&self, timer: Timer) -> Option<Duration> {
        self.0.get(timer as usize).copied().flatten()
    }

    /// Sets the value of one timer.
    pub fn set(&mut self, timer: Timer, value: Option<Duration>) {
        if let Some(slot) = self.0.get_mut(timer as usize) {
            *slot = value;
        }
    }
}

impl Default for TimerValues {
    fn default() -> Self {
        Self(Timer::ALL.map(Timer::default_value))
    }
}
