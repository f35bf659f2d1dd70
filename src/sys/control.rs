//! The control socket's file, the locks beside it, and who may use them.
//!
//! Owns: binding with the right mode and group, replacing a dead daemon's
//! socket, one daemon per network namespace, the credentials of a peer.
//! Knows nothing of what is said over the socket.

use std::{
    ffi::CString,
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read, Seek, SeekFrom, Write},
    os::{
        fd::{AsFd, AsRawFd},
        unix::{
            fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown},
            net::{UnixListener, UnixStream},
        },
    },
    path::{Path, PathBuf},
};

/// Where the control socket is, unless `--socket` says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/halfgate/control.sock";

/// Where the lock of a network namespace lies.
pub const RUN_DIRECTORY: &str = "/run/halfgate";

/// Members of this group may use the socket, beside root.
pub const GROUP: &str = "halfgate";

/// Mode of the socket: root and the group.
const SOCKET_MODE: u32 = 0o660;

/// Mode of a directory that we make for it.
const DIRECTORY_MODE: u32 = 0o750;

/// Why the control socket could not be used. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// A living daemon has it.
    #[error(
        "a daemon already answers on {}: stop it first, or give this one another --socket",
        .0.display()
    )]
    Taken(PathBuf),
    /// A living daemon guards this network namespace.
    #[error(
        "another halfgate daemon{} already guards this network namespace: stop it first (lock {})",
        .pid.map(|pid| format!(" (process {pid})")).unwrap_or_default(),
        .lock.display()
    )]
    Guarded {
        /// The lock file.
        lock: PathBuf,
        /// Its holder, if it said so.
        pid: Option<u32>,
    },
    /// There is something else under that name.
    #[error("{} exists and is not a socket: move it away, or choose another --socket", .0.display())]
    NotASocket(PathBuf),
    /// The name does not fit into a socket address.
    #[error("{} is too long for a socket: choose a --socket path of at most 100 octets", .0.display())]
    TooLong(PathBuf),
    /// Nobody listens.
    #[error(
        "no daemon answers on {}: start it with `halfgate run` or `systemctl start halfgate`, \
         or name its socket with --socket",
        .0.display()
    )]
    NoDaemon(PathBuf),
    /// We are not let in.
    #[error("no access to {}: only root and members of the group {GROUP} may talk to the daemon", .0.display())]
    Denied(PathBuf),
    /// The kernel refused.
    #[error("{}: {source}", .path.display())]
    Io {
        /// Which file.
        path: PathBuf,
        /// The kernel's word.
        source: io::Error,
    },
}

impl ControlError {
    fn io(path: &Path, source: io::Error) -> Self {
        if source.kind() == io::ErrorKind::PermissionDenied {
            return Self::Denied(path.to_owned());
        }
        Self::Io { path: path.to_owned(), source }
    }
}

/// A listening control socket. Its file goes away with it.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    inode: u64,
    lock: Option<Lock>,
}

impl ControlSocket {
    /// Binds the socket with mode 0660, group [`GROUP`] if that exists. A
    /// socket that a dead daemon left is replaced; a living one is not.
    ///
    /// # Errors
    /// [`ControlError`], which says what to do.
    pub fn bind(path: &Path) -> Result<Self, ControlError> {
        if path.as_os_str().len() > 100 {
            return Err(ControlError::TooLong(path.to_owned()));
        }
        make_directory_of(path)?;
        let lock = match Lock::take(&with_suffix(path, ".lock")) {
            Ok(lock) => lock,
            Err(ControlError::Guarded { .. }) => return Err(ControlError::Taken(path.to_owned())),
            Err(other) => return Err(other),
        };
        match fs::symlink_metadata(path) {
            Ok(meta) if meta.mode() & libc::S_IFMT != libc::S_IFSOCK => {
                return Err(ControlError::NotASocket(path.to_owned()));
            }
            // The lock is ours, but an answer is still a living daemon: one
            // whose lock file was removed under it.
            Ok(_) if UnixStream::connect(path).is_ok() => return Err(ControlError::Taken(path.to_owned())),
            Ok(_) | Err(_) => {}
        }
        // Bound under another name, so that nobody can connect before the mode
        // is right, and renamed over what a dead daemon left.
        let new = with_suffix(path, ".new");
        let _ = fs::remove_file(&new);
        let fail = |error| ControlError::io(path, error);
        let listener = UnixListener::bind(&new).map_err(fail)?;
        let dressed = give_to_group(&new)
            .and_then(|()| fs::set_permissions(&new, fs::Permissions::from_mode(SOCKET_MODE)))
            .and_then(|()| listener.set_nonblocking(true))
            .and_then(|()| fs::rename(&new, path))
            .and_then(|()| fs::symlink_metadata(path));
        match dressed {
            Ok(meta) => Ok(Self { listener, path: path.to_owned(), inode: meta.ino(), lock: Some(lock) }),
            Err(error) => {
                let _ = fs::remove_file(&new);
                Err(fail(error))
            }
        }
    }

