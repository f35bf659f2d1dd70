//! `on_excess: syncookies`, in virtual time: which destination is to be protected, and what
//! the kernel opens behind a cookie.

use super::*;
use crate::policy::{EmbryonicLimits, Limit, OnExcess};

/// The number of the server's SYN as the client knows it.
const COOKIE: u32 = 0x1234_5678;

/// How much larger the client's numbers of the server's data are.
const SHIFT: u32 = COOKIE.wrapping_sub(SERVER_ISS);

const FORGED: &str = "203.0.113.9";

fn settings(set: impl FnOnce(&mut EmbryonicLimits)) -> Settings {
    let mut settings = open_settings();
    settings.limits.on_excess = Some(OnExcess::Syncookies);
    set(&mut settings.limits);
    settings
}

/// One half-open connection to a destination, and then cookies.
fn lab() -> Lab {
    Lab::with(settings(|limits| limits.per_destination = Some(1)), Vec::new())
}

/// So many half-open connections to a destination, and then challenges.
fn challenging(most: u32) -> Lab {
    let set = |limits: &mut EmbryonicLimits| {
        limits.per_destination = Some(most);
        limits.on_excess = Some(OnExcess::Challenge);
    };
    Lab::with(settings(set), Vec::new())
}

/// A SYN of somebody else's.
fn stranger(lab: &mut Lab, port: u16) -> Verdict {
    let own = std::mem::replace(&mut lab.client, (FORGED.parse().unwrap(), port));
    let verdict = lab.send(client("S", 0));
    lab.client = own;
    verdict
}

/// The SYN that the kernel sends in the client's name.
fn open(lab: &mut Lab, syn: Say) -> Verdict {
    let mut packet = lab.packet(syn);
    // The cookie stands where a SYN acknowledges nothing.
    packet.bytes[28..32].copy_from_slice(&COOKIE.to_be_bytes());
    let meta = Meta { checksums: Checksums::Trust, ..Lab::meta(From::Client, packet.bytes.len()) };
    let verdict = lab.worker.handle_opening(&meta, &packet.bytes, lab.now);
    lab.check();
    verdict
}

/// What the client says, who acknowledges the kernel's numbers.
fn says(flags: &str, seq: u32, ack: u32) -> Say {
    client(flags, seq).ack(ack.wrapping_add(SHIFT))
}

/// A connection behind a cookie; nobody has said anything yet.
fn connected(lab: &mut Lab) {
    assert_eq!(open(lab, client("S", 0).scale(7).window(500)), Verdict::Accept);
    assert_eq!(lab.phase(), Some(Phase::SynSent));
    lab.pass(&[server("S.", 0).ack(1).scale(7)]);
    assert_eq!(lab.phase(), Some(Phase::Established), "the kernel has finished the handshake");
    lab.transmits();
}

fn shields(lab: &mut Lab) -> Vec<Shield> {
    std::iter::from_fn(|| lab.worker.poll_shield()).collect()
}

/// To whom RSTs go, with what absolute number, and whether the kernel may translate it.
fn rsts(lab: &mut Lab) -> Vec<(From, u32, bool)> {
    let (to_client, to_server) = (lab.tuple(From::Server), lab.tuple(From::Client));
    let rst = |transmit| match transmit {
        Transmit::Reset { tuple, seq, untranslated, .. } if tuple == to_client => {
            Some((From::Client, seq.0, untranslated))
        }
        Transmit::Reset { tuple, seq, untranslated, .. } if tuple == to_server => {
            Some((From::Server, seq.0, untranslated))
        }
        Transmit::Reset { tuple, .. } => panic!("an RST for nobody: {tuple:?}"),
        Transmit::Keepalive { .. }
        | Transmit::Acknowledge { .. }
        | Transmit::Challenge { .. }
        | Transmit::Forget { .. }
        | Transmit::Ask { .. }
        | Transmit::Release { .. } => None,
    };
    lab.transmits().into_iter().filter_map(rst).collect()
}

