//! Network namespaces: small networks of our own, made and taken away again.
//!
//! The lab, the end-to-end tests and the benchmarks run in them. Owns their
//! names, links, addresses and the threads and processes inside; knows nothing
//! of what the traffic means. Needs root and `ip` (package iproute2).
//! Read first: network_namespaces(7), setns(2), veth(4).

mod process;
mod tap;
mod three;

pub use process::Process;
pub use tap::{Captured, Tap};
pub use three::{Family, Three};

use std::{
    collections::HashSet,
    ffi::OsStr,
    fs::{self, File},
    io::{self, Write as _},
    os::{fd::AsRawFd as _, unix::process::CommandExt as _},
    panic,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
};

/// How the names of all our namespaces start; the pid of their owner follows.
const PREFIX: &str = "halfgate-";

/// Where `ip netns` keeps its names.
const NETNS_DIR: &str = "/run/netns";

/// Where tools are looked for, whatever the caller's PATH.
const TOOLS: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a namespace could not be made or used. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// `ip` is not installed.
    #[error("ip was not found: install the package iproute2")]
    NoIp,
    /// Not root.
    #[error("network namespaces need root: run this with sudo")]
    NotRoot,
    /// `ip` refused.
    #[error("ip {command}: {message}")]
    Ip {
        /// What was asked.
        command: String,
        /// Its last words.
        message: String,
    },
    /// A system call failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was tried.
        doing: String,
        /// The kernel's word.
        source: io::Error,
    },
}

impl NetnsError {
    fn io(doing: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Io { doing, source }
    }
}

/// A set of namespaces that goes away with this value, also when a panic
/// unwinds. What a killed process left behind is swept by the next one.
#[derive(Debug)]
pub struct Namespaces {
    prefix: String,
    members: Vec<Namespace>,
}

impl Namespaces {
    /// An empty set with names of its own; first sweeps away the namespaces of
    /// processes that no longer live.
    ///
    /// # Errors
    /// [`NetnsError::NotRoot`], [`NetnsError::NoIp`].
    pub fn new() -> Result<Self, NetnsError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        // SAFETY: geteuid has no preconditions and can't fail.
        if unsafe { libc::geteuid() } != 0 {
            return Err(NetnsError::NotRoot);
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        if number == 0 {
            sweep()?;
        }
        Ok(Self { prefix: format!("{PREFIX}{}-{number}", std::process::id()), members: Vec::new() })
    }

