//! `explain`: what would happen to a packet, and why. Works on a rule set
//! alone; a running daemon adds its connections and counts.

use std::net::{IpAddr, SocketAddr};

use super::{
    events,
    live::limit_row,
    protocol::{Explanation, RuleStep, TimerRow},
};
use crate::{
    conntrack::{Flow, Timer},
    policy::{
        Action, FastOpen, Hook, Inspect, Limit, LimitTable, Live, NewFlow, Origin, PickupMode, Policy, Rule,
        RuleId, Selector, TimerTable, ZoneBits,
    },
    sys::table::{Covered, Exempt, Looks, Share},
    wire::{Flags, Protocol},
};

/// A packet as typed: `tcp 192.0.2.1:4000 > 192.168.10.20:443 S`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Question {
    /// Its addresses.
    pub flow: Flow,
    /// TCP flags; SYN if none are given.
    pub flags: Flags,
    /// ICMP type and code.
    pub icmp: Option<(u8, u8)>,
    /// Interface it comes in by.
    pub in_if: Option<String>,
    /// Interface it leaves by.
    pub out_if: Option<String>,
}

/// In the place of a rule's name, for what passes whatever the rules say.
const BUILT_IN: &str = "built-in";

/// What a packet looks like, for errors.
const SHAPE: &str = "write it like \"tcp 192.0.2.1:4000 > 192.168.10.20:443 S\", \
\"udp [2001:db8::1]:4000 > [2001:db8::2]:53\" or \"icmp 192.0.2.1 > 192.168.10.20 echo-request\"";

impl Question {
    /// Reads a packet.
    ///
    /// # Errors
    /// A sentence that says what a packet looks like.
    pub fn parse(text: &str, in_if: Option<String>, out_if: Option<String>) -> Result<Self, String> {
        let wrong = |what: &str| format!("{what}: {SHAPE}");
        let words: Vec<&str> = text.split_whitespace().filter(|word| *word != ">" && *word != "->").collect();
        let [proto, src, dst, ref rest @ ..] = *words.as_slice() else {
            return Err(wrong(&format!("\"{text}\" is not a packet")));
        };
        let protocol = match proto {
            "tcp" => Protocol::TCP,
            "udp" => Protocol::UDP,
            "icmp" => Protocol::ICMP,
            "icmpv6" => Protocol::ICMPV6,
            number => Protocol(number.parse().map_err(|_| wrong(&format!("\"{proto}\" is no protocol")))?),
        };
        let ports = protocol == Protocol::TCP || protocol == Protocol::UDP;
        let end = |text: &str| if ports { with_port(text) } else { without_port(text) };
        let ((src, src_port), (dst, dst_port)) = (end(src)?, end(dst)?);
        if src.is_ipv4() != dst.is_ipv4() {
            return Err(wrong("the addresses are of two families"));
        }
        if protocol == Protocol::ICMP && src.is_ipv6() || protocol == Protocol::ICMPV6 && src.is_ipv4() {
            return Err(wrong("icmp goes with IPv4 addresses, icmpv6 with IPv6 addresses"));
        }
        let (mut flags, mut icmp) = (Flags::SYN, None);
        match (protocol, rest) {
            (Protocol::TCP, [letters]) => flags = tcp_flags(letters)?,
            (Protocol::ICMP | Protocol::ICMPV6, [kind]) => icmp = Some(icmp_kind(kind, protocol)?),
            (Protocol::ICMP, []) => icmp = Some((8, 0)),
            (Protocol::ICMPV6, []) => icmp = Some((128, 0)),
            (_, []) => {}
            (_, [word, ..]) => return Err(wrong(&format!("\"{word}\" does not belong there"))),
        }
        if in_if.is_none() && out_if.is_none() {
            return Err(
                "say where the packet comes in and where it leaves: --in ppp0 --out eth1; only --in for a \
                        packet to the gateway itself, only --out for one of its own"
                    .to_owned(),
            );
        }
        Ok(Self { flow: Flow { protocol, src, src_port, dst, dst_port }, flags, icmp, in_if, out_if })
    }

    /// Where it would be diverted: a packet to the gateway has no outgoing
    /// interface, one of the gateway no incoming one.
    #[must_use]
    pub fn hook(&self) -> Hook {
        match (&self.in_if, &self.out_if) {
            (Some(_), Some(_)) => Hook::Forward,
            (Some(_), None) => Hook::Input,
            (None, Some(_) | None) => Hook::Output,
        }
    }
}

