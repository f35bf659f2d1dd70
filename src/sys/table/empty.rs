//! Deletes an nftables table only if it is empty, which nft can't: its `delete
//! table` takes along whatever somebody put there a moment ago.
//!
//! One batch on a netlink socket; the kernel decides, and in one step.
//! Read first: linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use super::xtables::Family;

/// Only what is empty (`NLM_F_NONREC`).
const NON_RECURSIVE: u16 = 0x100;
const NFT_MSG_DELTABLE: u16 = 2;
const NFTA_TABLE_NAME: u16 = 1;

/// Deletes a table if it is there and nothing is in it. `false`: it stays, or was
/// not there.
pub(super) fn delete_table(family: Family, name: &str) -> io::Result<bool> {
    let socket = open()?;
    let batch = batch(family, name);
    // SAFETY: the descriptor is open, and the pointer and length are one buffer's.
    let sent = unsafe { libc::send(socket.as_raw_fd(), batch.as_ptr().cast(), batch.len(), 0) };
    if sent < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut answer = [0_u8; 4096];
    // SAFETY: the descriptor is open, and the pointer and length are one buffer's.
    let received = unsafe { libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), answer.len(), 0) };
    let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    match error_in(&answer[..received.min(answer.len())]) {
        Some(0) => Ok(true),
        Some(libc::EBUSY | libc::ENOENT) => Ok(false),
        Some(code) => Err(io::Error::from_raw_os_error(code)),
        None => Err(io::Error::other("the kernel's answer is not a netlink acknowledgement")),
    }
}

pub(super) fn open() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: takes numbers only.
    let socket = unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_NETFILTER) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: it was just opened and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(socket) })
}

/// Begin, delete, end.
fn batch(family: Family, name: &str) -> Vec<u8> {
    const SUBSYSTEM: u16 = libc::NFNL_SUBSYS_NFTABLES as u16;
    let request = libc::NLM_F_REQUEST as u16;
    let mut bytes = Vec::new();
    message(&mut bytes, libc::NFNL_MSG_BATCH_BEGIN as u16, request, 0, SUBSYSTEM, &[]);
    let mut attribute = Vec::new();
    let length = 4 + name.len() + 1;
    attribute.extend(u16::try_from(length).unwrap_or(u16::MAX).to_ne_bytes());
    attribute.extend(NFTA_TABLE_NAME.to_ne_bytes());
    attribute.extend(name.as_bytes());
    attribute.resize(length.next_multiple_of(4), 0);
    let family = match family {
        Family::V4 => libc::NFPROTO_IPV4,
        Family::V6 => libc::NFPROTO_IPV6,
    };
    let flags = request | libc::NLM_F_ACK as u16 | NON_RECURSIVE;
    message(&mut bytes, (SUBSYSTEM << 8) | NFT_MSG_DELTABLE, flags, family as u8, 0, &attribute);
    message(&mut bytes, libc::NFNL_MSG_BATCH_END as u16, request, 0, SUBSYSTEM, &[]);
    bytes
}

/// A netlink header, netfilter's own header, attributes.
fn message(bytes: &mut Vec<u8>, kind: u16, flags: u16, family: u8, resource: u16, attributes: &[u8]) {
    let length = u32::try_from(20 + attributes.len()).unwrap_or(u32::MAX);
    bytes.extend(length.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    bytes.extend([0; 8]); // Sequence number and sender: there is one request only.
    bytes.extend([family, 0]);
    bytes.extend(resource.to_be_bytes());
    bytes.extend(attributes);
}

/// The code in a netlink acknowledgement; 0 is success.
fn error_in(answer: &[u8]) -> Option<i32> {
    let kind = u16::from_ne_bytes(answer.get(4..6)?.try_into().ok()?);
    let code = i32::from_ne_bytes(answer.get(16..20)?.try_into().ok()?);
    (i32::from(kind) == libc::NLMSG_ERROR).then_some(code.wrapping_neg())
}
