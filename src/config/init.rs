//! First rule files: the one that `halfgate init` writes, and the one that
//! `halfgate run` uses when there is none.

use std::net::IpAddr;

use super::DEFAULT_RULES;

/// The line of the embedded rules that says what is outside.
const ALL_OUTSIDE: &str = "wan: { interfaces: [\"*\"] }";

/// The embedded rules, with these interfaces outside and all others inside.
/// Without any, every interface is outside, and nothing comes in but ping.
#[must_use]
pub fn default_rules(outside: &[String]) -> String {
    if outside.is_empty() {
        return DEFAULT_RULES.to_owned();
    }
    DEFAULT_RULES.replace(ALL_OUTSIDE, &format!("wan: {{ interfaces: [{}] }}", quoted(outside)))
}

/// What a first rule file is made from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FirstRules {
    /// Interfaces toward the Internet.
    pub wan: Vec<String>,
    /// Interfaces toward one's own machines.
    pub lan: Vec<String>,
    /// The ssh session that must not be locked out: its client, and the
    /// server's port.
    pub ssh: Option<(IpAddr, u16)>,
}

impl FirstRules {
    /// The rule file, with comments that teach.
    #[must_use]
    pub fn text(&self) -> String {
        let wan = quoted(&self.wan);
        let lan = quoted(&self.lan);
        let ssh = match self.ssh {
            None => String::new(),
            Some((client, port)) => {
                let client = match client {
                    IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(client, IpAddr::V4),
                    IpAddr::V4(_) => client,
                };
                format!(
                    "
  # The ssh session from which this file was written, so that it can't lock you
  # out. Narrow or remove it when you have another way in.
  - name: ssh-session
    from: \"{client}\"
    to: gateway
    service: tcp/{port}
    action: accept
"
                )
            }
        };
        format!(
            r#"# The rules of this gateway. docs/RULES.md explains every key.
#   halfgate check FILE      lists every mistake, with its line and its cure
#   halfgate reload FILE --confirm 60s
#                            takes it into use, and goes back by itself unless
#                            `halfgate confirm` follows
version: 1

# Zones are named by interface. An interface may come and go (ppp0 does).
zones:
  wan: {{ interfaces: [{wan}] }}
  # Add `networks: [192.168.10.0/24]` here, and packets that come in on these
  # interfaces with another source are no longer in the zone (anti-spoofing).
  lan: {{ interfaces: [{lan}] }}

# forward: traffic through the gateway. input: traffic to the gateway itself.
hooks: [forward, input]

# What no rule below allows.
default: drop

# Packets while halfgate does not answer: closed drops them, open lets them pass.
fail: closed

# How long a silence may last before a phase ends the connection. These are the
# defaults of four of the fourteen; `halfgate timers set half_closed 30m` tries a
# value at once, also on connections that exist.
timers:
  syn_sent: 30s          # half-open: a SYN that nobody answers
  syn_received: 30s      # half-open: a SYN-ACK that nobody acknowledges
  half_closed: 10m       # one side has said FIN, the other still sends
  time_wait: 1m          # both have said FIN

# How many half-open (embryonic) connections may exist at once.
limits:
  embryonic:
    total: 20000
    per_source: 200      # one IPv4 address, or one IPv6 /64
    per_destination: 2000
    on_excess: evict     # the stalest goes; `drop` and `reset` meet the new one, `challenge` asks it

# The first rule that matches the first packet of a connection decides. Answers
# to what was accepted pass by themselves.
rules:{ssh}
  # Ping from everywhere: without it nobody can tell what is broken.
  - {{ name: ping, service: icmp/echo-request, action: accept }}

  # The gateway's own services (ssh, DNS, DHCP, ...) from inside only.
  - {{ name: lan-to-gateway, from: lan, to: gateway, action: accept }}

  # Out from inside, and between the inside networks.
  - {{ name: lan-out, from: lan, to: wan, action: accept }}
  - {{ name: lan-to-lan, from: lan, to: lan, action: accept }}

  # A server inside, behind a port forward (the forward itself is nftables' or
  # iptables' work; halfgate sees the address after it). Take away the `#`.
  # - name: public-web
  #   from: wan
  #   to: 192.168.10.20
  #   service: [tcp/80, tcp/443]
  #   action: accept
  #   limits: {{ embryonic: {{ per_source: 50, on_excess: drop }} }}

# `halfgate test FILE` runs these through the engine itself, in virtual time.
tests:
  - name: from inside to the Internet, and back
    steps:
      - {{ at: 0s, packet: "tcp 192.168.10.20:40000 > 203.0.113.80:443 S", in: {lan0}, out: {wan0}, expect: accept, phase: syn_sent }}
      - {{ at: 1s, packet: "tcp 203.0.113.80:443 > 192.168.10.20:40000 SA", in: {wan0}, out: {lan0}, expect: accept, phase: syn_received }}
      - {{ at: 1s, packet: "tcp 192.168.10.20:40000 > 203.0.113.80:443 A", in: {lan0}, out: {wan0}, expect: accept, phase: established }}
  - name: nothing comes in from the Internet by itself
    steps:
      - {{ at: 0s, packet: "tcp 203.0.113.80:40000 > 192.168.10.20:22 S", in: {wan0}, out: {lan0}, expect: drop, phase: none }}
      - {{ at: 0s, packet: "tcp 203.0.113.80:40000 > 198.51.100.1:53 S", in: {wan0}, expect: drop, phase: none }}
"#,
            lan0 = quoted(self.lan.get(..1).unwrap_or_default()),
            wan0 = quoted(self.wan.get(..1).unwrap_or_default()),
        )
    }
}

/// Names as the items of a YAML list; those that YAML might misread in quotes.
fn quoted(names: &[String]) -> String {
    let one = |name: &String| {
        let is_plain = name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
            && !matches!(
                name.to_ascii_lowercase().as_str(),
                "null" | "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n"
            );
        // JSON's strings are YAML's.
        if is_plain { name.clone() } else { serde_json::Value::from(name.as_str()).to_string() }
    };
    names.iter().map(one).collect::<Vec<_>>().join(", ")
}
