//! What more than one benchmark starts beside halfgate: nginx, Suricata.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use halfgate::sys::netns::Namespace;

/// A folder that goes away with this value.
#[derive(Debug)]
pub(crate) struct Scratch(pub(crate) PathBuf);

impl Scratch {
    pub(crate) fn new(of: &str) -> anyhow::Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("halfgate-{of}-{}-{number}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// nginx with one page on port 80 and room for so many connections, which stay open for so
/// many seconds after it.
pub(crate) fn nginx(at: &Namespace, folder: &Path, room: u32, keepalive: u32) -> anyhow::Result<Command> {
    let configuration = format!(
        "daemon off; worker_processes 1; worker_rlimit_nofile 65536; pid {0}/nginx.pid; error_log {0}/error.log;\n\
         events {{ worker_connections {room}; }}\n\
         http {{ access_log off; client_body_temp_path {0}; proxy_temp_path {0}; fastcgi_temp_path {0};\n\
         uwsgi_temp_path {0}; scgi_temp_path {0}; keepalive_timeout {keepalive}; keepalive_requests 100000;\n\
         server {{ listen 80 backlog=4096; location / {{ return 200 \"hello\\n\"; }} }} }}\n",
        folder.display()
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, configuration)?;
    let mut command = at.command("nginx");
    command.arg("-p").arg(folder).arg("-c").arg(&file).arg("-e").arg(folder.join("error.log"));
    Ok(command)
}

/// What iptables-nft diverts to Suricata's queues by.
pub(crate) const TO_SURICATA: [&str; 6] = ["-A", "FORWARD", "-j", "NFQUEUE", "--queue-balance", "0:1"];

/// What it logs nothing by but its own statistics.
pub(crate) const WITHOUT_LOGS: [&str; 4] =
    ["--set", "outputs.0.fast.enabled=no", "--set", "outputs.1.eve-log.enabled=no"];

/// Suricata on two queues, as Debian has it: without signatures, its logs of events on. It says
/// that its engine has started.
pub(crate) fn suricata(at: &Namespace, folder: &Path) -> anyhow::Result<Command> {
    let none = folder.join("none.rules");
    fs::write(&none, "")?;
    let mut command = at.command("suricata");
    command.args(["-c", "/etc/suricata/suricata.yaml", "-q", "0", "-q", "1", "--runmode", "workers", "-l"]);
    command.arg(folder).arg("-S").arg(&none).arg("--pidfile").arg(folder.join("suricata.pid"));
    Ok(command)
}
