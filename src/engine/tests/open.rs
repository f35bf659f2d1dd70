//! Limits of open connections, and whom the kernel is to block.

use super::*;
use crate::policy::{EmbryonicLimits, Limit, LiveLimit, NetworkSet, OnExcess, OpenLimits, OwnPrefix};

fn limited(set: impl FnOnce(&mut OpenLimits)) -> Lab {
    let mut settings = open_settings();
    set(&mut settings.open_limits);
    Lab::with(settings, Vec::new())
}

fn per_source(most: u32) -> Lab {
    limited(|open| open.per_source = Some(most))
}

fn blocking(most: u32) -> Lab {
    limited(|open| {
        open.per_source = Some(most);
        open.block = Some(Duration::from_secs(600));
    })
}

impl Lab {
    fn from(&mut self, address: &str, port: u16) -> &mut Self {
        self.client = (address.parse().unwrap(), port);
        self
    }

    /// How often `per_source` was passed: and acted on, in shadow.
    fn passes(&self) -> (u64, u64) {
        let all = self.engine.counters().limits_passed;
        let passed = all.iter().find(|passed| passed.limit == Limit::OpenPerSource);
        passed.map_or((0, 0), |passed| (passed.passes.acted, passed.passes.shadow))
    }

    fn blocks(&mut self) -> Vec<(String, u8, u64)> {
        std::iter::from_fn(|| self.worker.poll_block())
            .map(|block| (block.source.to_string(), block.prefix, block.time.as_secs()))
            .collect()
    }

    /// A handshake whose last packet is refused.
    #[track_caller]
    fn one_too_many(&mut self, limit: Limit) {
        self.pass(&[client("S", 0), server("S.", 0).ack(1)]);
        self.closed();
        self.transmits();
        assert_eq!(self.send(client(".", 1).ack(1)), Verdict::Drop(DropReason::Limit));
        assert_eq!(self.phase(), None);
        assert_eq!(self.resets(), [(From::Client, 1, None), (From::Server, 1, None)], "both are told");
        assert_eq!(self.closed(), [CloseReason::TooMany(limit)]);
    }
}

#[test]
fn past_the_limit_new_ones_are_refused_and_the_open_ones_stay() {
    for (on_excess, verdict) in [
        (None, Verdict::Drop(DropReason::Limit)),
        (Some(OnExcess::Drop), Verdict::Drop(DropReason::Limit)),
        (Some(OnExcess::Reset), Verdict::Reset(DropReason::Limit)),
    ] {
        let mut lab = limited(|open| {
            open.per_source = Some(2);
            open.on_excess = on_excess;
        });
        for port in 1..=2 {
            lab.from("198.51.100.7", port).handshake();
        }
        assert_eq!(lab.from("198.51.100.7", 3).send(client("S", 0)), verdict);
        lab.from("198.51.100.8", 3).handshake();
        lab.from("198.51.100.7", 1).pass(&[client("P.", 1).ack(1).len(10)]);
        assert_eq!(lab.blocks(), [], "nobody asked for that");
        assert_eq!(lab.passes(), (1, 0));
    }
}

/// Half-open connections that complete when the limit is reached meanwhile.
#[test]
fn the_limit_is_not_passed_by_handshakes_side_by_side() {
    let mut lab = per_source(3);
    for port in 1..=10 {
        lab.from("198.51.100.7", port).pass(&[client("S", 0), server("S.", 0).ack(1)]);
    }
    for port in 1..=3 {
        lab.from("198.51.100.7", port).pass(&[client(".", 1).ack(1)]);
    }
    for port in 4..=10 {
        lab.from("198.51.100.7", port).dropped(client(".", 1).ack(1), DropReason::Limit);
        assert_eq!(lab.phase(), None);
    }
    assert_eq!(lab.engine.counters().connections, 3);
}

