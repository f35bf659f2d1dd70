//! The kernel's connection tracking over ctnetlink: the few messages we need.
//!
//! Read first: `linux/netfilter/nfnetlink_conntrack.h`.

mod message;

use std::{collections::HashMap, io, time::Duration};

use super::{
    clock::Clock,
    netlink::{Socket, Writer},
};
use crate::{
    conntrack::{Flow, Instant},
    engine::{Counts, Peer, Renumbering, Shift},
    wire::FourTuple,
};

/// A dump walks the kernel's whole table. It is not repeated before this many
/// times the time that it took.
const DUMP_SHARE: u64 = 4;
/// Nor more often than this, in milliseconds.
const DUMP_INTERVAL: u64 = 100;

/// Entries that are deleted, or asked for, by one system call: what the kernel says to each
/// fits into a socket's ordinary buffer.
const AT_ONCE: usize = 64;

/// Both tuples of a connection as the kernel has them. Without NAT `reply` is
/// `original` reversed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tuples {
    /// As the first packet arrived, before any NAT.
    pub original: Flow,
    /// As the answers arrive, before any NAT.
    pub reply: Flow,
}

impl Tuples {
    /// The connection as the forward and input hooks show it: the client before
    /// SNAT, the server after DNAT.
    #[must_use]
    pub const fn between_nats(&self) -> Flow {
        Flow { dst: self.reply.src, dst_port: self.reply.src_port, ..self.original }
    }

    /// The same connection with the ends exchanged.
    const fn swapped(self) -> Self {
        Self { original: self.reply, reply: self.original }
    }
}

/// The addresses that a packet of ours toward one end must bear when it enters
/// the kernel: as one of the other end arrives, before any NAT. The kernel's NAT
/// then makes of it what the receiver knows.
#[must_use]
pub const fn before_nat(tuples: &Tuples, toward: Peer) -> FourTuple {
    let arrives = match toward {
        Peer::Server => &tuples.original,
        Peer::Client => &tuples.reply,
    };
    FourTuple { src: arrives.src, src_port: arrives.src_port, dst: arrives.dst, dst_port: arrives.dst_port }
}

/// What the kernel says of an entry, a bit each (`IPS_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Status(pub u32);

impl Status {
    /// Packets of both directions were seen.
    pub const SEEN_REPLY: Self = Self(1 << 1);
    /// Kept when the table is full: established, or a stream.
    pub const ASSURED: Self = Self(1 << 2);
    /// The client's address is translated.
    pub const SRC_NAT: Self = Self(1 << 4);
    /// The server's address is translated.
    pub const DST_NAT: Self = Self(1 << 5);

    /// Whether all of `other`'s bits are set.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }
}

/// The kernel's word for a TCP connection (`TCP_CONNTRACK_*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TcpState {
    /// A SYN.
    SynSent,
    /// A SYN and a SYN-ACK.
    SynRecv,
    /// The handshake is complete.
    Established,
    /// One FIN.
    FinWait,
    /// One FIN, acknowledged.
    CloseWait,
    /// Both FINs.
    LastAck,
    /// Both FINs acknowledged.
    TimeWait,
    /// An RST.
    Close,
    /// SYNs of both ends.
    SynSent2,
}

impl TcpState {
    const fn from_kernel(state: u8) -> Option<Self> {
        Some(match state {
            1 => Self::SynSent,
            2 => Self::SynRecv,
            3 => Self::Established,
            4 => Self::FinWait,
            5 => Self::CloseWait,
            6 => Self::LastAck,
            7 => Self::TimeWait,
            8 => Self::Close,
            9 => Self::SynSent2,
            _ => return None,
        })
    }
}

