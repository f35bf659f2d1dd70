//! `on_excess: challenge`: whoever would pass a limit proves first that it is where its
//! SYN says, by answering what only that place can have received.
//!
//! Nothing is stored for a challenge. What a proof does to the limits is said in
//! [`super::admit`]; cookies are made in [`crate::conntrack::cookie`].

use std::{net::IpAddr, sync::atomic::Ordering};

use super::{
    DropReason, Event, Meta, Transmit, Verdict, Worker, context::Context, judge::Arrival, stats::add,
};
use crate::{
    conntrack::{
        Connection, Direction, Flow, Instant, Phase, SourcePrefix,
        cookie::{Challenge, Cookies},
        window::Seen,
    },
    policy::{Hook, Limit, OnExcess, limits::ResolvedLimits},
    wire::{self, Flags, Segment, Transport},
};

impl Worker {
    /// Whether the packet last handled proves that its source is there: it finishes a
    /// handshake, or answers a challenge.
    #[must_use]
    pub const fn is_proof(&self) -> bool {
        self.out.proof
    }

    /// As [`Self::handle_packet`], for a packet whose destination the kernel has
    /// translated (a port forward): where that is a SYN which must be challenged, only
    /// the kernel knows from where the challenge must seem to come. Then the verdict is
    /// `Reset(Challenged)`, and what goes on is [`Self::rewritten`] to a SYN whose RST
    /// acknowledges the cookie: with other control bits that RST is the challenge.
    pub fn handle_translated(&mut self, meta: &Meta, bytes: &[u8], now: Instant) -> Verdict {
        self.out.translated = Some(None);
        let verdict = self.handle_packet(meta, bytes, now);
        if let Some((tuple, ack)) = self.out.translated.take().flatten() {
            wire::opening(tuple, ack.minus(1), None, &mut self.rewritten);
        }
        verdict
    }

    /// Looks whether a packet to the gateway itself, whose hook the rules do not cover,
    /// answers a challenge: what comes back to a port forward that no connection was
    /// made through is not translated. Whatever else it is goes on.
    pub fn handle_stray(&mut self, meta: &Meta, bytes: &[u8], now: Instant) -> Verdict {
        self.rewritten.clear();
        self.out.proof = false;
        let parsed = wire::parse_where(bytes, meta.wire_len, meta.checksums, self.loopback);
        let verdict = match parsed.map(|packet| (packet, packet.transport)) {
            Ok((packet, Transport::Tcp(segment))) => {
                let flow = Flow {
                    protocol: packet.protocol,
                    src: packet.src,
                    src_port: segment.src_port,
                    dst: packet.dst,
                    dst_port: segment.dst_port,
                };
                let is_proof = self.with(now, |context| context.takes_proof(&flow, &segment));
                if is_proof { Verdict::Drop(DropReason::ChallengeAnswer) } else { Verdict::Accept }
            }
            Ok(_) | Err(_) => Verdict::Accept,
        };
        self.stats.count(verdict, meta.wire_len);
        verdict
    }
}

