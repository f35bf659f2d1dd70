//! Netlink: sockets, messages and attributes, as far as queue, ctnetlink and
//! rtnetlink share them.
//!
//! Reads what the kernel sends without trusting a length in it; writes into a
//! buffer that the caller keeps. Read first: `man 7 netlink`, RFC 3549 §2.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
    time::Duration,
};

use parking_lot::Mutex;

/// Octets of a message header (`struct nlmsghdr`).
pub(crate) const HEADER: usize = 16;
/// Octets of an attribute header (`struct nlattr`).
const ATTRIBUTE_HEADER: usize = 4;
/// The upper two bits of an attribute's type are flags (nested, byte order).
const TYPE_MASK: u16 = 0x3fff;
/// Marks an attribute that holds attributes.
const NESTED: u16 = 0x8000;
/// Room for one datagram of a dump; the kernel fills at most 32 KiB.
const RECEIVE_ROOM: usize = 64 * 1024;

/// Held while a socket of `NETLINK_NETFILTER` is opened, so that a new one can
/// be told from those that were there before.
pub(crate) static OPENING: Mutex<()> = Mutex::new(());

/// A message as it came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Message<'a> {
    /// `nlmsg_type`.
    pub(crate) kind: u16,
    /// `nlmsg_seq`.
    pub(crate) seq: u32,
    /// Everything behind the header; shorter than the header says if the
    /// datagram was cut.
    pub(crate) body: &'a [u8],
}

impl Message<'_> {
    /// The error in an `NLMSG_ERROR` message, 0 for an acknowledgement; `None`
    /// for every other message.
    pub(crate) fn error(&self) -> Option<i32> {
        if i32::from(self.kind) != libc::NLMSG_ERROR {
            return None;
        }
        Some(i32::from_ne_bytes(*self.body.first_chunk()?).saturating_neg())
    }
}

/// The messages in a datagram.
pub(crate) fn messages(mut rest: &[u8]) -> impl Iterator<Item = Message<'_>> {
    std::iter::from_fn(move || {
        let length = usize::try_from(u32::from_ne_bytes(*rest.first_chunk()?)).ok()?;
        if length < HEADER || rest.len() < HEADER {
            return None;
        }
        let kind = u16::from_ne_bytes(*rest.get(4..)?.first_chunk()?);
        let seq = u32::from_ne_bytes(*rest.get(8..)?.first_chunk()?);
        let body = rest.get(HEADER..length.min(rest.len()))?;
        rest = rest.get(align(length)..).unwrap_or_default();
        Some(Message { kind, seq, body })
    })
}