#[test]
fn passing_the_limit_asks_for_the_destination_to_be_shielded() {
    let mut lab = lab();
    assert_eq!(stranger(&mut lab, 1), Verdict::Accept);
    assert_eq!(shields(&mut lab), []);
    // Until the kernel answers, SYNs are dropped.
    assert_eq!(stranger(&mut lab, 2), Verdict::Drop(DropReason::Limit));
    let shield = Shield {
        address: lab.server.0,
        port: 80,
        in_if: OUTSIDE,
        limit: Limit::PerDestination,
        of_rule: RuleId::DEFAULT,
        rule: RuleId::DEFAULT,
        most: 1,
        calm: Duration::from_secs(60),
        raised: None,
    };
    assert_eq!(shields(&mut lab), [shield]);
    // Not with every packet of a flood; but again, if nothing came of it.
    for port in 3..100 {
        assert_eq!(stranger(&mut lab, port), Verdict::Drop(DropReason::Limit));
    }
    assert_eq!(shields(&mut lab), []);
    lab.seconds(1);
    stranger(&mut lab, 100);
    assert_eq!(shields(&mut lab), [shield]);
    let passed = lab.engine.counters().limits_passed;
    assert_eq!((passed.len(), passed[0].passes.acted), (1, 99));
}

#[test]
fn handshakes_under_way_are_those_that_the_kernel_has_not_opened() {
    let mut lab = Lab::with(settings(|limits| limits.per_destination = Some(2)), Vec::new());
    let place = (lab.server.0, 80);
    let under_way = |lab: &Lab, most| lab.engine.under_way_to(&[place].into(), Duration::ZERO, lab.now, most);
    assert_eq!(stranger(&mut lab, 1), Verdict::Accept);
    let found = under_way(&lab, 8);
    assert_eq!((found.len(), found[0].phase, found[0].rule), (1, Phase::SynSent, RuleId::DEFAULT));
    assert_eq!((found[0].flow.src, found[0].flow.src_port), (FORGED.parse().unwrap(), 1));
    assert_eq!((found[0].flow.dst, found[0].flow.dst_port), place);
    assert_eq!(under_way(&lab, 0), []);
    assert_eq!(lab.engine.under_way_to(&[(lab.server.0, 81)].into(), Duration::ZERO, lab.now, 8), []);
    // The kernel has opened this one.
    assert_eq!(open(&mut lab, client("S", 0)), Verdict::Accept);
    assert_eq!((lab.phase(), under_way(&lab, 8)), (Some(Phase::SynSent), found));
    // One that the server has answered, and one that is finished.
    let mut lab = self::lab();
    lab.pass(&[client("S", 0), server("S.", 0).ack(1)]);
    assert_eq!(under_way(&lab, 8)[0].phase, Phase::SynReceived);
    lab.pass(&[client(".", 1).ack(1)]);
    assert_eq!(under_way(&lab, 8), []);
}

#[test]
fn totals_and_a_rules_own_limits_shield_too() {
    let mut lab = Lab::with(settings(|limits| limits.total = Some(1)), Vec::new());
    stranger(&mut lab, 1);
    stranger(&mut lab, 2);
    assert_eq!(shields(&mut lab)[0].limit, Limit::Total);
    let mut own = rule("web", 1);
    own.limits.total = Some(1);
    own.limits.on_excess = Some(OnExcess::Syncookies);
    own.limits.calm = Some(Duration::from_secs(5));
    let mut lab = Lab::with(open_settings(), vec![own]);
    stranger(&mut lab, 1);
    stranger(&mut lab, 2);
    let shield = shields(&mut lab)[0];
    assert_eq!((shield.of_rule, shield.calm), (RuleId(1), Duration::from_secs(5)));
}

