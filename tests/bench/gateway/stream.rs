//! Streams: iperf3 from client to server, and what they cost.

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::lab::{Lab, STREAM, busy, counter, received, server};

/// How often a client asks whose server is busy.
const TRIES: u32 = 10;

/// What is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Traffic {
    /// So many TCP connections at once, with the usual segments or short ones
    Tcp { connections: u8, short: bool },
    /// Datagrams of 64 octets, as fast as they can be sent
    Udp,
}

impl Traffic {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Tcp { connections, short } => {
                let many = if connections == 1 {
                    "one TCP stream".to_owned()
                } else {
                    format!("{connections} TCP streams")
                };
                many + if short { ", segments of 536 octets" } else { "" }
            }
            Self::Udp => "UDP, 64 octets each".to_owned(),
        }
    }

    fn arguments(self) -> Vec<String> {
        let text = match self {
            Self::Tcp { connections, short: false } => format!("-P {connections}"),
            Self::Tcp { connections, short: true } => format!("-P {connections} -M 536"),
            Self::Udp => "-u -l 64 -b 0".to_owned(),
        };
        text.split_whitespace().map(str::to_owned).collect()
    }
}

/// One run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    /// TCP: Gbit/s that arrived. UDP: thousand packets/s that reached the server's machine.
    pub(crate) rate: f64,
    /// Seconds of processor time of the whole machine, a gigabyte that reached the
    /// server's machine.
    pub(crate) cpu: f64,
    /// Of a hundred packets that reached the server's machine or left it, how many came to
    /// a queue in the gateway.
    pub(crate) queued: f64,
    /// Segments sent again.
    pub(crate) again: u64,
    /// Segments that came before one that was sent earlier.
    pub(crate) early: u64,
}

/// Starts the other end.
pub(crate) fn serve(lab: &mut Lab) -> anyhow::Result<()> {
    lab.serve("iperf3", &["--server"], STREAM)
}

pub(crate) fn run(lab: &Lab, traffic: Traffic, seconds: u64) -> anyhow::Result<Run> {
    let mut command = lab.three.client.command("iperf3");
    command.args(["--client", &server().to_string(), "--json", "--time", &seconds.to_string()]);
    command.args(traffic.arguments()).stdin(Stdio::null());
    let mut tries = 0;
    let (before, result, after) = loop {
        let before = Look::at(lab)?;
        let output = command.output().context("run iperf3")?;
        let after = Look::at(lab)?;
        let result: Value = serde_json::from_slice(&output.stdout).context("iperf3's result")?;
        if result["error"].is_null() {
            break (before, result, after);
        }
        // The server may not have done with the last client.
        tries += 1;
        ensure!(tries < TRIES, "iperf3: {}", result["error"]);
        std::thread::sleep(Duration::from_millis(500));
    };
    let end = &result["end"];
    let (octets, packets) = (after.octets - before.octets, after.packets - before.packets);
    let rate = match traffic {
        Traffic::Tcp { .. } => end["sum_received"]["bits_per_second"].as_f64().context("bits")? / 1e9,
        Traffic::Udp => packets as f64 / end["sum"]["seconds"].as_f64().context("seconds")? / 1e3,
    };
    Ok(Run {
        rate,
        cpu: (after.busy - before.busy).as_secs_f64() / (octets as f64 / 1e9),
        queued: (after.queued - before.queued) as f64 * 100.0 / (packets + after.left - before.left) as f64,
        again: after.again - before.again,
        early: after.early - before.early,
    })
}

/// What the kernel has counted.
#[derive(Debug)]
struct Look {
    busy: Duration,
    octets: u64,
    packets: u64,
    left: u64,
    queued: u64,
    again: u64,
    early: u64,
}

impl Look {
    fn at(lab: &Lab) -> anyhow::Result<Self> {
        let (octets, packets) = received(&lab.three.server, "eth0")?;
        Ok(Self {
            busy: busy()?,
            octets,
            packets,
            left: received(&lab.three.gateway, "inside")?.1,
            queued: lab.taken()?,
            again: counter(&lab.three.client, "snmp", "Tcp", "RetransSegs")?,
            early: counter(&lab.three.server, "netstat", "TcpExt", "TCPOFOQueue")?,
        })
    }
}
