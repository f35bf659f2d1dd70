//! `on_excess: challenge`, in virtual time: who proves itself and who can't.

use super::*;
use crate::{
    conntrack::{cookie::Cookies, proven::PROVEN_FOR},
    policy::{EmbryonicLimits, Limit, OnExcess},
    wire::{Transport, parse},
};

const FORGED: &str = "203.0.113.9";

/// One half-open connection in all, and then challenges.
fn lab() -> Lab {
    with(|limits| limits.total = Some(1))
}

fn with(set: impl FnOnce(&mut EmbryonicLimits)) -> Lab {
    let mut settings = open_settings();
    settings.limits.on_excess = Some(OnExcess::Challenge);
    set(&mut settings.limits);
    Lab::with(settings, Vec::new())
}

/// Another one takes the only place.
fn fill(lab: &mut Lab) {
    let own = lab.client;
    lab.client = (FORGED.parse().unwrap(), 9);
    lab.pass(&[client("S", 0)]);
    lab.client = own;
}

/// Sends a SYN that is challenged; the challenge, whose addresses are right.
#[track_caller]
fn challenged(lab: &mut Lab, syn: Say) -> (SeqNum, SeqNum) {
    lab.transmits();
    lab.dropped(syn, DropReason::Challenged);
    let transmits = lab.transmits();
    let [Transmit::Challenge { tuple, seq, ack }] = transmits[..] else { panic!("{transmits:?}") };
    assert_eq!(tuple, lab.tuple(From::Server));
    (seq, ack)
}

/// The RST with which a stack answers that acknowledgement, relative to the client.
fn answer(ack: SeqNum) -> Say {
    client("R", ack.0.wrapping_sub(CLIENT_ISS))
}

fn proven(lab: &Lab) -> u32 {
    lab.engine.proven(lab.now).0
}

#[test]
fn a_source_that_answers_gets_in_and_the_limit_still_holds() {
    for mut lab in [lab(), {
        let mut settings = open_settings();
        settings.limits =
            EmbryonicLimits { total: Some(1), on_excess: Some(OnExcess::Challenge), ..Default::default() };
        Lab::at(policy(settings, Vec::new()), "[2001:db8::7]:4000", "[2001:db8:1::20]:80")
    }] {
        let own = lab.client;
        lab.client = ("198.51.100.250".parse().unwrap(), 9);
        let server = lab.server;
        lab.server = ("192.0.2.20".parse().unwrap(), 80);
        lab.pass(&[client("S", 0)]);
        (lab.client, lab.server) = (own, server);
        let (_, ack) = challenged(&mut lab, client("S", 0));
        assert_eq!((lab.engine.counters().challenged, proven(&lab)), (1, 0), "nothing is stored");
        lab.dropped(answer(ack), DropReason::ChallengeAnswer);
        assert_eq!((lab.engine.counters().proofs, proven(&lab)), (1, 1));
        lab.handshake();
        assert_eq!(lab.engine.counters().embryonic, 0, "it took the stalest one's place");
    }
}

#[test]
fn who_can_not_say_the_number_never_gets_in() {
    let mut lab = lab();
    fill(&mut lab);
    let (seq, ack) = challenged(&mut lab, client("S", 0));
    for wrong in [ack.plus(1), ack.minus(1), seq, SeqNum(0)] {
        lab.dropped(answer(wrong), DropReason::OutOfState);
    }
    // The right number, but not as a stack answers an acknowledgement.
    let with_ack = answer(ack).ack(0);
    assert_eq!(
        lab.send(Say { flags: Flags::RST.with(Flags::ACK), ..with_ack }),
        Verdict::Drop(DropReason::OutOfState)
    );
    // From another address, or another port of this one.
    let own = lab.client;
    for other in [("198.51.100.8".parse().unwrap(), own.1), (own.0, own.1 + 1)] {
        lab.client = other;
        lab.dropped(answer(ack), DropReason::OutOfState);
    }
    lab.client = own;
    challenged(&mut lab, client("S", 0));
    assert_eq!((lab.engine.counters().proofs, proven(&lab)), (0, 0));
}

#[test]
fn an_old_answer_and_one_without_a_question_mean_nothing() {
    let mut lab = lab();
    fill(&mut lab);
    let (_, ack) = challenged(&mut lab, client("S", 0));
    lab.advance(Cookies::PERIOD * 2);
    lab.dropped(answer(ack), DropReason::OutOfState);
    // A number that would count, and nobody was challenged for long.
    let (client, port) = lab.client;
    let guess = lab.engine.cookies.challenge(client, port, SeqNum(0), lab.now).unwrap().ack;
    lab.dropped(answer(guess), DropReason::OutOfState);
    assert_eq!(proven(&lab), 0);
}