/// The attributes in a message's body or in a nested attribute: type without
/// its flag bits, and value. Ends at the first that is cut off.
pub(crate) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?) & TYPE_MASK;
        let value = rest.get(ATTRIBUTE_HEADER..length)?;
        rest = rest.get(align(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of this type.
pub(crate) fn find(attributes_of: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(attributes_of).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// A big-endian 16-bit value.
pub(crate) fn be16(value: &[u8]) -> Option<u16> {
    value.first_chunk().map(|octets| u16::from_be_bytes(*octets))
}

/// A big-endian 32-bit value.
pub(crate) fn be32(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|octets| u32::from_be_bytes(*octets))
}

/// A big-endian 64-bit value.
pub(crate) fn be64(value: &[u8]) -> Option<u64> {
    value.first_chunk().map(|octets| u64::from_be_bytes(*octets))
}

/// A 32-bit value in this machine's order, as rtnetlink has them.
pub(crate) fn ne32(value: &[u8]) -> Option<u32> {
    value.first_chunk().map(|octets| u32::from_ne_bytes(*octets))
}

const fn align(length: usize) -> usize {
    length.saturating_add(3) & !3
}

/// Writes one message after another into one buffer.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// A message of this type; `extra` is the family's header behind
    /// the general one. `NLM_F_REQUEST` is always set.
    pub(crate) fn message(kind: u16, flags: i32, extra: &[u8]) -> Self {
        let mut writer = Self::default();
        let flags = u16::try_from(flags | libc::NLM_F_REQUEST).unwrap_or_default();
        writer.bytes.extend_from_slice(&0_u32.to_ne_bytes());
        writer.bytes.extend_from_slice(&kind.to_ne_bytes());
        writer.bytes.extend_from_slice(&flags.to_ne_bytes());
        writer.bytes.extend_from_slice(&[0; 8]);
        writer.bytes.extend_from_slice(extra);
        writer
    }

    /// Adds an attribute.
    pub(crate) fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(ATTRIBUTE_HEADER.saturating_add(value.len())).unwrap_or(u16::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.bytes.resize(align(self.bytes.len()), 0);
        self
    }

    /// Adds an attribute that holds those that `inside` writes.
    pub(crate) fn nested(&mut self, kind: u16, inside: impl FnOnce(&mut Self)) -> &mut Self {
        let at = self.bytes.len();
        self.attribute(kind | NESTED, &[]);
        inside(self);
        let length = u16::try_from(self.bytes.len().saturating_sub(at)).unwrap_or(u16::MAX);
        if let Some(place) = self.bytes.get_mut(at..).and_then(<[u8]>::first_chunk_mut) {
            *place = length.to_ne_bytes();
        }
        self
    }

    /// The finished message with its number.
    pub(crate) fn finish(mut self, seq: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        if let Some(place) = self.bytes.first_chunk_mut() {
            *place = length.to_ne_bytes();
        }
        if let Some(place) = self.bytes.get_mut(8..).and_then(<[u8]>::first_chunk_mut) {
            *place = seq.to_ne_bytes();
        }
        self.bytes
    }
}

/// A netlink socket, blocking and close-on-exec, that asks and gets answers.
#[derive(Debug)]
pub(crate) struct Socket {
    fd: OwnedFd,
    seq: u32,
    buffer: Vec<u8>,
}

impl Socket {
    /// Opens one; `groups` are the multicast groups to hear.
    pub(crate) fn open(protocol: i32, groups: u32) -> io::Result<Self> {
        let _guard = OPENING.lock();
        // SAFETY: no pointers are passed.
        let fd =
            check(unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) })?;
        // SAFETY: `fd` was just opened, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: sockaddr_nl is plain data; all zero is a valid value.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::sa_family_t::try_from(libc::AF_NETLINK).unwrap_or_default();
        address.nl_groups = groups;
        // SAFETY: the address lives through the call and its true size is given.
        check(unsafe {
            libc::bind(fd.as_raw_fd(), (&raw const address).cast(), size_of_val(&address) as u32)
        })?;
        Ok(Self { fd, seq: 0, buffer: vec![0; RECEIVE_ROOM] })
    }

    /// Sends a request and hands every answer to `each`, until the kernel says
    /// that it is done. The request must ask for a dump or for an
    /// acknowledgement (`NLM_F_ACK`).
    ///
    /// # Errors
    /// The kernel's word about the request, as its error number.
    pub(crate) fn request(&mut self, request: Writer, mut each: impl FnMut(&Message<'_>)) -> io::Result<()> {
        self.seq = self.seq.wrapping_add(1);
        let seq = self.seq;
        send(self.fd.as_raw_fd(), &request.finish(seq))?;
        loop {
            let length = receive(self.fd.as_raw_fd(), &mut self.buffer, 0)?;
            for message in messages(self.buffer.get(..length).unwrap_or_default()) {
                if message.seq != seq {
                    continue;
                }
                match message.error() {
                    Some(0) => return Ok(()),
                    Some(error) => return Err(io::Error::from_raw_os_error(error)),
                    None if i32::from(message.kind) == libc::NLMSG_DONE => {
                        // A dump that fails half-way says so in its last message.
                        let error = ne32(message.body).map_or(0, u32::cast_signed);
                        return if error < 0 {
                            Err(io::Error::from_raw_os_error(error.saturating_neg()))
                        } else {
                            Ok(())
                        };
                    }
                    None => each(&message),
                }
            }
        }
    }

    /// Sends many requests at once, and tells what the kernel says to each: which one it
    /// was, and the answer, or its error number. The requests must not ask for an
    /// acknowledgement; this asks for that of the last.
    ///
    /// # Errors
    /// If they can't be sent, or the answers not be read.
    pub(crate) fn requests(
        &mut self,
        requests: impl Iterator<Item = Writer>,
        mut told: impl FnMut(usize, Result<&Message<'_>, i32>),
    ) -> io::Result<()> {
        let first = self.seq.wrapping_add(1);
        let mut bytes = Vec::new();
        let mut last = None;
        for request in requests {
            self.seq = self.seq.wrapping_add(1);
            last = Some(bytes.len());
            bytes.extend_from_slice(&request.finish(self.seq));
        }
        let Some(last) = last else { return Ok(()) };
        if let Some(flags) = bytes.get_mut(last..).and_then(|message| message.get_mut(6..8)) {
            let asked = libc::NLM_F_REQUEST | libc::NLM_F_ACK;
            flags.copy_from_slice(&u16::try_from(asked).unwrap_or_default().to_ne_bytes());
        }
        send(self.fd.as_raw_fd(), &bytes)?;
        let count = self.seq.wrapping_sub(first);
        loop {
            let length = receive(self.fd.as_raw_fd(), &mut self.buffer, 0)?;
            for message in messages(self.buffer.get(..length).unwrap_or_default()) {
                let place = message.seq.wrapping_sub(first);
                if place > count {
                    continue;
                }
                match message.error() {
                    None => told(place as usize, Ok(&message)),
                    Some(error) => {
                        if error != 0 {
                            told(place as usize, Err(error));
                        }
                        if place == count {
                            return Ok(());
                        }
                    }
                }
            }
        }
    }

    /// Waits up to `timeout` for multicast messages and throws them away;
    /// `true` if there were any, or if some were lost.
    pub(crate) fn anything(&self, timeout: Duration) -> io::Result<bool> {
        let mut scratch = [0; 16];
        if !readable(self.fd.as_raw_fd(), timeout)? {
            return Ok(false);
        }
        loop {
            match receive(self.fd.as_raw_fd(), &mut scratch, libc::MSG_DONTWAIT) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Waits up to `timeout` until there is something to read. A signal ends the
/// wait early, with `false`.
pub(crate) fn readable(fd: RawFd, timeout: Duration) -> io::Result<bool> {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // Rounded up: a caller that waits for a deadline must not spin before it.
    let millis = timeout.as_nanos().div_ceil(1_000_000);
    // SAFETY: one pollfd that lives through the call.
    match check(unsafe { libc::poll(&raw mut poll, 1, i32::try_from(millis).unwrap_or(i32::MAX)) }) {
        Ok(ready) => Ok(ready > 0),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(false),
        Err(error) => Err(error),
    }
}

/// Sends a datagram to the kernel.
pub(crate) fn send(fd: RawFd, bytes: &[u8]) -> io::Result<()> {
    loop {
        // SAFETY: pointer and length are those of one slice. A netlink socket
        // sends to the kernel, unless it is connected to somebody else.
        let sent = unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), 0) };
        if sent >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// From now on only the kernel is heard: whoever else sends something to this socket is
/// refused by it.
pub(crate) fn hear_only_the_kernel(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: sockaddr_nl is plain data; all zero is valid, and names the kernel.
    let mut kernel: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
    kernel.nl_family = libc::AF_NETLINK as u16;
    // SAFETY: the address lives through the call and its true size is given.
    check(unsafe { libc::connect(fd.as_raw_fd(), (&raw const kernel).cast(), size_of_val(&kernel) as u32) })
        .map(drop)
}

fn receive(fd: RawFd, buffer: &mut [u8], flags: i32) -> io::Result<usize> {
    loop {
        match receive_once(fd, buffer, flags) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Receives a datagram and returns its length; a signal ends the wait.
pub(crate) fn receive_once(fd: RawFd, buffer: &mut [u8], flags: i32) -> io::Result<usize> {
    // SAFETY: pointer and length are those of one exclusive slice.
    let received = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), flags) };
    usize::try_from(received).map_err(|_| io::Error::last_os_error())
}

/// Sets an integer socket option.
pub(crate) fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    set(fd, level, name, value)
}

/// Sets how long a call waits for something to read; [`Duration::MAX`]: for ever, which needs
/// no timer.
pub(crate) fn set_patience(fd: BorrowedFd<'_>, patience: Duration) -> io::Result<()> {
    // Rounded up: nothing at all is for ever.
    let micros = match patience {
        Duration::MAX => 0,
        patience => i64::try_from(patience.as_nanos().div_ceil(1000)).unwrap_or(i64::MAX),
    };
    let time = libc::timeval { tv_sec: micros / 1_000_000, tv_usec: micros % 1_000_000 };
    set(fd, libc::SOL_SOCKET, libc::SO_RCVTIMEO, time)
}

/// Sets a socket option to a plain value, of which the kernel reads the octets.
fn set<T: Copy>(fd: BorrowedFd<'_>, level: i32, name: i32, value: T) -> io::Result<()> {
    // SAFETY: the value lives through the call and its true size is given.
    check(unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), size_of_val(&value) as u32)
    })
    .map(drop)
}

