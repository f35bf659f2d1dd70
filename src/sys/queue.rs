//! NFQUEUE: packets in, verdicts out, in batches.
//!
//! The `nfq` crate opens, binds and configures; receiving and answering is our
//! own, on its socket, because the crate makes two system calls and an
//! allocation per packet. Nothing here allocates per packet.
//!
//! Read first: `linux/netfilter/nfnetlink_queue.h`.

mod answers;
mod batch;
mod message;
mod proc;

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd, RawFd},
    time::Duration,
};

pub use proc::{QueueLoss, losses};

use arrayvec::ArrayVec;

use self::{
    answers::Answers,
    batch::Batch,
    message::{CONNTRACK_OVERHEAD, Incoming, PACKET_OVERHEAD},
};
use super::netlink;
use crate::{
    conntrack::Flow,
    engine::{IfIndex, Renumbering},
    policy::Hook,
    wire::Checksums,
};

/// Packets that are taken and answered at once.
const BATCH: usize = 32;

/// After a packet that came alone so many are taken one at a time: to ask for a second one
/// costs half as much as to take the first, and most likely there is none.
const ALONE: u8 = 3;

/// Waits until there is a packet, or [`Bell::ring`]. A wait that must end by itself costs the
/// kernel a timer for each packet.
pub const UNTIL_RUNG: Duration = Duration::MAX;

/// The longest copy that the kernel makes (`NFQNL_MAX_COPY_RANGE`).
const MAX_COPY_RANGE: u32 = 0xffff - 4;

/// A full queue must fit into the socket, or the socket loses what the queue
/// still had room for; more than this is never asked for.
const MAX_RECEIVE_BUFFER: u64 = 64 << 20;

/// What the kernel charges a message beside twice its copied octets.
const CHARGE_PER_MESSAGE: u64 = 2048;

/// Octets of a rewritten packet that cost no allocation.
const REWRITTEN: usize = 256;

/// How long to leave the kernel alone that had no memory for our verdicts.
const WITHOUT_MEMORY: Duration = Duration::from_millis(1);

/// How a queue is opened.
#[derive(Clone, Copy, Debug)]
pub struct QueueSettings {
    /// Its number.
    pub number: u16,
    /// Octets of each packet that are copied to us.
    pub copy_range: u32,
    /// Packets that may wait in the kernel.
    pub max_len: u32,
    /// Whether GSO packets come whole.
    pub gso: bool,
    /// Whether packets come with what conntrack knows of them; costs as much again
    /// as a small packet does. Where the kernel has no ctnetlink they come without.
    pub conntrack: bool,
}

/// A packet waiting for its verdict.
#[derive(Clone, Copy, Debug)]
pub struct Queued<'a> {
    /// Where it was diverted.
    pub hook: Hook,
    /// Interface it came in by.
    pub in_if: IfIndex,
    /// Interface it will leave by.
    pub out_if: IfIndex,
    /// Its whole mark.
    pub mark: u32,
    /// Octets on the wire.
    pub wire_len: u32,
    /// What the kernel says of its checksum.
    pub checksums: Checksums,
    /// The connection whose helper announced the one that this packet opens: its
    /// original tuple, before any NAT.
    pub parent: Option<Flow>,
    /// What a helper has made of the numbers that this segment acknowledges.
    pub renumbered: Option<Renumbering>,
    /// Its first octets, IP header first.
    pub bytes: &'a [u8],
}

/// The answer for one packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Goes on with this whole mark.
    Accept {
        /// The mark.
        mark: u32,
    },
    /// Goes on with this whole mark, as the octets that were written beside the
    /// answer. What the kernel won't take for a packet is dropped.
    Rewrite {
        /// The mark.
        mark: u32,
    },
    /// Ends here.
    Drop,
}

/// Asked about every packet: its answer, and room for the octets, IP header first,
/// that [`Answer::Rewrite`] puts in place of it.
pub type Judge<'a> = dyn FnMut(&Queued<'_>, &mut Vec<u8>) -> Answer + 'a;

/// Who looks at all packets of a batch before it answers the first.
pub trait LookAhead {
    /// What it keeps of a packet between the two.
    type Seen<'p>;

    /// Looks at a packet.
    fn look<'p>(&mut self, packet: &Queued<'p>) -> Self::Seen<'p>;

    /// These were looked at, and are asked about next.
    fn prepare<'s, 'p: 's>(&mut self, seen: impl Iterator<Item = &'s Self::Seen<'p>> + Clone)
    where
        Self: 's;

    /// As [`Judge`].
    fn judge(&mut self, packet: &Queued<'_>, seen: &Self::Seen<'_>, rewritten: &mut Vec<u8>) -> Answer;
}