    /// A second handle of the listener, not blocking.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn listener(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }

    /// Where it is bound.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|meta| meta.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
        if let Some(lock) = self.lock.take() {
            lock.remove();
        }
    }
}

/// Connects to a daemon.
///
/// # Errors
/// [`ControlError::NoDaemon`] or [`ControlError::Denied`], mostly.
pub fn connect(path: &Path) -> Result<UnixStream, ControlError> {
    UnixStream::connect(path).map_err(|error| {
        let absent = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused].contains(&error.kind());
        if absent { ControlError::NoDaemon(path.to_owned()) } else { ControlError::io(path, error) }
    })
}

/// A lock that goes away with its process, whatever kills it.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    /// Takes the lock.
    ///
    /// # Errors
    /// [`ControlError::Guarded`] if somebody has it.
    pub fn take(path: &Path) -> Result<Self, ControlError> {
        loop {
            let lock = Self::take_once(path)?;
            // Its holder may have removed the file before it let go; then the
            // lock is on a file that nobody else finds.
            let ours = lock.file.metadata().map_err(|error| ControlError::io(path, error))?;
            if fs::symlink_metadata(path).is_ok_and(|named| named.ino() == ours.ino()) {
                return Ok(lock);
            }
        }
    }

    fn take_once(path: &Path) -> Result<Self, ControlError> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o640)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)
            .map_err(|error| ControlError::io(path, error))?;
        let mut lock = Self { file, path: path.to_owned() };
        match lock.file.try_lock() {
            Ok(()) => Ok(lock),
            Err(TryLockError::WouldBlock) => {
                let pid = lock.note().split_whitespace().next().and_then(|word| word.parse().ok());
                Err(ControlError::Guarded { lock: path.to_owned(), pid })
            }
            Err(TryLockError::Error(error)) => Err(ControlError::io(path, error)),
        }
    }

    /// Lets go and leaves no file behind.
    pub fn remove(self) {
        // While it is held: who waits for it sees that the file is gone.
        let _ = fs::remove_file(&self.path);
    }

    /// What the holder (or the last one) wrote into it.
    pub fn note(&mut self) -> String {
        let mut text = String::new();
        let read = self.file.seek(SeekFrom::Start(0)).and_then(|_| {
            // What we write there is a short line; anything longer is not ours.
            Read::by_ref(&mut self.file).take(256).read_to_string(&mut text)
        });
        if read.is_ok() { text } else { String::new() }
    }

    /// Replaces what is written in it.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn set_note(&mut self, note: &str) -> Result<(), ControlError> {
        self.file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)))
            .and_then(|_| self.file.write_all(note.as_bytes()))
            .map_err(|error| ControlError::io(&self.path, error))
    }
}

/// The lock of the network namespace that this process is in: two daemons in
/// one would fight over one table.
///
/// # Errors
/// [`ControlError::Guarded`] if another daemon has it.
pub fn lock_namespace() -> Result<Lock, ControlError> {
    let path =
        namespace_file("lock").map_err(|error| ControlError::io(Path::new("/proc/self/ns/net"), error))?;
    make_directory_of(&path)?;
    Lock::take(&path)
}

/// The name of a file that belongs to this network namespace, under
/// [`RUN_DIRECTORY`].
///
/// # Errors
/// If `/proc` can't be read.
pub fn namespace_file(kind: &str) -> io::Result<PathBuf> {
    let inode = fs::metadata("/proc/self/ns/net")?.ino();
    Ok(Path::new(RUN_DIRECTORY).join(format!("netns-{inode}.{kind}")))
}