/// An entry of the kernel's table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its tuples.
    pub tuples: Tuples,
    /// The kernel's number for it; an entry that later has the same tuples has
    /// another one.
    pub id: u32,
    /// Its status.
    pub status: Status,
    /// How long the kernel will still keep it in silence.
    pub timeout: Option<Duration>,
    /// Its mark.
    pub mark: u32,
    /// Its TCP state; `None` for other protocols.
    pub tcp: Option<TcpState>,
    /// Packets and octets of the original and the reply direction, where
    /// `nf_conntrack_acct` is on.
    pub counters: Option<(Counts, Counts)>,
}

impl Entry {
    /// Its tuples, the original one being that of the packets in `flow`'s
    /// direction; `None` if `flow` is another connection. `flow` may be what the
    /// hooks behind DNAT show or what the output hook shows before it, and the
    /// kernel may have taken the other end for the client (a connection picked up).
    #[must_use]
    pub fn seen_as(&self, flow: &Flow) -> Option<Tuples> {
        let between = self.tuples.between_nats();
        if between == *flow {
            Some(self.tuples)
        } else if between.reversed() == *flow {
            Some(self.tuples.swapped())
        } else if self.tuples.original == *flow {
            Some(self.tuples)
        } else {
            None
        }
    }

    /// Whether the kernel knows both ends, so that a connection may be picked up
    /// on its word: TCP past its handshake and not closed, others answered.
    #[must_use]
    pub fn established(&self) -> bool {
        match self.tcp {
            Some(TcpState::Established | TcpState::FinWait | TcpState::CloseWait | TcpState::LastAck) => true,
            Some(
                TcpState::SynSent
                | TcpState::SynRecv
                | TcpState::TimeWait
                | TcpState::Close
                | TcpState::SynSent2,
            ) => false,
            None => self.status.contains(Status::SEEN_REPLY),
        }
    }
}

/// A ctnetlink socket. It sees the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Ctnetlink {
    socket: Socket,
    clock: Clock,
    /// Connections with both kinds of NAT, which can't be asked for by either
    /// tuple: between the NATs -> original tuple, as of the last dump.
    translated_twice: HashMap<Flow, Flow>,
    /// When they may be dumped again.
    dump_from: Instant,
    /// When they were dumped.
    dumped: Option<Instant>,
    /// Connections asked for now were there at this time: a dump that is older
    /// need not have them, and is worth waiting for.
    batch: Option<Instant>,
}

