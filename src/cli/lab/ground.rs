//! The lab's ground: the namespaces, the firewall in the gateway, the service
//! on the server, and how to ask each of them.

use std::{
    env, fs,
    io::{self, Read as _},
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde_json::Value;

use super::service::Service;
use crate::{
    conntrack::Instant,
    sys::{
        clock::Clock,
        netns::{Namespace, Process, Three},
    },
};

/// What the lab's firewall is given.
pub(super) const RULES: &str = include_str!("rules.yaml");

/// How long the firewall may take to answer after its start.
const START: Duration = Duration::from_secs(10);

/// Everything that must be taken away again. Dropped in this order: the
/// firewall cleans up behind itself, then its namespaces go, then the files.
#[derive(Debug)]
pub(super) struct Lab {
    _firewall: Process,
    _three: Three,
    ground: Ground,
    directory: Directory,
}

/// What the scenes use of the lab. Owns nothing that must be taken away.
#[derive(Clone, Debug)]
pub(super) struct Ground {
    pub(super) client: Namespace,
    pub(super) gateway: Namespace,
    pub(super) server: Namespace,
    pub(super) service: Arc<Service>,
    clock: Clock,
    halfgate: PathBuf,
    socket: PathBuf,
}

/// A connection, as the firewall's own `connections --json` shows it.
#[derive(Clone, Debug)]
pub(super) struct Shown {
    pub(super) phase: String,
    pub(super) src: SocketAddr,
    pub(super) timer: String,
    pub(super) expires_in: String,
}

/// A directory that goes away with this value.
#[derive(Debug)]
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Lab {
    /// Makes the namespaces, starts the service, then the firewall, and waits
    /// until it answers.
    pub(super) fn start(interrupted: &AtomicBool) -> anyhow::Result<Self> {
        let halfgate = env::current_exe().context("find this program's own file")?;
        let three = Three::new()?;
        // So that a flood the firewall lets through would be felt: the server
        // has only its backlog to fight it with.
        three.server.sysctls(&[("ipv4/tcp_syncookies", "0"), ("ipv4/tcp_max_syn_backlog", "512")])?;
        let service = Arc::new(Service::start(&three.server)?);
        let directory = env::temp_dir().join(format!("halfgate-lab-{}", std::process::id()));
        fs::create_dir(&directory).with_context(|| format!("create {}", directory.display()))?;
        let directory = Directory(directory);
        let rules = directory.0.join("rules.yaml");
        fs::write(&rules, RULES).with_context(|| format!("write {}", rules.display()))?;
        let socket = directory.0.join("control.sock");
        let mut command = three.gateway.command(&halfgate);
        command.arg("--socket").arg(&socket).arg("run").arg(&rules);
        // A Ctrl-C at the terminal is for the lab, which ends the firewall itself.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).process_group(0);
        let firewall =
            Process::start(&mut command).with_context(|| format!("start {}", halfgate.display()))?;
        let ground = Ground {
            client: three.client.clone(),
            gateway: three.gateway.clone(),
            server: three.server.clone(),
            service,
            clock: Clock::start(),
            halfgate,
            socket,
        };
        let mut lab = Self { _firewall: firewall, _three: three, ground, directory };
        lab.wait_until_it_answers(interrupted)?;
        Ok(lab)
    }

    pub(super) fn ground(&self) -> &Ground {
        &self.ground
    }

    /// The rule file that the firewall runs with.
    pub(super) fn rules(&self) -> PathBuf {
        self.directory.0.join("rules.yaml")
    }

    fn wait_until_it_answers(&mut self, interrupted: &AtomicBool) -> anyhow::Result<()> {
        let start = self.ground.now();
        loop {
            if let Some(status) = self._firewall.ended()? {
                bail!("the firewall did not start ({status}): {}", self.last_words());
            }
            if self.ground.ask(&["status"]).is_ok() {
                break;
            }
            if self.ground.since(start) > START {
                bail!("the firewall does not answer on {}", self.ground.socket.display());
            }
            if interrupted.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            thread::sleep(Duration::from_millis(50));
        }
        // From here on nobody reads what it logs; an unread pipe would stop it.
        if let Some(mut stderr) = self._firewall.child().stderr.take() {
            thread::spawn(move || io::copy(&mut stderr, &mut io::sink()));
        }
        Ok(())
    }

    fn last_words(&mut self) -> String {
        let mut words = String::new();
        if let Some(mut stderr) = self._firewall.child().stderr.take() {
            let _ = stderr.read_to_string(&mut words);
        }
        words.trim().to_owned()
    }
}

impl Ground {
    /// Now, on the lab's clock.
    pub(super) fn now(&self) -> Instant {
        self.clock.now()
    }

    /// The time since `start`.
    pub(super) fn since(&self, start: Instant) -> Duration {
        self.clock.now().since(start)
    }

    /// The firewall's command line, for a person to type.
    pub(super) fn shown_command(&self) -> String {
        format!("{} --socket {}", self.halfgate.display(), self.socket.display())
    }

    /// Runs a command of the firewall's own command line; its output.
    pub(super) fn ask(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = Command::new(&self.halfgate)
            .arg("--socket")
            .arg(&self.socket)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("run {}", self.halfgate.display()))?;
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!("halfgate {}: {}", arguments.join(" "), error.trim());
        }
        String::from_utf8(output.stdout).context("halfgate printed something that is not UTF-8")
    }

    /// The connections that match a filter.
    pub(super) fn connections(&self, filter: &[&str]) -> anyhow::Result<Vec<Shown>> {
        let arguments = [&["connections", "--json"], filter].concat();
        self.ask(&arguments)?.lines().map(shown).collect()
    }

    /// How many half-open connections the firewall counts. A listing of them
    /// would not do: while it is made, some go and others come.
    pub(super) fn half_open(&self) -> anyhow::Result<u64> {
        let rows = self.ask(&["limits", "--json"])?;
        let total =
            rows.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).find_map(|row| {
                let ours = row.get("limit")? == "embryonic.total" && row.get("rule")?.is_null();
                if ours { row.get("embryonic")?.as_u64() } else { None }
            });
        total.with_context(|| format!("no count of embryonic.total in {rows}"))
    }

    /// The connection that a client opened from this address, if the firewall
    /// has it.
    pub(super) fn connection(&self, from: SocketAddr) -> anyhow::Result<Option<Shown>> {
        let source = format!("src={}", from.ip());
        let connections = self.connections(&[&source])?;
        Ok(connections.into_iter().find(|shown| shown.src == from))
    }

    /// Asks again and again until `ready` gives something; `None` after
    /// `timeout`.
    pub(super) fn poll<T>(
        &self,
        timeout: Duration,
        mut ready: impl FnMut() -> anyhow::Result<Option<T>>,
    ) -> anyhow::Result<Option<T>> {
        let start = self.now();
        loop {
            if let Some(value) = ready()? {
                return Ok(Some(value));
            }
            if self.since(start) >= timeout {
                return Ok(None);
            }
            thread::sleep(Duration::from_millis(30));
        }
    }
}

