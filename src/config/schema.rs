//! Every key that a rule file may have: the one place that knows them.
//!
//! docs/RULES.md explains each; a test compares the two.

/// The keys of one kind of mapping.
#[derive(Debug)]
pub struct Group {
    /// What it is, for messages.
    pub title: &'static str,
    /// How it is written, for messages.
    pub example: &'static str,
    /// Its keys.
    pub keys: &'static [&'static str],
    /// Keys that a later version will have, and what to do without them.
    pub(super) later: &'static [(&'static str, &'static str)],
    /// What others call a key -> our key.
    pub(super) foreign: &'static [(&'static str, &'static str)],
}

/// The file itself.
pub const FILE: Group = Group {
    title: "the rule file",
    example: "version: 1",
    keys: &[
        "version",
        "zones",
        "lists",
        "services",
        "hooks",
        "default",
        "fail",
        "pickup",
        "max_connections",
        "adaptive",
        "on_expire",
        "timers",
        "limits",
        "scans",
        "queues",
        "marks",
        "rst_per_second",
        "rules",
        "tests",
    ],
    later: &[],
    foreign: &[
        ("interfaces", "zones"),
        ("networks", "lists"),
        ("sets", "lists"),
        ("aliases", "lists"),
        ("tables", "lists"),
        ("groups", "lists"),
        ("objects", "lists"),
        ("ports", "services"),
        ("policy", "default"),
        ("timeouts", "timers"),
        ("timeout", "timers"),
        ("chains", "rules"),
        ("filter", "rules"),
        ("limit", "limits"),
        ("max_states", "max_connections"),
        ("max_sessions", "max_connections"),
        ("fail_open", "fail"),
    ],
};

/// A zone.
pub const ZONE: Group = Group {
    title: "a zone",
    example: "{ interfaces: [eth1], networks: [192.168.10.0/24] }",
    keys: &["interfaces", "networks"],
    later: &[],
    foreign: &[
        ("interface", "interfaces"),
        ("iface", "interfaces"),
        ("nic", "interfaces"),
        ("dev", "interfaces"),
        ("network", "networks"),
        ("addresses", "networks"),
        ("sources", "networks"),
        ("subnets", "networks"),
    ],
};

/// A list that stands in a file of its own.
pub const LIST: Group = Group {
    title: "a list",
    example: "[203.0.113.0/24] or { file: lists/blocked.txt }",
    keys: &["file"],
    later: &[],
    foreign: &[
        ("path", "file"),
        ("include", "file"),
        ("url", "file"),
        ("networks", "a plain list: [203.0.113.0/24]"),
    ],
};

/// `pickup:`
pub const PICKUP: Group = Group {
    title: "pickup",
    example: "{ mode: strict, grace: 2m }",
    keys: &["mode", "grace"],
    later: &[],
    foreign: &[],
};

/// `scans:`
pub const SCANS: Group = Group {
    title: "scans",
    example: "{ distinct: 64, window: 5m }",
    keys: &["distinct", "window"],
    later: &[],
    foreign: &[
        ("threshold", "distinct"),
        ("ports", "distinct"),
        ("count", "distinct"),
        ("interval", "window"),
    ],
};

/// `adaptive:`
pub const ADAPTIVE: Group = Group {
    title: "adaptive",
    example: "{ start: 60%, end: 120% }",
    keys: &["start", "end"],
    later: &[],
    foreign: &[("low", "start"), ("high", "end"), ("begin", "start"), ("stop", "end")],
};

/// `on_expire:`, where it is not a word.
pub const ON_EXPIRE: Group = Group {
    title: "on_expire",
    example: "{ probe: { interval: 15s, retries: 5 } }",
    keys: &["probe"],
    later: &[],
    foreign: &[
        ("keepalive", "probe"),
        ("interval", "probe: { interval: ... }"),
        ("retries", "probe: { retries: ... }"),
    ],
};