/// Who is at the other end of a control connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerCredentials {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// The process; 0 if it is in a PID namespace that can't be seen from here.
    pub pid: i32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

impl PeerCredentials {
    /// Asks the kernel who connected.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn of(stream: &impl AsFd) -> io::Result<Self> {
        let mut who = libc::ucred { pid: 0, uid: u32::MAX, gid: u32::MAX };
        let mut len = size_of::<libc::ucred>() as libc::socklen_t;
        let fd = stream.as_fd().as_raw_fd();
        // SAFETY: the option writes at most `len` octets into `who`, which is
        // that long and plain data; the descriptor is borrowed and open.
        let got = unsafe {
            libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, (&raw mut who).cast(), &raw mut len)
        };
        if got != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { uid: who.uid, gid: who.gid, pid: who.pid, groups: peer_groups(fd)? })
    }

    /// Whether they may give orders: root, and members of `group`.
    #[must_use]
    pub fn may_command(&self, group: Option<u32>) -> bool {
        self.uid == 0 || group.is_some_and(|group| self.gid == group || self.groups.contains(&group))
    }
}

fn peer_groups(fd: i32) -> io::Result<Vec<u32>> {
    let mut groups = vec![0_u32; 64];
    // Twice at most: the kernel says how much room it needs.
    for _ in 0..2 {
        let mut len = (groups.len() * size_of::<u32>()) as libc::socklen_t;
        // SAFETY: the option writes at most `len` octets into `groups`, which
        // is that long; the caller's descriptor is open.
        let got = unsafe {
            libc::getsockopt(
                fd,
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        groups.resize(len as usize / size_of::<u32>(), 0);
        if got == 0 {
            return Ok(groups);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ERANGE) {
            return Err(error);
        }
    }
    Err(io::Error::from_raw_os_error(libc::ERANGE))
}

/// The number of the group [`GROUP`], if there is one.
#[must_use]
pub fn group_id() -> Option<u32> {
    let name = CString::new(GROUP).ok()?;
    let mut buffer = vec![0_u8; 16 * 1024];
    // SAFETY: all zeroes is a valid `group` (null pointers, number 0).
    let mut group: libc::group = unsafe { std::mem::zeroed() };
    let mut found: *mut libc::group = std::ptr::null_mut();
    // SAFETY: every pointer is to memory of ours that lives through the call,
    // and the buffer's true length is given.
    let result = unsafe {
        libc::getgrnam_r(
            name.as_ptr(),
            &raw mut group,
            buffer.as_mut_ptr().cast(),
            buffer.len(),
            &raw mut found,
        )
    };
    (result == 0 && !found.is_null()).then_some(group.gr_gid)
}

/// The capabilities that the daemon needs and this process lacks.
///
/// # Errors
/// If `/proc` can't be read.
pub fn missing_capabilities() -> io::Result<Vec<&'static str>> {
    Ok(missing_from(&fs::read_to_string("/proc/self/status")?))
}

/// CAP_NET_ADMIN and CAP_NET_RAW by their numbers in `linux/capability.h`.
const NEEDED: [(u32, &str); 2] = [(12, "CAP_NET_ADMIN"), (13, "CAP_NET_RAW")];

fn missing_from(status: &str) -> Vec<&'static str> {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0);
    NEEDED.iter().filter(|(bit, _)| effective & (1 << bit) == 0).map(|(_, name)| *name).collect()
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn make_directory_of(path: &Path) -> Result<(), ControlError> {
    let Some(directory) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else {
        return Ok(());
    };
    if directory.is_dir() {
        return Ok(());
    }
    let fail = |error| ControlError::io(directory, error);
    DirBuilder::new().recursive(true).mode(DIRECTORY_MODE).create(directory).map_err(fail)?;
    give_to_group(directory).map_err(fail)
}

/// Without the group, or the right to give files away, it stays root's alone.
fn give_to_group(path: &Path) -> io::Result<()> {
    match group_id() {
        Some(group) => match chown(path, None, Some(group)) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(()),
            other => other,
        },
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("halfgate-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn binds_with_the_mode_and_removes_its_file() {
        let home = directory("mode");
        let path = home.join("run/control.sock");
        let socket = ControlSocket::bind(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, SOCKET_MODE);
        assert_eq!(fs::metadata(home.join("run")).unwrap().mode() & 0o777, DIRECTORY_MODE);
        assert!(connect(&path).is_ok());
        drop(socket);
        assert!(!path.exists());
        assert!(matches!(connect(&path), Err(ControlError::NoDaemon(_))));
        fs::remove_dir_all(home).unwrap();
    }

    #[test]
    fn a_living_daemon_keeps_its_socket() {
        let home = directory("taken");
        let path = home.join("control.sock");
        let socket = ControlSocket::bind(&path).unwrap();
        assert!(matches!(ControlSocket::bind(&path), Err(ControlError::Taken(_))));
        // Even if somebody removed the lock file.
        fs::remove_file(with_suffix(&path, ".lock")).unwrap();
        assert!(matches!(ControlSocket::bind(&path), Err(ControlError::Taken(_))));
        drop(socket);
        fs::remove_dir_all(home).unwrap();
    }

    #[test]
    fn a_dead_daemons_socket_is_replaced() {
        let home = directory("stale");
        fs::create_dir_all(&home).unwrap();
        let path = home.join("control.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let socket = ControlSocket::bind(&path).unwrap();
        assert!(connect(&path).is_ok());
        drop(socket);
        fs::remove_dir_all(home).unwrap();
    }

    #[test]
    fn other_files_are_left_alone() {
        let home = directory("file");
        fs::create_dir_all(&home).unwrap();
        let path = home.join("control.sock");
        fs::write(&path, "precious").unwrap();
        assert!(matches!(ControlSocket::bind(&path), Err(ControlError::NotASocket(_))));
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_dir_all(home).unwrap();
    }

    #[test]
    fn absurd_paths_are_refused() {
        let long = PathBuf::from(format!("/tmp/{}", "x".repeat(200)));
        assert!(matches!(ControlSocket::bind(&long), Err(ControlError::TooLong(_))));
    }

    #[test]
    fn a_lock_has_one_holder_and_a_note() {
        let home = directory("lock");
        fs::create_dir_all(&home).unwrap();
        let path = home.join("x.lock");
        let mut lock = Lock::take(&path).unwrap();
        lock.set_note("4711 queues 0 4").unwrap();
        assert!(matches!(Lock::take(&path), Err(ControlError::Guarded { pid: Some(4711), .. })));
        drop(lock);
        let mut again = Lock::take(&path).unwrap();
        assert_eq!(again.note(), "4711 queues 0 4");
        again.set_note("").unwrap();
        assert_eq!(again.note(), "");
        again.remove();
        assert!(!path.exists());
        drop(Lock::take(&path).unwrap());
        fs::remove_dir_all(home).unwrap();
    }

    #[test]
    fn the_kernel_says_who_connected() {
        let (one, _other) = UnixStream::pair().unwrap();
        let who = PeerCredentials::of(&one).unwrap();
        assert_eq!(who.uid, fs::metadata("/proc/self").unwrap().uid());
        assert_eq!(who.pid as u32, std::process::id());
    }

    #[test]
    fn only_root_and_the_group_may_command() {
        let stranger = PeerCredentials { uid: 1000, gid: 1000, pid: 1, groups: vec![4, 27] };
        assert!(!stranger.may_command(None));
        assert!(!stranger.may_command(Some(99)));
        assert!(stranger.may_command(Some(27)));
        assert!(stranger.may_command(Some(1000)));
        assert!(PeerCredentials { uid: 0, ..stranger }.may_command(None));
    }

    #[test]
    fn capabilities_are_read_from_the_status() {
        assert_eq!(missing_from("CapEff:\t0000000000000000\n"), ["CAP_NET_ADMIN", "CAP_NET_RAW"]);
        assert_eq!(missing_from("CapEff:\t0000000000001000\n"), ["CAP_NET_RAW"]);
        assert!(missing_from("Name:\tx\nCapEff:\t000001ffffffffff\n").is_empty());
    }
}
