//! How late packets are while the table has many connections, and something is done
//! to all of them: listed, ended in the same second, judged by other rules.

use std::{
    fmt::Write as _,
    fs,
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use halfgate::{
    sys::{netns::Family, raw::RawSender},
    wire::{FourTuple, build::udp},
};

use crate::{
    lab::{DISCARD, Lab, Programs, Way, rules},
    small,
};

/// What is done to them while packets pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Work {
    Nothing,
    Listed,
    Ended,
    Judged,
}

impl Work {
    pub(crate) const ALL: [Self; 4] = [Self::Nothing, Self::Listed, Self::Ended, Self::Judged];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nothing => "nothing is done to them",
            Self::Listed => "all are listed",
            Self::Ended => "the timers of all fire in one second",
            Self::Judged => "10,000 rules are swapped and all judged again",
        }
    }
}

/// A gateway with many connections.
#[derive(Debug)]
pub(crate) struct Filled {
    pub(crate) lab: Lab,
    halfgate: PathBuf,
    many_rules: PathBuf,
    count: u32,
}

impl Filled {
    pub(crate) fn new(programs: &Programs, count: u32) -> anyhow::Result<Self> {
        let lab = Lab::new(Way::Large, programs)?;
        // The kernel's own table has less room.
        let port = DISCARD.to_string();
        lab.tool(
            "iptables-nft",
            &["-t", "raw", "-A", "PREROUTING", "-p", "udp", "--dport", &port, "-j", "CT", "--notrack"],
        )?;
        let many_rules = lab.folder().join("many.yaml");
        fs::write(&many_rules, ten_thousand())?;
        Ok(Self { lab, halfgate: programs.halfgate.clone(), many_rules, count })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.lab.three.gateway.command(&self.halfgate);
        command.arg("--socket").arg(self.lab.socket()).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn must(&self, arguments: &[&str]) -> anyhow::Result<()> {
        let output = self.command(arguments).stderr(Stdio::piped()).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "halfgate {arguments:?}: {}: {said}", output.status);
        Ok(())
    }

    fn connections(&self) -> anyhow::Result<u64> {
        let mut command = self.command(&["status", "--json"]);
        let output = command.stdout(Stdio::piped()).output()?;
        let status: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        status.pointer("/connections").and_then(serde_json::Value::as_u64).context("no connections in status")
    }

    /// Sends datagrams until there are so many connections.
    pub(crate) fn fill(&self) -> anyhow::Result<()> {
        self.must(&["timers", "set", "udp_new", "10m"])?;
        let sender = self.lab.three.client.enter(|| RawSender::open(0))?.context("open a raw socket")?;
        let start = Instant::now();
        while self.connections()? < u64::from(self.count) {
            ensure!(start.elapsed() < Duration::from_secs(120), "{} connections", self.connections()?);
            for n in 0..self.count {
                let tuple = FourTuple {
                    src: Family::V4.forged(u16::try_from(n & 0xffff)?),
                    src_port: 1024 + u16::try_from(n >> 16)?,
                    dst: Family::V4.mute(),
                    dst_port: DISCARD,
                };
                // A full device queue refuses some.
                let _ = sender.send(&udp(tuple, &[]));
                if n.is_multiple_of(512) {
                    // No faster than they are taken.
                    std::thread::sleep(Duration::from_micros(500));
                }
            }
        }
        Ok(())
    }

    /// How long an echo takes at most, 999 of 1,000 of them, in microseconds.
    pub(crate) fn echoes(&self, work: Work, seconds: u64) -> anyhow::Result<f64> {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| -> anyhow::Result<()> {
                match work {
                    Work::Nothing => Ok(()),
                    Work::Listed => self.again_until(&over, &["connections", "--json"]),
                    Work::Judged => {
                        let file = self.many_rules.to_str().context("a path in UTF-8")?;
                        self.again_until(&over, &["reload", file, "--existing", "rejudge"])
                    }
                    Work::Ended => {
                        std::thread::sleep(Duration::from_millis(200));
                        self.must(&["timers", "set", "udp_new", "1s"])
                    }
                }
            });
            let late = small::echoes(&self.lab, Duration::from_secs(seconds));
            over.store(true, Ordering::Relaxed);
            worker.join().map_err(|_| anyhow::anyhow!("the work panicked"))??;
            late.map(|times| times.of_thousand)
        })
    }

    /// A command again and again, at least once.
    fn again_until(&self, over: &AtomicBool, arguments: &[&str]) -> anyhow::Result<()> {
        loop {
            self.must(arguments)?;
            if over.load(Ordering::Relaxed) {
                return Ok(());
            }
        }
    }
}

/// 10,000 rules, the last of which lets everything in.
fn ten_thousand() -> String {
    let (head, last) = {
        let all = rules("full", "max_connections: 1500000\n");
        let at = all.find("rules:\n").map_or(0, |at| at + "rules:\n".len());
        (all[..at].to_owned(), all[at..].to_owned())
    };
    let mut text = head;
    for n in 0..9_999_u32 {
        let (high, low, port) = (n >> 8 & 0xff, n & 0xff, 1024 + n % 30_000);
        let _ = writeln!(
            text,
            "  - {{ name: r{n}, from: outside, to: 10.0.{high}.{low}, service: tcp/{port}, action: accept }}"
        );
    }
    text + &last
}
