//! Network interfaces by name and number, followed as they come and go, and
//! what the kernel routes by them.

use std::{
    ffi::CStr,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    time::Duration,
};

use super::netlink::{Socket, Writer, attributes, find, ne32};
use crate::engine::IfIndex;

/// Offset of `rtm_dst_len`, `rtm_table` and `rtm_type` in `struct rtmsg`, and its size.
const RTM_DST_LEN: usize = 1;
const RTM_TABLE: usize = 4;
const RTM_TYPE: usize = 7;
const RTMSG: usize = 12;
/// Octets of `struct rtnexthop`, and the offset of its interface.
const NEXTHOP: usize = 8;
const NEXTHOP_IFINDEX: usize = 4;

/// All interfaces now.
///
/// # Errors
/// The kernel's word.
pub fn list() -> io::Result<Vec<(IfIndex, String)>> {
    // SAFETY: no arguments; the result is freed below.
    let first = unsafe { libc::if_nameindex() };
    if first.is_null() {
        return Err(io::Error::last_os_error());
    }
    let mut interfaces = Vec::new();
    let mut at = first;
    // SAFETY: the list ends with an entry whose index is 0 and name null; all
    // before it have a name that ends with a zero octet.
    unsafe {
        while (*at).if_index != 0 && !(*at).if_name.is_null() {
            let name = CStr::from_ptr((*at).if_name).to_string_lossy().into_owned();
            interfaces.push((IfIndex((*at).if_index), name));
            at = at.add(1);
        }
        libc::if_freenameindex(first);
    }
    Ok(interfaces)
}

/// The addresses of each interface, by its name (getifaddrs(3)).
///
/// # Errors
/// The kernel's word.
pub fn addresses() -> io::Result<Vec<(String, IpAddr)>> {
    let mut first: *mut libc::ifaddrs = std::ptr::null_mut();
    // SAFETY: `first` is written, and freed below.
    if unsafe { libc::getifaddrs(&raw mut first) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mut all = Vec::new();
    let mut at = first;
    // SAFETY: a list that ends with null, whose names end with a zero octet, and
    // whose addresses, where there is one, have the form that their family says.
    unsafe {
        while let Some(entry) = at.as_ref() {
            at = entry.ifa_next;
            let Some(address) = entry.ifa_addr.as_ref() else { continue };
            let address = match i32::from(address.sa_family) {
                libc::AF_INET => {
                    let inet = entry.ifa_addr.cast::<libc::sockaddr_in>().read_unaligned();
                    IpAddr::V4(Ipv4Addr::from(inet.sin_addr.s_addr.to_ne_bytes()))
                }
                libc::AF_INET6 => {
                    let inet = entry.ifa_addr.cast::<libc::sockaddr_in6>().read_unaligned();
                    IpAddr::V6(Ipv6Addr::from(inet.sin6_addr.s6_addr))
                }
                _ => continue,
            };
            all.push((CStr::from_ptr(entry.ifa_name).to_string_lossy().into_owned(), address));
        }
        libc::freeifaddrs(first);
    }
    Ok(all)
}

/// Tells when interfaces come, go or are renamed (rtnetlink).
#[derive(Debug)]
pub struct Watch {
    socket: Socket,
}

impl Watch {
    /// Starts to listen; changes after this are not missed. It hears the
    /// network namespace of the calling thread.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: Socket::open(libc::NETLINK_ROUTE, libc::RTMGRP_LINK as u32)? })
    }

    /// Waits up to `timeout`; `true` if something changed.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn wait(&self, timeout: Duration) -> io::Result<bool> {
        self.socket.anything(timeout)
    }
}

/// The interfaces that a default route leads to, IPv4 or IPv6, of any routing
/// table (a gateway with two uplinks has a table for each). Those of the main
/// table's IPv4 route come first.
///
/// # Errors
/// The kernel's word.
pub fn default_route_interfaces() -> io::Result<Vec<(IfIndex, String)>> {
    let mut found: Vec<(bool, IfIndex)> = Vec::new();
    let mut socket = Socket::open(libc::NETLINK_ROUTE, 0)?;
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut header = [0_u8; RTMSG];
        header[0] = u8::try_from(family).unwrap_or_default();
        let request = Writer::message(libc::RTM_GETROUTE, libc::NLM_F_DUMP, &header);
        socket.request(request, |message| {
            if message.kind == libc::RTM_NEWROUTE {
                found.extend(default_route(message.body));
            }
        })?;
    }
    // Stable: IPv4 stays before IPv6.
    found.sort_by_key(|(main, _)| !main);
    let names = list()?;
    let mut interfaces: Vec<(IfIndex, String)> = Vec::new();
    for (_, index) in found {
        if let Some(interface) = names.iter().find(|(known, _)| *known == index)
            && !interfaces.contains(interface)
        {
            interfaces.push(interface.clone());
        }
    }
    Ok(interfaces)
}