#[test]
fn in_shadow_nothing_is_asked_for() {
    let mut lab = Lab::with(
        settings(|limits| {
            limits.total = Some(1);
            limits.shadow = true;
        }),
        Vec::new(),
    );
    assert_eq!([stranger(&mut lab, 1), stranger(&mut lab, 2)], [Verdict::Accept; 2]);
    assert_eq!(shields(&mut lab), []);
    let told = std::iter::from_fn(|| lab.worker.poll_event()).find_map(|event| match event {
        Event::LimitPassed { answer, shadow, .. } => Some((answer, shadow)),
        Event::Opened { .. }
        | Event::Phase { .. }
        | Event::Stale { .. }
        | Event::Closed(_)
        | Event::Logged { .. }
        | Event::Proven { .. }
        | Event::Refused { .. } => None,
    });
    assert_eq!(told, Some((OnExcess::Syncookies, true)));
}

#[test]
fn what_the_kernel_can_not_answer_for_is_challenged() {
    // It says so itself; for IPv6 alone; for one source; through a port forward.
    let challenged = Verdict::Drop(DropReason::Challenged);
    let mut first = lab();
    first.engine.set_cookies_available(false, true);
    stranger(&mut first, 1);
    assert_eq!(stranger(&mut first, 2), challenged);
    first.engine.set_cookies_available(true, false);
    assert_eq!(stranger(&mut first, 3), Verdict::Drop(DropReason::Limit));
    let mut per_source = Lab::with(settings(|limits| limits.per_source = Some(1)), Vec::new());
    stranger(&mut per_source, 1);
    assert_eq!(stranger(&mut per_source, 2), challenged);
    let mut forward = lab();
    stranger(&mut forward, 1);
    let packet = forward.packet(client("S", 0));
    let meta = Lab::meta(From::Client, packet.bytes.len());
    let verdict = forward.worker.handle_translated(&meta, &packet.bytes, forward.now);
    assert_eq!(verdict, Verdict::Reset(DropReason::Challenged));
    let mut input = lab();
    stranger(&mut input, 1);
    let packet = input.packet(client("S", 0));
    let meta = Meta { hook: Hook::Input, ..Lab::meta(From::Client, packet.bytes.len()) };
    assert_eq!(input.raw(meta, &packet.bytes), challenged);
    for lab in [&mut first, &mut per_source, &mut forward, &mut input] {
        let asked = shields(lab);
        assert!(asked.iter().all(|shield| shield.most == 1 && lab.server.0 == shield.address), "{asked:?}");
    }
}

#[test]
fn challenges_are_raised_while_the_queues_of_syns_overflow() {
    let mut lab = challenging(1);
    stranger(&mut lab, 1);
    stranger(&mut lab, 2);
    assert_eq!(shields(&mut lab), []);
    lab.engine.raise_challenges(Some(0));
    // Whoever comes to us all the same is challenged as ever.
    assert_eq!(stranger(&mut lab, 3), Verdict::Drop(DropReason::Challenged));
    let asked = shields(&mut lab);
    assert!(asked.len() == 1 && asked[0].raised == Some(Raise::QueuesFill), "{asked:?}");
    lab.engine.raise_challenges(None);
    lab.seconds(5);
    stranger(&mut lab, 4);
    assert_eq!(shields(&mut lab), []);
}

#[test]
fn while_queues_are_long_an_eighth_of_a_limit_is_enough_to_ask() {
    let of = |on_excess: OnExcess, shadow| {
        let limits = settings(|limits| {
            limits.per_destination = Some(16);
            limits.per_source = Some(16);
            (limits.on_excess, limits.shadow) = (Some(on_excess), shadow);
        });
        let lab = Lab::with(limits, Vec::new());
        lab.engine.raise_challenges(Some(0));
        lab
    };
    for on_excess in [OnExcess::Syncookies, OnExcess::Challenge] {
        let mut lab = of(on_excess, false);
        for port in 1..=3 {
            assert_eq!(stranger(&mut lab, port), Verdict::Accept);
        }
        assert_eq!(shields(&mut lab), [], "two were there when the third came");
        assert_eq!(stranger(&mut lab, 4), Verdict::Accept, "nobody is turned away for it");
        let asked = shields(&mut lab);
        assert_eq!(asked.len(), 1, "{asked:?}");
        assert_eq!((asked[0].limit, asked[0].raised), (Limit::PerDestination, Some(Raise::QueuesFill)));
        assert_eq!(lab.engine.counters().limits_passed, [], "no limit is passed");
        lab.engine.raise_challenges(None);
        lab.seconds(5);
        stranger(&mut lab, 5);
        assert_eq!(shields(&mut lab), []);
    }
    for (on_excess, shadow) in
        [(OnExcess::Evict, false), (OnExcess::Drop, false), (OnExcess::Syncookies, true)]
    {
        let mut lab = of(on_excess, shadow);
        for port in 1..=8 {
            assert_eq!(stranger(&mut lab, port), Verdict::Accept);
        }
        assert_eq!(shields(&mut lab), [], "{on_excess:?}");
    }
}

