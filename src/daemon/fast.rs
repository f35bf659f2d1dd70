//! What the kernel's conntrack knows of connections that pass without the queue: asked
//! before a timer fires, in batches and by a thread of its own, and for all of them before
//! somebody is shown or ends connections.

use std::{
    collections::HashSet,
    io,
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Duration,
};

use super::{
    gathering::Gathering,
    log,
    shared::{Outbox, Pulse, Shared, Tally},
    state::Daemon,
};
use crate::{
    conntrack::{Flow, fast::KernelState},
    engine::{Transmit, Word, Worker},
    sys::{
        ctnetlink::{Ctnetlink, Entry, TcpState},
        sysctl,
    },
};

/// How long it waits before it looks whether it should go home.
const TURN: Duration = Duration::from_millis(200);

/// How many questions are taken at once.
const BATCH: usize = 256;

/// From what the kernel's timers count down, so that what is left of one tells how long a
/// connection was silent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    established: Duration,
    unacknowledged: Duration,
    retransmitted: Duration,
    udp: Duration,
    udp_stream: Duration,
}

impl Timeouts {
    /// As they are now.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn read() -> io::Result<Self> {
        Ok(Self {
            established: sysctl::timeout("tcp_timeout_established")?,
            unacknowledged: sysctl::timeout("tcp_timeout_unacknowledged")?,
            retransmitted: sysctl::timeout("tcp_timeout_max_retrans")?,
            udp: sysctl::timeout("udp_timeout")?,
            udp_stream: sysctl::timeout("udp_timeout_stream")?,
        })
    }

    /// How long an entry was silent, and whether its last data are not acknowledged.
    ///
    /// The kernel does not say from which of its timers an entry counts down. What is left of
    /// more than the shorter ones is of the longest; else the shortest counts that it can be
    /// of, so that no connection looks older than it is. (At the start the first was made so
    /// long that no timer of ours fires where they meet.)
    fn silence(&self, entry: &Entry) -> (Duration, bool) {
        let Some(left) = entry.timeout else { return (Duration::ZERO, false) };
        match entry.tcp {
            Some(TcpState::Established) => {
                let short = self.unacknowledged.max(self.retransmitted);
                if left > short || (left > self.unacknowledged && self.established <= self.retransmitted) {
                    (self.established.saturating_sub(left), false)
                } else if left > self.unacknowledged {
                    (self.retransmitted.saturating_sub(left), true)
                } else {
                    (self.unacknowledged.saturating_sub(left), true)
                }
            }
            Some(_) => (Duration::ZERO, false),
            None if left > self.udp => (self.udp_stream.saturating_sub(left), false),
            None => (self.udp.min(self.udp_stream).saturating_sub(left), false),
        }
    }

    /// What an entry says about the connection in `flow`'s direction.
    fn word(&self, entry: &Entry, flow: &Flow, bit: u32) -> Word {
        let (silence, unacknowledged) = self.silence(entry);
        let state = entry.tcp.and_then(|state| match state {
            TcpState::Established => Some(KernelState::Open),
            TcpState::FinWait | TcpState::CloseWait | TcpState::LastAck | TcpState::TimeWait => {
                Some(KernelState::Closing)
            }
            TcpState::Close => Some(KernelState::Reset),
            TcpState::SynSent | TcpState::SynRecv | TcpState::SynSent2 => None,
        });
        let is_ours = entry.tuples.between_nats() == *flow || entry.tuples.original == *flow;
        let counts = entry.counters.map(|(there, back)| if is_ours { (there, back) } else { (back, there) });
        Word { silence, unacknowledged, state, counts, rides: entry.mark & bit != 0 }
    }
}

/// Asks about connections whose time may be over, until everybody goes home.
///
/// # Errors
/// If conntrack can't be asked any more.
pub fn ask(
    shared: &Shared,
    inbox: &Receiver<Transmit>,
    outbox: &Outbox,
    conntrack: &mut Ctnetlink,
    pulse: &Pulse,
) -> Result<(), String> {
    let mut worker = shared.engine.worker();
    let (mut complained, mut gathering) = (false, Gathering::of(BATCH));
    let (mut flows, mut known) = (Vec::with_capacity(BATCH), HashSet::with_capacity(BATCH));
    while !shared.stopping() {
        pulse.beat();
        // An end of a connection asks several times, and one answer does for them.
        let questions = match gathering.take(inbox, TURN) {
            Ok(questions) => questions,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        };
        flows.clear();
        known.clear();
        for question in questions {
            if let Transmit::Ask { flow } = question
                && known.insert(flow)
            {
                flows.push(flow);
            }
        }
        let told = Timeouts::read().and_then(|timeouts| {
            conntrack.begin_batch();
            conntrack.entries(&flows, |flow, entry| {
                let word = entry.map(|entry| timeouts.word(entry, flow, shared.marks.fast()));
                worker.handle_word(flow, word.as_ref(), shared.clock.now());
            })
        });
        outbox.drain(&mut worker, &shared.tally);
        if let Err(error) = told {
            // They are asked again in some seconds.
            Tally::count(&shared.tally.lookup_failed);
            if !std::mem::replace(&mut complained, true) {
                log::warning(format_args!(
                    "conntrack does not say how long connections were silent: {error}"
                ));
            }
        }
    }
    Ok(())
}

