//! When Zeek forgets a connection, so that what comes later is another one: with
//! the delays that its documentation of `init-bare` gives.

use std::time::Duration;

use super::{Connection, State};
use crate::conntrack::Instant;

/// `tcp_attempt_delay`, `tcp_close_delay`, `tcp_connection_linger` and the first
/// look of `tcp_SYN_timeout`.
const DELAY: Duration = Duration::from_secs(5);

/// `tcp_session_timer`: between two looks.
const LOOK: Duration = Duration::from_secs(6);

/// `tcp_inactivity_timeout`.
const SILENCE: Duration = Duration::from_secs(5 * 60);

/// The silence of what has not come beyond a handshake.
const SHORT_SILENCE: Duration = Duration::from_secs(60);

/// `port_inactivity_timeouts`: interactive sessions are silent for longer.
const LONG_SILENCE: Duration = Duration::from_secs(60 * 60);
const LONG_SILENT_PORTS: [u16; 4] = [21, 22, 23, 513];

/// `udp_inactivity_timeout`, `icmp_inactivity_timeout`, `unknown_ip_inactivity_timeout`.
pub(in crate::cli::replay) const DATAGRAM_SILENCE: Duration = Duration::from_secs(60);

/// Why a connection is not waited for any longer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::cli::replay) enum Forgotten {
    /// It has ended, or was never answered.
    Over,
    /// Nothing was heard of it.
    Silent,
}

/// No time at all: later than any.
const NEVER: Instant = Instant(u64::MAX);

/// Times in the life of a connection, [`NEVER`] as long as they are not known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Life {
    born: Instant,
    last: Instant,
    /// When the originator's SYN will not have been answered.
    attempt: Instant,
    /// From when on one looks whether the other end has closed too.
    closing: Instant,
    /// When what has closed is put away.
    over: Instant,
    is_beyond_handshake: bool,
}

const fn is_handshake(state: State) -> bool {
    matches!(state, State::Inactive | State::SynSent | State::SynAckSent)
}

/// The first look after `than`, of those at `first` and every [`LOOK`] after it.
fn look_after(first: Instant, than: Instant) -> Instant {
    let late = than.since(first).as_millis() + 1;
    if first > than {
        return first;
    }
    let looks = u64::try_from(late.div_ceil(LOOK.as_millis())).unwrap_or(u64::MAX);
    first.after(LOOK.saturating_mul(u32::try_from(looks).unwrap_or(u32::MAX)))
}

impl Life {
    /// Before its first packet.
    pub(super) const NEW: Self = Self {
        born: NEVER,
        last: Instant(0),
        attempt: NEVER,
        closing: NEVER,
        over: NEVER,
        is_beyond_handshake: false,
    };

    /// A packet: the originator's first SYN if `is_attempt`.
    pub(super) fn lives(&mut self, now: Instant, is_attempt: bool, are_both_closed: bool) {
        self.born = self.born.min(now);
        if !are_both_closed {
            self.last = now;
        }
        if is_attempt && self.attempt == NEVER {
            self.attempt = now.after(DELAY);
        }
    }

    /// The ends' states have become these.
    pub(super) fn comes_to(&mut self, states: [State; 2]) {
        self.is_beyond_handshake |= !states.map(is_handshake).iter().all(|is| *is);
    }

    /// One end has closed; `complete`: nothing more is expected of the other.
    pub(super) fn closes(&mut self, complete: bool) {
        if complete {
            self.over = self.last.after(DELAY);
        } else if self.closing == NEVER {
            self.closing = self.last.after(LOOK);
        }
    }
}

impl Connection {
    /// Whether Zeek has forgotten it by `now`; `port`: its server's.
    pub(in crate::cli::replay) fn is_forgotten(&self, now: Instant, port: u16) -> Option<Forgotten> {
        let life = &self.life;
        if life.born == NEVER {
            return None;
        }
        if life.over != NEVER {
            return (life.over <= now).then_some(Forgotten::Over);
        }
        let [o, r] = self.ends.each_ref().map(|end| end.state);
        let is_attempt = matches!(o, State::SynSent | State::SynAckSent) && r == State::Inactive;
        // Looked at once, when it is due.
        if is_attempt && life.attempt <= now && life.attempt > life.last {
            return Some(Forgotten::Over);
        }
        let [one, other] = self.ends.each_ref().map(|end| end.is_closed);
        let is = |state| o == state || r == state;
        let may_be_over = (one || other) && ((one && other) || is(State::Reset) || is(State::Inactive));
        if may_be_over || (o == State::Inactive && r == State::Inactive) {
            let lingers = life.last.after(DELAY);
            let looks = [life.born.after(DELAY), life.closing];
            if looks.iter().any(|first| look_after(*first, lingers) <= now) {
                return Some(Forgotten::Over);
            }
        }
        let silence = match life.is_beyond_handshake {
            false => SHORT_SILENCE,
            true if LONG_SILENT_PORTS.contains(&port) && is(State::Established) => LONG_SILENCE,
            true => SILENCE,
        };
        (now.since(life.last) >= silence).then_some(Forgotten::Silent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_looks_every_six_seconds() {
        let look = |than| look_after(Instant(5_000), Instant(than)).0;
        assert_eq!(
            [0, 4_999, 5_000, 5_001, 10_999, 11_000].map(look),
            [5_000, 5_000, 11_000, 11_000, 11_000, 17_000]
        );
    }
}