impl Ctnetlink {
    /// Opens it.
    ///
    /// # Errors
    /// If the kernel has no ctnetlink or privileges are missing.
    pub fn open() -> io::Result<Self> {
        let socket = Socket::open(libc::NETLINK_NETFILTER, 0)?;
        let clock = Clock::start();
        let mut opened = Self {
            socket,
            clock,
            translated_twice: HashMap::new(),
            dump_from: clock.now(),
            dumped: None,
            batch: None,
        };
        let nobody = std::net::Ipv4Addr::UNSPECIFIED.into();
        let nothing =
            Flow { protocol: crate::wire::Protocol::TCP, src: nobody, src_port: 0, dst: nobody, dst_port: 0 };
        match opened.ask(&nothing) {
            Ok(_) => Ok(opened),
            Err(error) => Err(match error.raw_os_error() {
                Some(libc::EPERM) => io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    "conntrack can't be asked without the capability CAP_NET_ADMIN: run halfgate as root",
                ),
                Some(libc::EINVAL) => io::Error::new(
                    io::ErrorKind::Unsupported,
                    "this kernel has no ctnetlink: load the module nf_conntrack_netlink, or boot a kernel that has it",
                ),
                _ => error,
            }),
        }
    }

    /// The tuples of the connection that a hook shows as `flow` (client before
    /// SNAT, server after DNAT), `original` being that of the packets in
    /// `flow`'s direction.
    ///
    /// # Errors
    /// The kernel's word, if it is not "no such entry".
    pub fn lookup(&mut self, flow: &Flow) -> io::Result<Option<Tuples>> {
        Ok(self.entry(flow)?.and_then(|entry| entry.seen_as(flow)))
    }

    /// The kernel's entry of the connection that a hook shows as `flow`.
    ///
    /// Two questions suffice for connections with at most one kind of NAT: the
    /// original tuple of the others, and the reply tuple, is `flow` in one of
    /// its directions. One with both kinds is looked for in a dump, which is
    /// kept for a moment: of a connection with both that is younger than that
    /// (some hundred milliseconds at most on a table of ordinary size) this
    /// answers `None`.
    ///
    /// # Errors
    /// The kernel's word, if it is not "no such entry".
    pub fn entry(&mut self, flow: &Flow) -> io::Result<Option<Entry>> {
        let mut second_best = None;
        for tuple in [*flow, flow.reversed()] {
            let Some(entry) = self.ask(&tuple)? else { continue };
            let between = entry.tuples.between_nats();
            if between == *flow || between.reversed() == *flow {
                return Ok(Some(entry));
            }
            second_best = second_best.or(entry.seen_as(flow).map(|_| entry));
        }
        if let Some(entry) = self.ask_translated_twice(flow)? {
            return Ok(Some(entry));
        }
        Ok(second_best)
    }

    /// The kernel's entries of many connections, each as [`Self::entry`] finds it, in few
    /// system calls where nearly all are there.
    ///
    /// # Errors
    /// The kernel's word, if it is not "no such entry".
    pub fn entries(&mut self, flows: &[Flow], mut each: impl FnMut(&Flow, Option<&Entry>)) -> io::Result<()> {
        for flows in flows.chunks(AT_ONCE) {
            let mut entries = vec![None; flows.len()];
            let mut failed = None;
            self.socket.requests(flows.iter().map(message::get_of_many), |place, told| match told {
                Ok(message) => {
                    if let Some(entry) = entries.get_mut(place) {
                        *entry = message::entry(message);
                    }
                }
                Err(libc::ENOENT) => {}
                Err(error) => failed = Some(io::Error::from_raw_os_error(error)),
            })?;
            if let Some(error) = failed {
                return Err(error);
            }
            for (flow, entry) in flows.iter().zip(entries) {
                let is_it = |entry: &Entry| {
                    let between = entry.tuples.between_nats();
                    between == *flow || between.reversed() == *flow
                };
                let entry = match entry.filter(is_it) {
                    None => self.entry(flow)?,
                    found => found,
                };
                each(flow, entry.as_ref());
            }
        }
        Ok(())
    }

    /// The connection with this original tuple as the forward and input hooks show it.
    ///
    /// # Errors
    /// The kernel's word, if it is not "no such entry".
    pub fn between_nats(&mut self, original: &Flow) -> io::Result<Option<Flow>> {
        let entry = self.ask(original)?.filter(|entry| entry.tuples.original == *original);
        Ok(entry.map(|entry| entry.tuples.between_nats()))
    }

    /// How the numbers of a connection are translated that the kernel has opened behind a SYN
    /// cookie. `None`: it does not know the connection, or translates nothing. `flow` is as in
    /// [`Self::entry`], in any direction.
    ///
    /// # Errors
    /// The kernel's word, if it is not "no such entry".
    pub fn shift(&mut self, flow: &Flow) -> io::Result<Option<Shift>> {
        for tuple in [*flow, flow.reversed()] {
            let (mut added, mut entry) = (None, None);
            found(self.socket.request(message::get(&tuple), |message| {
                (added, entry) = (message::shift(message), message::entry(message));
            }))?;
            if let (Some(added), Some(entry)) = (added, entry) {
                let from_client = entry.tuples.between_nats() == *flow || entry.tuples.original == *flow;
                return Ok(Some(Shift { added, from_client }));
            }
        }
        Ok(None)
    }

    /// What is asked from now on concerns connections that are there by now, so that
    /// one dump answers for all of them. Without this, a question that only a dump
    /// could answer is not waited for.
    pub fn begin_batch(&mut self) {
        self.batch = Some(self.clock.now());
    }

    /// Deletes the kernel's entry of this connection. `false`: there was none.
    /// Its NAT is gone then: what is still to be sent through it goes first.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn forget(&mut self, flow: &Flow) -> io::Result<bool> {
        let Some(entry) = self.entry(flow)? else { return Ok(false) };
        found(self.socket.request(message::delete(&entry), |_| {}))
    }

    /// Deletes the entries of many connections in few system calls, by the addresses that
    /// they have in one of their directions: those with both kinds of NAT only one by one.
    /// Adds to `missing` of which there was none. An entry that has got the same addresses
    /// in the meantime goes as well.
    ///
    /// # Errors
    /// The kernel's word, if it is not "no such entry".
    pub fn forget_all(&mut self, flows: &[Flow], missing: &mut Vec<Flow>) -> io::Result<()> {
        for flows in flows.chunks(AT_ONCE) {
            let unknown = self.delete_all(flows, |flow| flow)?;
            let unknown = self.delete_all(&unknown, |flow| flow.reversed())?;
            for flow in unknown {
                let is_twice = |way| self.translated_twice.contains_key(way);
                let known = is_twice(&flow) || is_twice(&flow.reversed()) || self.may_dump();
                if !known || !self.forget_translated_twice(&flow)? {
                    missing.push(flow);
                }
            }
        }
        Ok(())
    }

    /// Deletes those that have this tuple; which of them there was none for.
    fn delete_all(&mut self, flows: &[Flow], tuple: impl Fn(Flow) -> Flow) -> io::Result<Vec<Flow>> {
        let mut unknown = Vec::new();
        let mut failed = None;
        let requests = flows.iter().map(|flow| message::delete_by(&tuple(*flow)));
        self.socket.requests(requests, |place, told| match told {
            Ok(_) => {}
            Err(libc::ENOENT) => unknown.extend(flows.get(place).copied()),
            Err(error) => failed = Some(io::Error::from_raw_os_error(error)),
        })?;
        failed.map_or(Ok(unknown), Err)
    }

    fn forget_translated_twice(&mut self, flow: &Flow) -> io::Result<bool> {
        let Some(entry) = self.ask_translated_twice(flow)? else { return Ok(false) };
        found(self.socket.request(message::delete(&entry), |_| {}))
    }

    /// Whether the whole table may be walked again now.
    fn may_dump(&self) -> bool {
        self.clock.now() >= self.dump_from
    }

    /// Clears these bits of the mark of a connection's entry. `false`: there was none.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn unmark(&mut self, flow: &Flow, bits: u32) -> io::Result<bool> {
        let Some(entry) = self.entry(flow)? else { return Ok(false) };
        if entry.mark & bits == 0 {
            return Ok(true);
        }
        found(self.socket.request(message::unmark(&entry, bits), |_| {}))
    }

    /// Hands over every entry whose mark has this bit.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn marked(&mut self, bit: u32, mut each: impl FnMut(&Entry)) -> io::Result<()> {
        self.socket.request(message::dump_marked(bit), |message| {
            if let Some(entry) = message::entry(message).filter(|entry| entry.mark & bit != 0) {
                each(&entry);
            }
        })
    }

    /// Clears this bit of the marks of all entries; of how many.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn unmark_all(&mut self, bit: u32) -> io::Result<usize> {
        let mut marked = Vec::new();
        self.marked(bit, |entry| marked.push(*entry))?;
        for entry in &marked {
            found(self.socket.request(message::unmark(entry, bit), |_| {}))?;
        }
        Ok(marked.len())
    }

    fn ask(&mut self, tuple: &Flow) -> io::Result<Option<Entry>> {
        let mut answer = None;
        found(self.socket.request(message::get(tuple), |message| answer = message::entry(message)))?;
        Ok(answer)
    }

    fn ask_translated_twice(&mut self, flow: &Flow) -> io::Result<Option<Entry>> {
        for fresh in [false, true] {
            if fresh && !self.dump_translated_twice()? {
                break;
            }
            for way in [*flow, flow.reversed()] {
                // The entry may be another one by now, or gone.
                if let Some(original) = self.translated_twice.get(&way).copied()
                    && let Some(entry) = self.ask(&original)?
                    && entry.tuples.between_nats() == way
                {
                    return Ok(Some(entry));
                }
            }
        }
        Ok(None)
    }

    /// `false` if the last dump was too short a time ago.
    fn dump_translated_twice(&mut self) -> io::Result<bool> {
        if self.clock.now() < self.dump_from {
            match self.batch {
                Some(batch) if self.dumped.is_none_or(|dumped| dumped < batch) => {
                    std::thread::sleep(self.dump_from.since(self.clock.now()));
                }
                _ => return Ok(false),
            }
        }
        let start = self.clock.now();
        let both = Status(Status::SRC_NAT.0 | Status::DST_NAT.0);
        let request: Writer = message::dump(both);
        let known = &mut self.translated_twice;
        known.clear();
        self.socket.request(request, |message| {
            if let Some(entry) = message::entry(message)
                && entry.status.contains(both)
            {
                known.insert(entry.tuples.between_nats(), entry.tuples.original);
            }
        })?;
        let end = self.clock.now();
        let pause = end.0.saturating_sub(start.0).saturating_mul(DUMP_SHARE).max(DUMP_INTERVAL);
        self.dumped = Some(start);
        self.dump_from = Instant(end.0.saturating_add(pause));
        Ok(true)
    }
}