    /// Makes a namespace with `lo` up, IPv6 on, and addresses usable at once:
    /// no duplicate address detection, no reverse path filter.
    ///
    /// # Errors
    /// If the kernel or `ip` refuses.
    pub fn add(&mut self, role: &str) -> Result<Namespace, NetnsError> {
        let name = format!("{}-{role}", self.prefix);
        ip(&["netns", "add", &name])?;
        let path = Path::new(NETNS_DIR).join(&name);
        let file = File::open(&path).map_err(NetnsError::io(format!("open {}", path.display())));
        let file = match file {
            Ok(file) => file,
            Err(error) => {
                let _ = ip(&["netns", "del", &name]);
                return Err(error);
            }
        };
        let namespace = Namespace { name: name.into(), file: Arc::new(file) };
        // A member from here on: Drop removes it if a step below fails.
        self.members.push(namespace.clone());
        namespace.ip_batch("link set lo up\n")?;
        namespace.sysctls(&[
            ("ipv6/conf/all/disable_ipv6", "0"),
            ("ipv6/conf/default/disable_ipv6", "0"),
            ("ipv6/conf/all/accept_dad", "0"),
            ("ipv6/conf/default/accept_dad", "0"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
        ])?;
        Ok(namespace)
    }

    /// Joins two namespaces by a veth pair and brings both ends up. Offloads
    /// stay as the kernel sets them: on, so that packets are as large as on a
    /// real gateway.
    ///
    /// # Errors
    /// If `ip` refuses: a name taken, or longer than 15 octets.
    pub fn link(
        &self,
        (left, left_name): (&Namespace, &str),
        (right, right_name): (&Namespace, &str),
    ) -> Result<(), NetnsError> {
        ip(&[
            "link",
            "add",
            left_name,
            "netns",
            left.name(),
            "type",
            "veth",
            "peer",
            "name",
            right_name,
            "netns",
            right.name(),
        ])?;
        left.ip_batch(&format!("link set {left_name} up\n"))?;
        right.ip_batch(&format!("link set {right_name} up\n"))
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for member in self.members.drain(..).rev() {
            let _ = ip(&["netns", "del", member.name()]);
        }
    }
}

/// One network namespace. Cheap to clone; it is removed by the
/// [`Namespaces`] that made it, not by this value.
#[derive(Clone, Debug)]
pub struct Namespace {
    name: Arc<str>,
    file: Arc<File>,
}

impl Namespace {
    /// The name that `ip netns exec` takes.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` on a thread inside the namespace and waits for it. Sockets
    /// that it opens stay in the namespace wherever they are used afterwards.
    /// A panic of `work` goes on in the caller.
    ///
    /// # Errors
    /// If the namespace can't be entered.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        let inside = || {
            self.join()?;
            Ok(work())
        };
        thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(result) => result,
            Err(panic) => panic::resume_unwind(panic),
        })
    }

    /// Starts `work` on a thread inside the namespace. If the namespace can't be
    /// entered, the thread's result says so.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> thread::JoinHandle<Result<T, NetnsError>> {
        let namespace = self.clone();
        thread::spawn(move || {
            namespace.join()?;
            Ok(work())
        })
    }

    /// A command that will run inside the namespace, found in the usual places
    /// whatever PATH says. It is sent SIGTERM when the thread that starts it
    /// ends, so that nothing outlives its owner. `/sys` is not remounted:
    /// `/sys/class/net` shows the caller's interfaces.
    #[must_use]
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        let file = Arc::clone(&self.file);
        command.env("PATH", TOOLS);
        let enter = move || {
            // SAFETY: between fork and exec only these two system calls are
            // made, with a descriptor that the closure keeps open; neither
            // touches memory.
            let result = unsafe {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
                libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET)
            };
            if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
        };
        // SAFETY: `enter` allocates nothing, takes no lock and touches no
        // memory that another thread may hold.
        unsafe { command.pre_exec(enter) };
        command
    }

    /// Runs lines of `ip` commands inside the namespace, all of them in one
    /// process; stops at the first that fails.
    ///
    /// # Errors
    /// [`NetnsError::Ip`] with what `ip` said.
    pub fn ip_batch(&self, lines: &str) -> Result<(), NetnsError> {
        run_ip(&["-n", self.name(), "-batch", "-"], lines, lines.trim())
    }

    /// Writes settings below `/proc/sys/net`: `("ipv4/ip_forward", "1")`.
    ///
    /// # Errors
    /// The kernel's word, with the setting's name.
    pub fn sysctls(&self, settings: &[(&str, &str)]) -> Result<(), NetnsError> {
        self.enter(|| {
            for (key, value) in settings {
                let path = Path::new("/proc/sys/net").join(key);
                fs::write(&path, value).map_err(NetnsError::io(format!("write {}", path.display())))?;
            }
            Ok(())
        })?
    }

    /// Reads a file below `/proc/net` as this namespace has it: `tcp`, `tcp6`.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn proc_net(&self, file: &str) -> Result<String, NetnsError> {
        let path = PathBuf::from("/proc/thread-self/net").join(file);
        self.enter(|| fs::read_to_string(&path).map_err(NetnsError::io(format!("read {}", path.display()))))?
    }

    /// How many TCP sockets are in a state (the kernel's number: 1
    /// ESTABLISHED, 3 SYN_RECV, ...) on a local port, both families.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn tcp_sockets(&self, state: u8, local_port: u16) -> Result<usize, NetnsError> {
        let tables = [self.proc_net("tcp")?, self.proc_net("tcp6")?];
        let ends = |line: &str| {
            let mut fields = line.split_whitespace();
            let (local, remote) = (fields.nth(1)?.to_owned(), fields.next()?.to_owned());
            let port = u16::from_str_radix(local.rsplit(':').next()?, 16).ok()?;
            let found = u8::from_str_radix(fields.next()?, 16).ok()?;
            (port == local_port && found == state).then_some((local, remote))
        };
        // A list that changes while it is read may show the same socket twice.
        let all: HashSet<_> =
            tables.iter().flat_map(|table| table.lines().skip(1)).filter_map(ends).collect();
        Ok(all.len())
    }

    /// Moves the calling thread into the namespace.
    fn join(&self) -> Result<(), NetnsError> {
        // SAFETY: the descriptor is open for as long as `self` lives.
        if unsafe { libc::setns(self.file.as_raw_fd(), libc::CLONE_NEWNET) } == 0 {
            return Ok(());
        }
        Err(NetnsError::io(format!("enter {}", self.name))(io::Error::last_os_error()))
    }
}

/// Removes namespaces with our prefix whose owner is dead. Says which.
///
/// # Errors
/// If `ip` can't be run.
pub fn sweep() -> Result<Vec<String>, NetnsError> {
    let Ok(entries) = fs::read_dir(NETNS_DIR) else { return Ok(Vec::new()) };
    let mut swept = Vec::new();
    for entry in entries.flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        let Some(owner) = owner(&name) else { continue };
        // Another process may sweep at the same time; what is gone is gone.
        if !Path::new("/proc").join(owner.to_string()).exists() && ip(&["netns", "del", &name]).is_ok() {
            swept.push(name);
        }
    }
    Ok(swept)
}

/// The pid in the name of one of our namespaces.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

fn ip(arguments: &[&str]) -> Result<(), NetnsError> {
    run_ip(arguments, "", &arguments.join(" "))
}

fn run_ip(arguments: &[&str], input: &str, shown: &str) -> Result<(), NetnsError> {
    let spawned = Command::new("ip")
        .args(arguments)
        .env("PATH", TOOLS)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(NetnsError::NoIp),
        Err(error) => return Err(NetnsError::io("run ip")(error)),
    };
    if let Some(mut stdin) = child.stdin.take() {
        // If it stopped early, its exit code and stderr say why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(NetnsError::io("wait for ip"))?;
    if output.status.success() {
        return Ok(());
    }
    let message = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(NetnsError::Ip { command: shown.to_owned(), message })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owner_is_read_from_the_name() {
        assert_eq!(owner("halfgate-123-0-client"), Some(123));
        assert_eq!(owner("halfgate-x-0-client"), None);
        assert_eq!(owner("other-123-0-client"), None);
    }
}
