//! Looks at the packets of a namespace as they are on its links.

use std::{
    io,
    mem::MaybeUninit,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    time::Duration,
};

use super::{Namespace, NetnsError};
use crate::{
    sys::clock::Clock,
    wire::{self, Checksums, Packet},
};

/// A packet that came by.
#[derive(Clone, Debug)]
pub struct Captured {
    /// Sent by this namespace, not received.
    pub outgoing: bool,
    /// IP header first.
    pub bytes: Vec<u8>,
}

impl Captured {
    /// Its headers, if they make sense. Checksums are not looked at: with
    /// offloads on, nobody has filled them in yet.
    #[must_use]
    pub fn packet(&self) -> Option<Packet<'_>> {
        let len = u32::try_from(self.bytes.len()).ok()?;
        wire::parse(&self.bytes, len, Checksums::Trust).ok()
    }
}

/// An open packet socket (packet(7)) over all links of a namespace.
#[derive(Debug)]
pub struct Tap {
    socket: OwnedFd,
    buffer: Vec<u8>,
}

impl Tap {
    /// Starts to look; packets from now on are not missed, up to the socket's
    /// buffer.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn open(namespace: &Namespace) -> Result<Self, NetnsError> {
        namespace.enter(|| {
            let protocol = i32::from((libc::ETH_P_ALL as u16).to_be());
            let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
            // SAFETY: plain system call; the descriptor is owned at once.
            let socket = unsafe { libc::socket(libc::AF_PACKET, kind, protocol) };
            if socket < 0 {
                return Err(NetnsError::io("open a packet socket")(io::Error::last_os_error()));
            }
            // SAFETY: `socket` was just opened and nobody else has it.
            let socket = unsafe { OwnedFd::from_raw_fd(socket) };
            let size: libc::c_int = 8 << 20;
            // SAFETY: value and length describe one c_int that outlives the
            // call. If it fails, the buffer stays as it was.
            unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_SOCKET,
                    libc::SO_RCVBUFFORCE,
                    (&raw const size).cast(),
                    size_of::<libc::c_int>() as libc::socklen_t,
                );
            }
            Ok(Self { socket, buffer: vec![0; 1 << 16] })
        })?
    }

    /// The next IP packet, waiting for it up to `timeout`; `None` if there is
    /// none. What `lo` carries is left out.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn next(&mut self, timeout: Duration) -> io::Result<Option<Captured>> {
        let clock = Clock::start();
        loop {
            if let Some(captured) = self.receive()? {
                return Ok(Some(captured));
            }
            let left = timeout.saturating_sub(clock.now().since(crate::conntrack::Instant(0)));
            if left.is_zero() {
                return Ok(None);
            }
            let mut poll = libc::pollfd { fd: self.socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            let millis = i32::try_from(left.as_millis()).unwrap_or(i32::MAX);
            // SAFETY: one pollfd that outlives the call.
            unsafe { libc::poll(&raw mut poll, 1, millis.max(1)) };
        }
    }

    /// Waits up to `timeout` for a received packet that `wanted` knows; gives
    /// its octets.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn find(
        &mut self,
        timeout: Duration,
        mut wanted: impl FnMut(&Packet<'_>) -> bool,
    ) -> io::Result<Option<Captured>> {
        let clock = Clock::start();
        let start = clock.now();
        loop {
            let left = timeout.saturating_sub(clock.now().since(start));
            let Some(captured) = self.next(left)? else { return Ok(None) };
            if !captured.outgoing && captured.packet().is_some_and(|packet| wanted(&packet)) {
                return Ok(Some(captured));
            }
            if left.is_zero() {
                return Ok(None);
            }
        }
    }

    /// One packet that is already there; `None` if there is none.
    fn receive(&mut self) -> io::Result<Option<Captured>> {
        loop {
            let mut from = MaybeUninit::<libc::sockaddr_ll>::zeroed();
            let mut from_len = size_of::<libc::sockaddr_ll>() as libc::socklen_t;
            // SAFETY: buffer and address are valid for the lengths given and
            // outlive the call.
            let received = unsafe {
                libc::recvfrom(
                    self.socket.as_raw_fd(),
                    self.buffer.as_mut_ptr().cast(),
                    self.buffer.len(),
                    0,
                    from.as_mut_ptr().cast(),
                    &raw mut from_len,
                )
            };
            let Ok(received) = usize::try_from(received) else {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::WouldBlock {
                    return Ok(None);
                }
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(error);
            };
            // SAFETY: zeroed is a valid sockaddr_ll; the kernel filled it in.
            let from = unsafe { from.assume_init() };
            let protocol = u16::from_be(from.sll_protocol);
            let is_ip = protocol == libc::ETH_P_IP as u16 || protocol == libc::ETH_P_IPV6 as u16;
            if is_ip && from.sll_hatype != libc::ARPHRD_LOOPBACK {
                let outgoing = from.sll_pkttype == libc::PACKET_OUTGOING;
                let bytes = self.buffer.get(..received).unwrap_or_default().to_vec();
                return Ok(Some(Captured { outgoing, bytes }));
            }
        }
    }
}
