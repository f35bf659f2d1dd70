//! Whatever happens, counts are what a recount gives: `Lab::check` recounts after
//! every packet and every round of timeouts.

use proptest::prelude::*;

use super::*;
use crate::policy::{EmbryonicLimits, OnExcess, OwnPrefix};

/// Something that happens.
#[derive(Clone, Copy, Debug)]
enum Step {
    Say(u8),
    Unreachable(u8),
    Wait(u16),
    Kill,
    Reload(bool, bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0_u8..10).prop_map(Step::Say),
        2 => (0_u8..2).prop_map(Step::Unreachable),
        1 => (0_u16..40).prop_map(Step::Wait),
        1 => Just(Step::Kill),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(evict, drops)| Step::Reload(evict, drops)),
    ]
}

/// The lines of a connection, and what disturbs it.
fn line(number: u8) -> Say {
    match number {
        0 | 1 => client("S", 0),
        2 => server("S.", 0).ack(1),
        3 => client(".", 1).ack(1),
        4 => client("F.", 1).ack(1),
        5 => server("F.", 1).ack(2),
        6 => client("R", 1),
        7 => server("R.", 0).ack(1),
        8 => server("S", 0),
        _ => client("S", 100),
    }
}

fn limited(evict: bool, drops: bool) -> Policy {
    let on_excess = if evict { OnExcess::Evict } else { OnExcess::Drop };
    let global = EmbryonicLimits {
        total: Some(4),
        per_source: Some(2),
        on_excess: Some(on_excess),
        ..EmbryonicLimits::default()
    };
    let mut settings = Settings { max_connections: 8, ..open_settings() };
    settings.limits = global;
    settings.open_limits.per_source = Some(3);
    settings.open_limits.total = evict.then_some(6);
    settings.default = if drops { Action::Drop } else { Action::Accept };
    let mut web = rule("web", 1);
    web.services =
        vec![crate::policy::ServiceKind::Ports(Protocol::TCP, crate::policy::Ports { first: 80, last: 80 })];
    web.limits = EmbryonicLimits {
        per_destination: Some(3),
        source_prefix: OwnPrefix { ipv4: Some(24), ipv6: None },
        ..global
    };
    policy(settings, vec![web])
}

impl Lab {
    fn happens(&mut self, step: Step) {
        match step {
            Step::Say(number) => {
                self.send(line(number));
            }
            Step::Unreachable(number) => {
                let about = if number == 0 { client("S", 0) } else { server("S.", 0).ack(1) };
                let packet = self.packet(about);
                let (to, from) =
                    if number == 0 { (self.client.0, From::Server) } else { (self.server.0, From::Client) };
                let router = "203.0.113.1".parse().unwrap();
                let error = crate::wire::build::icmp_error(router, to, 3, 1, &packet.bytes);
                self.raw(Self::meta(from, error.bytes.len()), &error.bytes);
            }
            Step::Wait(seconds) => self.seconds(seconds.into()),
            Step::Kill => {
                let flow = self.flow();
                self.worker.kill(&flow, false, self.now);
                self.check();
            }
            Step::Reload(evict, drops) => {
                self.engine.install(limited(evict, drops), Existing::Rejudge, &mut self.worker, self.now);
                self.check();
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn counts_are_what_a_recount_gives(
        steps in proptest::collection::vec((0_u8..4, 0_u16..4, any::<bool>(), step()), 1..120)
    ) {
        let mut lab = Lab::at(limited(true, false), "198.51.100.7:4000", "192.0.2.20:80");
        for (source, port, is_web, step) in steps {
            // Two sources of one /24, and two of others.
            let source = [[198, 51, 100, 7], [198, 51, 100, 8], [203, 0, 113, 9], [192, 0, 2, 5]]
                [usize::from(source)];
            lab.client = (source.into(), 4000 + port);
            lab.server.1 = if is_web { 80 } else { 81 };
            lab.happens(step);
            prop_assert!(lab.engine.counters().embryonic <= 4);
            prop_assert!(lab.engine.counters().connections <= 8);
        }
        lab.seconds(8 * 3600);
        let counters = lab.engine.counters();
        prop_assert_eq!((counters.embryonic, counters.uncounted, counters.connections), (0, 0, 0));
        prop_assert_eq!(lab.engine.embryonic.lock().counts().count(), 0, "no scope is left behind");
    }
}
