//! Somebody beside the path who knows addresses and ports and guesses the rest.
//!
//! Blind guesses miss (a hit is nothing that a middle box could tell from the
//! truth: the ends would take it too); what aims at the window does so with what
//! RFC 5961 defends: an RST that is not exact, a SYN, a segment whose
//! acknowledgement is wrong; or what its receiver takes for old: a FIN of another
//! time (RFC 7323 §5), a SYN below what TIME-WAIT remembers (RFC 9293 §3.6.1), data
//! after a FIN.

use halfgate::{
    conntrack::Phase,
    wire::{Flags, RawPacket, Segment, SegmentBuilder, SeqNum, build},
};

use super::{
    endpoint::{Host, Tcb, all},
    packet::{Origin, Packet, Side, segment},
    rng::Rng,
};

/// One attempt.
#[derive(Debug)]
pub enum Attempt {
    /// A segment, and the most that it may do.
    Segment(Packet, Most),
    /// An ICMP error that quotes a guess, toward this end.
    Icmp(Side, RawPacket),
}

/// The most that a segment of the attacker's may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Most {
    /// Start or take back a timer that a sign of life takes back.
    Timer,
    /// Pass, for its receiver to answer.
    Pass,
    /// Be dropped.
    Nothing,
}

/// What the attacker may be lucky about.
#[derive(Clone, Copy, Debug)]
pub struct Known<'a> {
    /// Numbers that a blind guess misses.
    pub numbers: &'a [SeqNum],
    /// The phase that the firewall is in.
    pub phase: Phase,
    /// When all began.
    pub start: u64,
    /// Whether it aims into windows: not where the gateway had to guess them.
    pub aims: bool,
}

/// Numbers nearer to the truth than this are no miss.
const NEAR: u32 = 1 << 27;

fn miss(rng: &mut Rng, truths: &[SeqNum]) -> SeqNum {
    loop {
        let guess = SeqNum(rng.number());
        let near = |truth: &SeqNum| guess.since(*truth).min(truth.since(guess)) < NEAR;
        if !truths.iter().any(near) {
            return guess;
        }
    }
}

fn paired(hosts: &[Host; 2]) -> Option<(&Tcb, &Tcb)> {
    let (a, b) = (hosts[0].tcb.as_ref()?, hosts[1].tcb.as_ref()?);
    (a.is_live() && b.is_live() && a.iss == b.irs && b.iss == a.irs).then_some((a, b))
}

/// What the connection's own end might say to its peer, and never would.
fn outdated(rng: &mut Rng, hosts: &[Host; 2], side: Side, known: Known<'_>) -> Option<(Segment, Most)> {
    let (a, b) = paired(hosts)?;
    let (sender, receiver) = if side == Side::A { (a, b) } else { (b, a) };
    let fin = Flags::FIN.with(Flags::ACK);
    if receiver.fin_received {
        let seen = known.phase == Phase::Closing || (known.phase == Phase::HalfClosed && !receiver.fin_sent);
        let data = Flags::PSH.with(Flags::ACK);
        let s = segment(side, data, receiver.rcv, sender.rcv, 1000, 20);
        return seen.then_some((s, Most::Nothing));
    }
    if rng.percent(30) {
        // Below what is acknowledged a FIN is none that its end has sent.
        let below = sender.una.minus(2 + rng.number() % 60);
        let s = segment(side, fin, below, receiver.una, 1000, 0);
        return (!sender.fin_sent).then_some((s, Most::Timer));
    }
    let ahead = receiver.rcv.plus(rng.number() % 60);
    let end = ahead.plus(1);
    // Where its own octet lies, that octet's acknowledgement would be the FIN's too.
    if !(sender.ts_on && receiver.ts_on) || sender.fin_sent || sender.sent.contains(&end) {
        return None;
    }
    let before = hosts[side as usize].stamp(known.start).wrapping_sub(1 + rng.number() % 1_000_000);
    let mut s = segment(side, fin, ahead, sender.rcv, 1000, 0);
    s.options.timestamps = Some((before, 0));
    // What it reaches may have been sent, so that an answer is not due for a while.
    Some((s, Most::Timer))
}