/// `on_expire: { probe: ... }`
pub const PROBE: Group = Group {
    title: "probe",
    example: "{ interval: 15s, retries: 5 }",
    keys: &["interval", "retries"],
    later: &[],
    foreign: &[
        ("every", "interval"),
        ("retry_interval", "interval"),
        ("count", "retries"),
        ("probes", "retries"),
        ("times", "retries"),
        ("max_retries", "retries"),
    ],
};

/// `limits:`
pub const LIMITS: Group = Group {
    title: "limits",
    example: "{ embryonic: { per_source: 200 } }",
    keys: &["embryonic", "connections", "source_prefix"],
    later: &[],
    foreign: &[
        ("prefix", "source_prefix"),
        ("srcnode_prefix", "source_prefix"),
        ("mask", "source_prefix"),
        ("srcmask", "source_prefix"),
        ("established", "connections"),
        ("open", "connections"),
        ("concurrent", "connections"),
        ("conn_max", "connections: { total: ... }"),
        ("max_src_conn", "connections: { per_source: ... }"),
        ("block", "connections: { block: ... }"),
        ("half_open", "embryonic"),
        ("half-open", "embryonic"),
        ("syn", "embryonic"),
        ("embryonic_conn_max", "embryonic: { total: ... }"),
        ("total", "embryonic: { total: ... }"),
        ("per_source", "embryonic: { per_source: ... }"),
        ("per_destination", "embryonic: { per_destination: ... }"),
        ("on_excess", "embryonic: { on_excess: ... }"),
    ],
};

/// `limits: { embryonic: ... }`
pub const EMBRYONIC: Group = Group {
    title: "embryonic",
    example: "{ total: 20000, per_source: 200, per_destination: 2000, on_excess: evict }",
    keys: &["total", "per_source", "per_destination", "on_excess", "calm", "shadow"],
    later: &[],
    foreign: &[
        ("source_prefix", "limits: { source_prefix: ... }"),
        ("max", "total"),
        ("per_rule", "total"),
        ("per_client", "per_source"),
        ("per-client-embryonic-max", "per_source"),
        ("per_src", "per_source"),
        ("per_ip", "per_source"),
        ("per_host", "per_source"),
        ("per_server", "per_destination"),
        ("per_dst", "per_destination"),
        ("per_dest", "per_destination"),
        ("action", "on_excess"),
        ("overflow", "on_excess"),
        ("dry_run", "shadow"),
        ("log_only", "shadow"),
    ],
};

/// `limits: { connections: ... }`
pub const OPEN: Group = Group {
    title: "connections",
    example: "{ per_source: 200, block: 10m, allow: partners }",
    keys: &["total", "per_source", "per_destination", "on_excess", "block", "allow", "shadow"],
    later: &[],
    foreign: &[
        ("source_prefix", "limits: { source_prefix: ... }"),
        ("max", "total"),
        ("max_src_conn", "per_source"),
        ("conn_max", "total"),
        ("per_rule", "total"),
        ("per_client", "per_source"),
        ("per_src", "per_source"),
        ("per_ip", "per_source"),
        ("per_host", "per_source"),
        ("per_server", "per_destination"),
        ("per_dst", "per_destination"),
        ("per_dest", "per_destination"),
        ("action", "on_excess"),
        ("overflow", "on_excess"),
        ("ban", "block"),
        ("bantime", "block"),
        ("block_for", "block"),
        ("never_block", "allow"),
        ("allowlist", "allow"),
        ("whitelist", "allow"),
        ("except", "allow"),
        ("dry_run", "shadow"),
        ("log_only", "shadow"),
    ],
};

/// `limits: { source_prefix: ... }`, where it is not a number.
pub const SOURCE_PREFIX: Group = Group {
    title: "source_prefix",
    example: "{ ipv4: 24, ipv6: 56 }",
    keys: &["ipv4", "ipv6"],
    later: &[],
    foreign: &[
        ("v4", "ipv4"),
        ("v6", "ipv6"),
        ("inet", "ipv4"),
        ("inet6", "ipv6"),
        ("ip", "ipv4"),
        ("ip6", "ipv6"),
    ],
};

