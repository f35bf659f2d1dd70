//! What stands between: nothing, the kernel, Suricata, halfgate in its modes.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;
use halfgate::sys::netns::Process;

use crate::{ground::Ground, peers};

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Protector {
    /// A router without a firewall
    None,
    /// nftables with conntrack
    Conntrack,
    /// nftables with conntrack, which refuses new connections of a source with too many
    Counted,
    /// nftables with conntrack and its synproxy for the web server
    Synproxy,
    /// Suricata on NFQUEUE, without signatures
    Suricata,
    /// halfgate, `on_excess: drop`
    Drop,
    /// halfgate, `on_excess: evict`
    Evict,
    /// halfgate, `on_excess: challenge`
    Challenge,
    /// halfgate, `on_excess: syncookies`
    Syncookies,
    /// halfgate, `on_excess: challenge`, limits of open connections that block, and a timer
    /// for half-closed ones
    Limits,
}

/// Open connections that one source may have, where something counts them.
const PER_SOURCE: u32 = 20;

/// A protector that runs as a process.
pub(crate) struct Guard {
    process: Process,
}

impl Guard {
    pub(crate) fn id(&self) -> Option<u32> {
        Some(self.process.id())
    }
}

const CONNTRACK: &str = "table inet peer { chain forward { type filter hook forward priority 0; policy drop;\n\
    ct state established,related accept\n\
    ct state invalid drop\n\
    iifname \"outside\" tcp dport { 80, 81 } ct state new accept\n\
    }\n}\n";

/// As the example of its manual does (nft(8), ct count).
fn counted() -> String {
    format!(
        "table inet peer {{ set sources {{ type ipv4_addr; flags dynamic; size 65536; }}\n\
         chain forward {{ type filter hook forward priority 0; policy drop;\n\
         ct state established,related accept\n\
         ct state invalid drop\n\
         iifname \"outside\" tcp dport {{ 80, 81 }} ct state new \
         add @sources {{ ip saddr ct count over {PER_SOURCE} }} reject with tcp reset\n\
         iifname \"outside\" tcp dport {{ 80, 81 }} ct state new accept\n\
         }}\n}}\n"
    )
}

const SYNPROXY: &str = "table inet peer {\n\
    chain pre { type filter hook prerouting priority raw; policy accept;\n\
    iifname \"outside\" tcp dport { 80, 81 } tcp flags & (fin | syn | rst | ack) == syn notrack\n\
    }\n\
    chain forward { type filter hook forward priority 0; policy drop;\n\
    tcp dport { 80, 81 } ct state invalid,untracked synproxy mss 1460 wscale 7 timestamp sack-perm\n\
    ct state invalid drop\n\
    ct state established,related accept\n\
    tcp dport { 80, 81 } ct state new accept\n\
    }\n}\n";

impl Protector {
    pub(crate) const ALL: [Self; 10] = [
        Self::None,
        Self::Conntrack,
        Self::Counted,
        Self::Synproxy,
        Self::Suricata,
        Self::Drop,
        Self::Evict,
        Self::Challenge,
        Self::Syncookies,
        Self::Limits,
    ];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::None => "nothing",
            Self::Conntrack => "nftables conntrack",
            Self::Counted => "nftables `ct count`",
            Self::Synproxy => "nftables synproxy",
            Self::Suricata => "Suricata",
            Self::Drop => "halfgate `drop`",
            Self::Evict => "halfgate `evict`",
            Self::Challenge => "halfgate `challenge`",
            Self::Syncookies => "halfgate `syncookies`",
            Self::Limits => "halfgate `connections`",
        }
    }

    /// Puts it in place and waits until it is.
    pub(crate) fn start(self, ground: &Ground, halfgate: &Path, limit: u32) -> anyhow::Result<Option<Guard>> {
        match self {
            Self::None => Ok(None),
            Self::Conntrack => nft(ground, CONNTRACK).map(|()| None),
            Self::Counted => nft(ground, &counted()).map(|()| None),
            Self::Synproxy => {
                // As its manual asks (nft(8), synproxy).
                ground
                    .three
                    .gateway
                    .sysctls(&[("netfilter/nf_conntrack_tcp_loose", "0"), ("ipv4/tcp_syncookies", "1")])?;
                nft(ground, SYNPROXY).map(|()| None)
            }
            Self::Suricata => suricata(ground).map(Some),
            Self::Drop => firewall(ground, halfgate, &rules("outside", limit, "drop")).map(Some),
            Self::Evict => firewall(ground, halfgate, &rules("outside", limit, "evict")).map(Some),
            Self::Challenge => firewall(ground, halfgate, &rules("outside", limit, "challenge")).map(Some),
            Self::Syncookies => firewall(ground, halfgate, &rules("outside", limit, "syncookies")).map(Some),
            Self::Limits => {
                let open = format!("connections: {{ per_source: {PER_SOURCE}, block: 10m }}, embryonic:");
                let rules = rules("outside", limit, "challenge").replace("embryonic:", &open);
                firewall(ground, halfgate, &format!("{rules}timers: {{ half_closed: 10s }}\n")).map(Some)
            }
        }
    }
}