fn with_port(text: &str) -> Result<(IpAddr, u16), String> {
    let end: SocketAddr = text.parse().map_err(|_| {
        format!("\"{text}\" is not an address with a port: write 192.0.2.1:80 or [2001:db8::1]:80")
    })?;
    Ok((end.ip(), end.port()))
}

fn without_port(text: &str) -> Result<(IpAddr, u16), String> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address =
        bare.parse().map_err(|_| format!("\"{text}\" is not an address: this protocol has no ports"))?;
    Ok((address, 0))
}

fn tcp_flags(letters: &str) -> Result<Flags, String> {
    letters.chars().try_fold(Flags::default(), |flags, letter| {
        Ok(flags.with(match letter {
            'S' => Flags::SYN,
            'A' | '.' => Flags::ACK,
            'F' => Flags::FIN,
            'R' => Flags::RST,
            'P' => Flags::PSH,
            'U' => Flags::URG,
            _ => return Err(format!("\"{letters}\" are no TCP flags: use the letters S A F R P U")),
        }))
    })
}

fn icmp_kind(word: &str, protocol: Protocol) -> Result<(u8, u8), String> {
    let six = protocol == Protocol::ICMPV6;
    match word {
        "echo-request" => return Ok(if six { (128, 0) } else { (8, 0) }),
        "echo-reply" => return Ok(if six { (129, 0) } else { (0, 0) }),
        _ => {}
    }
    let (kind, code) = word.split_once('/').unwrap_or((word, "0"));
    let wrong =
        |_| format!("\"{word}\" is no ICMP type: write echo-request, echo-reply, or numbers like 3/1");
    Ok((kind.parse().map_err(wrong)?, code.parse().map_err(wrong)?))
}

/// Explains a packet by the rules and live changes alone.
#[must_use]
pub fn explain(question: &Question, policy: &Policy, live: &Live) -> Explanation {
    let hook = question.hook();
    let flow = &question.flow;
    let new = NewFlow {
        hook,
        from_zones: policy.zones_of(question.in_if.as_deref(), flow.src),
        to_zones: policy.zones_of(question.out_if.as_deref(), flow.dst),
        src: flow.src,
        dst: flow.dst,
        protocol: flow.protocol,
        src_port: flow.src_port,
        dst_port: flow.dst_port,
        icmp: question.icmp,
    };
    let matched = policy.first_match(&new);
    let (rule, action) =
        matched.map_or((RuleId::DEFAULT, policy.settings.default), |rule| (rule.id, rule.action));
    let mut told = Explanation {
        packet: packet_text(question),
        hook: hook_name(hook).to_owned(),
        diverted: is_diverted(policy, hook),
        from_zones: zone_names(policy, new.from_zones),
        to_zones: zone_names(policy, new.to_zones),
        rules: steps(policy, &new, matched),
        rule: policy.name(rule).to_owned(),
        verdict: events::action_name(action).to_owned(),
        because: match matched {
            Some(rule) => format!("rule {} ({}) is the first that matches", rule.name, rule.place),
            None => "no rule matches, so the default action decides".to_owned(),
        },
        ..Explanation::default()
    };
    if !told.diverted {
        told.verdict = "accept".to_owned();
        told.because = format!(
            "the hook {} is not diverted (hooks: in the rule file), so halfgate never sees this packet",
            told.hook
        );
    } else if let Some(why) = built_in(question, hook, &mut told.notes) {
        told.verdict = "accept".to_owned();
        told.rule = BUILT_IN.to_owned();
        told.because = format!("{why} always passes on {}", told.hook);
    } else if flow.protocol == Protocol::TCP && !is_first(question.flags) {
        mid_stream(question, policy, matched, action, &mut told);
    } else if action == Action::Reset && flow.protocol != Protocol::TCP {
        told.notes.push("not TCP: the answer is ICMP administratively prohibited".to_owned());
    }
    told.notes.extend(note_of_share(hook, Share::of(policy.settings.hooks, hook)));
    if told.verdict == "accept" && told.diverted && told.rule != BUILT_IN {
        let timers = TimerTable::resolve(policy, live);
        told.timers = timer_rows(policy, live, &timers, rule, flow.protocol);
        told.inspect = Some(matched.map_or(Inspect::Lifecycle, |rule| rule.inspect).name().to_owned());
        if flow.protocol == Protocol::TCP {
            told.on_expire = Some(on_expire(policy, rule));
            let fast_open = matched.map_or(FastOpen::Allow, |rule| rule.fast_open);
            told.fast_open = Some(fast_open.name().to_owned());
            let limits = LimitTable::resolve(policy, live);
            for limit in Limit::ALL {
                let global = limits.global();
                if global.limit(limit).value.is_some() {
                    told.limits.push(limit_row(&global, limit, None));
                }
                if let Some(own) = limits.of_rule(rule).filter(|own| own.limit(limit).value.is_some()) {
                    told.limits.push(limit_row(&own, limit, Some(policy.name(rule))));
                }
            }
        }
    }
    told
}