/// Looks at nothing before it is asked.
struct Unprepared<'a, 'j>(&'a mut Judge<'j>);

impl LookAhead for Unprepared<'_, '_> {
    type Seen<'p> = ();

    fn look<'p>(&mut self, _: &Queued<'p>) {}

    fn prepare<'s, 'p: 's>(&mut self, _: impl Iterator<Item = &'s ()> + Clone)
    where
        Self: 's,
    {
    }

    fn judge(&mut self, packet: &Queued<'_>, (): &(), rewritten: &mut Vec<u8>) -> Answer {
        (self.0)(packet, rewritten)
    }
}

/// What a queue met beside packets, since it was opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct QueueTroubles {
    /// Packets dropped because the kernel's message was cut or of a hook that
    /// we never divert on.
    pub unreadable: u64,
    /// Verdicts that the kernel refused; the packets were dropped instead.
    pub refused: u64,
    /// Verdicts for packets that were gone, as when their interface went down. One that is for
    /// many counts if all of them were.
    pub gone: u64,
}

/// An open queue.
#[derive(Debug)]
pub struct Queue {
    number: u16,
    // Keeps the socket open: `fd` is its.
    _nfq: Nfq,
    fd: RawFd,
    batch: Batch,
    /// Empty between calls unless the kernel had no memory for them.
    answers: Answers,
    rewritten: Vec<u8>,
    /// How long the socket waits for a packet.
    patience: Duration,
    /// So many are still taken one at a time.
    alone: u8,
    /// Whether the last batch was full.
    is_full: bool,
    tells_conntrack: bool,
    troubles: QueueTroubles,
}

/// Ends another thread's wait for the packets of a queue. While one is there, the kernel keeps
/// the queue.
#[derive(Debug)]
pub struct Bell {
    socket: OwnedFd,
    question: Vec<u8>,
}

impl Bell {
    /// Has the kernel say something on the queue's socket: what waits there takes its turn.
    /// Whether it is heard is not known; a socket that is full wakes whoever waits anyway.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn ring(&self) -> io::Result<()> {
        netlink::send(self.socket.as_raw_fd(), &self.question)
    }
}

/// `nfq`'s queue, which has no `Debug`.
struct Nfq(nfq::Queue);

impl std::fmt::Debug for Nfq {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("nfq::Queue")
    }
}

/// Why a queue could not be used. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Privileges are missing.
    #[error("queue {number} needs the capability CAP_NET_ADMIN: run halfgate as root")]
    NoPrivileges {
        /// Which queue.
        number: u16,
    },
    /// No NFQUEUE in this kernel.
    #[error(
        "queue {number}: this kernel has no NFQUEUE: load the module nfnetlink_queue, or boot a kernel that has it"
    )]
    NoNfqueue {
        /// Which queue.
        number: u16,
    },
    /// Somebody else has it.
    #[error(
        "queue {number} is taken by {owner}: stop that, or choose other numbers with `queues: {{ base: N }}`"
    )]
    Taken {
        /// Which queue.
        number: u16,
        /// Who.
        owner: String,
    },
    /// The kernel no longer has our queue.
    #[error("queue {number} is gone from the kernel: start halfgate again")]
    Gone {
        /// Which queue.
        number: u16,
    },
    /// The kernel refused.
    #[error("queue {number}: {source}")]
    Io {
        /// Which queue.
        number: u16,
        /// The kernel's word.
        source: io::Error,
    },
}

impl Queue {
    /// Opens, binds and configures a queue. Must be done before any rule sends
    /// packets to it. The queue belongs to the network namespace of the calling
    /// thread.
    ///
    /// # Errors
    /// If it is taken, the kernel has no NFQUEUE, or privileges are missing.
    pub fn open(settings: QueueSettings) -> Result<Self, QueueError> {
        let number = settings.number;
        let copy_range = settings.copy_range.min(MAX_COPY_RANGE);
        let (nfq, fd) = open_nfq(number).map_err(|error| explain(number, error))?;
        let mut nfq = Nfq(nfq);
        let overhead = PACKET_OVERHEAD + if settings.conntrack { CONNTRACK_OVERHEAD } else { 0 };
        let tells_conntrack = configure(&mut nfq.0, fd, &settings, copy_range)
            .map_err(|source| QueueError::Io { number, source })?;
        Ok(Self {
            number,
            _nfq: nfq,
            fd,
            batch: Batch::new(BATCH, overhead + copy_range as usize),
            answers: Answers::new(number, BATCH, REWRITTEN),
            rewritten: Vec::with_capacity(REWRITTEN),
            patience: Duration::ZERO,
            alone: 0,
            is_full: false,
            tells_conntrack,
            troubles: QueueTroubles::default(),
        })
    }

