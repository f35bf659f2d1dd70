//! Laws: nothing makes the compiler panic, and what it calls unreachable is.

use proptest::prelude::*;

use super::*;
use crate::{
    config::reach,
    policy::{Hook, NewFlow},
    wire::Protocol,
};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_text_makes_the_compiler_panic(text in "\\PC{0,200}") {
        let _ = try_compile(&text);
    }

    #[test]
    fn no_cut_or_mixed_file_makes_the_compiler_panic(
        from in 0_usize..4000, len in 0_usize..4000, at in 0_usize..4000, put in "[-a-z0-9:,{}\\[\\]&*! \n#'\"/.%]{0,6}"
    ) {
        let whole = include_str!("../../../rules/home-gateway.yaml");
        let cut: String = whole.chars().skip(from % whole.len()).take(len).collect();
        let _ = try_compile(&cut);
        let at = whole.char_indices().map(|(index, _)| index).nth(at % whole.len()).unwrap_or(0);
        let mut mixed = whole.to_owned();
        mixed.insert_str(at, &put);
        for diagnostic in try_compile(&mixed).err().unwrap_or_default() {
            prop_assert!(diagnostic.line >= 1 && diagnostic.column >= 1);
            prop_assert!(!diagnostic.message.is_empty() && !diagnostic.cure.is_empty());
            let _ = picture(&diagnostic, Some(&mixed), false);
        }
    }

    #[test]
    fn no_value_makes_the_compiler_panic(key in 0_usize..12, value in "[a-z0-9:/.%\\-!* ,\\[\\]{}]{0,30}") {
        let keys = ["name", "from", "to", "service", "action", "log", "timers", "limits", "on_expire", "pickup", "comment", "enabled"];
        let _ = try_compile(&format!("{HEAD}rules:\n  - {{ {}: {value} }}\n", keys[key]));
        let _ = try_compile(&format!("{HEAD}rules:\n  - {}: '{value}'\n", keys[key]));
        let _ = super::super::tests::packet(&value);
    }
}

/// Packets in a small world: two interfaces, addresses of both zones and lists.
fn flows() -> impl Strategy<Value = (Hook, &'static str, &'static str, usize, usize, u16)> {
    let hook = prop_oneof![Just(Hook::Forward), Just(Hook::Input), Just(Hook::Output)];
    let interface = || prop_oneof![Just("eth1"), Just("ppp0"), Just("eth10")];
    (hook, interface(), interface(), 0_usize..6, 0_usize..6, 79_u16..83)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn a_rule_said_to_never_match_never_does(
        first in proptest::collection::vec(0_usize..12, 0..3), second in proptest::collection::vec(0_usize..12, 0..3),
        to_first in proptest::collection::vec(0_usize..12, 0..2), to_second in proptest::collection::vec(0_usize..12, 0..2),
        services in (0_usize..5, 0_usize..5), flows in proptest::collection::vec(flows(), 40),
    ) {
        const TERMS: [&str; 12] = ["lan", "wan", "any-eth", "inside", "partners", "gateway", "not lan", "not wan", "not partners", "10.0.0.0/8", "10.1.0.0/16", "not 10.1.0.0/16"];
        const SERVICES: [&str; 5] = ["any", "tcp", "tcp/80", "tcp/80-81", "udp/80"];
        const ADDRESSES: [&str; 6] = ["10.0.0.1", "10.1.0.1", "203.0.113.1", "192.0.2.1", "2001:db8::1", "10.2.0.1"];
        let terms = |chosen: &[usize]| match chosen {
            [] => "any".to_owned(),
            chosen => format!("[{}]", chosen.iter().map(|&term| TERMS[term]).collect::<Vec<_>>().join(", ")),
        };
        let text = format!("\
version: 1
zones:
  lan: {{ interfaces: [eth1], networks: [10.0.0.0/8] }}
  wan: {{ interfaces: ['ppp*'] }}
  any-eth: {{ interfaces: ['eth*'] }}
  inside: {{ networks: [10.0.0.0/9, 10.128.0.0/9] }}
lists: {{ partners: [203.0.113.0/24, 10.1.0.0/16] }}
hooks: [forward, input, output]
rules:
  - {{ name: a, from: {}, to: {}, service: {}, action: drop }}
  - {{ name: b, from: {}, to: {}, service: {}, action: drop }}
", terms(&first), terms(&to_first), SERVICES[services.0], terms(&second), terms(&to_second), SERVICES[services.1]);
        let (policy, shadowed) = match try_compile(&text) {
            Ok(compiled) => {
                let shadowed = compiled.warnings.iter().any(|warning| warning.message.contains("already takes"));
                (Some(compiled.policy), shadowed)
            }
            // Impossible rules: the other one is judged alone below.
            Err(diagnostics) => {
                prop_assert!(diagnostics.iter().all(|diagnostic| diagnostic.message.contains("never matches")), "{}", lines(&diagnostics));
                (None, false)
            }
        };
        let Some(policy) = policy else { return Ok(()) };
        let covers = reach::covers(&policy.rules[0], &policy.rules[1], &policy.zones);
        prop_assert_eq!(shadowed, covers, "looking at few rules finds what looking at all does: {}", text);
        for (hook, in_if, out_if, src, dst, port) in flows {
            let (src, dst) = (ADDRESSES[src].parse().unwrap(), ADDRESSES[dst].parse().unwrap());
            let flow = NewFlow {
                hook,
                from_zones: policy.zones_of((hook != Hook::Output).then_some(in_if), src),
                to_zones: policy.zones_of((hook != Hook::Input).then_some(out_if), dst),
                src,
                dst,
                protocol: if port == 82 { Protocol::UDP } else { Protocol::TCP },
                src_port: 4000,
                dst_port: if port == 82 { 80 } else { port },
                icmp: None,
            };
            let found = policy.first_match(&flow).map(|rule| rule.name.to_string());
            prop_assert!(!shadowed || found.as_deref() != Some("b"), "{text}\n{flow:?}");
        }
    }
}

/// Every rule is looked at, not only those of a short file.
#[test]
fn a_hidden_rule_is_found_among_thousands() {
    let rule = |n: u32| {
        let host = std::net::Ipv4Addr::from(0x0a00_0000 + n);
        format!(
            "  - {{ name: r{n}, from: [lan, big], to: {host}, service: tcp/{}, action: accept }}\n",
            1 + n
        )
    };
    let rules: String = (0..5000).map(rule).collect();
    let text = format!(
        "version: 1\nhooks: [forward, input]\nzones: {{ lan: {{ interfaces: [eth1] }} }}\nlists: {{ big: {{ file: big }} }}\nrules:\n{rules}  \
         - {{ name: hidden, from: lan, to: 10.0.18.52, service: tcp/4661, action: drop }}\n"
    );
    let list: String = (0..2000).map(|n| format!("100.{}.{}.0/25\n", n / 256, n % 256)).collect();
    let compiled = crate::config::compile("t", &text, &mut |_| Ok(list.clone()), None).unwrap();
    let told: Vec<String> = compiled.warnings.iter().map(|warning| warning.message.clone()).collect();
    assert_eq!(told, ["never matches: rule r4660 on line 4666 already takes all of it"]);
    let bytes = compiled.policy.classifier_bytes();
    assert!(bytes < 2 << 20, "5,000 rules and a list of 2,000 networks take {bytes} octets");
}