/// Where this route leads, if it is a default route, and whether it is of the
/// main table.
fn default_route(body: &[u8]) -> Vec<(bool, IfIndex)> {
    let octet = |at: usize| body.get(at).copied().unwrap_or_default();
    let rest = body.get(RTMSG..).unwrap_or_default();
    let table = find(rest, libc::RTA_TABLE).and_then(ne32).unwrap_or_else(|| u32::from(octet(RTM_TABLE)));
    if octet(RTM_DST_LEN) != 0
        || octet(RTM_TYPE) != libc::RTN_UNICAST
        || table == u32::from(libc::RT_TABLE_LOCAL)
    {
        return Vec::new();
    }
    let mut indices: Vec<u32> = Vec::new();
    for (kind, value) in attributes(rest) {
        if kind == libc::RTA_OIF {
            indices.extend(ne32(value));
        } else if kind == libc::RTA_MULTIPATH {
            indices.extend(nexthops(value));
        }
    }
    let main = table == u32::from(libc::RT_TABLE_MAIN);
    indices.into_iter().map(|index| (main, IfIndex(index))).collect()
}

/// The interfaces in a list of `struct rtnexthop`.
fn nexthops(mut rest: &[u8]) -> Vec<u32> {
    let mut indices = Vec::new();
    while let Some(length) = rest.first_chunk().map(|octets| usize::from(u16::from_ne_bytes(*octets)))
        && length >= NEXTHOP
    {
        indices.extend(rest.get(NEXTHOP_IFINDEX..).and_then(ne32));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    indices
}

/// Whether the kernel routes at all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Forwarding {
    /// `net.ipv4.ip_forward`.
    pub v4: bool,
    /// `net.ipv6.conf.all.forwarding`; `false` on a kernel without IPv6.
    pub v6: bool,
}

/// Asks the kernel whether it routes.
///
/// # Errors
/// If `/proc/sys` can't be read.
pub fn forwarding() -> io::Result<Forwarding> {
    let on = |path| fs::read_to_string(path).map(|value| value.trim() != "0");
    let v6 = match on("/proc/sys/net/ipv6/conf/all/forwarding") {
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        other => other?,
    };
    Ok(Forwarding { v4: on("/proc/sys/net/ipv4/ip_forward")?, v6 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_its_address() {
        let all = addresses().unwrap();
        assert!(all.contains(&("lo".to_owned(), Ipv4Addr::LOCALHOST.into())), "{all:?}");
    }

    fn route(dst_len: u8, table: u8, kind: u8, attributes: &[u8]) -> Vec<u8> {
        let mut body = vec![2, dst_len, 0, 0, table, 0, 0, kind, 0, 0, 0, 0];
        body.extend(attributes);
        body
    }

    fn oif(index: u32) -> Vec<u8> {
        let mut attribute = vec![8, 0, libc::RTA_OIF as u8, 0];
        attribute.extend(index.to_ne_bytes());
        attribute
    }

    #[test]
    fn only_default_routes_count() {
        assert_eq!(default_route(&route(0, 254, 1, &oif(3))), [(true, IfIndex(3))]);
        assert_eq!(default_route(&route(0, 100, 1, &oif(3))), [(false, IfIndex(3))]);
        assert_eq!(default_route(&route(24, 254, 1, &oif(3))), []);
        // Unreachable, and the table of local addresses.
        assert_eq!(default_route(&route(0, 254, 7, &oif(1))), []);
        assert_eq!(default_route(&route(0, 255, 1, &oif(1))), []);
        assert_eq!(default_route(&[]), []);
    }

    #[test]
    fn every_way_of_a_multipath_route_counts() {
        let mut attribute = vec![28, 0, libc::RTA_MULTIPATH as u8, 0];
        for (length, index) in [(16_u16, 4_u32), (8, 5)] {
            attribute.extend(length.to_ne_bytes());
            attribute.extend([0, 0]);
            attribute.extend(index.to_ne_bytes());
            attribute.resize(attribute.len() + usize::from(length) - 8, 0);
        }
        assert_eq!(default_route(&route(0, 254, 1, &attribute)), [(true, IfIndex(4)), (true, IfIndex(5))]);
        assert_eq!(nexthops(&[0; 8]), Vec::<u32>::new());
    }
}