#[test]
fn every_way_out_gives_the_count_back() {
    type WayOut = fn(&mut Lab);
    let ways: [(&str, WayOut); 6] = [
        ("rst", |lab| lab.pass(&[client("R", 1)])),
        ("finished", |lab| {
            lab.pass(&[client("F.", 1).ack(1), server("F.", 1).ack(2), client(".", 2).ack(2)]);
        }),
        ("expiry", |lab| lab.seconds(7441)),
        ("kill", |lab| {
            let flow = lab.flow();
            assert!(lab.worker.kill(&flow, false, lab.now));
        }),
        ("the rules", |lab| {
            let mut settings = lab.engine.policy().settings.clone();
            settings.default = Action::Drop;
            let closed = policy(settings.clone(), Vec::new());
            lab.engine.install(closed, Existing::Rejudge, &mut lab.worker, lab.now);
            settings.default = Action::Accept;
            lab.engine.install(policy(settings, Vec::new()), Existing::Keep, &mut lab.worker, lab.now);
        }),
        ("both ends have forgotten it", |lab| {
            lab.pass(&[client("S", 5000), server("S.", 7000).ack(5001)]);
            assert_eq!(lab.phase(), Some(Phase::SynReceived));
            let flow = lab.flow();
            assert!(lab.worker.kill(&flow, false, lab.now));
        }),
    ];
    for (name, way) in ways {
        let mut lab = limited(|open| {
            open.total = Some(1);
            open.per_source = Some(1);
            open.per_destination = Some(1);
        });
        lab.handshake();
        lab.client.1 += 1;
        lab.dropped(client("S", 0), DropReason::Limit);
        lab.client.1 -= 1;
        way(&mut lab);
        lab.check();
        assert_eq!(lab.engine.open_total(None), 0, "{name}");
        lab.client.1 += 1;
        lab.handshake();
    }
}

/// Closing ones are open until both FINs are acknowledged: they still take a place at
/// the server.
#[test]
fn what_is_closing_still_counts() {
    for phase in [Phase::FinWait, Phase::HalfClosed, Phase::Closing] {
        let mut lab = per_source(1);
        lab.bring_to(phase);
        lab.client.1 += 1;
        lab.dropped(client("S", 0), DropReason::Limit);
    }
}

#[test]
fn a_rules_own_and_the_global_ones_both_hold() {
    let mut web = rule("web", 1);
    web.services =
        vec![crate::policy::ServiceKind::Ports(Protocol::TCP, crate::policy::Ports { first: 80, last: 80 })];
    web.open_limits.total = Some(2);
    let mut settings = open_settings();
    settings.open_limits.total = Some(3);
    let mut lab = Lab::with(settings, vec![web, rule("rest", 2)]);
    for port in 1..=2 {
        lab.from("198.51.100.7", port).handshake();
    }
    lab.from("198.51.100.7", 3).dropped(client("S", 0), DropReason::Limit);
    lab.server.1 = 22;
    lab.handshake();
    lab.from("198.51.100.7", 4).dropped(client("S", 0), DropReason::Limit);
    assert_eq!((lab.engine.open_total(None), lab.engine.open_total(Some(RuleId(1)))), (3, 2));
}

/// With `block` the SYN passes, because anybody can forge one; the source that completes
/// its handshake is blocked.
#[test]
fn who_has_proven_itself_is_blocked() {
    let mut lab = blocking(2);
    for port in 1..=2 {
        lab.from("198.51.100.7", port).handshake();
    }
    lab.from("198.51.100.7", 3).one_too_many(Limit::OpenPerSource);
    assert_eq!(lab.blocks(), [("198.51.100.7".to_owned(), 32, 600)]);
    let mut lab = blocking(1);
    lab.server.0 = "2001:db8:9::1".parse().unwrap();
    lab.from("2001:db8:1:2::7", 1).handshake();
    lab.from("2001:db8:1:2::8", 2).one_too_many(Limit::OpenPerSource);
    assert_eq!(lab.blocks(), [("2001:db8:1:2::".to_owned(), 64, 600)], "what counts as one source");
}

/// Whatever is sent in somebody's name without hearing what it is answered, never
/// blocks it: SYNs, guessed ACKs, RSTs, mid-stream segments.
#[test]
fn nothing_forged_blocks_anybody() {
    let mut lab = blocking(2);
    for port in 1..=2 {
        lab.from("198.51.100.7", port).handshake();
    }
    for port in 3..200 {
        lab.from("198.51.100.7", port).pass(&[client("S", 0), server("S.", 0).ack(1)]);
        // What the server's number is can only be guessed.
        for guess in [0, 2, 1000, 1 << 31, u32::MAX - 3] {
            lab.send(client(".", 1).ack(guess));
            lab.send(client("F.", 1).ack(guess));
        }
        lab.send(client("S", 77));
        lab.send(client("R", 5));
        lab.send(client("P.", 90_000).ack(90_000).len(10));
    }
    assert_eq!(lab.blocks(), []);
    assert_eq!(lab.engine.open_total(None), 0, "no total is asked for");
    lab.from("198.51.100.7", 1).pass(&[client("P.", 1).ack(1).len(10)]);
}

