//! Has the kernel's conntrack forget the connections that we ended.
//!
//! Under a flood that evicts, they end as fast as others begin: whoever asked the kernel
//! about each of them would be behind at once, and its table would fill with what ours no
//! longer has. So many at once are deleted by their addresses alone, in few system calls.
//!
//! An RST needs the entry: a connection that gets one comes here from the sender, who has
//! sent it. And the kernel confirms an entry only when its first packet leaves: what is not
//! there yet is looked for once more, a moment later.
//!
//! If so many are waiting that the kernel's table would grow beyond what is said, nobody is
//! evicted for a SYN until this has caught up.

use std::{
    collections::VecDeque,
    io,
    sync::{
        atomic::Ordering,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::Duration,
};

use super::{
    gathering::Gathering,
    log,
    shared::{FORGETS_BEHIND, FORGETS_WAITING, Pulse, Shared, Tally},
};
use crate::{
    conntrack::{Flow, Instant},
    sys::ctnetlink::Ctnetlink,
};

/// How long it waits before it looks whether it should go home.
const TURN: Duration = Duration::from_millis(200);

/// How many are taken at once.
const BATCH: usize = 1024;

/// Up to so many are looked at one by one: then none is deleted that has got the same
/// addresses since.
const FEW: usize = 16;

/// When what was not there is looked for again.
const AGAIN: Duration = Duration::from_millis(100);

/// The kernel, as the forgetter needs it.
pub trait Conntrack {
    /// Deletes an entry. `false`: there was none.
    ///
    /// # Errors
    /// The kernel's word.
    fn forget(&mut self, flow: &Flow) -> io::Result<bool>;

    /// Deletes many entries, and adds those to `missing` of which there was none.
    ///
    /// # Errors
    /// The kernel's word.
    fn forget_all(&mut self, flows: &[Flow], missing: &mut Vec<Flow>) -> io::Result<()>;
}

impl Conntrack for Ctnetlink {
    fn forget(&mut self, flow: &Flow) -> io::Result<bool> {
        self.begin_batch();
        Self::forget(self, flow)
    }

    fn forget_all(&mut self, flows: &[Flow], missing: &mut Vec<Flow>) -> io::Result<()> {
        Self::forget_all(self, flows, missing)
    }
}

/// Deletes until everybody goes home, and what waits then too.
///
/// # Errors
/// None; what the kernel refuses is counted.
pub fn run(
    shared: &Shared,
    inbox: &Receiver<Flow>,
    kernel: &mut dyn Conntrack,
    pulse: &Pulse,
) -> Result<(), String> {
    let mut forgetter = Forgetter { shared, kernel, again: VecDeque::new(), complained: false };
    let mut gathering = Gathering::of(BATCH);
    loop {
        pulse.beat();
        let wait = if forgetter.again.is_empty() { TURN } else { AGAIN };
        match gathering.take(inbox, wait) {
            Ok(batch) => {
                forgetter.forget(batch.as_slice(), true);
                forgetter.catch_up(batch.len());
            }
            Err(RecvTimeoutError::Timeout) if shared.stopping() && forgetter.again.is_empty() => {
                return Ok(());
            }
            Err(RecvTimeoutError::Timeout) => forgetter.catch_up(0),
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        forgetter.look_again();
    }
}

struct Forgetter<'a> {
    shared: &'a Shared,
    kernel: &'a mut dyn Conntrack,
    /// What was not there, with the time to look again.
    again: VecDeque<(Instant, Flow)>,
    complained: bool,
}

impl Forgetter<'_> {
    /// So many less wait.
    fn catch_up(&self, count: usize) {
        let before = self.shared.tally.forgets_waiting.fetch_sub(count, Ordering::Relaxed);
        if before.saturating_sub(count) <= FORGETS_BEHIND / 2 {
            self.shared.engine.hold_evictions(false);
        }
    }

    fn forget(&mut self, flows: &[Flow], first_time: bool) {
        let mut missing = Vec::new();
        let result = if flows.len() <= FEW {
            flows.iter().try_for_each(|flow| {
                if !self.kernel.forget(flow)? {
                    missing.push(*flow);
                }
                Ok(())
            })
        } else {
            self.kernel.forget_all(flows, &mut missing)
        };
        let tally = &self.shared.tally;
        if let Err(error) = result {
            Tally::count(&tally.send_failed);
            // The first one is worth a line, the rest are counted.
            if !std::mem::replace(&mut self.complained, true) {
                log::warning(format_args!("the kernel's conntrack does not forget: {error}"));
            }
            return;
        }
        let forgotten = flows.len().saturating_sub(missing.len());
        tally.forgotten.fetch_add(forgotten as u64, Ordering::Relaxed);
        if first_time {
            let at = self.shared.clock.now().after(AGAIN);
            let room = FORGETS_WAITING.saturating_sub(self.again.len());
            self.again.extend(missing.into_iter().take(room).map(|flow| (at, flow)));
        }
    }

    fn look_again(&mut self) {
        let now = self.shared.clock.now();
        let due = self.again.iter().take_while(|(at, _)| *at <= now).count();
        let flows: Vec<Flow> = self.again.drain(..due).map(|(_, flow)| flow).collect();
        for flows in flows.chunks(BATCH) {
            self.forget(flows, false);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::HashMap, sync::mpsc::sync_channel};

    use super::*;
    use crate::daemon::shared::{Forgets, tests::shared};

    fn flow(src_port: u16) -> Flow {
        Flow::tcp("192.0.2.7", src_port, "198.51.100.1", 80)
    }

    /// Has entries, and remembers how it was asked.
    #[derive(Default)]
    struct Fake {
        /// How often each must be asked for before it is there.
        entries: HashMap<Flow, u32>,
        one_by_one: usize,
        at_once: usize,
    }

    impl Fake {
        fn take(&mut self, flow: &Flow) -> bool {
            match self.entries.get_mut(flow) {
                Some(0) => self.entries.remove(flow).is_some(),
                Some(later) => {
                    *later -= 1;
                    false
                }
                None => false,
            }
        }
    }

    impl Conntrack for Fake {
        fn forget(&mut self, flow: &Flow) -> io::Result<bool> {
            self.one_by_one += 1;
            Ok(self.take(flow))
        }

        fn forget_all(&mut self, flows: &[Flow], missing: &mut Vec<Flow>) -> io::Result<()> {
            self.at_once += flows.len();
            for flow in flows {
                if !self.take(flow) {
                    missing.push(*flow);
                }
            }
            Ok(())
        }
    }

    /// Runs it over these until it has nothing left to do.
    fn forget(shared: &Shared, kernel: &mut Fake, flows: impl Iterator<Item = Flow>) {
        let (into, inbox) = sync_channel(FORGETS_WAITING);
        let into = Forgets::new(into);
        flows.for_each(|flow| into.pass(flow, &shared.tally));
        shared.stop.store(true, Ordering::Relaxed);
        run(shared, &inbox, kernel, &Pulse::new("forgetter".to_owned())).unwrap();
        drop(into);
    }

    #[test]
    fn many_are_deleted_at_once_and_few_one_by_one() {
        let shared = shared();
        let mut kernel = Fake { entries: (0..3000).map(|port| (flow(port), 0)).collect(), ..Fake::default() };
        forget(&shared, &mut kernel, (0..3000).map(flow));
        assert!(kernel.entries.is_empty());
        assert_eq!((kernel.at_once, kernel.one_by_one), (3000, 0));
        assert_eq!(shared.tally.forgotten.load(Ordering::Relaxed), 3000);
        let mut kernel = Fake { entries: [(flow(1), 0)].into(), ..Fake::default() };
        forget(&shared, &mut kernel, [flow(1)].into_iter());
        assert_eq!((kernel.at_once, kernel.one_by_one, kernel.entries.len()), (0, 1, 0));
    }

    #[test]
    fn what_is_not_confirmed_yet_is_looked_for_once_more() {
        let shared = shared();
        let mut kernel = Fake { entries: [(flow(1), 1), (flow(2), 2)].into(), ..Fake::default() };
        forget(&shared, &mut kernel, [flow(1), flow(2)].into_iter());
        assert_eq!(kernel.entries.keys().collect::<Vec<_>>(), [&flow(2)], "twice, and not for ever");
        assert_eq!(kernel.one_by_one, 4);
    }

    #[test]
    fn evictions_are_held_no_longer_when_it_has_caught_up() {
        let shared = shared();
        let (into, inbox) = sync_channel(FORGETS_BEHIND + 1);
        let forgets = Forgets::new(into);
        (0..=FORGETS_BEHIND).for_each(|port| forgets.pass(flow(port as u16), &shared.tally));
        assert_eq!(shared.tally.forgets_waiting.load(Ordering::Relaxed), FORGETS_BEHIND + 1);
        shared.engine.hold_evictions(true);
        shared.stop.store(true, Ordering::Relaxed);
        let mut kernel = Fake {
            entries: (0..=FORGETS_BEHIND).map(|port| (flow(port as u16), 0)).collect(),
            ..Fake::default()
        };
        run(&shared, &inbox, &mut kernel, &Pulse::new("forgetter".to_owned())).unwrap();
        assert_eq!(shared.tally.forgets_waiting.load(Ordering::Relaxed), 0);
        assert!(!shared.engine.evictions_are_held());
    }
}
