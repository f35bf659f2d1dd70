//! What `/proc` tells about queues: how full, what was lost, whose.

use std::{fs, io};

/// A queue's fill and losses since it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QueueLoss {
    /// The queue.
    pub number: u16,
    /// Packets that wait for their verdict now.
    pub waiting: u32,
    /// Packets lost because `max_len` packets waited already.
    pub dropped_by_queue: u64,
    /// Packets lost because the socket's receive buffer was full.
    pub dropped_by_socket: u64,
}

/// The queues of this network namespace, of whatever program.
///
/// # Errors
/// If `/proc` can't be read, which takes root. A kernel without NFQUEUE has no queues.
pub fn losses() -> io::Result<Vec<QueueLoss>> {
    Ok(rows()?.into_iter().map(|row| row.loss).collect())
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Row {
    loss: QueueLoss,
    port: u32,
}

fn rows() -> io::Result<Vec<Row>> {
    // Of the thread, not of the process: they may be in different namespaces.
    match fs::read_to_string("/proc/thread-self/net/netfilter/nfnetlink_queue") {
        Ok(text) => Ok(text.lines().filter_map(row).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

/// `number port waiting copy_mode copy_range dropped_by_queue dropped_by_socket id 1`
fn row(line: &str) -> Option<Row> {
    let mut columns = line.split_whitespace();
    let number = columns.next()?.parse().ok()?;
    let port = columns.next()?.parse().ok()?;
    let waiting = columns.next()?.parse().ok()?;
    let dropped_by_queue = columns.nth(2)?.parse().ok()?;
    let dropped_by_socket = columns.next()?.parse().ok()?;
    Some(Row { loss: QueueLoss { number, waiting, dropped_by_queue, dropped_by_socket }, port })
}

/// Who holds a queue: `suricata (pid 812)`. `None`: nobody, as far as we may see.
pub(super) fn owner(number: u16) -> Option<String> {
    let port = rows().ok()?.into_iter().find(|row| row.loss.number == number)?.port;
    let sockets = fs::read_to_string("/proc/thread-self/net/netlink").unwrap_or_default();
    let named = sockets.lines().find_map(|line| inode(line, port)).and_then(process_with_socket);
    Some(named.unwrap_or_else(|| format!("another program (netlink port {port})")))
}

/// The socket's number, if this line of `/proc/net/netlink` is the netfilter
/// socket with this port: `sk protocol port groups ... inode`.
fn inode(line: &str, port: u32) -> Option<u64> {
    let columns: Vec<_> = line.split_whitespace().collect();
    let protocol: i32 = columns.get(1)?.parse().ok()?;
    let found: u32 = columns.get(2)?.parse().ok()?;
    (protocol == libc::NETLINK_NETFILTER && found == port).then(|| columns.last()?.parse().ok()).flatten()
}

fn process_with_socket(inode: u64) -> Option<String> {
    let wanted = format!("socket:[{inode}]");
    let holds = |pid: &str| {
        fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|mut descriptors| {
            descriptors.any(|entry| {
                entry.is_ok_and(|entry| {
                    fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str() == wanted.as_str())
                })
            })
        })
    };
    let pid = fs::read_dir("/proc")
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.bytes().all(|octet| octet.is_ascii_digit()))
        .find(|pid| holds(pid))?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("{} (pid {pid})", name.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_the_kernels_list() {
        let line = "    7 3254787312    12 2   128     3     4     1019  1";
        let loss = QueueLoss { number: 7, waiting: 12, dropped_by_queue: 3, dropped_by_socket: 4 };
        assert_eq!(row(line), Some(Row { loss, port: 3_254_787_312 }));
        assert_eq!(row("    7 3254787312    12"), None);
        assert_eq!(row(""), None);
    }

    #[test]
    fn a_socket_of_the_kernels_list() {
        let line = "00000000a3a0f0e7 12  4242       00000000 0        0        0     2        0        31337";
        assert_eq!(inode(line, 4242), Some(31_337));
        assert_eq!(inode(line, 4243), None);
        assert_eq!(inode(&line.replace(" 12 ", " 0 "), 4242), None);
        assert_eq!(inode("sk               Eth Pid        Groups", 4242), None);
    }
}