/// `queues:`
pub const QUEUES: Group = Group {
    title: "queues",
    example: "{ base: 0, count: 4 }",
    keys: &["base", "count", "cpus"],
    later: &[],
    foreign: &[
        ("first", "base"),
        ("start", "base"),
        ("num", "count"),
        ("workers", "count"),
        ("threads", "count"),
        ("cpu", "cpus"),
        ("cores", "cpus"),
        ("affinity", "cpus"),
    ],
};

/// `marks:`
pub const MARKS: Group = Group {
    title: "marks",
    example: "{ mask: 0xff000000 }",
    keys: &["mask"],
    later: &[],
    foreign: &[("bits", "mask")],
};

/// A rule.
pub const RULE: Group = Group {
    title: "a rule",
    example: "{ name: ssh, from: lan, to: gateway, service: tcp/22, action: accept }",
    keys: &[
        "name",
        "from",
        "to",
        "service",
        "action",
        "log",
        "comment",
        "enabled",
        "timers",
        "limits",
        "on_expire",
        "pickup",
        "fast_open",
        "inspect",
        "evictable",
    ],
    later: &[],
    foreign: &[
        ("source_prefix", "limits: { source_prefix: ... }"),
        ("id", "name"),
        ("source", "from"),
        ("src", "from"),
        ("saddr", "from"),
        ("sources", "from"),
        ("in", "from"),
        ("destination", "to"),
        ("dst", "to"),
        ("daddr", "to"),
        ("dest", "to"),
        ("out", "to"),
        ("services", "service"),
        ("port", "service"),
        ("ports", "service"),
        ("dport", "service"),
        ("proto", "service"),
        ("protocol", "service"),
        ("application", "service"),
        ("target", "action"),
        ("verdict", "action"),
        ("jump", "action"),
        ("policy", "action"),
        ("description", "comment"),
        ("note", "comment"),
        ("disabled", "enabled: false"),
        ("disable", "enabled: false"),
        ("timeout", "timers"),
        ("timeouts", "timers"),
        ("logging", "log"),
        ("tfo", "fast_open"),
        ("fast_path", "inspect"),
        ("fastpath", "inspect"),
        ("offload", "inspect"),
        ("inspection", "inspect"),
        ("evict", "evictable"),
        ("on_full", "evictable: true"),
        ("tcp_fast_open", "fast_open"),
        ("fastopen", "fast_open"),
        ("limit", "limits"),
        ("state", "nothing: replies of accepted connections pass by themselves"),
    ],
};

/// A test.
pub const TEST: Group = Group {
    title: "a test",
    example: "{ name: ssh from outside is dropped, steps: [...] }",
    keys: &["name", "steps"],
    later: &[],
    foreign: &[("packets", "steps"), ("title", "name")],
};

/// A step of a test.
pub const STEP: Group = Group {
    title: "a step",
    example: "{ at: 0s, packet: \"tcp 198.51.100.7:4000 > 192.168.10.20:80 S\", in: ppp0, out: eth1, expect: accept }",
    keys: &["at", "packet", "in", "out", "expect", "phase"],
    later: &[],
    foreign: &[
        ("time", "at"),
        ("send", "packet"),
        ("iif", "in"),
        ("oif", "out"),
        ("verdict", "expect"),
        ("state", "phase"),
    ],
};

/// Every group.
pub const GROUPS: [&Group; 17] = [
    &FILE,
    &ZONE,
    &LIST,
    &PICKUP,
    &SCANS,
    &ADAPTIVE,
    &ON_EXPIRE,
    &PROBE,
    &LIMITS,
    &EMBRYONIC,
    &OPEN,
    &SOURCE_PREFIX,
    &QUEUES,
    &MARKS,
    &RULE,
    &TEST,
    &STEP,
];