fn nft(ground: &Ground, rules: &str) -> anyhow::Result<()> {
    let status = ground.three.gateway.command("nft").arg(rules).status().context("run nft")?;
    ensure!(status.success(), "nft: {status}");
    Ok(())
}

/// A limit for each destination; `outside` are the interfaces of strangers. As a gateway
/// that has been up for a while: just after a start, a handshake that was evicted is picked
/// up again by its third step.
pub(crate) fn rules(outside: &str, limit: u32, on_excess: &str) -> String {
    format!(
        "version: 1\n\
         zones: {{ outside: {{ interfaces: [{outside}] }}, inside: {{ interfaces: [inside] }} }}\n\
         pickup: {{ grace: 0s }}\n\
         limits: {{ embryonic: {{ per_destination: {limit}, on_excess: {on_excess} }} }}\n\
         rules:\n\
         \x20 - {{ name: web, from: outside, service: [tcp/80, tcp/81], action: accept }}\n"
    )
}

/// halfgate with these rules.
pub(crate) fn firewall(ground: &Ground, halfgate: &Path, rules: &str) -> anyhow::Result<Guard> {
    let file = ground.scratch.0.join("rules.yaml");
    fs::write(&file, rules)?;
    let mut command = program(ground, halfgate)?;
    command.arg("run").arg(&file);
    let log = fs::File::create(ground.scratch.0.join("halfgate.log"))?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let process = Process::start(&mut command).context("start halfgate")?;
    let guard = Guard { process };
    wait(ground, guard, "halfgate.log", |text| text.contains("ready:"))
}

/// halfgate in the gateway, that or its daemon.
fn program(ground: &Ground, halfgate: &Path) -> anyhow::Result<Command> {
    let program =
        fs::canonicalize(halfgate).context("find halfgate; build it with `cargo build --release`")?;
    let mut command = ground.three.gateway.command(program);
    command.arg("--socket").arg(ground.scratch.0.join("control.sock"));
    Ok(command)
}

/// What `halfgate status` says.
pub(crate) fn status(ground: &Ground, halfgate: &Path) -> anyhow::Result<serde_json::Value> {
    let output = program(ground, halfgate)?.args(["status", "--json"]).output().context("ask halfgate")?;
    ensure!(output.status.success(), "halfgate status: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).context("what status said")
}

fn suricata(ground: &Ground) -> anyhow::Result<Guard> {
    let scratch = &ground.scratch.0;
    let mut command = peers::suricata(&ground.three.gateway, scratch)?;
    command.args(peers::WITHOUT_LOGS);
    let log = fs::File::create(scratch.join("suricata.out"))?;
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let guard = Guard {
        process: Process::start(&mut command).context("start suricata; tests/bench/attack.sh installs it")?,
    };
    let guard = wait(ground, guard, "suricata.out", |text| text.contains("ngine started"))?;
    let status = ground.three.gateway.command("iptables-nft").args(peers::TO_SURICATA).status()?;
    ensure!(status.success(), "iptables: {status}");
    Ok(guard)
}

/// Waits for the line that says that it is in place.
fn wait(ground: &Ground, mut guard: Guard, log: &str, ready: impl Fn(&str) -> bool) -> anyhow::Result<Guard> {
    let start = Instant::now();
    let file = ground.scratch.0.join(log);
    while start.elapsed() < Duration::from_secs(60) {
        let text = fs::read_to_string(&file).unwrap_or_default();
        if ready(&text) {
            return Ok(guard);
        }
        if let Some(status) = guard.process.ended()? {
            bail!("it ended ({status}):\n{text}");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    bail!("it is not ready after a minute:\n{}", fs::read_to_string(&file).unwrap_or_default())
}