impl Context<'_> {
    /// What happens to this SYN past a limit with this answer. Who has proven itself is
    /// let in, and the stalest of the scope makes room, so that no limit is passed by
    /// those who can prove themselves either; but where the kernel is about to answer for the
    /// destination, it waits for that. What the gateway sends needs no proof, and
    /// what the kernel opens behind a cookie has one. Where the kernel can't answer SYNs,
    /// they are challenged.
    ///
    /// `of_proven`: most of those who would make room have proven themselves too. Then a challenge
    /// tells nobody apart (hosts that exist answer it also where somebody else has sent a SYN
    /// in their name), and the kernel should answer, as where the queues of SYNs overflow.
    pub(super) fn answer_to(
        &self,
        arrival: &Arrival<'_>,
        limit: Limit,
        limits: &ResolvedLimits,
        of_proven: impl FnOnce() -> bool,
    ) -> OnExcess {
        let by_kernel = !limit.is_per_source() && self.may_have_cookies(arrival);
        let answer = match limits.on_excess {
            // Cookies are on their way: nobody's handshake must end for one that can wait.
            OnExcess::Syncookies if by_kernel => OnExcess::Syncookies,
            OnExcess::Challenge
                if by_kernel
                    && self.is_proven(arrival.flow.src)
                    && (self.engine.cookieing.are_raised() || of_proven()) =>
            {
                OnExcess::Syncookies
            }
            OnExcess::Challenge | OnExcess::Syncookies
                if arrival.meta.hook == Hook::Output
                    || self.out.opening
                    || self.is_proven(arrival.flow.src) =>
            {
                OnExcess::Evict
            }
            OnExcess::Syncookies => OnExcess::Challenge,
            OnExcess::Drop | OnExcess::Reset | OnExcess::Evict | OnExcess::Challenge => limits.on_excess,
        };
        if answer == OnExcess::Evict && self.engine.evictions_are_held() {
            add(&self.stats.evictions_held, u64::from(!limits.shadow));
            return OnExcess::Drop;
        }
        answer
    }

    pub(super) fn is_proven(&self, source: IpAddr) -> bool {
        self.engine.proven.lock().contains(one_source(source), self.now)
    }

    /// Challenges whoever sent this SYN, which is dropped.
    pub(super) fn challenge(&mut self, arrival: &Arrival<'_>, syn: &Segment) -> Verdict {
        add(&self.stats.challenged, 1);
        self.engine.challenged_at.store(self.now.0.saturating_add(1), Ordering::Relaxed);
        let Flow { src, src_port, .. } = arrival.flow;
        let tuple = arrival.flow.tuple();
        let challenge = self.engine.cookies.challenge(src, src_port, syn.seq, self.now);
        match (challenge, &mut self.out.translated) {
            (Some(challenge), Some(translated)) => {
                *translated = Some((tuple, challenge.ack));
                return Verdict::Reset(DropReason::Challenged);
            }
            (Some(Challenge { seq, ack }), None) => {
                self.out.transmits.push_back(Transmit::Challenge { tuple: tuple.reversed(), seq, ack });
            }
            (None, _) => {}
        }
        Verdict::Drop(DropReason::Challenged)
    }

    /// Whether this RST answers a challenge. Then its source is proven, and it is for
    /// nobody else.
    pub(super) fn takes_proof(&mut self, flow: &Flow, segment: &Segment) -> bool {
        let is_proof = segment.flags.contains(Flags::RST)
            && !segment.flags.contains(Flags::ACK)
            && self.challenges_are_out()
            && self.engine.cookies.knows(flow.src, flow.src_port, segment.seq, self.now);
        if is_proof {
            self.out.proof = true;
            add(&self.stats.proofs, 1);
            if self.engine.proven.lock().insert(one_source(flow.src), self.now) {
                self.event(Event::Proven { flow: *flow });
            }
        }
        is_proof
    }

    /// Whether there may be an answer to a challenge under way. While there is none,
    /// guesses are worth nothing.
    fn challenges_are_out(&self) -> bool {
        let at = self.engine.challenged_at.load(Ordering::Relaxed);
        let last = at.checked_sub(1).map(Instant);
        last.is_some_and(|last| self.now < last.after(Cookies::PERIOD.saturating_mul(2)))
    }

    /// A handshake is finished: whoever opened it has answered what only it was sent,
    /// and needs no challenge for a while.
    pub(super) fn note_handshake(&mut self, flow: &Flow, connection: &Connection, before: Phase) {
        if before != Phase::SynReceived || !has_answered(connection) {
            return;
        }
        self.out.proof = true;
        if self.ruling.challenges {
            self.engine.proven.lock().insert(one_source(flow.src), self.now);
        }
    }
}

/// Whether both SYNs came by, and the opener has acknowledged the other's.
fn has_answered(connection: &Connection) -> bool {
    let (opener, other) = (connection.sender(Direction::Original), connection.sender(Direction::Reply));
    let is_known = |half: &crate::conntrack::window::Half| {
        half.seen.has(Seen::SYN) && !half.seen.has(Seen::MET) && !half.is_elsewhere()
    };
    match connection.phase {
        Phase::Established | Phase::FinWait => {
            is_known(opener) && is_known(other) && opener.seen.has(Seen::ACK)
        }
        Phase::SynSent
        | Phase::SynReceived
        | Phase::HalfClosed
        | Phase::Closing
        | Phase::TimeWait
        | Phase::Reset
        | Phase::UdpNew
        | Phase::UdpStream
        | Phase::Icmp
        | Phase::Other => false,
    }
}

/// What proves itself: an IPv4 address, an IPv6 /64. A wider `source_prefix` changes
/// nothing here, because nobody can answer for its neighbours.
fn one_source(address: IpAddr) -> IpAddr {
    SourcePrefix::default().source(address)
}