/// How a rule's connections end, and whose word that is.
#[must_use]
pub fn on_expire(policy: &Policy, rule: RuleId) -> String {
    let own = policy.rule(rule).and_then(|rule| rule.on_expire);
    let whose = if own.is_some() { "rule" } else { "file" };
    format!("{} ({whose})", own.unwrap_or(policy.settings.on_expire))
}

/// A SYN without ACK opens a connection.
fn is_first(flags: Flags) -> bool {
    flags.contains(Flags::SYN) && !flags.intersects(Flags::ACK.with(Flags::RST).with(Flags::FIN))
}

/// A TCP packet that opens nothing, and belongs to no connection.
fn mid_stream(
    question: &Question,
    policy: &Policy,
    matched: Option<&Rule>,
    action: Action,
    told: &mut Explanation,
) {
    let mode = matched.and_then(|rule| rule.pickup).unwrap_or(policy.settings.pickup.mode);
    told.notes.push(
        "this packet opens no connection: what follows holds if none is tracked; it is picked up if the kernel's \
         conntrack knows the connection, or during the grace after the start"
            .to_owned(),
    );
    let (verdict, because) = match (action, mode) {
        (Action::Accept, PickupMode::Loose) => ("accept", "pickup is loose and the rule accepts"),
        (Action::Accept, PickupMode::Strict) if question.flags.contains(Flags::RST) => {
            ("drop", "pickup is strict, and an RST is never answered with RST")
        }
        (Action::Accept, PickupMode::Strict) => (
            "reset",
            "pickup is strict: a rule would accept its SYN, so the sender learns that there is no connection",
        ),
        (Action::Drop | Action::Reset, _) => ("drop", "no rule would accept its SYN, so there is no answer"),
    };
    told.verdict = verdict.to_owned();
    told.because = format!("{because} ({})", told.because);
}

/// What passes on a hook whatever the rules say, and notes about what may.
fn built_in(question: &Question, hook: Hook, notes: &mut Vec<String>) -> Option<&'static str> {
    let flow = &question.flow;
    let looks = Looks {
        hook,
        interface: question.in_if.as_deref().or(question.out_if.as_deref()),
        protocol: flow.protocol,
        dst: flow.dst,
        ports: (flow.src_port, flow.dst_port),
        flags: question.flags,
        icmp: question.icmp.map(|(kind, _)| kind),
    };
    for exempt in Exempt::on(hook) {
        match exempt.covers(&looks) {
            Covered::Yes => return Some(exempt.words()),
            Covered::Perhaps => notes.push(format!("{} passes, whatever the rules say", exempt.words())),
            Covered::No => {}
        }
    }
    None
}

/// Where the rule file names only one of `input` and `output`: whose answers are
/// inspected there, and whose are not.
fn note_of_share(hook: Hook, share: Option<Share>) -> Option<String> {
    let opposite = match hook {
        Hook::Forward => return None,
        Hook::Input => Hook::Output,
        Hook::Output => Hook::Input,
    };
    let (named, other) = (hook_name(hook), hook_name(opposite));
    match share {
        Some(Share::Originals) => Some(format!(
            "answers to connections that were opened by way of {other} pass: only {named} is named in hooks:"
        )),
        Some(Share::Replies) => Some(format!(
            "answers to connections that the rules let in by {other} are inspected here with them"
        )),
        Some(Share::All) | None => None,
    }
}

