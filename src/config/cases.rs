//! What is wrong in a rule file is told with its line, its rule and its cure.

mod laws;
mod taken;

use super::*;

/// Five lines that every case begins with.
const HEAD: &str = "\
version: 1
zones: { lan: { interfaces: [eth1], networks: [192.168.10.0/24] }, wan: { interfaces: [ppp0] } }
lists: { partners: [203.0.113.0/24] }
services: { web: [tcp/80, tcp/443] }
hooks: [forward, input]
";

fn files(path: &str) -> Result<String, String> {
    match path {
        "good.txt" => Ok("# a comment\n10.0.0.0/8 ; another\n\n2001:db8::/32\r\n".to_owned()),
        "bad.txt" => Ok("10.0.0.0/8\n  10.0.0.1/8\nexample.com\n".to_owned()),
        _ => Err("there is no such file".to_owned()),
    }
}

fn try_compile(text: &str) -> Result<Compiled, Vec<Diagnostic>> {
    compile("t", text, &mut files, None)
}

fn good(text: &str) -> Compiled {
    try_compile(text).unwrap_or_else(|diagnostics| panic!("{}", lines(&diagnostics)))
}

fn lines(diagnostics: &[Diagnostic]) -> String {
    diagnostics.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// All diagnostics of what follows the head; its first line is 6.
fn told(body: &str) -> String {
    match try_compile(&format!("{HEAD}{body}")) {
        Ok(compiled) => lines(&compiled.warnings),
        Err(diagnostics) => lines(&diagnostics),
    }
}

/// All diagnostics of one rule in flow style, without file and place.
fn told_of_rule(rule: &str) -> String {
    let told = told(&format!("rules:\n  - {{ name: r, {rule} }}\n"));
    told.lines()
        .map(|line| {
            let line = line.strip_prefix("t:7:").unwrap_or(line);
            line.split_once(": ").map_or(line, |(_, rest)| rest)
        })
        .collect::<Vec<_>>()
        .join("\n")
}

/// Cases and what is told, one after the other.
fn table(cases: &[&str], told: impl Fn(&str) -> String) -> String {
    cases.iter().map(|case| format!("{case}\n    {}\n", told(case).replace('\n', "\n    "))).collect()
}

#[test]
fn a_file_with_many_mistakes_lists_them_all() {
    let text = "\
version: 2
zones:
  lan: { interfaces: [eth1] }
  lan: { interfaces: [eth2] }
  dmz: eth3
hook: [forward]
timers: { time_wait: 5, half_open: 30s, established: 200d, closing: 500ms, other: off }
rules:
  - { name: web, from: wam, to: 192.168.10.1/24, service: http, action: reject }
  - { name: web, from: example.com, action: allow, log: yes, color: red }
  - { action: drop }
";
    insta::assert_snapshot!(lines(&try_compile(text).unwrap_err()), @r"
    t:1:10: error: this version of halfgate reads rule files of version 1 (write `version: 1`)
    t:4:3: error: the name `lan` is used twice; the first is on line 3 (give one of them another name)
    t:5:8: error: zone dmz must say what `eth3` is (write `dmz: { interfaces: [eth3] }`)
    t:6:1: error: unknown key `hook` in the rule file (did you mean `hooks`?)
    t:7:22: error: time_wait: `5` has no unit (write 5s, 5m, 5h or 5d)
    t:7:25: error: no timer is called `half_open` (did you mean `syn_sent` and `syn_received`?)
    t:7:54: error: timer established: 200d is too long (the longest is 100d)
    t:7:69: error: timer closing: 500ms is too short (the shortest is 1s)
    t:7:83: error: timer other can't be off: its connections would never end (give it a duration up to 100d (only half_closed_max can be off))
    t:9:24: error: rule web: no zone or list is called `wam` (define it under `zones:` or `lists:`, or use one of: lan, gateway, any)
    t:9:33: error: rule web: `192.168.10.1/24` has bits set behind its prefix (write 192.168.10.0/24 for the network, or 192.168.10.1 for the one address)
    t:9:59: error: rule web: no service is called `http` (write tcp/80, or define `http` under `services:`)
    t:9:73: error: rule web: action can't be `reject` (did you mean `reset`?)
    t:10:5: error: rule web: the name `web` is used twice; the first is on line 9 (give one of them another name: timers, limits and logs go by it)
    t:10:24: error: rule web: `example.com` is a hostname, and rules hold for addresses (write its address: a firewall must not depend on what DNS says today)
    t:10:45: error: rule web: action can't be `allow` (did you mean `accept`?)
    t:10:57: error: rule web: log must be true or false (write true)
    t:10:62: error: rule web: unknown key `color` in a rule (a rule has: name, from, to, service, action, log, comment, enabled, timers, limits, on_expire, pickup, fast_open, inspect, evictable)
    t:11:5: error: rule #3: `name` is missing (give the rule a name: timers, limits and logs go by it)
    ");
}

#[test]
fn selectors() {
    let cases = [
        "from: not any, action: drop",
        "from: [any, lan], action: drop",
        "from: [], action: drop",
        "from: '!lan', action: drop",
        "from: lam, action: drop",
        "from: ppp0, action: drop",
        "from: localhost, action: drop",
        "from: everyone, action: drop",
        "from: nothing-like-it, action: drop",
        "from: www.example.com, action: drop",
        "from: 192.168.10.7/24, action: drop",
        "from: 2001:db8::1/32, action: drop",
        "from: 192.168.10.0/255.255.255.0, action: drop",
        "from: 10.0.0.1-10.0.0.6, action: drop",
        "from: 10.0.0.256, action: drop",
        "from: 192.168.10.*, action: drop",
        "from: 10.0.0.0/33, action: drop",
        "from: '::ffff:10.0.0.1', action: drop",
        "from: 'fe80::1%eth0', action: drop",
        "from: '[2001:db8::1]', action: drop",
        "from: { zone: lan }, action: drop",
        "from: , action: drop",
    ];
    insta::assert_snapshot!(table(&cases, told_of_rule), @r#"
    from: not any, action: drop
        error: rule r: `not any` can never match (remove it)
    from: [any, lan], action: drop
        error: rule r: `any` beside others in `from` (remove `any`, or the others)
    from: [], action: drop
        error: rule r: `from` is an empty list (leave `from` out if anyone may be meant)
    from: '!lan', action: drop
        error: rule r: `!lan`: `!` is not used here (write `not lan`)
    from: lam, action: drop
        error: rule r: no zone or list is called `lam` (did you mean `lan`?)
    from: ppp0, action: drop
        error: rule r: no zone or list is called `ppp0` (`ppp0` is an interface of the zone `wan`: write that)
    from: localhost, action: drop
        error: rule r: no zone or list is called `localhost` (did you mean `gateway`?)
    from: everyone, action: drop
        error: rule r: no zone or list is called `everyone` (did you mean `any`?)
    from: nothing-like-it, action: drop
        error: rule r: no zone or list is called `nothing-like-it` (define it under `zones:` or `lists:`, or use one of: lan, partners, wan, gateway, any)
    from: www.example.com, action: drop
        error: rule r: `www.example.com` is a hostname, and rules hold for addresses (write its address: a firewall must not depend on what DNS says today)
    from: 192.168.10.7/24, action: drop
        error: rule r: `192.168.10.7/24` has bits set behind its prefix (write 192.168.10.0/24 for the network, or 192.168.10.7 for the one address)
    from: 2001:db8::1/32, action: drop
        error: rule r: `2001:db8::1/32` has bits set behind its prefix (write 2001:db8::/32 for the network, or 2001:db8::1 for the one address)
    from: 192.168.10.0/255.255.255.0, action: drop
        error: rule r: `192.168.10.0/255.255.255.0` has a netmask instead of a prefix length (write 192.168.10.0/24)
    from: 10.0.0.1-10.0.0.6, action: drop
        error: rule r: `10.0.0.1-10.0.0.6` is a range of addresses (write [10.0.0.1, 10.0.0.2/31, 10.0.0.4/31, 10.0.0.6])
    from: 10.0.0.256, action: drop
        error: rule r: `10.0.0.256` is no address (write four numbers from 0 to 255, or a network like 192.168.10.0/24)
    from: 192.168.10.*, action: drop
        error: rule r: `192.168.10.*` is no address (write four numbers from 0 to 255, or a network like 192.168.10.0/24)
    from: 10.0.0.0/33, action: drop
        error: rule r: `10.0.0.0/33` has no prefix length from 0 to 32 (write it like 10.0.0.0/32)
    from: '::ffff:10.0.0.1', action: drop
        error: rule r: `::ffff:10.0.0.1` is an IPv4 address in IPv6 clothes (write 10.0.0.1)
    from: 'fe80::1%eth0', action: drop
        error: rule r: `fe80::1%eth0` names an interface behind `%` (write fe80::1, and eth0 in a zone's `interfaces`)
    from: '[2001:db8::1]', action: drop
        error: rule r: `[2001:db8::1]` has brackets around the address (write 2001:db8::1)
    from: { zone: lan }, action: drop
        error: rule r: from must be a word, and this is a mapping (write one word, in quotes if it has a `:` or `,` in it)
    from: , action: drop
        error: rule r: from must be a word, and this is nothing (write a value behind the colon)
    "#);
}

#[test]
fn services() {
    let cases = [
        "service: http, action: drop",
        "service: wbe, action: drop",
        "service: dns, action: drop",
        "service: 80, action: drop",
        "service: tcp:80, action: drop",
        "service: 'tcp/80,443', action: drop",
        "service: tcp/http, action: drop",
        "service: tcp/0, action: drop",
        "service: tcp/65536, action: drop",
        "service: tcp/90-80, action: drop",
        "service: tcp/any, action: drop",
        "service: tpc/80, action: drop",
        "service: sctp/80, action: drop",
        "service: icmp/8, action: drop",
        "service: icmp/echorequest, action: drop",
        "service: icmpv4/packet-too-big, action: drop",
        "service: icmpv6/1/x, action: drop",
        "service: ip/300, action: drop",
        "service: [any, tcp/80], action: drop",
        "service: [], action: drop",
    ];
    insta::assert_snapshot!(table(&cases, told_of_rule), @r#"
    service: http, action: drop
        error: rule r: no service is called `http` (write tcp/80, or define `http` under `services:`)
    service: wbe, action: drop
        error: rule r: no service is called `wbe` (did you mean `web`?)
    service: dns, action: drop
        error: rule r: no service is called `dns` (write [tcp/53, udp/53], or define `dns` under `services:`)
    service: 80, action: drop
        error: rule r: `80` does not say of which protocol (write tcp/80 or udp/80)
    service: tcp:80, action: drop
        error: rule r: `tcp:80` is no service (did you mean `tcp/80`?)
    service: 'tcp/80,443', action: drop
        error: rule r: `tcp/80,443`: several ports are several services (write [tcp/80, tcp/443])
    service: tcp/http, action: drop
        error: rule r: `tcp/http`: ports are numbers (write tcp/80)
    service: tcp/0, action: drop
        error: rule r: `tcp/0`: ports are numbers from 1 to 65535 (write it like tcp/80 or tcp/8000-8100)
    service: tcp/65536, action: drop
        error: rule r: `tcp/65536`: ports are numbers from 1 to 65535 (write it like tcp/80 or tcp/8000-8100)
    service: tcp/90-80, action: drop
        error: rule r: `tcp/90-80`: the range runs backwards (write tcp/80-90)
    service: tcp/any, action: drop
        error: rule r: `tcp/any`: every port is the whole protocol (write tcp)
    service: tpc/80, action: drop
        error: rule r: `tpc/80`: `tpc` is no protocol (did you mean `tcp/80`?)
    service: sctp/80, action: drop
        error: rule r: `sctp/80`: ports are read in TCP and UDP only (write sctp for the whole protocol)
    service: icmp/8, action: drop
        error: rule r: `icmp/8`: type numbers differ between IPv4 and IPv6 (write icmp/echo-request for both, or icmpv4/8)
    service: icmp/echorequest, action: drop
        error: rule r: `icmp/echorequest`: no ICMP type has this name (did you mean `icmp/echo-request`?)
    service: icmpv4/packet-too-big, action: drop
        error: rule r: `icmpv4/packet-too-big`: this family has no such type (write icmp/packet-too-big)
    service: icmpv6/1/x, action: drop
        error: rule r: `icmpv6/1/x`: a code is a number from 0 to 255 (write it like icmpv4/3/4)
    service: ip/300, action: drop
        error: rule r: `ip/300` is no protocol number (write a number from 0 to 255, as in ip/47)
    service: [any, tcp/80], action: drop
        warning: rule r: `any` beside others in service (remove `any`, or the others)
    service: [], action: drop
        error: rule r: service is an empty list (write a service, or `any`)
    "#);
}

#[test]
fn actions_and_switches() {
    let cases = [
        "action: reject",
        "action: DENY",
        "action: Accept",
        "action: permit",
        "action: log",
        "action: [drop]",
        "action: drop, log: yes",
        "action: drop, enabled: maybe",
        "action: drop, src: lan",
        "action: drop, inspect: full",
        "action: accept, inspect: full",
        "action: accept, inspect: ful",
        "action: accept, inspect: off",
        "action: accept, fast_path: false",
        "action: drop, fast_open: strip",
        "action: drop, timers: { syn_sent: 5s }",
        "action: accept, on_expire: { probe: { interval: 15s, retries: 5 } }",
        "action: accept, on_expire: probe",
        "action: accept, on_expire: { probe: {} }",
        "action: accept, on_expire: { probe: { interval: 500ms, retries: 0, tries: 3 } }",
        "action: accept, on_expire: { probe: { interval: 2h, retries: 101 } }",
        "action: accept, on_expire: { probe: 5 }",
        "action: accept, on_expire: { retries: 5 }",
        "action: accept, on_expire: {}",
        "action: accept, on_expire: [probe]",
        "action: drop, on_expire: probe",
        "action: accept, on_expire: keepalive",
        "action: accept, on_expire: silent",
        "action: accept, pickup: { mode: loose, grace: 1m }",
        "action: accept, pickup: lose",
        "action: accept, fast_open: off",
        "action: accept, fast_open: stripp",
        "action: accept, fast_open: [deny]",
        "action: accept, tfo: deny",
        "action: accept, service: udp/53, fast_open: deny",
        "action: accept, name: again",
        "from: lan",
    ];
    insta::assert_snapshot!(table(&cases, told_of_rule), @r#"
    action: reject
        error: rule r: action can't be `reject` (did you mean `reset`?)
    action: DENY
        error: rule r: action can't be `DENY` (did you mean `drop`?)
    action: Accept
        error: rule r: action can't be `Accept` (did you mean `accept`?)
    action: permit
        error: rule r: action can't be `permit` (did you mean `accept`?)
    action: log
        error: rule r: action can't be `log` (write one of: accept, drop, reset)
    action: [drop]
        error: rule r: action must be a word, and this is a list (write one word, in quotes if it has a `:` or `,` in it)
    action: drop, log: yes
        error: rule r: log must be true or false (write true)
    action: drop, enabled: maybe
        error: rule r: enabled must be true or false (write true or false)
    action: drop, src: lan
        error: rule r: unknown key `src` in a rule (did you mean `from`?)
    action: drop, inspect: full
        warning: rule r: `inspect` does nothing in a rule that lets nothing through (remove it, or write `action: accept`)
    action: accept, inspect: full
        
    action: accept, inspect: ful
        error: rule r: inspect can't be `ful` (did you mean `full`?)
    action: accept, inspect: off
        error: rule r: inspect can't be `off` (did you mean `lifecycle`?)
    action: accept, fast_path: false
        error: rule r: unknown key `fast_path` in a rule (did you mean `inspect`?)
    action: drop, fast_open: strip
        warning: rule r: `fast_open` does nothing in a rule that lets nothing through (remove it, or write `action: accept`)
    action: drop, timers: { syn_sent: 5s }
        warning: rule r: `timers` does nothing in a rule that lets nothing through (remove it, or write `action: accept`)
    action: accept, on_expire: { probe: { interval: 15s, retries: 5 } }
        
    action: accept, on_expire: probe
        
    action: accept, on_expire: { probe: {} }
        
    action: accept, on_expire: { probe: { interval: 500ms, retries: 0, tries: 3 } }
        error: rule r: an interval of 500ms is out of range (write one from 1s to 1h)
        error: rule r: retries can't be 0 (write a number from 1 to 100)
        error: rule r: unknown key `tries` in probe (probe has: interval, retries)
    action: accept, on_expire: { probe: { interval: 2h, retries: 101 } }
        error: rule r: an interval of 2h is out of range (write one from 1s to 1h)
        error: rule r: retries can't be 101 (write a number from 1 to 100)
    action: accept, on_expire: { probe: 5 }
        error: rule r: probe must be a mapping, and this is a word or number (write it like `{ interval: 15s, retries: 5 }`)
    action: accept, on_expire: { retries: 5 }
        error: rule r: unknown key `retries` in on_expire (did you mean `probe: { retries: ... }`?)
    action: accept, on_expire: {}
        error: rule r: `probe` is missing (write it like `{ probe: { interval: 15s, retries: 5 } }`)
    action: accept, on_expire: [probe]
        error: rule r: on_expire must be a word, and this is a list (write one word, in quotes if it has a `:` or `,` in it)
    action: drop, on_expire: probe
        warning: rule r: `on_expire` does nothing in a rule that lets nothing through (remove it, or write `action: accept`)
    action: accept, on_expire: keepalive
        error: rule r: on_expire can't be `keepalive` (did you mean `probe`?)
    action: accept, on_expire: silent
        error: rule r: on_expire can't be `silent` (did you mean `drop`?)
    action: accept, pickup: { mode: loose, grace: 1m }
        error: rule r: a rule has no grace of its own (set `pickup: { grace: ... }` for the whole file)
    action: accept, pickup: lose
        error: rule r: pickup can't be `lose` (did you mean `loose`?)
    action: accept, fast_open: off
        error: rule r: fast_open can't be `off` (did you mean `strip`?)
    action: accept, fast_open: stripp
        error: rule r: fast_open can't be `stripp` (did you mean `strip`?)
    action: accept, fast_open: [deny]
        error: rule r: fast_open must be a word, and this is a list (write one word, in quotes if it has a `:` or `,` in it)
    action: accept, tfo: deny
        error: rule r: unknown key `tfo` in a rule (did you mean `fast_open`?)
    action: accept, service: udp/53, fast_open: deny
        warning: rule r: `fast_open` does nothing in a rule without TCP (remove it, or name a service like tcp/443)
    action: accept, name: again
        error: rule r: `name` is written twice; the first is on line 7 (keep one of them)
    from: lan
        error: rule r: `action` is missing (write `action: accept`, `drop` or `reset`)
    "#);
}

#[test]
fn timers_and_limits() {
    let cases = [
        "timers: { half_closed: 5 }",
        "timers: { half_closed: 5 fortnights }",
        "timers: { half_closed: 0s }",
        "timers: { half_closed: 101d }",
        "timers: { half_closed: off }",
        "timers: { nf_conntrack_tcp_timeout_close_wait: 60s }",
        "timers: { tcp.finwait: 45s }",
        "timers: { embryonic: 30s }",
        "timers: { syn-sent: 30s }",
        "timers: { syn_sent: 30s, syn_sent: 20s }",
        "timers: { syn_sent: [30s] }",
        "timers: 30s",
        "limits: { total: 5 }",
        "limits: { half_open: { total: 5 } }",
        "limits: { embryonic: { per_source: 0 } }",
        "limits: { embryonic: { per_source: many } }",
        "limits: { embryonic: { per_source: -1 } }",
        "limits: { embryonic: { per_ip: 5 } }",
        "limits: { embryonic: { total: 5, per_source: 2, on_excess: syncookies } }",
        "limits: { embryonic: { total: 5, on_excess: synproxy } }",
        "limits: { embryonic: { total: 5, on_excess: syncookies, calm: 500ms } }",
        "limits: { embryonic: { total: 5, on_excess: syncookies, calm: 30s } }",
        "limits: { embryonic: { total: 5, on_excess: deny } }",
        "limits: { embryonic: { total: 5, source_prefix: 56 } }",
        "source_prefix: 24",
        "limits: { source_prefix: 0 }",
        "limits: { source_prefix: 129 }",
        "limits: { source_prefix: 255.255.255.0 }",
        "limits: { source_prefix: [24, 56] }",
        "limits: { source_prefix: { ipv4: 33 } }",
        "limits: { source_prefix: { ipv6: 0, v4: 24 } }",
        "limits: { srcmask: 24 }",
        "limits: { connections: { per_source: 0 } }",
        "limits: { connections: { max_src_conn: 5 } }",
        "limits: { connections: { per_source: 5, on_excess: evict } }",
        "limits: { connections: { per_source: 5, block: 500ms } }",
        "limits: { connections: { per_source: 5, block: 8d } }",
        "limits: { connections: { per_source: 5, block: forever } }",
        "limits: { connections: { total: 5, block: 10m } }",
        "limits: { connections: { per_source: 5, allow: partners } }",
        "limits: { connections: { per_source: 5, block: 10m, allow: lan } }",
        "limits: { connections: { per_source: 5, block: 10m, allow: not partners } }",
        "limits: { connections: { per_source: 5, block: 10m, allow: any } }",
        "limits: { connections: { per_source: 5, block: 10m, allow: nobody } }",
        "limits: { connections: { source_prefix: 24, per_source: 5 } }",
        "limits: { connections: { shadow: true } }",
        "limits: { block: 10m }",
        "limits: { embryonic: { shadow: true } }",
    ];
    insta::assert_snapshot!(table(&cases, |case| told_of_rule(&format!("action: accept, {case}"))), @r"
    timers: { half_closed: 5 }
        error: rule r: half_closed: `5` has no unit (write 5s, 5m, 5h or 5d)
    timers: { half_closed: 5 fortnights }
        error: rule r: half_closed: `fortnights` is not a unit of time (the units are ms, s, m, h and d)
    timers: { half_closed: 0s }
        error: rule r: timer half_closed: 0s is too short (the shortest is 1s)
    timers: { half_closed: 101d }
        error: rule r: timer half_closed: 101d is too long (the longest is 100d)
    timers: { half_closed: off }
        error: rule r: timer half_closed can't be off: its connections would never end (give it a duration up to 100d (only half_closed_max can be off))
    timers: { nf_conntrack_tcp_timeout_close_wait: 60s }
        error: rule r: no timer is called `nf_conntrack_tcp_timeout_close_wait` (did you mean `half_closed`?)
    timers: { tcp.finwait: 45s }
        error: rule r: no timer is called `tcp.finwait` (did you mean `time_wait`?)
    timers: { embryonic: 30s }
        error: rule r: no timer is called `embryonic` (did you mean `syn_sent` and `syn_received`?)
    timers: { syn-sent: 30s }
        error: rule r: no timer is called `syn-sent` (did you mean `syn_sent`?)
    timers: { syn_sent: 30s, syn_sent: 20s }
        error: rule r: the name `syn_sent` is used twice; the first is on line 7 (keep one of them)
    timers: { syn_sent: [30s] }
        error: rule r: syn_sent must be a word, and this is a list (write one word, in quotes if it has a `:` or `,` in it)
    timers: 30s
        error: rule r: timers must be a mapping of names, and this is a word or number (write it like `timers: { half_closed: 10m }`)
    limits: { total: 5 }
        error: rule r: unknown key `total` in limits (did you mean `embryonic: { total: ... }`?)
    limits: { half_open: { total: 5 } }
        error: rule r: unknown key `half_open` in limits (did you mean `embryonic`?)
    limits: { embryonic: { per_source: 0 } }
        error: rule r: embryonic.per_source: a limit of 0 would refuse every new connection (leave it out for no limit, or write a rule with `action: drop`)
    limits: { embryonic: { per_source: many } }
        error: rule r: per_source must be a whole number, and `many` is not (write a number from 1 to 4294967295)
    limits: { embryonic: { per_source: -1 } }
        error: rule r: per_source must be a whole number, and `-1` is not (write a number from 1 to 4294967295)
    limits: { embryonic: { per_ip: 5 } }
        error: rule r: unknown key `per_ip` in embryonic (did you mean `per_source`?)
    limits: { embryonic: { total: 5, per_source: 2, on_excess: syncookies } }
        error: rule r: `on_excess: syncookies` can't answer a limit per source: the kernel answers all SYNs to a destination (put per_source into another `limits:` with on_excess drop, reset, evict or challenge (the rule set's or the rule's), or write `on_excess: challenge`)
    limits: { embryonic: { total: 5, on_excess: synproxy } }
        error: rule r: on_excess can't be `synproxy` (did you mean `syncookies`?)
    limits: { embryonic: { total: 5, on_excess: syncookies, calm: 500ms } }
        error: rule r: a calm of 500ms is out of range (write one from 1s to 1d)
    limits: { embryonic: { total: 5, on_excess: syncookies, calm: 30s } }
        
    limits: { embryonic: { total: 5, on_excess: deny } }
        error: rule r: on_excess can't be `deny` (did you mean `drop`?)
    limits: { embryonic: { total: 5, source_prefix: 56 } }
        error: rule r: unknown key `source_prefix` in embryonic (did you mean `limits: { source_prefix: ... }`?)
    source_prefix: 24
        error: rule r: unknown key `source_prefix` in a rule (did you mean `limits: { source_prefix: ... }`?)
    limits: { source_prefix: 0 }
        error: rule r: source_prefix can't be 0: all sources would be one (write `total` for a limit on all of them)
    limits: { source_prefix: 129 }
        error: rule r: source_prefix must be a length from 1 to 128, and `129` is not (write it like `24`, `56` or `{ ipv4: 24, ipv6: 56 }`)
    limits: { source_prefix: 255.255.255.0 }
        error: rule r: source_prefix must be a length from 1 to 128, and `255.255.255.0` is not (write it like `24`, `56` or `{ ipv4: 24, ipv6: 56 }`)
    limits: { source_prefix: [24, 56] }
        error: rule r: source_prefix must be a word, and this is a list (write one word, in quotes if it has a `:` or `,` in it)
    limits: { source_prefix: { ipv4: 33 } }
        error: rule r: source_prefix of ipv4 must be a length from 1 to 32, and `33` is not (write it like `{ ipv4: 24 }`)
    limits: { source_prefix: { ipv6: 0, v4: 24 } }
        error: rule r: source_prefix of ipv6 can't be 0: all sources would be one (write `total` for a limit on all of them)
        error: rule r: unknown key `v4` in source_prefix (did you mean `ipv4`?)
    limits: { srcmask: 24 }
        error: rule r: unknown key `srcmask` in limits (did you mean `source_prefix`?)
    limits: { connections: { per_source: 0 } }
        error: rule r: connections.per_source: a limit of 0 would refuse every new connection (leave it out for no limit, or write a rule with `action: drop`)
    limits: { connections: { max_src_conn: 5 } }
        error: rule r: unknown key `max_src_conn` in connections (did you mean `per_source`?)
    limits: { connections: { per_source: 5, on_excess: evict } }
        error: rule r: on_excess can't be `evict` (did you mean `drop`?)
    limits: { connections: { per_source: 5, block: 500ms } }
        error: rule r: a block of 500ms is out of range (write one from 1s to 7d; a rule with `action: drop` blocks for ever)
    limits: { connections: { per_source: 5, block: 8d } }
        error: rule r: a block of 8d is out of range (write one from 1s to 7d; a rule with `action: drop` blocks for ever)
    limits: { connections: { per_source: 5, block: forever } }
        error: rule r: block: `forever` is not a duration (write one like 30s, 5m, 2h4m or 7d)
    limits: { connections: { total: 5, block: 10m } }
        warning: rule r: `block` without `per_source` blocks nobody: of those who pass another limit, the last is not to blame (give it `per_source`, in the file or live)
    limits: { connections: { per_source: 5, allow: partners } }
        warning: rule r: `allow` names who is never blocked, and without `block` nobody is (write `block: 10m`, or remove it)
    limits: { connections: { per_source: 5, block: 10m, allow: lan } }
        error: rule r: `allow` takes lists, addresses and networks only: a block holds wherever its source's packets come in (write it like `allow: partners` or `allow: [partners, 192.0.2.0/24]`)
    limits: { connections: { per_source: 5, block: 10m, allow: not partners } }
        error: rule r: `allow` takes lists, addresses and networks only: a block holds wherever its source's packets come in (write it like `allow: partners` or `allow: [partners, 192.0.2.0/24]`)
    limits: { connections: { per_source: 5, block: 10m, allow: any } }
        error: rule r: `allow` takes lists, addresses and networks only: a block holds wherever its source's packets come in (write it like `allow: partners` or `allow: [partners, 192.0.2.0/24]`)
    limits: { connections: { per_source: 5, block: 10m, allow: nobody } }
        error: rule r: no zone or list is called `nobody` (define it under `zones:` or `lists:`, or use one of: lan, partners, wan, gateway, any)
    limits: { connections: { source_prefix: 24, per_source: 5 } }
        error: rule r: unknown key `source_prefix` in connections (did you mean `limits: { source_prefix: ... }`?)
    limits: { connections: { shadow: true } }
        warning: rule r: `shadow` without a limit does nothing (give total, per_source or per_destination)
    limits: { block: 10m }
        error: rule r: `embryonic` is missing (write it like `{ embryonic: { per_source: 200 } }`)
        error: rule r: unknown key `block` in limits (did you mean `connections: { block: ... }`?)
    limits: { embryonic: { shadow: true } }
        warning: rule r: `shadow` without a limit does nothing (give total, per_source or per_destination)
    ");
}

#[test]
fn the_file_itself() {
    let cases = [
        "default: reject",
        "fail: shut",
        "pickup: { mode: lose, grace: 2d }",
        "max_connections: 0",
        "max_connections: 1e6",
        "adaptive: { start: 60, end: 120% }",
        "adaptive: { start: 90%, end: 80% }",
        "queues: { base: 65000, count: 129 }",
        "queues: { base: 65535 }",
        "queues: { cpus: [1, 1, x, 4000] }",
        "marks: { mask: 0x0f }",
        "marks: { mask: 0xff000001 }",
        "rst_per_second: 0",
        "on_expire: probe",
        "hooks: [forward]",
        "zone: {}",
        "<<: {}",
        "rules: { name: a }",
        "tests: []",
    ];
    insta::assert_snapshot!(table(&cases, |case| {
        let no_rules = "t:1:1: warning: there are no rules, so every new connection meets `default: drop` (write `rules:` with a list below it)";
        told(&format!("{case}\n")).replace(no_rules, "").trim_start().to_owned()
    }), @r#"
    default: reject
        t:6:10: error: default can't be `reject` (did you mean `reset`?)
    fail: shut
        t:6:7: error: fail can't be `shut` (write one of: closed, open)
    pickup: { mode: lose, grace: 2d }
        t:6:17: error: mode can't be `lose` (did you mean `loose`?)
        t:6:30: error: a grace of 2d is too long (write at most 24h; `mode: loose` picks up for ever)
    max_connections: 0
        t:6:18: error: max_connections can't be 0 (write a number from 1 to 16000000)
    max_connections: 1e6
        t:6:18: error: max_connections must be a whole number, and `1e6` is not (write a number from 1 to 16000000)
    adaptive: { start: 60, end: 120% }
        t:6:20: error: start must be a percentage of max_connections (write 60%)
    adaptive: { start: 90%, end: 80% }
        t:6:11: error: adaptive timers would end (80%) before they start (90%) (write a start below the end, as in { start: 60%, end: 120% })
    queues: { base: 65000, count: 129 }
        t:6:31: error: count can't be 129 (write a number from 1 to 128)
    queues: { base: 65535 }
        t:6:17: error: base can't be 65535 (write a number from 0 to 65000)
    queues: { cpus: [1, 1, x, 4000] }
        t:6:21: error: processor 1 is named twice (name each once)
        t:6:24: error: a processor must be a whole number, and `x` is not (write a number from 0 to 1023)
        t:6:27: error: a processor can't be 4000 (write a number from 0 to 1023)
    marks: { mask: 0x0f }
        t:6:16: error: `0x0f` is not a mask of eight bits side by side (write it like 0xff000000, 0x00ff0000 or 0x0000ff00)
    marks: { mask: 0xff000001 }
        t:6:16: error: `0xff000001` is not a mask of eight bits side by side (write it like 0xff000000, 0x00ff0000 or 0x0000ff00)
    rst_per_second: 0
        t:6:17: warning: with `rst_per_second: 0` every `reset` and every `probe` is a `drop` (give it a budget, as in 1000)
    on_expire: probe
        
    hooks: [forward]
        t:6:1: error: `hooks` is written twice; the first is on line 5 (keep one of them)
    zone: {}
        t:6:1: error: unknown key `zone` in the rule file (did you mean `zones`?)
    <<: {}
        t:6:1: error: merge keys (`<<`) are not supported (write the keys out)
    rules: { name: a }
        t:6:8: error: `rules` must be a list (write `- { name: ssh, from: lan, to: gateway, service: tcp/22, action: accept }` below it)
    tests: []
    "#);
    insta::assert_snapshot!(lines(&good("version: 1\n").warnings), @r#"
    t:1:1: warning: `hooks` is left out, so only routed traffic is covered, and not the gateway itself (write `hooks: [forward, input]`, or `hooks: [forward]` if that is meant)
    t:1:1: warning: there are no rules, so every new connection meets `default: drop` (write `rules:` with a list below it)
    "#);
    insta::assert_snapshot!(lines(&try_compile("- a\n").unwrap_err()), @r#"
    t:1:1: error: the rule file must be a mapping, and this is a list (write it like `version: 1`)
    "#);
    insta::assert_snapshot!(lines(&try_compile("").unwrap_err()), @r#"
    t:1:1: error: the file is empty (`halfgate init --wan IF --lan IF` writes a first one)
    "#);
    insta::assert_snapshot!(lines(&try_compile("version: 1\nhooks: [forwards, prerouting, lo]\n").unwrap_err()), @r#"
    t:1:1: warning: there are no rules, so every new connection meets `default: drop` (write `rules:` with a list below it)
    t:2:9: error: hooks can't be `forwards` (did you mean `forward`?)
    t:2:19: error: hooks can't be `prerouting` (did you mean `forward`?)
    t:2:31: error: hooks can't be `lo` (write one of: forward, input, output)
    "#);
}

#[test]
fn zones_lists_and_named_services() {
    let text = "\
version: 1
hooks: [forward, input]
zones:
  a: { interfaces: [lo] }
  b: { interfaces: ['eth?', averyveryverylongname, 10.0.0.1], networks: [10.0.0.1/8, db] }
  c: {}
  d: { interface: eth0 }
  e: 10.0.0.0/8
  f: { interfaces: [] }
  gateway: { interfaces: [eth0] }
  'two words': { interfaces: [eth0] }
  bad: { interfaces: [eth0] }
lists:
  bad: { file: bad.txt }
  gone: { file: gone.txt }
  good: { file: good.txt, comment: x }
services:
  tcp: tcp/80
  x: [y, tcp/1]
  y: [z]
  z: [x]
  w: tcp/99999
rules:
  - { name: uses-broken, from: [a, gone], service: [w, x], action: drop }
";
    insta::assert_snapshot!(lines(&try_compile(text).unwrap_err()), @r#"
    t:4:21: error: `lo` is never diverted, and in no zone (remove it: loopback always passes)
    t:5:21: error: `eth?` is no interface pattern (only a `*` at the end is special, as in `ppp*`)
    t:5:29: error: `averyveryverylongname` is longer than an interface's name can be (Linux allows 15 characters)
    t:5:52: error: `10.0.0.1` is an address, not an interface (put it under `networks`)
    t:5:74: error: `10.0.0.1/8` has bits set behind its prefix (write 10.0.0.0/8 for the network, or 10.0.0.1 for the one address)
    t:5:86: error: `db` is no network (write an address or a network, as in 203.0.113.0/24)
    t:6:6: error: zone c has neither interfaces nor networks (write it like `c: { interfaces: [eth1], networks: [192.168.10.0/24] }`)
    t:7:8: error: unknown key `interface` in a zone (did you mean `interfaces`?)
    t:8:6: error: zone e must say what `10.0.0.0/8` is (write `e: { networks: [10.0.0.0/8] }`)
    t:9:20: error: zone f lists no interface (name one, or leave `interfaces` out)
    t:10:3: error: `gateway` has a meaning of its own and can't be the name of a zone (take another name)
    t:11:3: error: `two words` can't be the name of a zone (use letters, digits, `_` and `-`, beginning with a letter, at most 64 of them)
    t:12:3: error: `bad` is also the name of a list, on line 14 (give one of them another name: `from: NAME` could mean both)
    t:15:17: error: can't read `gone.txt`: there is no such file (names are taken from the rule file's directory; an empty file is fine)
    t:16:27: error: unknown key `comment` in a list (a list has: file)
    t:18:3: error: `tcp` is a protocol and can't be the name of a service (take another name)
    t:21:7: error: service `z` is made of `x`, which is made of others in a circle or too deep (write the ports out)
    t:22:6: error: `tcp/99999`: ports are numbers from 1 to 65535 (write it like tcp/80 or tcp/8000-8100)
    bad.txt:2:3: error: `10.0.0.1/8` has bits set behind its prefix (write 10.0.0.0/8 for the network, or 10.0.0.1 for the one address)
    bad.txt:3:1: error: `example.com` is a hostname, and lists hold addresses (write its address: a firewall must not depend on what DNS says today)
    "#);
}

#[test]
fn rules_that_never_match() {
    let cases = [
        "from: gateway, action: drop",
        "from: [gateway, lan], action: drop",
        "from: [lan, not lan], action: drop",
        "from: [203.0.113.7, not partners], action: drop",
        "from: 10.0.0.0/8, to: 'fd00::/8', action: drop",
        "from: 10.0.0.0/8, service: icmpv6, action: drop",
        "from: 10.0.0.0/8, service: icmp, action: drop",
    ];
    insta::assert_snapshot!(table(&cases, told_of_rule), @r#"
    from: gateway, action: drop
        error: rule r: never matches: `from: gateway` is the hook `output`, which is not diverted (add `output` to `hooks`, or remove `gateway`)
    from: [gateway, lan], action: drop
        warning: rule r: `from: gateway` never matches: the hook `output` is not diverted (add `output` to `hooks`, or remove `gateway`)
    from: [lan, not lan], action: drop
        error: rule r: never matches: `not` takes away all that `from` allows (remove one of them)
    from: [203.0.113.7, not partners], action: drop
        error: rule r: never matches: `not` takes away all that `from` allows (remove one of them)
    from: 10.0.0.0/8, to: 'fd00::/8', action: drop
        error: rule r: never matches: one end is IPv4 only, the other IPv6 only (give both ends addresses of one family)
    from: 10.0.0.0/8, service: icmpv6, action: drop
        error: rule r: never matches: this ICMP is of the other family than the addresses (write icmp, which means both families)
    from: 10.0.0.0/8, service: icmp, action: drop
    "#);
    let shadowed = "\
rules:
  - { name: a, from: lan, to: wan, action: accept }
  - { name: b, from: lan, to: wan, service: web, action: drop }
  - { name: c, from: [lan, not 192.168.10.7], to: 203.0.113.7, action: drop }
  - { name: d, to: partners, service: tcp/80-90, action: accept }
  - { name: e, from: wan, to: 203.0.113.9, service: tcp/85, action: drop }
  - { name: f, to: 203.0.0.0/16, service: tcp/85, action: drop }
  - { name: off, action: drop, enabled: false }
  - { name: g, from: not wan, action: accept }
  - { name: h, from: lan, action: accept }
  - { name: i, from: partners, action: accept }
";
    insta::assert_snapshot!(told(shadowed), @r#"
    t:8:5: warning: rule b: never matches: rule a on line 7 already takes all of it (move it before that rule, narrow that rule, or remove one of them)
    t:11:5: warning: rule e: never matches: rule d on line 10 already takes all of it (move it before that rule, narrow that rule, or remove one of them)
    t:15:5: warning: rule h: never matches: rule g on line 14 already takes all of it (move it before that rule, narrow that rule, or remove one of them)
    "#);
}

#[test]
fn tests_in_files() {
    let step = |step: &str| {
        let told = told(&format!("rules: []\ntests:\n  - name: t\n    steps:\n      - {{ {step} }}\n"));
        told.replace("t:10:", "")
    };
    let cases = [
        "packet: 'tcp 10.0.0.1:1 > 10.0.0.2:2 S', in: a",
        "packet: 'tcp 10.0.0.1:1 > 10.0.0.2:2 S', expect: accept",
        "packet: 'tcp 10.0.0.1:1 > 10.0.0.2:2', in: a, expect: accept",
        "packet: 'tcp 10.0.0.1:1 > 10.0.0.2:2 SX', in: a, expect: accept",
        "packet: 'tcp 10.0.0.1 > 10.0.0.2:2 S', in: a, expect: accept",
        "packet: 'tcp 10.0.0.1:1 - 10.0.0.2:2 S', in: a, expect: accept",
        "packet: 'tcp 10.0.0.1:1 > [::1]:2 S', in: a, expect: accept",
        "packet: 'tcp 10.0.0.1:1 > 10.0.0.2:2 S seq=x', in: a, expect: accept",
        "packet: 'tcp 10.0.0.1:1 > 10.0.0.2:2 S id=1', in: a, expect: accept",
        "packet: 'udp 10.0.0.1:1 > 10.0.0.2:2 len=70000', in: a, expect: accept",
        "packet: 'icmp 10.0.0.1 > 10.0.0.2 ping', in: a, expect: accept",
        "packet: 'udp 10.0.0.1:1 > 10.0.0.2:2', in: a, expect: reject",
        "packet: 'udp 10.0.0.1:1 > 10.0.0.2:2', in: a, expect: accept, phase: half_open",
        "at: soon, packet: 'udp 10.0.0.1:1 > 10.0.0.2:2', in: a, expect: accept",
        "in: a, expect: accept",
    ];
    insta::assert_snapshot!(table(&cases, step), @r#"
    packet: 'tcp 10.0.0.1:1 > 10.0.0.2:2 S', in: a
        9: error: test t: `expect` is missing (write `expect: accept`, `drop` or `reset`)
    packet: 'tcp 10.0.0.1:1 > 10.0.0.2:2 S', expect: accept
        9: error: test t: a packet comes in by an interface, leaves by one, or both (write `in:` and `out:`; only `in:` for a packet to the gateway, only `out:` for one from it)
    packet: 'tcp 10.0.0.1:1 > 10.0.0.2:2', in: a, expect: accept
        19: error: test t: a TCP packet needs its flags, as in `S`, `SA`, `A`, `PA`, `FA` or `R` (write it like `tcp 198.51.100.7:4000 > 192.168.10.20:80 S`, `udp A:p > B:p` or `icmp A > B echo-request`)
    packet: 'tcp 10.0.0.1:1 > 10.0.0.2:2 SX', in: a, expect: accept
        19: error: test t: `X` in `SX` is no TCP flag (the letters are S (SYN), A (ACK), F (FIN), R (RST), P (PSH) and U (URG))
    packet: 'tcp 10.0.0.1 > 10.0.0.2:2 S', in: a, expect: accept
        19: error: test t: `10.0.0.1` is no address for this packet (write 192.0.2.1:80 or [2001:db8::1]:80)
    packet: 'tcp 10.0.0.1:1 - 10.0.0.2:2 S', in: a, expect: accept
        19: error: test t: `tcp 10.0.0.1:1 - 10.0.0.2:2 S` is no packet (write it like `tcp 198.51.100.7:4000 > 192.168.10.20:80 S`, `udp A:p > B:p` or `icmp A > B echo-request`)
    packet: 'tcp 10.0.0.1:1 > [::1]:2 S', in: a, expect: accept
        19: error: test t: the two addresses are of different families (write it like `tcp 198.51.100.7:4000 > 192.168.10.20:80 S`, `udp A:p > B:p` or `icmp A > B echo-request`)
    packet: 'tcp 10.0.0.1:1 > 10.0.0.2:2 S seq=x', in: a, expect: accept
        19: error: test t: `seq=x` has no number (write it like len=100)
    packet: 'tcp 10.0.0.1:1 > 10.0.0.2:2 S id=1', in: a, expect: accept
        19: error: test t: this packet has no `id=` (it may have: seq=, ack=, len=)
    packet: 'udp 10.0.0.1:1 > 10.0.0.2:2 len=70000', in: a, expect: accept
        19: error: test t: `len=70000` is too much (write at most 60000)
    packet: 'icmp 10.0.0.1 > 10.0.0.2 ping', in: a, expect: accept
        19: error: test t: an ICMP packet is an echo-request or an echo-reply (write it like `tcp 198.51.100.7:4000 > 192.168.10.20:80 S`, `udp A:p > B:p` or `icmp A > B echo-request`)
    packet: 'udp 10.0.0.1:1 > 10.0.0.2:2', in: a, expect: reject
        65: error: test t: expect can't be `reject` (did you mean `reset`?)
    packet: 'udp 10.0.0.1:1 > 10.0.0.2:2', in: a, expect: accept, phase: half_open
        80: error: test t: phase can't be `half_open` (write one of: syn_sent, syn_received, established, fin_wait, half_closed, closing, time_wait, reset, udp_new, udp_stream, icmp, other)
    at: soon, packet: 'udp 10.0.0.1:1 > 10.0.0.2:2', in: a, expect: accept
        15: error: test t: at: `soon` is not a duration (write one like 30s, 5m, 2h4m or 7d)
    in: a, expect: accept
        9: error: test t: `packet` is missing (write it like "tcp 198.51.100.7:4000 > 192.168.10.20:80 S")
    "#);
    let backwards = "\
rules: []
tests:
  - name: t
    steps:
      - { at: 2s, packet: 'udp 10.0.0.1:1 > 10.0.0.2:2', in: a, expect: drop }
      - { at: 1s, packet: 'udp 10.0.0.1:1 > 10.0.0.2:2', in: a, expect: drop }
  - { name: t, steps: [] }
  - { steps: x }
";
    insta::assert_snapshot!(told(backwards), @r#"
    t:11:15: error: test t: time runs backwards: the step before is later (put the steps in order)
    t:12:5: error: test t: the name `t` is used twice (give one of them another name)
    t:12:23: error: test t: `steps` is an empty list (write at least one packet)
    t:13:5: error: test #3: `name` is missing (say in a sentence what the test shows)
    t:13:14: error: test #3: `steps` must be a list (write `- { at: 0s, packet: "tcp 198.51.100.7:4000 > 192.168.10.20:80 S", in: ppp0, out: eth1, expect: accept }` below it)
    "#);
}
