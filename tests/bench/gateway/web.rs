//! Connections a second: wrk asks nginx for a page over a new connection each time.

use std::{fs, process::Stdio};

use anyhow::{Context as _, ensure};

use crate::{
    lab::{Lab, WEB},
    peers,
};

/// Addresses that nginx answers on, so that more than one queue has work.
const ADDRESSES: u8 = 8;

/// Starts the other end.
pub(crate) fn serve(lab: &mut Lab) -> anyhow::Result<()> {
    let more: String = (1..ADDRESSES).map(|n| format!("addr add 192.0.2.{}/24 dev eth0\n", 10 + n)).collect();
    lab.three.server.ip_batch(&more)?;
    lab.three.client.sysctls(&[("ipv4/ip_local_port_range", "1024 65535")])?;
    lab.three.server.sysctls(&[("core/somaxconn", "4096"), ("ipv4/tcp_max_syn_backlog", "4096")])?;
    let folder = lab.folder().to_owned();
    // Each thread of wrk's asks another of the addresses.
    let script = format!(
        "local thread_number = 0\n\
         function setup(thread)\n\
         thread.addr = wrk.lookup(\"192.0.2.\" .. (10 + thread_number % {ADDRESSES}), \"{WEB}\")[1]\n\
         thread_number = thread_number + 1\n\
         end\n"
    );
    fs::write(folder.join("addresses.lua"), script)?;
    let nginx = peers::nginx(&lab.three.server, &folder, 30_000, 0)?;
    lab.serve_by(nginx, WEB)
}

/// Pages a second.
pub(crate) fn run(lab: &Lab, seconds: u64) -> anyhow::Result<f64> {
    let mut command = lab.three.client.command("wrk");
    let threads = ADDRESSES.to_string();
    command.args(["-t", &threads, "-c", "64", "-d", &seconds.to_string(), "-s"]);
    command.arg(lab.folder().join("addresses.lua")).arg("http://192.0.2.10/").stdin(Stdio::null());
    let output = command.output().context("run wrk")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let rate = text.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:"));
    let rate: f64 = rate.with_context(|| format!("wrk: {text}"))?.trim().parse()?;
    ensure!(rate > 0.0, "no page came: {text}");
    Ok(rate)
}
