//! Raw sockets: RSTs with addresses of our choice.
//!
//! The packets are finished (IP header, checksums). They leave by the output
//! hook with a mark that keeps them off our queues; routing is the kernel's, by
//! the destination address. Read first: `man 7 raw`.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
};

use super::netlink::{check, set_option};
use crate::wire::RawPacket;

/// Sends finished IP packets, IPv4 and IPv6.
#[derive(Debug)]
pub struct RawSender {
    v4: OwnedFd,
    /// `None` on a kernel without IPv6.
    v6: Option<OwnedFd>,
}

impl RawSender {
    /// Opens both sockets; packets bear `mark`, which keeps them off our queues.
    ///
    /// # Errors
    /// If privileges are missing.
    pub fn open(mark: u32) -> io::Result<Self> {
        let v4 = socket(libc::AF_INET, mark)?;
        set_option(v4.as_fd(), libc::IPPROTO_IP, libc::IP_HDRINCL, 1)?;
        let v6 = match socket(libc::AF_INET6, mark) {
            Ok(v6) => Some(v6),
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => None,
            Err(error) => return Err(error),
        };
        if let Some(v6) = &v6 {
            set_option(v6.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_HDRINCL, 1)?;
        }
        Ok(Self { v4, v6 })
    }

    /// Sends one packet. A link-local IPv6 destination has no route without an
    /// interface and is refused by the kernel.
    ///
    /// # Errors
    /// The kernel's word; the caller counts it.
    pub fn send(&self, packet: &RawPacket) -> io::Result<()> {
        let bytes = &packet.bytes[..];
        match bytes.first().map(|first| first >> 4) {
            Some(4) => {
                let destination: [u8; 4] = destination(bytes, 16)?;
                self.send_v4(bytes, Ipv4Addr::from(destination))
            }
            Some(6) => {
                let destination: [u8; 16] = destination(bytes, 24)?;
                self.send_v6(bytes, Ipv6Addr::from(destination))
            }
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not an IP packet")),
        }
    }

    fn send_v4(&self, bytes: &[u8], to: Ipv4Addr) -> io::Result<()> {
        // SAFETY: plain data; all zero is valid.
        let mut address: libc::sockaddr_in = unsafe { std::mem::zeroed() };
        address.sin_family = libc::AF_INET as libc::sa_family_t;
        address.sin_addr.s_addr = u32::from(to).to_be();
        send_to(&self.v4, bytes, &address)
    }

    fn send_v6(&self, bytes: &[u8], to: Ipv6Addr) -> io::Result<()> {
        let Some(socket) = &self.v6 else { return Err(io::Error::from_raw_os_error(libc::EAFNOSUPPORT)) };
        // SAFETY: plain data; all zero is valid.
        let mut address: libc::sockaddr_in6 = unsafe { std::mem::zeroed() };
        address.sin6_family = libc::AF_INET6 as libc::sa_family_t;
        address.sin6_addr.s6_addr = to.octets();
        send_to(socket, bytes, &address)
    }
}

fn socket(family: i32, mark: u32) -> io::Result<OwnedFd> {
    // IPPROTO_RAW receives nothing, so there is nothing to drain.
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: no pointers are passed.
    let fd = check(unsafe { libc::socket(family, kind, libc::IPPROTO_RAW) })?;
    // SAFETY: `fd` was just opened, and nobody else has it.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_MARK, mark.cast_signed())?;
    Ok(fd)
}

fn destination<const N: usize>(bytes: &[u8], at: usize) -> io::Result<[u8; N]> {
    let octets = bytes.get(at..).and_then(<[u8]>::first_chunk).copied();
    octets.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the IP header is cut off"))
}

fn send_to<A>(socket: &OwnedFd, bytes: &[u8], address: &A) -> io::Result<()> {
    loop {
        // SAFETY: pointer and length are those of one slice, and those of the
        // address, which is one of the kernel's address structs.
        let sent = unsafe {
            libc::sendto(
                socket.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                0,
                std::ptr::from_ref(address).cast(),
                size_of::<A>() as u32,
            )
        };
        if sent >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