#[test]
fn those_who_wait_in_long_queues_are_shared_out_as_those_who_do_not() {
    let limits = settings(|limits| {
        limits.per_destination = Some(80);
        limits.on_excess = Some(OnExcess::Syncookies);
    });
    let flooded = |waiting| {
        let lab = Lab::with(limits.clone(), Vec::new());
        lab.engine.raise_challenges(Some(waiting));
        lab
    };
    let asked_by = |lab: &mut Lab, places: &[u16]| {
        for place in places {
            let port = lab.engine.counters().packets as u16 + 1;
            let usual = std::mem::replace(&mut lab.server.1, *place);
            assert_eq!(stranger(lab, port), Verdict::Accept, "nobody is turned away for it");
            lab.server.1 = usual;
        }
        shields(lab).iter().map(|shield| shield.port).collect::<Vec<_>>()
    };
    let mut lab = flooded(40);
    assert_eq!(asked_by(&mut lab, &[80, 81]), [0; 0], "nothing says yet where those who wait want to go");
    assert_eq!(asked_by(&mut lab, &[80]), [80], "half of 40, and one: past ten");
    assert_eq!(asked_by(&mut flooded(10), &[80, 81, 80]), [0; 0], "half of ten");
    let mut lab = flooded(40);
    assert_eq!(asked_by(&mut lab, &[80; 8]), [80]);
    assert_eq!(asked_by(&mut lab, &[81, 81]), [0; 0], "a ninth of 40");
}

#[test]
fn handshakes_younger_than_asked_for_are_left_out() {
    let mut lab = Lab::with(settings(|limits| limits.per_destination = Some(8)), Vec::new());
    let place = (lab.server.0, 80);
    stranger(&mut lab, 1);
    lab.seconds(1);
    stranger(&mut lab, 2);
    let ports = |lab: &Lab, least| {
        let found = lab.engine.under_way_to(&[place].into(), Duration::from_millis(least), lab.now, 8);
        found.iter().map(|one| one.flow.src_port).collect::<Vec<_>>()
    };
    assert_eq!([ports(&lab, 0), ports(&lab, 500), ports(&lab, 1500)], [vec![1, 2], vec![1], vec![]]);
}

#[test]
fn challenges_are_raised_where_all_who_are_half_open_have_proven_themselves() {
    let mut lab = challenging(2);
    // Whoever finishes a handshake is there.
    lab.handshake();
    lab.client.1 += 1;
    stranger(&mut lab, 1);
    stranger(&mut lab, 2);
    lab.pass(&[client("S", 0)]);
    assert_eq!(shields(&mut lab), [], "a stranger made room, who may not be there at all");
    lab.client.1 += 1;
    lab.pass(&[client("S", 0)]);
    assert_eq!(shields(&mut lab), [], "so did the other");
    let counters = lab.engine.counters();
    lab.client.1 += 1;
    lab.dropped(client("S", 0), DropReason::Limit);
    let asked = shields(&mut lab);
    assert!(asked.len() == 1 && asked[0].raised == Some(Raise::AllProven), "{asked:?}");
    assert_eq!(lab.engine.counters().embryonic, counters.embryonic, "nobody's handshake is ended");
    // Where the kernel can't answer, the stalest must go all the same.
    lab.engine.set_cookies_available(false, false);
    lab.pass(&[client("S", 0)]);
    assert_eq!(shields(&mut lab), []);
}

