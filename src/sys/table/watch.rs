//! Tells when anybody changes the kernel's nftables rules: `flush ruleset`, with
//! which the files of many distributions begin, takes our table with it.

use std::{io, time::Duration};

use crate::sys::netlink::Socket;

/// `NFNLGRP_NFTABLES` of `linux/netfilter/nfnetlink.h`, as a bit for bind(2).
const NFTABLES_GROUP: u32 = 1 << 6;

/// Hears of changes, ours included.
#[derive(Debug)]
pub struct Watch {
    socket: Socket,
}

impl Watch {
    /// Starts to listen; changes after this are not missed. It hears the network
    /// namespace of the calling thread.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: Socket::open(libc::NETLINK_NETFILTER, NFTABLES_GROUP)? })
    }

    /// Waits up to `timeout`; `true` if something changed.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn wait(&self, timeout: Duration) -> io::Result<bool> {
        self.socket.anything(timeout)
    }
}