    /// Waits up to `timeout` for packets ([`UNTIL_RUNG`]), takes a batch, asks `judge` about each
    /// and sends all answers in one system call. Returns how many there were. A
    /// signal ends the wait early.
    ///
    /// # Errors
    /// Only what makes the queue useless.
    pub fn serve(&mut self, timeout: Duration, judge: &mut Judge<'_>) -> Result<usize, QueueError> {
        self.serve_ahead(timeout, &mut Unprepared(judge))
    }

    /// As [`Self::serve`], for somebody who looks at all packets of the batch first.
    ///
    /// # Errors
    /// As [`Self::serve`].
    pub fn serve_ahead(
        &mut self,
        timeout: Duration,
        judge: &mut impl LookAhead,
    ) -> Result<usize, QueueError> {
        if !self.send_verdicts()? {
            std::thread::sleep(timeout.min(WITHOUT_MEMORY));
            return Ok(0);
        }
        let received = self.receive(timeout)?;
        let judged = self.judge(received, judge)?;
        self.send_verdicts()?;
        Ok(judged)
    }

    /// Whether as many were taken last as can be at once, so that more may wait.
    #[must_use]
    pub fn may_hold_more(&self) -> bool {
        self.is_full
    }

    /// What went wrong with single packets so far.
    #[must_use]
    pub fn troubles(&self) -> QueueTroubles {
        self.troubles
    }

    /// Whether packets come with what conntrack knows of them.
    #[must_use]
    pub fn tells_conntrack(&self) -> bool {
        self.tells_conntrack
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }

    /// Wakes whoever serves it.
    ///
    /// # Errors
    /// If there are too many open files.
    pub fn bell(&self) -> io::Result<Bell> {
        Ok(Bell { socket: self.as_fd().try_clone_to_owned()?, question: message::question(self.number) })
    }

    fn receive(&mut self, timeout: Duration) -> Result<usize, QueueError> {
        // It is the same at nearly every call.
        if timeout != self.patience && !timeout.is_zero() {
            netlink::set_patience(self.as_fd(), timeout).map_err(|error| self.io(error))?;
            self.patience = timeout;
        }
        let most = if self.alone > 0 { 1 } else { BATCH };
        match self.batch.receive(self.fd, !timeout.is_zero(), most) {
            Ok(count) => {
                self.alone = match (count, most) {
                    (1, 1) => self.alone - 1,
                    (1, _) => ALONE,
                    _ => 0,
                };
                self.is_full = count == BATCH;
                Ok(count)
            }
            // ENOBUFS: the kernel could not tell us something (an error reply);
            // packets are not lost by it.
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR | libc::ENOBUFS)) =>
            {
                Ok(0)
            }
            Err(error) => Err(self.io(error)),
        }
    }

    fn judge<J: LookAhead>(&mut self, received: usize, judge: &mut J) -> Result<usize, QueueError> {
        let mut judged = 0;
        let mut messages = self.batch.datagrams(received).flat_map(netlink::messages);
        loop {
            // One datagram is one message, so that this is the whole batch. Written where it
            // stays: most batches are far from full, and all of it is longer than a packet.
            let mut batch: ArrayVec<(Incoming<'_>, Option<J::Seen<'_>>), BATCH> = ArrayVec::new();
            for message in messages.by_ref().take(BATCH) {
                let incoming = message::read(&message);
                let seen = match &incoming {
                    Incoming::Packet(_, queued) => Some(judge.look(queued)),
                    Incoming::Unreadable(_) | Incoming::Refused { .. } | Incoming::Other => None,
                };
                batch.push((incoming, seen));
            }
            // What is judged at once is not worth fetching before.
            if batch.len() > 1 {
                judge.prepare(batch.iter().filter_map(|(_, seen)| seen.as_ref()));
            }
            for (incoming, seen) in &batch {
                match (incoming, seen) {
                    (Incoming::Packet(id, queued), Some(seen)) => {
                        judged += 1;
                        self.rewritten.clear();
                        let answer = judge.judge(queued, seen, &mut self.rewritten);
                        self.answers.push(*id, answer, &self.rewritten);
                    }
                    (Incoming::Unreadable(id), _) => {
                        self.troubles.unreadable += 1;
                        self.answers.push(*id, Answer::Drop, &[]);
                    }
                    (Incoming::Refused { error: libc::ENOENT, .. }, _) => self.troubles.gone += 1,
                    (Incoming::Refused { error: libc::ENODEV | libc::EPERM, .. }, _) => {
                        return Err(QueueError::Gone { number: self.number });
                    }
                    (Incoming::Refused { waiting, .. }, _) => {
                        self.troubles.refused += 1;
                        if let Some(id) = waiting {
                            self.answers.drop_refused(*id);
                        }
                    }
                    (Incoming::Packet(..) | Incoming::Other, _) => {}
                }
            }
            if !batch.is_full() {
                return Ok(judged);
            }
        }
    }

    /// The kernel goes through the messages one by one: one that it
    /// refuses costs an error reply, which [`Self::judge`] reads, and no other
    /// verdict. It takes all of a datagram or, without memory, nothing.
    /// `false`: they are kept, and must be sent before anything else is taken.
    fn send_verdicts(&mut self) -> Result<bool, QueueError> {
        let verdicts = self.answers.finish();
        if verdicts.is_empty() {
            return Ok(true);
        }
        match netlink::send(self.fd, verdicts) {
            Ok(()) => {
                self.answers.clear();
                Ok(true)
            }
            Err(error)
                if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM | libc::EAGAIN)) =>
            {
                Ok(false)
            }
            Err(error) => Err(self.io(error)),
        }
    }

    fn io(&self, source: io::Error) -> QueueError {
        QueueError::Io { number: self.number, source }
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the socket is open as long as `_nfq` is.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }
}