/// Where one way may be unseen nothing is proven, so that nobody is blocked there.
#[test]
fn nobody_is_blocked_where_one_way_may_be_unseen() {
    let mut settings = open_settings();
    settings.pickup.mode = crate::policy::PickupMode::Loose;
    settings.open_limits.per_source = Some(1);
    settings.open_limits.block = Some(Duration::from_secs(600));
    let mut lab = Lab::with(settings, Vec::new());
    lab.handshake();
    for port in 1..20 {
        lab.client.1 = port;
        lab.dropped(client("S", 0), DropReason::Limit);
    }
    assert_eq!(lab.blocks(), []);
}

#[test]
fn an_allow_list_is_limited_and_never_blocked() {
    let mut lab = limited(|open| {
        open.per_source = Some(1);
        open.block = Some(Duration::from_secs(600));
        let partners = vec!["198.51.100.0/28".parse().unwrap()];
        open.allow = vec![Arc::new(NetworkSet::new(partners))];
    });
    lab.from("198.51.100.7", 1).handshake();
    lab.from("198.51.100.7", 2).dropped(client("S", 0), DropReason::Limit);
    assert_eq!(lab.blocks(), []);
    lab.from("198.51.100.77", 1).handshake();
    lab.from("198.51.100.77", 2).one_too_many(Limit::OpenPerSource);
    assert_eq!(lab.blocks(), [("198.51.100.77".to_owned(), 32, 600)]);
}

/// Who comes last past another limit is not to blame.
#[test]
fn other_limits_block_nobody() {
    let mut lab = limited(|open| {
        open.total = Some(1);
        open.per_destination = Some(1);
        open.per_source = Some(5);
        open.block = Some(Duration::from_secs(600));
    });
    lab.from("198.51.100.7", 1).handshake();
    lab.from("198.51.100.8", 1).dropped(client("S", 0), DropReason::Limit);
    assert_eq!(lab.blocks(), []);
}

#[test]
fn shadow_counts_and_reports_but_does_not_act() {
    let mut lab = limited(|open| {
        open.per_source = Some(1);
        open.block = Some(Duration::from_secs(600));
        open.shadow = true;
    });
    for port in 1..=3 {
        lab.from("198.51.100.7", port).handshake();
    }
    assert_eq!(lab.blocks(), []);
    assert_eq!(lab.passes(), (0, 4), "by two SYNs, and by two handshakes");
}

/// A limit set live finds the connections that there are, and nothing is counted while
/// there is none.
#[test]
fn a_limit_set_live_finds_true_numbers() {
    let mut lab = Lab::new();
    for port in 1..=3 {
        lab.from("198.51.100.7", port).handshake();
    }
    let set = |lab: &Lab, limit, value| {
        let mut live = lab.engine.live();
        live.set_limit(LiveLimit { limit, rule: None, value, until: None }).unwrap();
        lab.engine.set_live(live);
        lab.check();
    };
    assert_eq!(lab.engine.open_total(None), 0);
    set(&lab, Limit::OpenTotal, Some(3));
    assert_eq!(lab.engine.open_total(None), 3);
    lab.from("198.51.100.7", 4).dropped(client("S", 0), DropReason::Limit);
    set(&lab, Limit::OpenPerSource, Some(9));
    set(&lab, Limit::OpenTotal, Some(5));
    lab.handshake();
    set(&lab, Limit::OpenTotal, None);
    lab.from("198.51.100.7", 5).handshake();
    lab.from("198.51.100.7", 1).pass(&[client("R", 1)]);
    set(&lab, Limit::OpenPerSource, None);
    assert_eq!(lab.engine.open_total(None), 0);
    set(&lab, Limit::OpenTotal, Some(100));
    assert_eq!(lab.engine.open_total(None), 4);
}

/// A reload that changes what is one source counts again by it.
#[test]
fn a_reload_that_changes_the_prefix_counts_again() {
    let mut lab = per_source(2);
    for (address, port) in [("198.51.100.7", 1), ("198.51.100.8", 1)] {
        lab.from(address, port).handshake();
    }
    let mut settings = lab.engine.policy().settings.clone();
    settings.limits = EmbryonicLimits {
        source_prefix: OwnPrefix { ipv4: Some(24), ipv6: None },
        ..EmbryonicLimits::default()
    };
    lab.engine.install(policy(settings, Vec::new()), Existing::Keep, &mut lab.worker, lab.now);
    lab.check();
    lab.from("198.51.100.9", 1).dropped(client("S", 0), DropReason::Limit);
    lab.from("198.51.100.7", 1).pass(&[client("R", 1)]);
    lab.from("198.51.100.9", 1).handshake();
}