#[test]
fn a_connection_behind_a_cookie_takes_the_stalest_ones_place_and_both_numbers_are_kept() {
    let mut lab = lab();
    stranger(&mut lab, 1);
    connected(&mut lab);
    assert_eq!(lab.engine.counters().embryonic, 0, "proven by the cookie");
    lab.pass(&[says(".", 1, 1).len(100), server(".", 1).ack(101).len(2000), says(".", 101, 2001)]);
    // In the server's numbers the client acknowledges what was never sent, or long ago.
    for ack in [1_u32, 2001] {
        let before = lab.numbers();
        lab.send(client(".", 101).ack(ack));
        assert_eq!(lab.numbers(), before, "it means nothing");
    }
    // The whole way to the end.
    lab.pass(&[says("F.", 101, 2001), server(".", 2001).ack(102)]);
    assert_eq!(lab.phase(), Some(Phase::HalfClosed));
    lab.pass(&[server("F.", 2001).ack(102), says(".", 102, 2002)]);
    assert_eq!(lab.phase(), Some(Phase::TimeWait));
}

/// While the cookies are on their way, a handshake that is under way must not end for a SYN
/// that is sent again in a second.
#[test]
fn until_the_kernel_answers_nobody_is_displaced_not_even_for_the_proven() {
    let mut lab = Lab::with(settings(|limits| limits.per_destination = Some(2)), Vec::new());
    lab.handshake();
    assert_eq!(lab.engine.proven(lab.now).0, 1);
    assert_eq!([stranger(&mut lab, 1), stranger(&mut lab, 2)], [Verdict::Accept; 2]);
    lab.client.1 = 5001;
    lab.dropped(client("S", 0), DropReason::Limit);
    assert_eq!(lab.engine.counters().embryonic, 2);
    assert_eq!(shields(&mut lab).len(), 1);
    // The first is still served.
    lab.client = (FORGED.parse().unwrap(), 1);
    lab.pass(&[server("S.", 0).ack(1), client(".", 1).ack(1)]);
    assert_eq!(lab.phase(), Some(Phase::Established));
}

/// When the kernel answers, whoever comes behind a cookie takes the place of one that may be
/// forged, though a known client has begun its handshake before that.
#[test]
fn a_handshake_of_a_proven_source_is_not_the_one_that_makes_room() {
    let mut lab = Lab::with(settings(|limits| limits.per_destination = Some(2)), Vec::new());
    lab.handshake();
    lab.client.1 = 5001;
    lab.pass(&[client("S", 0)]);
    assert_eq!(stranger(&mut lab, 1), Verdict::Accept);
    lab.client.1 = 5002;
    connected(&mut lab);
    lab.client.1 = 5001;
    lab.pass(&[server("S.", 0).ack(1), client(".", 1).ack(1)]);
    assert_eq!(lab.phase(), Some(Phase::Established), "though it was the stalest");
    lab.client = (FORGED.parse().unwrap(), 1);
    assert_eq!(lab.phase(), None);
}

#[test]
fn a_silent_connection_behind_a_cookie_is_established_and_has_its_timer() {
    let mut settings = settings(|limits| limits.total = Some(10));
    settings.timers = vec![(crate::conntrack::Timer::Established, Some(Duration::from_secs(100)))];
    let mut lab = Lab::with(settings, Vec::new());
    connected(&mut lab);
    lab.seconds(99);
    assert_eq!(lab.phase(), Some(Phase::Established));
    lab.seconds(2);
    assert_eq!(lab.phase(), None);
    // Each end in its own numbers; the kernel would spoil the client's.
    let (client, server) = (COOKIE.wrapping_add(1), CLIENT_ISS.wrapping_add(1));
    assert_eq!(rsts(&mut lab), [(From::Client, client, true), (From::Server, server, false)]);
}