/// In what a queue tells of a packet's connection: the original tuple of the one
/// whose helper announced it.
pub(super) fn parent_in(conntrack: &[u8]) -> Option<Flow> {
    message::parent(conntrack)
}

/// In what a queue tells of a packet's connection: how the data of its other
/// direction were renumbered. `reply`: the packet goes in the reply direction.
pub(super) fn renumbering_in(conntrack: &[u8], reply: bool) -> Option<Renumbering> {
    message::renumbering(conntrack, reply)
}

/// "No such entry" is an answer, not an error.
fn found(result: io::Result<()>) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Client 10.0.0.1, gateway 192.0.2.1 and 172.16.0.1, server 172.16.0.2.
    fn twice() -> Entry {
        Entry {
            tuples: Tuples {
                original: Flow::tcp("10.0.0.1", 1000, "192.0.2.1", 80),
                reply: Flow::tcp("172.16.0.2", 8080, "172.16.0.1", 2000),
            },
            id: 1,
            status: Status(0x3e),
            timeout: None,
            mark: 0,
            tcp: Some(TcpState::Established),
            counters: None,
        }
    }

    #[test]
    fn a_connection_is_recognised_from_both_ends() {
        let entry = twice();
        let shown = Flow::tcp("10.0.0.1", 1000, "172.16.0.2", 8080);
        assert_eq!(entry.tuples.between_nats(), shown);
        assert_eq!(entry.seen_as(&shown), Some(entry.tuples));
        assert_eq!(entry.seen_as(&shown.reversed()), Some(entry.tuples.swapped()));
        assert_eq!(entry.seen_as(&entry.tuples.original), Some(entry.tuples));
        assert_eq!(entry.seen_as(&entry.tuples.reply), None);
        assert_eq!(entry.seen_as(&Flow { src_port: 1001, ..shown }), None);
    }

    #[test]
    fn packets_of_ours_enter_as_the_other_ends_would() {
        let tuples = twice().tuples;
        let toward_server = before_nat(&tuples, Peer::Server);
        assert_eq!((toward_server.src_port, toward_server.dst_port), (1000, 80));
        assert_eq!(toward_server.dst.to_string(), "192.0.2.1");
        let toward_client = before_nat(&tuples, Peer::Client);
        assert_eq!((toward_client.src_port, toward_client.dst_port), (8080, 2000));
        assert_eq!(toward_client.dst.to_string(), "172.16.0.1");
    }
}
