//! The two ends, the network, the firewall between them, and time.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc};

use halfgate::{
    conntrack::Instant,
    engine::{self, Engine, IfIndex, Meta, Transmit, Verdict, View, Worker},
    policy::Hook,
    wire::{Checksums, Flags, SeqNum},
};

use super::{
    attacker::{self, Attempt, Known, Most},
    endpoint::{End, Host, State},
    laws::Laws,
    network::Network,
    packet::{Origin, Packet, Side, answer_rst, segment},
    rng::Rng,
    script::{Act, Script},
    story::{Gateway, Story},
};

#[derive(Clone, Debug)]
enum Event {
    Firewall(Packet),
    End(Packet),
    Timer(Side),
    Act(Act),
    Attack,
    Tick,
    /// The gateway starts anew, and nobody answers for so long.
    Restart(u64),
}

struct Later {
    at: u64,
    order: u64,
    event: Event,
}

impl PartialEq for Later {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Later {}

impl PartialOrd for Later {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Later {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// What a run saw, so that a test can tell that it saw something.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    pub packets: u64,
    pub dropped: u64,
    pub attacks: u64,
    pub opened: u64,
    pub clean: u64,
    pub reset: u64,
    pub crashes: u64,
    pub excused: u64,
    pub restarts: u64,
    pub met: u64,
    pub unseen: u64,
}

impl Sum {
    pub fn add(&mut self, other: Self) {
        self.packets += other.packets;
        self.dropped += other.dropped;
        self.attacks += other.attacks;
        self.opened += other.opened;
        self.clean += other.clean;
        self.reset += other.reset;
        self.crashes += other.crashes;
        self.excused += other.excused;
        self.restarts += other.restarts;
        self.met += other.met;
        self.unseen += other.unseen;
    }
}

/// A law that did not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    pub story: Story,
    pub seed: u64,
    pub law: String,
    pub trace: Vec<String>,
}

pub struct World {
    start: u64,
    now: u64,
    rng: Rng,
    order: u64,
    queue: BinaryHeap<Reverse<Later>>,
    hosts: [Host; 2],
    timers: [Option<u64>; 2],
    network: Network,
    gateway: Gateway,
    engine: Arc<Engine>,
    worker: Worker,
    laws: Laws,
    script: Script,
    attacker: bool,
    attacks_until: u64,
    rng_of_engine: Rng,
    known: Vec<SeqNum>,
    sum: Sum,
    trace: Option<Vec<String>>,
}

/// What one seed may take; far more than any needs.
const MOST_EVENTS: u32 = 400_000;

/// One run. With `traced` a failure carries every packet.
pub fn run(story: Story, seed: u64, traced: bool) -> Result<Sum, Box<Failure>> {
    let mut world = World::new(story, seed, traced);
    match world.go() {
        Ok(()) => Ok(world.sum),
        Err(law) => Err(Box::new(Failure { story, seed, law, trace: world.trace.unwrap_or_default() })),
    }
}

impl World {
    fn new(story: Story, seed: u64, traced: bool) -> Self {
        let mut rng = Rng::new(seed);
        let start = rng.range(10_000, 4_000_000_000);
        let now = Instant(start);
        let gateway = Gateway::of(story, seed);
        let engine = Engine::new(gateway.policy(), [rng.next(), rng.next()], now);
        let mut hosts = [Host::new(Side::A, &mut rng), Host::new(Side::B, &mut rng)];
        hosts[1].listening = true;
        hosts[0].listening = rng.percent(20);
        let network = Network::of(&mut rng);
        let mut script = Script::of(&mut rng);
        let mut attacker = rng.percent(50);
        match story {
            Story::Plain => {}
            // That data in a SYN were taken, a table that has seen them no more can't know.
            Story::Restart => hosts.iter_mut().for_each(|host| host.style.fast_open = false),
            // What the unseen end has or has forgotten can't be known.
            Story::OneWay => {
                (script.calm, script.simultaneous, attacker) = (true, false, false);
            }
        }
        Self {
            start,
            now: start,
            order: 0,
            queue: BinaryHeap::new(),
            hosts,
            timers: [None; 2],
            network,
            gateway,
            worker: engine.worker(),
            engine,
            laws: Laws::default(),
            script,
            attacker,
            attacks_until: 0,
            rng_of_engine: Rng::new(seed),
            known: Vec::new(),
            sum: Sum::default(),
            trace: traced.then(Vec::new),
            rng,
        }
    }

    fn later(&mut self, delay: u64, event: Event) {
        self.order += 1;
        self.queue.push(Reverse(Later { at: self.now + delay, order: self.order, event }));
    }

    fn say(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            let at = self.now - self.start;
            trace.push(format!("{:>8}.{:03} {}", at / 1000, at % 1000, line()));
        }
    }