#[test]
fn kill_sends_rsts_with_the_numbers_that_each_end_knows() {
    let mut lab = lab();
    connected(&mut lab);
    lab.pass(&[says(".", 1, 1).len(50), server(".", 1).ack(51).len(700), says(".", 51, 701)]);
    lab.transmits();
    let flow = lab.flow();
    assert!(lab.worker.kill(&flow, false, lab.now));
    let (client, server) = (COOKIE.wrapping_add(701), CLIENT_ISS.wrapping_add(51));
    assert_eq!(rsts(&mut lab), [(From::Client, client, true), (From::Server, server, false)]);
}

#[test]
fn an_rst_of_the_servers_is_sent_to_the_client_in_its_numbers() {
    let mut lab = lab();
    connected(&mut lab);
    lab.pass(&[says(".", 1, 1).len(50), server(".", 1).ack(51).len(700), says(".", 51, 701)]);
    lab.transmits();
    lab.pass(&[server("R.", 701).ack(51)]);
    assert_eq!(lab.phase(), Some(Phase::Reset));
    assert_eq!(rsts(&mut lab), [(From::Client, COOKIE.wrapping_add(701), true)]);
    // One that refuses the SYN has the right number in the kernel's own eyes.
    let mut lab = super::cookies::lab();
    open(&mut lab, client("S", 0));
    lab.transmits();
    lab.pass(&[server("R.", 0).ack(1)]);
    assert_eq!((lab.phase(), rsts(&mut lab)), (Some(Phase::Reset), Vec::new()));
}

#[test]
fn a_server_that_did_not_take_the_last_ack_gets_it_once_more() {
    let mut lab = lab();
    let syn = client("S", 0).timestamp(40);
    assert_eq!(open(&mut lab, syn), Verdict::Accept);
    lab.pass(&[server("S.", 0).ack(1).timestamp(900)]);
    lab.transmits();
    lab.dropped(server(".", 1).ack(1).timestamp(901), DropReason::AckRepeated);
    let wanted = Transmit::Acknowledge {
        flow: lab.flow(),
        tuple: lab.tuple(From::Client),
        seq: SeqNum(CLIENT_ISS.wrapping_add(1)),
        ack: SeqNum(COOKIE.wrapping_add(1)),
        window: 0xffff,
        timestamps: Some((40, 0)),
    };
    assert_eq!(lab.transmits(), [wanted]);
    lab.pass(&[server(".", 1).ack(1).timestamp(902)]);
    assert_eq!(lab.transmits(), [], "once");
}

#[test]
fn the_kernels_syn_again_changes_nothing() {
    let mut lab = lab();
    assert_eq!(open(&mut lab, client("S", 0)), Verdict::Accept);
    assert_eq!(open(&mut lab, client("S", 0)), Verdict::Accept);
    assert_eq!(lab.engine.counters().embryonic, 1);
    lab.pass(&[server("S.", 0).ack(1), says(".", 1, 1).len(5)]);
    assert_eq!(lab.phase(), Some(Phase::Established));
}

#[test]
fn who_is_refused_behind_a_cookie_is_told_in_its_numbers() {
    let mut own = rule("unwanted", 1);
    own.action = Action::Drop;
    for action in [Action::Drop, Action::Reset] {
        own.action = action;
        let mut lab = Lab::with(settings(|limits| limits.total = Some(5)), vec![own.clone()]);
        assert_eq!(open(&mut lab, client("S", 0)), Verdict::Drop(DropReason::Rule));
        assert_eq!(rsts(&mut lab), [(From::Client, COOKIE.wrapping_add(1), true)]);
        assert_eq!(lab.phase(), None);
    }
}

#[test]
fn a_server_that_never_answers_leaves_no_client_waiting() {
    let mut lab = lab();
    open(&mut lab, client("S", 0));
    lab.seconds(31);
    assert_eq!(lab.phase(), None);
    assert_eq!(rsts(&mut lab), [(From::Client, COOKIE.wrapping_add(1), true)]);
}