/// Tells the engine what the kernel knows of all connections that ride.
///
/// # Errors
/// The kernel's word.
fn tell_all(worker: &mut Worker, shared: &Shared) -> io::Result<()> {
    let timeouts = Timeouts::read()?;
    let bit = shared.marks.fast();
    let mut conntrack = Ctnetlink::open()?;
    conntrack.marked(bit, |entry| {
        let shown = entry.tuples.between_nats();
        // What leaves by the output hook is shown before its translation.
        let before = Some(entry.tuples.original).filter(|original| *original != shown);
        for flow in [Some(shown), before].into_iter().flatten() {
            let word = timeouts.word(entry, &flow, bit);
            worker.handle_word(&flow, Some(&word), shared.clock.now());
        }
    })
}

/// Brings every connection back to the queue that a daemon has left riding; of how many.
///
/// # Errors
/// The kernel's word.
pub fn release_all(bit: u32) -> io::Result<usize> {
    Ctnetlink::open()?.unmark_all(bit)
}

impl Daemon {
    /// Makes what is known of connections that ride as fresh as the kernel's table: before
    /// they are shown, or chosen by how long they were silent.
    pub fn look_at_riders(&self) {
        if self.shared.engine.counters().riding == 0 {
            return;
        }
        if let Err(error) = self.with_worker(|worker| tell_all(worker, &self.shared)) {
            Tally::count(&self.shared.tally.lookup_failed);
            log::warning(format_args!("conntrack does not tell of connections in the kernel: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        engine::Counts,
        sys::ctnetlink::{Status, Tuples},
    };

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const RAISED: Timeouts = Timeouts {
        established: s(432_000),
        unacknowledged: s(660),
        retransmitted: s(7500),
        udp: s(240),
        udp_stream: s(240),
    };

    fn entry(tcp: Option<TcpState>, left: Duration) -> Entry {
        let original = Flow::tcp("10.0.0.1", 1000, "10.0.0.2", 80);
        Entry {
            tuples: Tuples { original, reply: original.reversed() },
            id: 1,
            status: Status(0xe),
            timeout: Some(left),
            mark: 0x2000_0001,
            tcp,
            counters: Some((Counts { packets: 1, bytes: 10 }, Counts { packets: 2, bytes: 20 })),
        }
    }

    #[test]
    fn what_is_left_of_a_timer_tells_how_long_it_was_silent() {
        let open = Some(TcpState::Established);
        for (tcp, left, silence, unacknowledged) in [
            (open, 432_000, 0, false),
            (open, 431_400, 600, false),
            (open, 7501, 424_499, false),
            (open, 7500, 0, true),
            (open, 7000, 500, true),
            (open, 660, 0, true),
            (open, 300, 360, true),
            (None, 240, 0, false),
            (None, 10, 230, false),
            (Some(TcpState::FinWait), 10, 0, false),
        ] {
            let told = RAISED.silence(&entry(tcp, s(left)));
            assert_eq!(told, (s(silence), unacknowledged), "{tcp:?} {left}");
        }
        // A stream that may still be under the timer of its first seconds.
        let udp = Timeouts { udp: s(30), ..RAISED };
        assert_eq!(udp.silence(&entry(None, s(20))), (s(10), false));
        assert_eq!(udp.silence(&entry(None, s(31))), (s(209), false));
    }

    #[test]
    fn counts_are_those_of_the_direction_that_was_asked_for() {
        let entry = entry(Some(TcpState::Close), s(10));
        let there = RAISED.word(&entry, &entry.tuples.original, 0x2000_0000);
        let back = RAISED.word(&entry, &entry.tuples.reply, 2);
        let (one, two) = entry.counters.unwrap();
        assert_eq!(
            (there.counts, there.rides, there.state),
            (Some((one, two)), true, Some(KernelState::Reset))
        );
        assert_eq!((back.counts, back.rides), (Some((two, one)), false));
    }
}