    fn go(&mut self) -> Result<(), String> {
        self.later(0, Event::Act(Act::Open));
        self.later(1000, Event::Tick);
        if self.attacker {
            self.later(500, Event::Attack);
        }
        for (at, down) in self.gateway.restarts.clone() {
            self.later(at, Event::Restart(down));
        }
        for _ in 0..MOST_EVENTS {
            let Some(Reverse(next)) = self.queue.pop() else {
                return self.laws.over(&self.hosts, &self.engine);
            };
            self.now = next.at;
            match next.event {
                Event::Firewall(packet) => self.at_firewall(packet)?,
                Event::End(packet) => {
                    let host = &mut self.hosts[packet.from.other() as usize];
                    let state = host.tcb.as_ref().map(|t| t.state);
                    host.receive(&packet.segment, next.at);
                    let after = host.tcb.as_ref().map(|t| t.state);
                    if state != after {
                        let to = packet.from.other();
                        self.say(|| format!("        {to:?}: {state:?} -> {after:?}"));
                    }
                    self.settle(packet.from.other())?;
                }
                // An earlier deadline took its place.
                Event::Timer(side) if self.timers[side as usize] != Some(next.at) => {}
                Event::Timer(side) => {
                    self.timers[side as usize] = None;
                    if self.hosts[side as usize].deadline().is_some_and(|at| at <= next.at) {
                        self.hosts[side as usize].timer(next.at);
                    }
                    self.settle(side)?;
                }
                Event::Act(act) => self.act(act)?,
                Event::Attack => self.attack()?,
                Event::Tick => self.tick()?,
                Event::Restart(down) => self.restart(down),
            }
        }
        Err(format!("no end after {MOST_EVENTS} events"))
    }

    /// After anything happened to an end: sends what it said, sets its timer.
    fn settle(&mut self, side: Side) -> Result<(), String> {
        let leg = self.network.leg_of(side);
        for s in std::mem::take(&mut self.hosts[side as usize].out) {
            if s.flags.contains(Flags::RST) {
                self.laws.honest_rst(self.now);
            }
            if !self.known.contains(&s.seq) && s.flags.contains(Flags::SYN) {
                self.known.push(s.seq);
            }
            let packet = Packet { from: side, origin: Origin::End, segment: s };
            let mut lost = true;
            for delay in leg.arrivals(&mut self.rng).into_iter().flatten() {
                lost = false;
                self.later(delay, Event::Firewall(packet));
            }
            if lost {
                self.say(|| format!("{packet}  -- lost before the firewall"));
            }
        }
        if let Some(at) = self.hosts[side as usize].deadline()
            && self.timers[side as usize].is_none_or(|set| at < set)
        {
            self.timers[side as usize] = Some(at);
            self.later(at.saturating_sub(self.now), Event::Timer(side));
        }
        self.laws.ends(&self.hosts, self.now, &mut self.sum)?;
        self.proceed();
        Ok(())
    }

    /// Moves the script on when a connection came about or an attempt failed.
    fn proceed(&mut self) {
        let opener = self.script.opener;
        let host = &self.hosts[opener as usize];
        let state = host.tcb.as_ref().map(|t| t.state);
        if self.script.opening {
            match state {
                Some(State::SynSent | State::SynReceived) => {}
                Some(_) => {
                    self.script.opening = false;
                    self.laws.opened();
                    self.sum.opened += 1;
                    for (delay, act) in self.script.plan(&mut self.rng) {
                        self.later(delay, Event::Act(act));
                    }
                }
                None => {
                    self.script.opening = false;
                    self.later(1000, Event::Act(Act::Open));
                }
            }
        }
    }