#[test]
fn a_proof_is_forgotten_in_time() {
    let mut lab = lab();
    fill(&mut lab);
    let (_, ack) = challenged(&mut lab, client("S", 0));
    lab.dropped(answer(ack), DropReason::ChallengeAnswer);
    lab.advance(PROVEN_FOR - Duration::from_millis(1));
    fill(&mut lab);
    lab.client.1 += 1;
    lab.pass(&[client("S", 0)]);
    lab.advance(Duration::from_millis(1));
    lab.client.1 += 1;
    challenged(&mut lab, client("S", 0));
}

#[test]
fn a_finished_handshake_is_a_proof_and_any_other_end_of_it_is_not() {
    let mut lab = lab();
    lab.handshake();
    assert_eq!(proven(&lab), 1);
    fill(&mut lab);
    lab.client.1 += 1;
    lab.pass(&[client("S", 0)]);
    // Another source's handshake ends by an RST of either end.
    for (source, rst) in [(8, client("R", 1)), (9, server("R", 1))] {
        lab.seconds(31);
        lab.client = (IpAddr::from([198, 51, 100, source]), 4000);
        lab.pass(&[client("S", 0), server("S.", 0).ack(1), rst]);
        assert_eq!(proven(&lab), 1);
    }
}

#[test]
fn nobody_passes_a_limit_of_its_own_by_being_there() {
    let mut lab = with(|limits| limits.per_source = Some(3));
    for _ in 0..3 {
        lab.pass(&[client("S", 0)]);
        lab.client.1 += 1;
    }
    let (_, ack) = challenged(&mut lab, client("S", 0));
    lab.dropped(answer(ack), DropReason::ChallengeAnswer);
    for _ in 0..10 {
        lab.pass(&[client("S", 0)]);
        lab.client.1 += 1;
        assert_eq!(lab.engine.counters().embryonic, 3);
    }
    assert_eq!(lab.engine.counters().challenged, 1, "once is enough");
}

#[test]
fn a_limit_that_drops_holds_for_the_proven_too() {
    let mut settings = open_settings();
    settings.limits.total = Some(1);
    settings.limits.on_excess = Some(OnExcess::Challenge);
    let mut own = rule("web", 1);
    own.limits =
        EmbryonicLimits { per_source: Some(1), on_excess: Some(OnExcess::Drop), ..Default::default() };
    let mut lab = Lab::with(settings, vec![own]);
    lab.handshake();
    lab.client.1 += 1;
    lab.pass(&[client("S", 0)]);
    lab.client.1 += 1;
    lab.dropped(client("S", 0), DropReason::Limit);
}

#[test]
fn several_challenges_at_once_end_no_connection() {
    let mut lab = lab();
    fill(&mut lab);
    // A client that repeats its SYN is challenged each time.
    let first = challenged(&mut lab, client("S", 0)).1;
    lab.seconds(9);
    let second = challenged(&mut lab, client("S", 0)).1;
    assert_ne!(first, second, "another period's");
    lab.dropped(answer(first), DropReason::ChallengeAnswer);
    lab.pass(&[client("S", 0)]);
    // The second answer meets its connection, in either phase of the handshake.
    lab.dropped(answer(second), DropReason::ChallengeAnswer);
    assert_eq!(lab.phase(), Some(Phase::SynSent));
    lab.pass(&[server("S.", 0).ack(1)]);
    lab.dropped(answer(second), DropReason::ChallengeAnswer);
    assert_eq!(lab.phase(), Some(Phase::SynReceived));
    lab.pass(&[client(".", 1).ack(1)]);
    assert_eq!(lab.phase(), Some(Phase::Established));
}

#[test]
fn room_that_comes_meanwhile_lets_an_unproven_syn_in() {
    let mut lab = lab();
    fill(&mut lab);
    let ack = challenged(&mut lab, client("S", 0)).1;
    lab.seconds(31);
    // The one before it has run out; what still comes of the challenge is too late.
    lab.pass(&[client("S", 0)]);
    lab.dropped(answer(ack), DropReason::BadRst);
    assert_eq!(lab.phase(), Some(Phase::SynSent));
}

#[test]
fn an_old_connection_of_the_same_ports_is_replaced_and_challenged_like_any() {
    let mut lab = Lab::in_phase(Phase::TimeWait);
    let mut limits = open_settings();
    limits.limits =
        EmbryonicLimits { total: Some(1), on_excess: Some(OnExcess::Challenge), ..Default::default() };
    let (engine, now) = (Arc::clone(&lab.engine), lab.now);
    engine.install(policy(limits, Vec::new()), Existing::Keep, &mut lab.worker, now);
    fill(&mut lab);
    let syn = client("S", 100_000);
    assert_eq!(lab.send(syn), Verdict::Drop(DropReason::Challenged));
    let transmits = lab.transmits();
    let Some(Transmit::Challenge { ack, .. }) = transmits.last() else { panic!("{transmits:?}") };
    lab.dropped(answer(*ack), DropReason::ChallengeAnswer);
    lab.pass(&[syn]);
    assert_eq!(lab.phase(), Some(Phase::SynSent));
}

