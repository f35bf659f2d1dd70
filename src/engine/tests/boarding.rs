//! Where a ride begins nothing is overtaken: the engine beside a model of the rules that
//! `sys/table/fast` gives the kernel, with packets that come between any two steps.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

/// What happens next.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The client sends some octets.
    Send,
    /// The server acknowledges all that it has.
    Acknowledge,
    /// The worker judges the packet that has waited longest.
    Judge,
    /// The kernel carries out the verdict that has waited longest.
    Leave,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![Just(Step::Send), Just(Step::Acknowledge), Just(Step::Judge), Just(Step::Leave)]
}

/// Octets that the client sends at a time.
const LOAD: u32 = 10;

/// What the conntrack entry's mark says of the connection.
#[derive(Default, Debug)]
struct Entry {
    fast: bool,
    candidate: bool,
    latest: bool,
}

/// A packet on its way, and what becomes of its connection's with it.
struct Packet {
    say: Say,
    candidacy: Option<Candidacy>,
    ride: Option<Ride>,
}

struct Way {
    lab: Lab,
    entry: Entry,
    /// In the queue.
    waiting: VecDeque<Packet>,
    /// Judged, and still in the hands of the kernel.
    judged: VecDeque<Packet>,
    /// The octets that the client has sent, and those that the server has.
    sent: u32,
    arrived: u32,
}

impl Way {
    fn new() -> Self {
        let mut lab = Lab::new();
        lab.bring_to(Phase::Established);
        Self {
            lab,
            entry: Entry::default(),
            waiting: VecDeque::new(),
            judged: VecDeque::new(),
            sent: 0,
            arrived: 0,
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Send => {
                self.sent += LOAD;
                let len = usize::try_from(LOAD).unwrap();
                self.come(client("P.", self.sent + 1 - LOAD).ack(1).len(len));
            }
            Step::Acknowledge => self.come(server(".", 1).ack(self.arrived + 1)),
            Step::Judge => {
                let Some(mut packet) = self.waiting.pop_front() else { return };
                let raw = self.lab.packet(packet.say);
                let of_lab = Lab::meta(packet.say.from, raw.bytes.len());
                let meta = Meta { kernel_knows: true, candidacy: packet.candidacy, ..of_lab };
                assert_eq!(self.lab.raw(meta, &raw.bytes), Verdict::Accept);
                packet.ride = self.lab.worker.ride();
                self.judged.push_back(packet);
            }
            Step::Leave => {
                let Some(packet) = self.judged.pop_front() else { return };
                self.note(packet.ride);
                self.arrive(packet.say);
            }
        }
    }

    /// The chain before the queue.
    fn come(&mut self, say: Say) {
        let entry = &mut self.entry;
        if entry.fast {
            return self.arrive(say);
        }
        let is_behind = std::mem::take(&mut entry.latest);
        let stands = std::mem::take(&mut entry.candidate);
        entry.latest = stands;
        let behind = is_behind.then_some(Candidacy::Lost);
        let candidacy = if stands { Some(Candidacy::Stands) } else { behind };
        self.waiting.push_back(Packet { say, candidacy, ride: None });
    }

    /// The chain behind it.
    fn note(&mut self, ride: Option<Ride>) {
        let entry = &mut self.entry;
        match ride {
            Some(Ride::MayBegin) => {
                entry.candidate = true;
                entry.latest = false;
            }
            Some(Ride::Begins) => entry.fast |= std::mem::take(&mut entry.latest),
            Some(Ride::BeginsAtOnce) => panic!("TCP has an order"),
            Some(Ride::Ends) => *entry = Entry::default(),
            None => {}
        }
    }

    /// All that is on its way arrives.
    fn settle(&mut self) {
        while !self.waiting.is_empty() || !self.judged.is_empty() {
            self.take(Step::Judge);
            self.take(Step::Leave);
        }
    }

    /// The client sends something, and the server acknowledges it.
    fn exchange(&mut self) {
        for step in [Step::Send, Step::Acknowledge] {
            self.take(step);
            self.settle();
        }
    }

    fn arrive(&mut self, say: Say) {
        if say.from == From::Client {
            assert_eq!(say.seq, self.arrived + 1, "one has overtaken another: {:?}", self.entry);
            self.arrived += LOAD;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn nothing_is_overtaken_where_a_ride_begins(steps in prop::collection::vec(step(), 1..80)) {
        let mut way = Way::new();
        for step in steps {
            way.take(step);
        }
        way.settle();
        way.exchange();
        way.exchange();
        assert!(way.entry.fast, "it does begin, where one packet comes at a time");
    }
}