/// A SYN that is older than the connection that TIME-WAIT remembers.
fn old_syn(rng: &mut Rng, hosts: &[Host; 2], side: Side, known: Known<'_>) -> Option<(Segment, Most)> {
    let last = all(&hosts[side as usize])
        .filter(|one| {
            all(&hosts[side.other() as usize]).any(|other| one.iss == other.irs && other.iss == one.irs)
        })
        .last()?;
    let old = last.nxt.minus(2 + rng.number() % (1 << 30));
    let s = segment(side, Flags::SYN, old, SeqNum(0), 1000, 0);
    (known.phase == Phase::TimeWait && old != last.iss).then_some((s, Most::Pass))
}

/// The next attempt; `None` when nothing fits.
pub fn attempt(rng: &mut Rng, hosts: &[Host; 2], known: Known<'_>) -> Option<Attempt> {
    let side = rng.pick(&Side::BOTH);
    let syn_ack = Flags::SYN.with(Flags::ACK);
    let data = Flags::PSH.with(Flags::ACK);
    let blind = |rng: &mut Rng, flags: Flags, len: u32| {
        let (seq, ack) = (miss(rng, known.numbers), miss(rng, known.numbers));
        let s = segment(side, flags, seq, ack, rng.number() as u16, len);
        Some(Attempt::Segment(Packet { from: side, origin: Origin::Attacker, segment: s }, Most::Pass))
    };
    let pair = paired(hosts);
    match rng.range(0, if known.aims { 13 } else { 6 }) {
        0 => blind(rng, Flags::RST, 0),
        1 => blind(rng, Flags::RST.with(Flags::ACK), 0),
        2 => blind(rng, syn_ack, 0),
        3 => blind(rng, data, 50),
        4 => blind(rng, Flags::ACK, 0),
        5 => blind(rng, Flags::FIN.with(Flags::ACK), 0),
        6 => {
            // Unreachable, about a segment that was never sent.
            let quoted = SegmentBuilder::new(side.tuple()).seq(miss(rng, known.numbers)).build();
            let router = std::net::IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 9));
            let code = rng.pick(&[1, 2, 3, 13]);
            Some(Attempt::Icmp(side, build::icmp_error(router, side.tuple().src, 3, code, &quoted.bytes)))
        }
        other @ 12.. => {
            let old = if other == 12 { outdated } else { old_syn };
            let (s, most) = old(rng, hosts, side, known)?;
            Some(Attempt::Segment(Packet { from: side, origin: Origin::Attacker, segment: s }, most))
        }
        aimed => {
            let (a, b) = pair?;
            let (sender, receiver) = if side == Side::A { (a, b) } else { (b, a) };
            let window = 60_u32;
            // Inside the receiver's window, but neither what it expects nor what was sent.
            let ahead = receiver.rcv.plus(1 + rng.number() % window);
            let s = match aimed {
                7 | 8 => {
                    let flags = rng.pick(&[Flags::RST, Flags::RST.with(Flags::ACK)]);
                    // A hit: what the sender had said up to there may be all that the
                    // firewall and the receiver have seen.
                    if ahead == sender.una || sender.sent.contains(&ahead) {
                        return None;
                    }
                    segment(side, flags, ahead, sender.rcv, 0, 0)
                }
                // Where both have the other's FIN a newer SYN may open anew (RFC 9293 §3.6.1).
                9 if a.fin_received && b.fin_received => return None,
                9 => segment(side, Flags::SYN, ahead, SeqNum(0), 1000, 0),
                10 => segment(side, data, ahead, miss(rng, known.numbers), 1000, 20),
                _ => segment(side, data, miss(rng, known.numbers), sender.rcv, 60_000, 20),
            };
            let most = if aimed <= 9 { Most::Timer } else { Most::Pass };
            Some(Attempt::Segment(Packet { from: side, origin: Origin::Attacker, segment: s }, most))
        }
    }
}
