//! Hears of it when somebody takes nftables objects away, so that what is ours can
//! be looked after at once. Read first: linux/netfilter/nfnetlink.h.

use std::{
    io, mem,
    os::fd::{AsRawFd, OwnedFd},
};

/// Deletions of tables, chains and rules (linux/netfilter/nf_tables.h).
const DELETIONS: [u8; 3] = [2, 5, 8];

/// A socket that hears what changes in nftables, this network namespace's.
#[derive(Debug)]
pub struct Watch {
    socket: OwnedFd,
}

impl Watch {
    /// Listens from now on.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn open() -> io::Result<Self> {
        let socket = super::empty::open()?;
        // SAFETY: all zeros are a valid address of this kind.
        let mut address: libc::sockaddr_nl = unsafe { mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        address.nl_groups = 1 << (libc::NFNLGRP_NFTABLES - 1);
        let length = mem::size_of::<libc::sockaddr_nl>() as libc::socklen_t;
        // SAFETY: the descriptor is open, and the pointer and length are one value's.
        let bound = unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), length) };
        if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(Self { socket }) }
    }

    /// Whether something was taken away since the last question; also if so much
    /// happened that the kernel could not tell all of it. Does not wait.
    ///
    /// # Errors
    /// If the kernel no longer tells.
    pub fn something_went(&self) -> io::Result<bool> {
        let mut buffer = [0_u8; 16 * 1024];
        let mut went = false;
        loop {
            let flags = libc::MSG_DONTWAIT;
            // SAFETY: the descriptor is open, and the pointer and length are one buffer's.
            let got = unsafe {
                libc::recv(self.socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), flags)
            };
            let Ok(length) = usize::try_from(got) else {
                let error = io::Error::last_os_error();
                match error.raw_os_error() {
                    Some(libc::ENOBUFS) => went = true,
                    Some(libc::EINTR) => {}
                    Some(libc::EAGAIN) => return Ok(went),
                    _ => return Err(error),
                }
                continue;
            };
            went |= tells_of_deletion(&buffer[..length.min(buffer.len())]);
        }
    }
}

/// Whether one of the netlink messages in a datagram is a deletion.
fn tells_of_deletion(mut messages: &[u8]) -> bool {
    while let Some((header, _)) = messages.split_at_checked(16) {
        let length = u32::from_ne_bytes([header[0], header[1], header[2], header[3]]) as usize;
        let [kind, subsystem] = u16::from_ne_bytes([header[4], header[5]]).to_le_bytes();
        if i32::from(subsystem) == libc::NFNL_SUBSYS_NFTABLES && DELETIONS.contains(&kind) {
            return true;
        }
        let Some(rest) = messages.get(length.next_multiple_of(4).max(16)..) else { break };
        messages = rest;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u16, body: usize) -> Vec<u8> {
        let mut bytes = u32::try_from(16 + body).unwrap().to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.resize((16 + body).next_multiple_of(4), 0);
        bytes
    }

    #[test]
    fn a_deletion_is_found_among_other_messages_and_nonsense_ends() {
        let nftables = |kind: u16| ((libc::NFNL_SUBSYS_NFTABLES as u16) << 8) | kind;
        let set_element = message(nftables(14), 5);
        assert!(!tells_of_deletion(&set_element));
        assert!(tells_of_deletion(&[set_element.clone(), message(nftables(8), 4)].concat()));
        assert!(!tells_of_deletion(&message(8, 4)), "of another subsystem");
        assert!(!tells_of_deletion(&[0; 40]), "a length of nothing");
        assert!(!tells_of_deletion(&set_element[..10]));
    }
}