    fn act(&mut self, act: Act) -> Result<(), String> {
        let now = self.now;
        self.say(|| format!("        {act:?}"));
        let side = match act {
            Act::Open => {
                let opener = self.script.opener;
                self.hosts[opener.other() as usize].listening = true;
                let host = &mut self.hosts[opener as usize];
                if host.tcb.is_some() || !host.up {
                    // Its application has had enough of the old connection.
                    host.close(now);
                    self.later(1000, Event::Act(Act::Open));
                } else {
                    let data = if host.style.fast_open { 200 } else { 0 };
                    host.close_with_peer = self.script.close_with_peer[opener as usize];
                    self.script.opening = true;
                    host.open(data, now);
                    let up = self.hosts[opener.other() as usize].up;
                    self.laws.attempt(now, up)?;
                    if self.script.simultaneous {
                        self.later(self.script.simultaneous_delay, Event::Act(Act::AlsoOpen(opener.other())));
                    }
                }
                opener
            }
            Act::AlsoOpen(side) => {
                self.hosts[side as usize].open(0, now);
                side
            }
            Act::Write(side, octets) => {
                let most = self.hosts[side.other() as usize].style.buffer.saturating_mul(40);
                self.hosts[side as usize].write(octets.min(most), now);
                side
            }
            Act::Pause(side) => {
                self.hosts[side as usize].reading = false;
                side
            }
            Act::Resume(side) => {
                self.hosts[side as usize].reading = true;
                self.hosts[side as usize].drain(now);
                side
            }
            Act::Shut(side) => {
                self.hosts[side as usize].shut(now);
                side
            }
            Act::Close(side) => {
                self.hosts[side as usize].close_with_peer = true;
                self.hosts[side as usize].close(now);
                side
            }
            Act::Abort(side) => {
                self.hosts[side as usize].abort(now);
                side
            }
            Act::Crash(side) => {
                self.sum.crashes += 1;
                self.hosts[side as usize].crash(now);
                self.laws.disturbed();
                side
            }
            Act::Restart(side) => {
                self.hosts[side as usize].restart();
                self.laws.disturbed();
                side
            }
            Act::Next => {
                if self.script.next(&mut self.rng) {
                    self.laws.disturbed();
                    self.later(0, Event::Act(Act::Open));
                } else {
                    // A SYN that crossed late can have opened one that no plan closes.
                    for side in Side::BOTH {
                        self.hosts[side as usize].close(now);
                        self.settle(side)?;
                    }
                }
                self.script.opener
            }
        };
        self.settle(side)
    }

    fn meta(from: Side, len: u32) -> Meta {
        let (in_if, out_if) = match from {
            Side::A => (IfIndex(2), IfIndex(3)),
            Side::B => (IfIndex(3), IfIndex(2)),
        };
        Meta {
            hook: Hook::Forward,
            in_if,
            out_if,
            wire_len: len,
            // What needs no verifying is read and judged by a shorter way, where it can be.
            checksums: if len.is_multiple_of(2) { Checksums::Trust } else { Checksums::Verify },
            kernel_knows: false,
            parent: None,
            renumbered: None,
            is_invalid: false,
            candidacy: None,
        }
    }

    /// The gateway's table is lost, and whatever it waited to tell.
    fn restart(&mut self, down: u64) {
        self.say(|| format!("        the gateway starts anew, and is down for {down} ms"));
        self.sum.restarts += 1;
        let until = self.gateway.start_anew(self.now, down);
        let up = Instant(self.gateway.down_until);
        self.engine = Engine::new(self.gateway.policy(), [self.rng_of_engine.next(), 0], up);
        self.worker = self.engine.worker();
        self.laws.table_lost(until);
    }

    fn at_firewall(&mut self, packet: Packet) -> Result<(), String> {
        if !self.gateway.sees(packet.from, self.now - self.start) {
            self.sum.unseen += 1;
            self.say(|| format!("{packet}  -- by another path"));
            self.deliver(packet);
            return Ok(());
        }
        if self.now < self.gateway.down_until {
            self.say(|| format!("{packet}  -- lost, nobody answers"));
            return Ok(());
        }
        let raw = packet.build();
        let mut meta = Self::meta(packet.from, raw.wire_len());
        meta.kernel_knows = self.gateway.kernel_knows;
        let both = Side::BOTH.into_iter().all(|side| self.gateway.sees(side, self.now - self.start));
        self.laws.at_gateway(meta.kernel_knows, self.gateway.is_one_way(), both);
        let verdict = self.worker.handle_packet(&meta, &raw.bytes, Instant(self.now));
        self.sum.packets += 1;
        self.say(|| match verdict {
            Verdict::Accept => packet.to_string(),
            other => format!("{packet}  -- {other:?}"),
        });
        self.events()?;
        let receiver = &self.hosts[packet.from.other() as usize];
        match verdict {
            Verdict::Accept => {
                self.laws.passed(&packet, receiver, self.now);
                self.deliver(packet);
            }
            Verdict::Drop(_) | Verdict::Reset(_) => {
                self.sum.dropped += 1;
                self.laws.dropped(&packet, &self.hosts, verdict, self.now)?;
            }
        }
        if matches!(verdict, Verdict::Reset(_)) {
            let from = packet.from.other();
            let rst = answer_rst(&packet.segment, from);
            self.laws.honest_rst(self.now);
            self.deliver(Packet { from, origin: Origin::Gateway, segment: rst });
        }
        self.transmits();
        self.laws.books(&self.engine)
    }

    fn deliver(&mut self, packet: Packet) {
        let leg = self.network.to_end(packet.from.other());
        let mut lost = true;
        for delay in leg.arrivals(&mut self.rng).into_iter().flatten() {
            lost = false;
            self.later(delay, Event::End(packet));
        }
        if lost {
            self.say(|| format!("{packet}  -- lost behind the firewall"));
        } else if packet.origin == Origin::Gateway {
            self.say(|| packet.to_string());
        }
    }