/// A system call's result, `errno` as an error.
pub(crate) fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// This process's open sockets of one netlink protocol, by descriptor and the
/// kernel's number for the socket.
pub(crate) fn open_sockets(protocol: i32) -> io::Result<Vec<(RawFd, u64)>> {
    use std::os::unix::fs::MetadataExt;

    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let entry = entry?;
        let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()) else {
            continue;
        };
        if option(fd, libc::SO_DOMAIN) == Some(libc::AF_NETLINK)
            && option(fd, libc::SO_PROTOCOL) == Some(protocol)
            && let Ok(metadata) = std::fs::metadata(entry.path())
        {
            found.push((fd, metadata.ino()));
        }
    }
    Ok(found)
}

fn option(fd: RawFd, name: i32) -> Option<i32> {
    let mut value = 0_i32;
    let mut length = size_of_val(&value) as u32;
    // SAFETY: both pointers are to locals of the sizes given. A descriptor that
    // is no socket, or was closed meanwhile, is an error and nothing else.
    let result =
        unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, name, (&raw mut value).cast(), &raw mut length) };
    (result == 0).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut writer = Writer::message(0x0102, libc::NLM_F_ACK, &[2, 0, 0, 7]);
        writer.attribute(1, &[1, 2, 3]).nested(2, |inner| {
            inner.attribute(9, &80_u16.to_be_bytes()).attribute(10, &7_u32.to_be_bytes());
        });
        let mut bytes = writer.finish(5);
        bytes.extend(Writer::message(3, 0, &[]).finish(6));

        let read: Vec<_> = messages(&bytes).collect();
        assert_eq!(
            read.iter().map(|message| (message.kind, message.seq)).collect::<Vec<_>>(),
            [(0x0102, 5), (3, 6)]
        );
        let body = &read[0].body[4..];
        assert_eq!(find(body, 1), Some(&[1, 2, 3][..]));
        let nested = find(body, 2).unwrap();
        assert_eq!(find(nested, 9).and_then(be16), Some(80));
        assert_eq!(find(nested, 10).and_then(be32), Some(7));
        assert_eq!(find(nested, 11), None);
    }

    #[test]
    fn lengths_that_lie_end_the_reading() {
        assert_eq!(messages(&[0; 16]).count(), 0);
        assert_eq!(messages(&[255; 3]).count(), 0);
        let mut huge = [0_u8; 20];
        huge[..4].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(messages(&huge).map(|message| message.body.len()).collect::<Vec<_>>(), [4]);
        // An attribute shorter than its header, one longer than the rest.
        assert_eq!(attributes(&[3, 0, 1, 0, 9, 9, 9, 9]).count(), 0);
        assert_eq!(attributes(&[9, 0, 1, 0, 9, 9, 9, 9]).count(), 0);
        assert_eq!(attributes(&[5, 0, 1, 0, 9]).count(), 1);
    }

    #[test]
    fn every_cut_and_every_flipped_octet_is_survived() {
        let mut writer = Writer::message(7, 0, &[0; 4]);
        writer.attribute(1, &[1; 12]).nested(3, |inner| {
            inner.attribute(4, &[5; 5]);
        });
        let bytes = writer.finish(1);
        for cut in 0..bytes.len() {
            for message in messages(&bytes[..cut]) {
                attributes(message.body).for_each(drop);
            }
        }
        for at in 0..bytes.len() {
            for value in [0, 1, 3, 4, 0x7f, 0xff] {
                let mut bent = bytes.clone();
                bent[at] = value;
                for message in messages(&bent) {
                    for (_, value) in attributes(message.body.get(4..).unwrap_or_default()) {
                        attributes(value).for_each(drop);
                    }
                }
            }
        }
    }
}