/// One line of `connections --json`.
fn shown(line: &str) -> anyhow::Result<Shown> {
    let object: Value = serde_json::from_str(line).with_context(|| format!("not an object: {line}"))?;
    let text = |key: &str| {
        object
            .get(key)
            .and_then(Value::as_str)
            .map(str::to_owned)
            .with_context(|| format!("no {key} in {line}"))
    };
    let port = object.get("sport").and_then(Value::as_u64).with_context(|| format!("no sport in {line}"))?;
    let src = SocketAddr::new(text("src")?.parse()?, u16::try_from(port)?);
    Ok(Shown { phase: text("phase")?, src, timer: text("timer")?, expires_in: text("expires_in")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_connections_is_understood() {
        let line = r#"{"proto":"tcp","src":"2001:db8::1","sport":4000,"dst":"2001:db8::2","dport":80,
            "phase":"half_closed","rule":"web","age":"3s","idle":"1s","expires_in":"9m59s","timer":"half_closed"}"#;
        let shown = shown(line).unwrap();
        assert_eq!(shown.src.to_string(), "[2001:db8::1]:4000");
        assert_eq!((shown.phase.as_str(), shown.expires_in.as_str()), ("half_closed", "9m59s"));
        assert!(super::shown(r#"{"proto":"tcp"}"#).is_err());
    }
}