    fn transmits(&mut self) {
        while let Some(transmit) = self.worker.poll_transmit() {
            let Transmit::Reset { tuple, seq, ack, .. } = transmit else { continue };
            let from = if tuple == Side::A.tuple() { Side::A } else { Side::B };
            let flags = if ack.is_some() { Flags::RST.with(Flags::ACK) } else { Flags::RST };
            let s = segment(from, flags, seq, ack.unwrap_or(SeqNum(0)), 0, 0);
            self.laws.honest_rst(self.now);
            self.deliver(Packet { from, origin: Origin::Gateway, segment: s });
        }
    }

    fn events(&mut self) -> Result<(), String> {
        let Some(mut event) = self.worker.poll_event() else { return Ok(()) };
        loop {
            self.say(|| format!("        firewall: {event:?}"));
            let next = self.worker.poll_event();
            // What a connection is opened in, if the same packet has moved it on.
            let phase = match &next {
                Some(engine::Event::Phase { from, .. }) => Some(*from),
                _ => self.view().map(|view| view.phase),
            };
            self.gateway.learn(&event, phase);
            self.laws.event(&event, phase, &self.hosts, self.now, &mut self.sum)?;
            match next {
                Some(next) => event = next,
                None => return Ok(()),
            }
        }
    }

    fn tick(&mut self) -> Result<(), String> {
        let now = Instant(self.now);
        while self.worker.handle_timeout(now) {}
        self.events()?;
        self.transmits();
        let idle = self.queue.is_empty();
        if let Some(at) = self.worker.poll_timeout() {
            let delay = at.0.saturating_sub(self.now).clamp(1000, 60_000);
            self.later(delay, Event::Tick);
        } else if !idle {
            self.later(5000, Event::Tick);
        }
        if idle {
            self.laws.lingering(&self.hosts, self.now)?;
        }
        Ok(())
    }

    fn view(&self) -> Option<View> {
        let mut found = None;
        self.engine.connections(Instant(self.now), &mut |view| {
            found = Some(*view);
            true
        });
        found
    }

    fn attack(&mut self) -> Result<(), String> {
        if self.script.over() {
            if self.attacks_until == 0 {
                self.attacks_until = self.now + 60_000;
            }
            if self.now > self.attacks_until {
                return Ok(());
            }
        }
        let delay = self.rng.range(20, 4000) * if self.script.opening { 1 } else { 4 };
        self.later(delay, Event::Attack);
        let Some(before) = self.view() else { return Ok(()) };
        if self.now < self.gateway.down_until {
            return Ok(());
        }
        let mut known = self.known.clone();
        for tcb in self.hosts.iter().filter_map(|h| h.tcb.as_ref()) {
            known.extend([tcb.nxt, tcb.una, tcb.rcv]);
        }
        for past in self.hosts.iter().flat_map(|h| &h.past) {
            known.extend([past.tcb.nxt, past.tcb.rcv]);
        }
        let plain = self.gateway.story == Story::Plain;
        let known = Known { numbers: &known, phase: before.phase, start: self.start, aims: plain };
        let Some(attempt) = attacker::attempt(&mut self.rng, &self.hosts, known) else { return Ok(()) };
        self.sum.attacks += 1;
        match attempt {
            Attempt::Segment(packet, most) => {
                let raw = packet.build();
                let meta = Self::meta(packet.from, raw.wire_len());
                let verdict = self.worker.handle_packet(&meta, &raw.bytes, Instant(self.now));
                self.say(|| format!("{packet}  -- {verdict:?}"));
                self.events()?;
                self.transmits();
                self.laws.attacked(&before, self.view().as_ref(), most, &packet)?;
                if most == Most::Nothing && verdict == Verdict::Accept {
                    return Err(format!("{packet} was let through"));
                }
                if verdict == Verdict::Accept {
                    self.deliver(packet);
                }
            }
            Attempt::Icmp(side, raw) => {
                let meta = Self::meta(side.other(), raw.wire_len());
                let verdict = self.worker.handle_packet(&meta, &raw.bytes, Instant(self.now));
                self.say(|| format!("ICMP unreachable to {side:?} (ATTACKER)  -- {verdict:?}"));
                if verdict == Verdict::Accept {
                    return Err("an ICMP error with a blind guess was let through".into());
                }
                if self.view() != Some(before) {
                    return Err("an ICMP error changed the connection".into());
                }
            }
        }
        Ok(())
    }
}

impl Sum {
    pub fn ended(&mut self, end: End) {
        match end {
            End::Clean => self.clean += 1,
            End::Reset => self.reset += 1,
            _ => {}
        }
    }
}
