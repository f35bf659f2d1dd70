//! `halfgate init`: writes a first rule file for this gateway.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};

use super::check::quietly;
use crate::config::{self, FirstRules};

/// How many parents are asked for the ssh session.
const MOST_PARENTS: usize = 64;

/// Writes a first rule file for this gateway, with comments that teach.
///
/// A rule for the ssh session that it is run from is part of it, so that taking
/// the file into use can't lock you out.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// An interface toward the Internet (several: repeat it).
    #[arg(long, required = true, value_name = "IF")]
    pub wan: Vec<String>,
    /// An interface toward your own machines (several: repeat it).
    #[arg(long, required = true, value_name = "IF")]
    pub lan: Vec<String>,
    /// Write here instead of to standard output; an existing file is kept.
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Overwrite an existing file.
    #[arg(long, requires = "output")]
    pub force: bool,
    /// The ssh client to let in, and the server's port (22): found by itself
    /// when run from an ssh session.
    #[arg(long, value_name = "ADDRESS[:PORT]", value_parser = ssh_client, conflicts_with = "no_ssh")]
    pub ssh: Option<(IpAddr, u16)>,
    /// No rule for an ssh session.
    #[arg(long)]
    pub no_ssh: bool,
}

/// Writes the file.
///
/// # Errors
/// If an interface's name is impossible, or the file exists or can't be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let ssh = if args.no_ssh { None } else { args.ssh.or_else(ssh_session) };
    let text = first_rules(args, ssh)?;
    let Some(path) = &args.output else {
        return quietly(io::stdout().lock().write_all(text.as_bytes()).map(|()| ExitCode::SUCCESS));
    };
    write(path, &text, args.force)?;
    let mut out = io::stdout().lock();
    let session = ssh.map_or_else(String::new, |(client, port)| {
        format!(" It lets the ssh session from {client} to port {port} in.")
    });
    let path = path.display();
    quietly(
        writeln!(
            out,
            "{path} is written.{session} Look at it, then: halfgate check {path} && halfgate run {path}"
        )
        .map(|()| ExitCode::SUCCESS),
    )
}

fn first_rules(args: &Args, ssh: Option<(IpAddr, u16)>) -> anyhow::Result<String> {
    if let Some(both) = args.wan.iter().find(|name| args.lan.contains(name)) {
        bail!("{both} can't be outside and inside; name one interface each for --wan and --lan");
    }
    let text = FirstRules { wan: args.wan.clone(), lan: args.lan.clone(), ssh }.text();
    let mut no_files = |_: &str| Err("a first rule file names no other".to_owned());
    if let Err(diagnostics) = config::compile("first rules", &text, &mut no_files, None) {
        let first = diagnostics
            .first()
            .map_or_else(String::new, |first| format!("{} ({})", first.message, first.cure));
        bail!("{first}");
    }
    Ok(text)
}

fn write(path: &Path, text: &str, force: bool) -> anyhow::Result<()> {
    if force {
        // Written beside and moved over it, so that no half of a file is ever there.
        let mut beside = path.as_os_str().to_owned();
        beside.push(format!(".{}", std::process::id()));
        let beside = PathBuf::from(beside);
        let moved = fs::write(&beside, text).and_then(|()| fs::rename(&beside, path));
        if moved.is_err() {
            let _ = fs::remove_file(&beside);
        }
        return moved.with_context(|| format!("can't write {}", path.display()));
    }
    let mut file = match OpenOptions::new().write(true).create_new(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            bail!(
                "{} is there already and was left alone; choose another --output, or add --force",
                path.display()
            );
        }
        Err(error) => return Err(error).with_context(|| format!("can't write {}", path.display())),
    };
    file.write_all(text.as_bytes()).with_context(|| format!("can't write {}", path.display()))
}

fn ssh_client(text: &str) -> Result<(IpAddr, u16), String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok((address, 22));
    }
    let parsed = text.parse::<SocketAddr>().ok().filter(|address| address.port() != 0);
    parsed.map(|address| (address.ip(), address.port())).ok_or_else(|| {
        "write the client's address, as in 203.0.113.9, 203.0.113.9:2222 or [2001:db8::9]:22".to_owned()
    })
}

/// The ssh session that this process runs in: from its own environment or, since
/// sudo takes it away, from that of a parent.
fn ssh_session() -> Option<(IpAddr, u16)> {
    if let Ok(own) = std::env::var("SSH_CONNECTION") {
        return connection(&own);
    }
    let mut pid = std::process::id();
    for _ in 0..MOST_PARENTS {
        pid = parent(pid)?;
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let found =
            environment.split(|octet| *octet == 0).find_map(|entry| entry.strip_prefix(b"SSH_CONNECTION="));
        if let Some(found) = found {
            return connection(&String::from_utf8_lossy(found));
        }
    }
    None
}

fn parent(pid: u32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"))?;
    line.trim().parse().ok().filter(|pid| *pid > 1)
}

/// `client-address client-port server-address server-port`.
fn connection(text: &str) -> Option<(IpAddr, u16)> {
    let mut words = text.split_whitespace();
    let client = words.next()?;
    let port = words.nth(2)?.parse().ok().filter(|port| *port > 0)?;
    // A link-local client has its interface behind `%`.
    let client = client.split('%').next()?.parse().ok()?;
    Some((client, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(wan: &[&str], lan: &[&str]) -> Args {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Args { wan: names(wan), lan: names(lan), output: None, force: false, ssh: None, no_ssh: true }
    }

    #[test]
    fn impossible_interfaces_are_refused() {
        let refused =
            |wan: &[&str], lan: &[&str]| first_rules(&args(wan, lan), None).unwrap_err().to_string();
        assert!(refused(&["eth0"], &["eth0"]).contains("can't be outside and inside"));
        assert!(refused(&["a/b"], &["eth0"]).contains("can't be the name of an interface"));
        assert!(refused(&["lo"], &["eth0"]).contains("never diverted"));
        assert!(refused(&["x]\nrules: []"], &["eth0"]).contains("interface"));
        assert!(refused(&["averyveryverylongname"], &["eth0"]).contains("15 characters"));
        assert!(first_rules(&args(&["ppp0", "1st"], &["eth1", "null"]), None).is_ok());
    }

    #[test]
    fn the_session_is_read_as_sshd_writes_it() {
        assert_eq!(
            connection("203.0.113.9 50000 198.51.100.1 2222"),
            Some(("203.0.113.9".parse().unwrap(), 2222))
        );
        assert_eq!(connection("fe80::1%eth0 50000 fe80::2%eth0 22"), Some(("fe80::1".parse().unwrap(), 22)));
        for nonsense in ["", "a b c d", "203.0.113.9 1 2", "203.0.113.9 1 2 0", "203.0.113.9 1 2 99999"] {
            assert_eq!(connection(nonsense), None, "{nonsense}");
        }
        assert_eq!(ssh_client("203.0.113.9"), Ok(("203.0.113.9".parse().unwrap(), 22)));
        assert_eq!(ssh_client("[2001:db8::9]:2222"), Ok(("2001:db8::9".parse().unwrap(), 2222)));
        assert!(ssh_client("example.net").unwrap_err().contains("address"));
    }

    #[test]
    fn an_existing_file_is_left_alone() {
        let path = std::env::temp_dir().join(format!("halfgate-init-{}.yaml", std::process::id()));
        let _ = fs::remove_file(&path);
        write(&path, "one", false).unwrap();
        assert!(write(&path, "two", false).unwrap_err().to_string().contains("left alone"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "one");
        write(&path, "two", true).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "two");
        fs::remove_file(&path).unwrap();
    }
}