/// Each rule up to the one that matched, and why the earlier ones did not. The
/// parts are asked one by one with the rule's own test, so that the answer can't
/// differ from what packets meet.
fn steps(policy: &Policy, flow: &NewFlow, matched: Option<&Rule>) -> Vec<RuleStep> {
    let mut steps = Vec::new();
    for rule in &policy.rules {
        let is_match = matched.is_some_and(|matched| matched.id == rule.id);
        let why = if is_match {
            format!("matches: {}", events::action_name(rule.action))
        } else {
            let alone = |from: bool, to: bool, services: bool| {
                let part = Rule {
                    from: if from { rule.from.clone() } else { Selector::default() },
                    to: if to { rule.to.clone() } else { Selector::default() },
                    services: if services { rule.services.clone() } else { Vec::new() },
                    ..rule.clone()
                };
                part.matches(flow)
            };
            let mut parts = Vec::new();
            if !alone(true, false, false) {
                parts.push(format!("from does not match {}", flow.src));
            }
            if !alone(false, true, false) {
                parts.push(format!("to does not match {}", flow.dst));
            }
            if !alone(false, false, true) {
                parts.push("service does not match".to_owned());
            }
            if parts.is_empty() { "does not match".to_owned() } else { parts.join(", ") }
        };
        steps.push(RuleStep {
            rule: rule.name.to_string(),
            place: rule.place.to_string(),
            matched: is_match,
            why,
        });
        if is_match {
            break;
        }
    }
    steps
}

fn timer_rows(
    policy: &Policy,
    live: &Live,
    table: &TimerTable,
    rule: RuleId,
    protocol: Protocol,
) -> Vec<TimerRow> {
    let theirs = |timer: &Timer| match timer {
        Timer::UdpNew | Timer::UdpStream => protocol == Protocol::UDP,
        Timer::Icmp => protocol == Protocol::ICMP || protocol == Protocol::ICMPV6,
        Timer::Other => ![Protocol::TCP, Protocol::UDP, Protocol::ICMP, Protocol::ICMPV6].contains(&protocol),
        Timer::SynSent
        | Timer::SynReceived
        | Timer::Established
        | Timer::Unacknowledged
        | Timer::FinWait
        | Timer::HalfClosed
        | Timer::HalfClosedMax
        | Timer::Closing
        | Timer::TimeWait
        | Timer::Reset
        | Timer::UnverifiedRst => protocol == Protocol::TCP,
    };
    let row = |timer: Timer| {
        let (value, origin) = table.value(rule, timer, live.epoch);
        let own = matches!(origin, Origin::Rule | Origin::LiveRule);
        TimerRow {
            timer: timer.name().to_owned(),
            rule: own.then(|| policy.name(rule).to_owned()),
            value,
            origin: origin.name().to_owned(),
            connections: 0,
            ends_in: None,
        }
    };
    Timer::ALL.into_iter().filter(theirs).map(row).collect()
}

fn packet_text(question: &Question) -> String {
    let mut text = events::arrow(&question.flow);
    if question.flow.protocol == Protocol::TCP {
        text.push(' ');
        for (flag, letter) in [
            (Flags::SYN, 'S'),
            (Flags::FIN, 'F'),
            (Flags::RST, 'R'),
            (Flags::PSH, 'P'),
            (Flags::ACK, 'A'),
            (Flags::URG, 'U'),
        ] {
            if question.flags.contains(flag) {
                text.push(letter);
            }
        }
    }
    if let Some((kind, code)) = question.icmp {
        text.push_str(&format!(" type {kind} code {code}"));
    }
    text
}

fn zone_names(policy: &Policy, bits: ZoneBits) -> Vec<String> {
    let zones = policy.zones.iter().enumerate();
    zones.filter(|(bit, _)| bits.0 & (1 << bit) != 0).map(|(_, zone)| zone.name.to_string()).collect()
}

/// The word for a hook.
#[must_use]
pub const fn hook_name(hook: Hook) -> &'static str {
    match hook {
        Hook::Forward => "forward",
        Hook::Input => "input",
        Hook::Output => "output",
    }
}

/// Whether what is opened on this hook meets the rules.
fn is_diverted(policy: &Policy, hook: Hook) -> bool {
    matches!(Share::of(policy.settings.hooks, hook), Some(Share::All | Share::Originals))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        config,
        policy::{Hooks, Settings},
    };

    const RULES: &str = r#"
