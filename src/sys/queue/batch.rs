//! Many datagrams in one system call (`recvmmsg`), into memory that is
//! allocated once.

use std::{io, os::fd::RawFd};

use crate::sys::netlink;

/// Buffers for a number of datagrams, and the kernel's lists that point to them.
pub(super) struct Batch {
    memory: Box<[u8]>,
    room: usize,
    headers: Box<[libc::mmsghdr]>,
    // Only pointed to by `headers`, but must live as long.
    _vectors: Box<[libc::iovec]>,
}

// SAFETY: the pointers in `headers` and `_vectors` lead only into the boxes
// beside them, which move with them and stay where they are on the heap.
unsafe impl Send for Batch {}

impl Batch {
    /// Room for `count` datagrams of `room` octets.
    pub(super) fn new(count: usize, room: usize) -> Self {
        let room = room.next_multiple_of(64);
        let mut memory = vec![0_u8; room * count].into_boxed_slice();
        let mut vectors: Box<[libc::iovec]> = memory
            .chunks_exact_mut(room)
            .map(|chunk| libc::iovec { iov_base: chunk.as_mut_ptr().cast(), iov_len: room })
            .collect();
        let headers = vectors
            .iter_mut()
            .map(|vector| {
                // SAFETY: mmsghdr is plain data; all zero is valid.
                let mut header: libc::mmsghdr = unsafe { std::mem::zeroed() };
                header.msg_hdr.msg_iov = vector;
                header.msg_hdr.msg_iovlen = 1;
                header
            })
            .collect();
        Self { memory, room, headers, _vectors: vectors }
    }

    /// Takes what waits, up to `most`, and if that is nothing and it `may_wait`, waits for the
    /// first, as long as the socket's patience is. Returns how many datagrams.
    pub(super) fn receive(&mut self, fd: RawFd, may_wait: bool, most: usize) -> io::Result<usize> {
        if most == 1 {
            return self.receive_one(fd, may_wait).map(|()| 1);
        }
        let flags = if may_wait { libc::MSG_WAITFORONE } else { libc::MSG_DONTWAIT };
        // SAFETY: every header points to one iovec of our own and this to `room` octets of our
        // own memory; the exclusive borrow keeps everybody else away from them.
        let received = unsafe {
            libc::recvmmsg(
                fd,
                self.headers.as_mut_ptr(),
                self.headers.len().min(most) as u32,
                flags,
                std::ptr::null_mut(),
            )
        };
        usize::try_from(received).map_err(|_| io::Error::last_os_error())
    }

    /// As above, for one: a call without lists.
    fn receive_one(&mut self, fd: RawFd, may_wait: bool) -> io::Result<()> {
        let flags = if may_wait { 0 } else { libc::MSG_DONTWAIT };
        let (Some(header), Some(memory)) = (self.headers.first_mut(), self.memory.get_mut(..self.room))
        else {
            return Err(io::ErrorKind::OutOfMemory.into());
        };
        header.msg_len = netlink::receive_once(fd, memory, flags)? as u32;
        Ok(())
    }

    /// The datagrams of the last [`Self::receive`], which returned `count`.
    pub(super) fn datagrams(&self, count: usize) -> impl Iterator<Item = &[u8]> {
        self.headers
            .iter()
            .zip(self.memory.chunks_exact(self.room))
            .take(count)
            .map(|(header, memory)| memory.get(..header.msg_len as usize).unwrap_or(memory))
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("count", &self.headers.len()).field("room", &self.room).finish()
    }
}