#[test]
fn a_connection_of_the_same_addresses_gives_way_and_its_entry_goes() {
    // The client's first SYN was let in, and its next one is answered by the kernel.
    for established in [false, true] {
        let mut lab = lab();
        if established {
            lab.handshake();
        } else {
            lab.pass(&[client("S", 0)]);
        }
        lab.transmits();
        let before = lab.engine.counters().connections;
        assert_eq!(open(&mut lab, client("S", 0)), Verdict::Drop(DropReason::Unexpected));
        assert_eq!(lab.transmits(), [Transmit::Forget { flow: lab.flow() }], "and no RST");
        assert_eq!(lab.engine.counters().connections, before - 1);
        // The kernel sends it again, once the client does.
        connected(&mut lab);
    }
}

#[test]
fn a_connection_met_in_its_middle_asks_for_its_numbers_once() {
    let mut settings = open_settings();
    settings.pickup.grace = Duration::from_secs(10);
    let met = |lab: &mut Lab, say: Say, shift| {
        let packet = lab.packet(say);
        let meta = Lab::meta(say.from, packet.bytes.len());
        let verdict = lab.worker.handle_behind(&meta, &packet.bytes, shift, lab.now);
        lab.check();
        verdict
    };
    for first in [says(".", 500, 900).len(10), server(".", 900).ack(500).len(10)] {
        let mut lab = Lab::with(settings.clone(), Vec::new());
        assert!(matches!(met(&mut lab, first, None), Verdict::Drop(_)));
        assert_eq!((lab.worker.wants_numbers().is_some(), lab.phase()), (true, None));
        let shift = Shift { added: SHIFT, from_client: first.from == From::Client };
        assert_eq!(met(&mut lab, first, Some(shift)), Verdict::Accept);
        let (sent, heard) = if first.from == From::Client { (510, 900) } else { (500, 910) };
        for say in [server(".", heard).ack(sent).len(30), says(".", sent, heard + 30).len(1)] {
            assert_eq!(met(&mut lab, say, None), Verdict::Accept, "{say:?}");
            assert_eq!(lab.worker.wants_numbers(), None);
        }
        let flow = lab.flow();
        assert!(lab.worker.kill(&flow, false, lab.now));
        let to_client = COOKIE.wrapping_add(heard + 30);
        assert!(rsts(&mut lab).contains(&(From::Client, to_client, true)));
    }
}

#[test]
fn keepalives_have_the_numbers_that_the_kernel_translates_right() {
    let mut settings = settings(|limits| limits.total = Some(5));
    settings.on_expire = crate::policy::OnExpire::Probe(Default::default());
    settings.timers = vec![(crate::conntrack::Timer::Established, Some(Duration::from_secs(10)))];
    let mut lab = Lab::with(settings, Vec::new());
    connected(&mut lab);
    lab.pass(&[says(".", 1, 1).len(50), server(".", 1).ack(51).len(700), says(".", 51, 701)]);
    lab.transmits();
    lab.seconds(11);
    let asked: Vec<(FourTuple, u32, u32)> = lab
        .transmits()
        .into_iter()
        .map(|transmit| match transmit {
            Transmit::Keepalive { tuple, keepalive, .. } => (tuple, keepalive.seq.0, keepalive.ack.0),
            other @ (Transmit::Reset { .. }
            | Transmit::Acknowledge { .. }
            | Transmit::Challenge { .. }
            | Transmit::Forget { .. }
            | Transmit::Ask { .. }
            | Transmit::Release { .. }) => panic!("{other:?}"),
        })
        .collect();
    let (opener, other) = (CLIENT_ISS.wrapping_add(51), SERVER_ISS.wrapping_add(701));
    assert_eq!(
        asked,
        [
            (lab.tuple(From::Server), other.wrapping_sub(1), opener),
            (lab.tuple(From::Client), opener.wrapping_sub(1), COOKIE.wrapping_add(701)),
        ]
    );
    // Both answer as they know the numbers.
    lab.dropped(server(".", 701).ack(51), DropReason::KeepaliveAnswer);
    let answer = says(".", 51, 701);
    assert_eq!(lab.send(answer), Verdict::Drop(DropReason::KeepaliveAnswer));
    assert_eq!(lab.phase(), Some(Phase::Established));
}