version: 1
zones:
  lan: { interfaces: [eth1], networks: [192.168.10.0/24] }
  wan: { interfaces: [ppp0] }
default: drop
limits:
  embryonic: { total: 20000 }
rules:
  - { name: ssh, from: lan, to: wan, service: tcp/22, action: accept }
  - name: web
    from: wan
    to: 192.168.10.20
    service: tcp/443
    action: accept
    timers: { half_closed: 30s }
    on_expire: { probe: { retries: 3 } }
    limits: { embryonic: { per_destination: 500 } }
    fast_open: strip
    inspect: full
  - { name: mail, from: wan, service: tcp/25, action: reset }
"#;

    fn policy() -> Policy {
        config::compile("rules.yaml", RULES, &mut |_| Err("no files".to_owned()), None).unwrap().policy
    }

    fn ask(packet: &str, in_if: Option<&str>, out_if: Option<&str>) -> Explanation {
        let question = Question::parse(packet, in_if.map(str::to_owned), out_if.map(str::to_owned)).unwrap();
        explain(&question, &policy(), &Live::default())
    }

    #[test]
    fn the_rule_its_limits_and_its_timers_are_told() {
        let told = ask("tcp 192.0.2.1:4000 > 192.168.10.20:443 S", Some("ppp0"), Some("eth1"));
        assert_eq!((told.rule.as_str(), told.verdict.as_str()), ("web", "accept"));
        assert_eq!(told.from_zones, ["wan"]);
        assert_eq!(told.rules.len(), 2);
        assert!(told.rules[0].why.contains("from does not match"), "{}", told.rules[0].why);
        assert!(told.rules[0].why.contains("service does not match"), "{}", told.rules[0].why);
        assert!(told.rules[1].matched);
        let half_closed = told.timers.iter().find(|row| row.timer == "half_closed").unwrap();
        assert_eq!((half_closed.origin.as_str(), half_closed.rule.as_deref()), ("rule", Some("web")));
        assert!(told.timers.iter().all(|row| row.timer != "udp_new"));
        assert_eq!(told.on_expire.as_deref(), Some("probe every 15s, 3 times (rule)"));
        assert_eq!(told.fast_open.as_deref(), Some("strip"));
        let ssh = ask("tcp 192.168.10.20:4000 > 192.0.2.1:22 S", Some("eth1"), Some("ppp0"));
        assert_eq!(ssh.fast_open.as_deref(), Some("allow"));
        assert_eq!([told.inspect.as_deref(), ssh.inspect.as_deref()], [Some("full"), Some("lifecycle")]);
        let limits: Vec<_> = told.limits.iter().map(|row| (row.limit.as_str(), row.value)).collect();
        assert_eq!(limits, [("embryonic.total", Some(20000)), ("embryonic.per_destination", Some(500))]);
    }

    #[test]
    fn what_no_rule_matches_is_the_defaults() {
        let told = ask("udp 192.0.2.1:53 > 192.168.10.20:53", Some("ppp0"), Some("eth1"));
        assert_eq!((told.rule.as_str(), told.verdict.as_str()), ("default", "drop"));
        assert_eq!(told.rules.len(), 3);
        assert!(told.limits.is_empty() && told.timers.is_empty());
    }

    #[test]
    fn a_hook_that_is_not_diverted_is_said() {
        let told = ask("tcp 192.0.2.1:4000 > 192.168.10.1:22", Some("ppp0"), None);
        assert!(!told.diverted);
        assert_eq!((told.hook.as_str(), told.verdict.as_str()), ("input", "accept"));
        assert!(told.because.contains("never sees"), "{}", told.because);
    }

    #[test]
    fn a_packet_in_the_middle_meets_the_pickup_mode() {
        let told = ask("tcp 192.0.2.1:4000 > 192.168.10.20:443 A", Some("ppp0"), Some("eth1"));
        assert_eq!(told.verdict, "reset");
        let told = ask("tcp 192.0.2.1:4000 > 192.168.10.20:443 RA", Some("ppp0"), Some("eth1"));
        assert_eq!(told.verdict, "drop");
        let told = ask("tcp 192.0.2.1:4000 > 192.168.10.20:80 A", Some("ppp0"), Some("eth1"));
        assert_eq!(told.verdict, "drop");
    }

    #[test]
    fn what_is_built_in_is_told() {
        let mut policy = policy();
        policy.settings = Settings { default: Action::Drop, ..policy.settings };
        policy.settings.hooks.input = true;
        let told = |packet: &str, interface: &str| {
            let question = Question::parse(packet, Some(interface.to_owned()), None).unwrap();
            explain(&question, &policy, &Live::default())
        };
        assert_eq!(told("icmpv6 fe80::1 > ff02::1 134", "ppp0").rule, "built-in");
        assert_eq!(told("tcp 127.0.0.1:1 > 127.0.0.1:2 S", "lo").rule, "built-in");
        assert_eq!(told("udp 192.0.2.1:67 > 192.0.2.2:68", "ppp0").rule, "built-in");
        assert_eq!(told("udp 192.0.2.1:68 > 192.0.2.2:67", "ppp0").rule, "default");
        assert_eq!(told("icmpv6 fe80::1 > ff02::1 143", "ppp0").rule, "built-in");
        let redirect = told("icmpv6 fe80::1 > fe80::2 137", "ppp0");
        assert_eq!(redirect.rule, "default", "redirects are left to the rules");
        assert!(redirect.notes.iter().any(|note| note.contains("by way of output pass")), "{redirect:?}");
    }

    #[test]
    fn what_the_kernel_itself_may_send_is_told_on_output() {
        let mut policy = policy();
        policy.settings.hooks = Hooks { forward: false, input: true, output: true };
        let told = |packet: &str| {
            let question = Question::parse(packet, None, Some("ppp0".to_owned())).unwrap();
            explain(&question, &policy, &Live::default())
        };
        let refuses =
            |told: &Explanation| told.notes.iter().any(|note| note.contains("the kernel itself sends"));
        assert!(refuses(&told("tcp 192.0.2.2:22 > 192.0.2.1:4000 RA")));
        assert!(refuses(&told("icmp 192.0.2.2 > 192.0.2.1 3/13")));
        assert!(!refuses(&told("tcp 192.0.2.2:22 > 192.0.2.1:4000 SA")));
    }

    #[test]
    fn a_hook_that_only_answers_is_told() {
        let mut policy = policy();
        policy.settings.hooks = Hooks { forward: false, input: true, output: false };
        let question =
            Question::parse("tcp 192.0.2.2:4000 > 192.0.2.1:443 S", None, Some("ppp0".to_owned())).unwrap();
        let told = explain(&question, &policy, &Live::default());
        assert!(!told.diverted);
        assert!(told.notes.iter().any(|note| note.contains("let in by input")), "{told:?}");
    }

    #[test]
    fn packets_are_read_or_refused_with_a_shape() {
        let parse = |text: &str| Question::parse(text, Some("a".to_owned()), Some("b".to_owned()));
        let question = parse("tcp [2001:db8::1]:1 > [2001:db8::2]:2 SA").unwrap();
        assert_eq!(question.flags, Flags::SYN.with(Flags::ACK));
        assert_eq!(parse("icmp 10.0.0.1 > 10.0.0.2").unwrap().icmp, Some((8, 0)));
        assert_eq!(parse("icmp 10.0.0.1 > 10.0.0.2 3/1").unwrap().icmp, Some((3, 1)));
        assert_eq!(parse("47 10.0.0.1 > 10.0.0.2").unwrap().flow.protocol, Protocol(47));
        for text in [
            "",
            "tcp",
            "tcp 10.0.0.1 > 10.0.0.2",
            "tcp 10.0.0.1:1 > [2001:db8::1]:2",
            "tcp 10.0.0.1:1 > 10.0.0.2:99999",
            "tcp 10.0.0.1:1 > 10.0.0.2:2 X",
            "tcp 10.0.0.1:1 > 10.0.0.2:2 S S",
            "udp 10.0.0.1:1 > 10.0.0.2:2 S",
            "icmp ::1 > ::2",
            "icmp 10.0.0.1 > 10.0.0.2 hello",
            "sctpp 10.0.0.1 > 10.0.0.2",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert!(Question::parse("tcp 10.0.0.1:1 > 10.0.0.2:2", None, None).unwrap_err().contains("--in"));
    }
}
