//! Connections a second: wrk asks nginx for a page over a new connection each time.

use std::{fs, process::Stdio};

use anyhow::{Context as _, ensure};

use crate::lab::{Lab, WEB};

/// Addresses that nginx answers on, so that more than one queue has work.
const ADDRESSES: u8 = 8;

/// Starts the other end.
pub(crate) fn serve(lab: &mut Lab) -> anyhow::Result<()> {
    let more: String = (1..ADDRESSES).map(|n| format!("addr add 192.0.2.{}/24 dev eth0\n", 10 + n)).collect();
    lab.three.server.ip_batch(&more)?;
    lab.three.client.sysctls(&[("ipv4/ip_local_port_range", "1024 65535")])?;
    lab.three.server.sysctls(&[("core/somaxconn", "4096"), ("ipv4/tcp_max_syn_backlog", "4096")])?;
    let folder = lab.folder().to_owned();
    let configuration = format!(
        "daemon off; worker_processes 1; pid {0}/nginx.pid; error_log {0}/error.log;\n\
         events {{ worker_connections 10000; }}\n\
         http {{ access_log off; client_body_temp_path {0}; proxy_temp_path {0}; fastcgi_temp_path {0};\n\
         uwsgi_temp_path {0}; scgi_temp_path {0}; keepalive_timeout 0;\n\
         server {{ listen {WEB} backlog=4096; location / {{ return 200 \"hello\\n\"; }} }} }}\n",
        folder.display()
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, configuration)?;
    // Each thread of wrk's asks another of the addresses.
    let script = format!(
        "local thread_number = 0\n\
         function setup(thread)\n\
         thread.addr = wrk.lookup(\"192.0.2.\" .. (10 + thread_number % {ADDRESSES}), \"{WEB}\")[1]\n\
         thread_number = thread_number + 1\n\
         end\n"
    );
    fs::write(folder.join("addresses.lua"), script)?;
    let file = file.to_str().context("a path in UTF-8")?;
    let folder = folder.to_str().context("a path in UTF-8")?;
    lab.serve("nginx", &["-p", folder, "-c", file, "-e", &format!("{folder}/error.log")], WEB)
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
