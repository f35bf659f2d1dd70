//! Somebody beside the path who knows addresses and ports and guesses the rest.
//!
//! Blind guesses miss (a hit is nothing that a middle box could tell from the
//! truth: the ends would take it too); what aims at the window does so with what
//! RFC 5961 defends: an RST that is not exact, a SYN, a segment whose
//! acknowledgement is wrong.

use halfgate::wire::{Flags, RawPacket, SegmentBuilder, SeqNum, build};

use super::{
    endpoint::{Host, Tcb},
    packet::{Origin, Packet, Side, segment},
    rng::Rng,
};

/// One attempt.
#[derive(Debug)]
pub enum Attempt {
    /// A segment, and whether it aims at the window.
    Segment(Packet, bool),
    /// An ICMP error that quotes a guess, toward this end.
    Icmp(Side, RawPacket),
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

/// The next attempt; `None` when nothing fits.
pub fn attempt(rng: &mut Rng, hosts: &[Host; 2], known: &[SeqNum]) -> Option<Attempt> {
    let side = rng.pick(&Side::BOTH);
    let syn_ack = Flags::SYN.with(Flags::ACK);
    let data = Flags::PSH.with(Flags::ACK);
    let blind = |rng: &mut Rng, flags: Flags, len: u32| {
        let (seq, ack) = (miss(rng, known), miss(rng, known));
        let s = segment(side, flags, seq, ack, rng.number() as u16, len);
        Some(Attempt::Segment(Packet { from: side, origin: Origin::Attacker, segment: s }, false))
    };
    let pair = paired(hosts);
    match rng.range(0, 11) {
        0 => blind(rng, Flags::RST, 0),
        1 => blind(rng, Flags::RST.with(Flags::ACK), 0),
        2 => blind(rng, syn_ack, 0),
        3 => blind(rng, data, 50),
        4 => blind(rng, Flags::ACK, 0),
        5 => blind(rng, Flags::FIN.with(Flags::ACK), 0),
        6 => {
            // Unreachable, about a segment that was never sent.
            let quoted = SegmentBuilder::new(side.tuple()).seq(miss(rng, known)).build();
            let router = std::net::IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 9));
            let code = rng.pick(&[1, 2, 3, 13]);
            Some(Attempt::Icmp(side, build::icmp_error(router, side.tuple().src, 3, code, &quoted.bytes)))
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
                9 => segment(side, Flags::SYN, ahead, SeqNum(0), 1000, 0),
                10 => segment(side, data, ahead, miss(rng, known), 1000, 20),
                _ => segment(side, data, miss(rng, known), sender.rcv, 60_000, 20),
            };
            let aims = aimed <= 9;
            Some(Attempt::Segment(Packet { from: side, origin: Origin::Attacker, segment: s }, aims))
        }
    }
}