/// Opens and binds through `nfq`, and finds the socket that it does not show:
/// the only one of its kind that was not there before. All such sockets of this
/// process are opened under one lock.
fn open_nfq(number: u16) -> io::Result<(nfq::Queue, RawFd)> {
    let _guard = netlink::OPENING.lock();
    let sockets = || {
        netlink::open_sockets(libc::NETLINK_NETFILTER).map_err(|error| {
            io::Error::other(format!("/proc/self/fd can't be read, is /proc mounted? {error}"))
        })
    };
    let before = sockets()?;
    let mut nfq = nfq::Queue::open()?;
    let mut after = sockets()?;
    after.retain(|socket| !before.contains(socket));
    let [(fd, _)] = after[..] else {
        return Err(io::Error::other(format!("{} new netlink sockets where one was expected", after.len())));
    };
    // SAFETY: no pointers are passed; `nfq` keeps the descriptor open.
    netlink::check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    nfq.bind(number)?;
    Ok((nfq, fd))
}

fn configure(nfq: &mut nfq::Queue, fd: RawFd, settings: &QueueSettings, copy_range: u32) -> io::Result<bool> {
    let number = settings.number;
    nfq.set_copy_range(number, u16::try_from(copy_range).unwrap_or(u16::MAX))?;
    nfq.set_queue_max_len(number, settings.max_len)?;
    nfq.set_recv_gso(number, settings.gso)?;
    let mut tells_conntrack = settings.conntrack;
    if settings.conntrack
        && let Err(error) = nfq.set_recv_conntrack(number, true)
    {
        if error.raw_os_error() != Some(libc::EOPNOTSUPP) {
            return Err(error);
        }
        tells_conntrack = false;
    }
    // A full queue must not open the gateway; what `fail` says is the table's.
    nfq.set_fail_open(number, false)?;
    let wanted = u64::from(settings.max_len) * (2 * u64::from(copy_range) + CHARGE_PER_MESSAGE);
    let wanted = i32::try_from(wanted.min(MAX_RECEIVE_BUFFER)).unwrap_or(i32::MAX);
    // SAFETY: `nfq` keeps the descriptor open.
    let fd = unsafe { BorrowedFd::borrow_raw(fd) };
    netlink::set_option(fd, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, wanted)?;
    netlink::hear_only_the_kernel(fd)?;
    Ok(tells_conntrack)
}

/// The kernel answers EPERM both when privileges are missing and when another
/// socket holds the queue, and EINVAL when it has no NFQUEUE at all.
fn explain(number: u16, source: io::Error) -> QueueError {
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EBUSY | libc::EACCES) => match proc::owner(number) {
            Some(owner) => QueueError::Taken { number, owner },
            None => QueueError::NoPrivileges { number },
        },
        Some(libc::EINVAL | libc::EPROTONOSUPPORT | libc::EOPNOTSUPP) => QueueError::NoNfqueue { number },
        _ => QueueError::Io { number, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_nfqueue_is_named() {
        for error in [libc::EINVAL, libc::EPROTONOSUPPORT] {
            let error = explain(3, io::Error::from_raw_os_error(error)).to_string();
            assert!(error.contains("no NFQUEUE") && error.contains("nfnetlink_queue"), "{error}");
        }
        let error = explain(3, io::Error::from_raw_os_error(libc::ENOMEM)).to_string();
        assert!(error.starts_with("queue 3: "), "{error}");
    }

    #[test]
    fn a_queue_can_move_to_its_thread() {
        fn check<T: Send>() {}
        check::<Queue>();
    }
}
