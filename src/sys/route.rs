//! Where the kernel would send a packet: asked over rtnetlink, one address at a time.
//!
//! Read first: rtnetlink(7), `RTM_GETROUTE`.

use std::{io, net::IpAddr};

use super::netlink::{Socket, Writer, find, ne32};
use crate::engine::IfIndex;

/// Octets of `struct rtmsg`.
const RTMSG: usize = 12;

/// A socket that asks for routes. It sees the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Routes {
    socket: Socket,
}

impl Routes {
    /// Opens it.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn open() -> io::Result<Self> {
        Ok(Self { socket: Socket::open(libc::NETLINK_ROUTE, 0)? })
    }

    /// The interface by which a packet to this address leaves. `None`: it has no route.
    ///
    /// # Errors
    /// The kernel's word, if it is not "no route".
    pub fn toward(&mut self, address: IpAddr) -> io::Result<Option<IfIndex>> {
        let (family, octets) = match address {
            IpAddr::V4(address) => (libc::AF_INET, address.octets().to_vec()),
            IpAddr::V6(address) => (libc::AF_INET6, address.octets().to_vec()),
        };
        let mut header = [0_u8; RTMSG];
        header[0] = u8::try_from(family).unwrap_or_default();
        header[1] = u8::try_from(octets.len().saturating_mul(8)).unwrap_or_default();
        let mut request = Writer::message(libc::RTM_GETROUTE, libc::NLM_F_ACK, &header);
        request.attribute(libc::RTA_DST, &octets);
        let mut interface = None;
        let result = self.socket.request(request, |message| {
            if message.kind == libc::RTM_NEWROUTE {
                let attributes = message.body.get(RTMSG..).unwrap_or_default();
                interface = find(attributes, libc::RTA_OIF).and_then(ne32).map(IfIndex);
            }
        });
        match result {
            Ok(()) => Ok(interface),
            Err(error) if error.raw_os_error() == Some(libc::ENETUNREACH) => Ok(None),
            Err(error) if error.raw_os_error() == Some(libc::EHOSTUNREACH) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_way_to_oneself_is_known() {
        let loopback = crate::sys::interfaces::list().unwrap().into_iter().find(|(_, name)| name == "lo");
        let mut routes = Routes::open().unwrap();
        let toward = routes.toward("127.0.0.1".parse().unwrap()).unwrap();
        assert_eq!(toward, loopback.map(|(index, _)| index));
    }
}