#[test]
fn data_in_a_syn_wait_for_the_proof() {
    let mut lab = lab();
    fill(&mut lab);
    let syn = client("S", 0).len(500).fast_open();
    let (_, ack) = challenged(&mut lab, syn);
    assert!(!(SeqNum(CLIENT_ISS).before(ack) && ack.before_or_at(SeqNum(CLIENT_ISS).plus(501))));
    lab.dropped(answer(ack), DropReason::ChallengeAnswer);
    lab.pass(&[syn, server("S.", 0).ack(501)]);
}

#[test]
fn in_shadow_nobody_is_challenged() {
    let mut lab = with(|limits| {
        limits.total = Some(1);
        limits.shadow = true;
    });
    fill(&mut lab);
    lab.pass(&[client("S", 0)]);
    assert_eq!(lab.engine.counters().challenged, 0);
    assert_eq!(lab.engine.counters().limits_passed[0].passes, Passes { acted: 0, shadow: 1 });
}

#[test]
fn what_the_gateway_itself_opens_needs_no_proof() {
    let mut lab = lab();
    fill(&mut lab);
    let syn = lab.packet(client("S", 0));
    let meta = Meta { hook: Hook::Output, ..Lab::meta(From::Client, syn.bytes.len()) };
    assert_eq!(lab.raw(meta, &syn.bytes), Verdict::Accept);
}

#[test]
fn events_tell_who_was_challenged_and_who_answered() {
    let mut lab = lab();
    fill(&mut lab);
    while lab.worker.poll_event().is_some() {}
    let flow = lab.flow();
    let ack = challenged(&mut lab, client("S", 0)).1;
    for _ in 0..2 {
        lab.dropped(answer(ack), DropReason::ChallengeAnswer);
    }
    lab.pass(&[client("S", 0)]);
    let told: Vec<Event> = std::iter::from_fn(|| lab.worker.poll_event()).collect();
    let passed = |answer| Event::LimitPassed {
        flow,
        rule: RuleId::DEFAULT,
        limit: Limit::Total,
        of_rule: None,
        answer,
        shadow: false,
    };
    assert_eq!(told[..3], [passed(OnExcess::Challenge), Event::Proven { flow }, passed(OnExcess::Evict),]);
}

#[test]
fn through_a_port_forward_the_kernels_rst_becomes_the_challenge() {
    let mut lab = lab();
    fill(&mut lab);
    let syn = lab.packet(client("S", 0).len(100));
    let meta = Lab::meta(From::Client, syn.bytes.len());
    let verdict = lab.worker.handle_translated(&meta, &syn.bytes, lab.now);
    assert_eq!(verdict, Verdict::Reset(DropReason::Challenged));
    assert_eq!(lab.transmits(), [], "nobody but the kernel knows from where");
    assert_eq!(lab.engine.counters().reset, 0, "nobody is refused");
    // The kernel's RST acknowledges what goes on in its place.
    let made = lab.worker.rewritten().expect("another packet").to_vec();
    let packet = parse(&made, u32::try_from(made.len()).unwrap(), Checksums::Verify).unwrap();
    let Transport::Tcp(segment) = packet.transport else { panic!("not TCP") };
    assert_eq!((segment.flags, segment.payload_len), (Flags::SYN, 0));
    assert_eq!((packet.src, segment.src_port), lab.client);
    assert_eq!((packet.dst, segment.dst_port), lab.server);
    let ack = segment.seq.plus(1);
    // What answers it comes to an address of the gateway's, by a hook of its own.
    let own = lab.server;
    lab.server = ("203.0.113.1".parse().unwrap(), 8080);
    let rst = lab.packet(answer(ack));
    let meta = Meta { hook: Hook::Input, ..Lab::meta(From::Client, rst.bytes.len()) };
    assert_eq!(
        lab.worker.handle_stray(&meta, &rst.bytes, lab.now),
        Verdict::Drop(DropReason::ChallengeAnswer)
    );
    let other = lab.packet(client("R", 77));
    assert_eq!(lab.worker.handle_stray(&meta, &other.bytes, lab.now), Verdict::Accept);
    lab.server = own;
    lab.pass(&[client("S", 0)]);
}

#[test]
fn other_packets_through_a_port_forward_are_judged_as_any() {
    let mut lab = lab();
    for say in [client("S", 0), server("S.", 0).ack(1), client(".", 1).ack(1)] {
        let packet = lab.packet(say);
        let meta = Lab::meta(say.from, packet.bytes.len());
        assert_eq!(lab.worker.handle_translated(&meta, &packet.bytes, lab.now), Verdict::Accept);
        assert_eq!(lab.worker.rewritten(), None);
    }
    let meta = Meta { hook: Hook::Input, ..Lab::meta(From::Client, 3) };
    assert_eq!(lab.worker.handle_stray(&meta, &[1, 2, 3], lab.now), Verdict::Accept);
}
