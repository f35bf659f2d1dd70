//! Three namespaces in a row: a client, a gateway, a server, IPv4 and IPv6.
//!
//! ```text
//!  client eth0 ---- outside gateway inside ---- eth0 server
//!  203.0.113.10     203.0.113.1   192.0.2.1     192.0.2.10
//!  2001:db8:a::10   2001:db8:a::1 2001:db8:b::1 2001:db8:b::10
//! ```
//!
//! Two more networks exist only as routes: packets from the forged one can be
//! answered, and nobody hears the answer; packets to the mute one arrive at
//! the server's namespace, and nobody answers. All are documentation and
//! benchmark addresses (RFC 5737, RFC 3849, RFC 2544).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::{Namespace, Namespaces, NetnsError};

/// IPv4 or IPv6.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The client's address.
    #[must_use]
    pub const fn client(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::new(203, 0, 113, 10)),
            Self::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 0x10)),
        }
    }

    /// The gateway's address on the client's side.
    #[must_use]
    pub const fn outside(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
            Self::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 1)),
        }
    }

    /// The gateway's address on the server's side.
    #[must_use]
    pub const fn inside(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
            Self::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xb, 0, 0, 0, 0, 1)),
        }
    }

    /// The server's address.
    #[must_use]
    pub const fn server(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 10)),
            Self::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xb, 0, 0, 0, 0, 0x10)),
        }
    }

    /// An address that is routed to the client's namespace but is nobody's:
    /// the source of a SYN whose answer falls on deaf ears. Each number is
    /// another source, in IPv6 another /64.
    #[must_use]
    pub const fn forged(self, number: u16) -> IpAddr {
        let [high, low] = number.to_be_bytes();
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::new(198, 18, high, low)),
            Self::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x5, number, 0, 0, 0, 1)),
        }
    }

    /// An address behind the gateway that never answers.
    #[must_use]
    pub const fn mute(self) -> IpAddr {
        match self {
            Self::V4 => IpAddr::V4(Ipv4Addr::new(198, 19, 0, 10)),
            Self::V6 => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x6, 0, 0, 0, 0, 0x10)),
        }
    }
}

/// A client, a gateway that forwards, and a server; gone when dropped.
#[derive(Debug)]
pub struct Three {
    /// Outside. Interface `eth0`.
    pub client: Namespace,
    /// Between. Interfaces `outside` and `inside`.
    pub gateway: Namespace,
    /// Inside. Interface `eth0`.
    pub server: Namespace,
    all: Namespaces,
}

impl Three {
    /// Makes them. The gateway forwards; no firewall is in it.
    ///
    /// # Errors
    /// Not root, no `ip`, or what `ip` said.
    pub fn new() -> Result<Self, NetnsError> {
        let mut all = Namespaces::new()?;
        let client = all.add("client")?;
        let gateway = all.add("gateway")?;
        let server = all.add("server")?;
        gateway.sysctls(&[("ipv4/ip_forward", "1"), ("ipv6/conf/all/forwarding", "1")])?;
        for host in [&client, &server] {
            // A host hears what is not for it, and neither passes it on nor complains.
            host.sysctls(&[("ipv4/ip_forward", "0"), ("ipv6/conf/all/forwarding", "0")])?;
        }
        let three = Self { client, gateway, server, all };
        three.link_outside()?;
        three.link_inside()?;
        Ok(three)
    }

    /// Makes the link between client and gateway; again, if it was deleted
    /// (the interface `outside` then has another index).
    ///
    /// # Errors
    /// What `ip` said.
    pub fn link_outside(&self) -> Result<(), NetnsError> {
        self.all.link((&self.client, "eth0"), (&self.gateway, "outside"))?;
        self.client.ip_batch(
            "addr add 203.0.113.10/24 dev eth0\n\
             addr add 2001:db8:a::10/64 dev eth0 nodad\n\
             route add default via 203.0.113.1\n\
             route add default via 2001:db8:a::1\n",
        )?;
        self.gateway.ip_batch(
            "addr add 203.0.113.1/24 dev outside\n\
             addr add 2001:db8:a::1/64 dev outside nodad\n\
             route add 198.18.0.0/16 via 203.0.113.10\n\
             route add 2001:db8:5::/48 via 2001:db8:a::10\n",
        )
    }

    fn link_inside(&self) -> Result<(), NetnsError> {
        self.all.link((&self.gateway, "inside"), (&self.server, "eth0"))?;
        self.server.ip_batch(
            "addr add 192.0.2.10/24 dev eth0\n\
             addr add 2001:db8:b::10/64 dev eth0 nodad\n\
             route add default via 192.0.2.1\n\
             route add default via 2001:db8:b::1\n",
        )?;
        self.gateway.ip_batch(
            "addr add 192.0.2.1/24 dev inside\n\
             addr add 2001:db8:b::1/64 dev inside nodad\n\
             route add 198.19.0.0/16 via 192.0.2.10\n\
             route add 2001:db8:6::/48 via 2001:db8:b::10\n",
        )
    }

    /// Makes a second link, from client to server beside the gateway, that no route
    /// leads through yet. Neither end minds where packets come from.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn link_beside(&self) -> Result<(), NetnsError> {
        self.all.link((&self.client, "beside"), (&self.server, "beside"))?;
        for (host, number) in [(&self.client, 1), (&self.server, 2)] {
            let all = ["all", "eth0", "beside"].map(|name| format!("ipv4/conf/{name}/rp_filter"));
            host.sysctls(&all.each_ref().map(|name| (name.as_str(), "0")))?;
            host.ip_batch(&format!(
                "addr add 198.51.100.{number}/24 dev beside\n\
                 addr add 2001:db8:c::{number}/64 dev beside nodad\n"
            ))?;
        }
        Ok(())
    }

    /// Leads what the client sends to the server beside the gateway.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn from_client_beside(&self) -> Result<(), NetnsError> {
        self.client.ip_batch(
            "route add 192.0.2.10 via 198.51.100.2 src 203.0.113.10\n\
             route add 2001:db8:b::10 via 2001:db8:c::2 src 2001:db8:a::10\n",
        )
    }

    /// Leads what the server sends to the client beside the gateway.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn from_server_beside(&self) -> Result<(), NetnsError> {
        self.server.ip_batch(
            "route add 203.0.113.10 via 198.51.100.1 src 192.0.2.10\n\
             route add 2001:db8:a::10 via 2001:db8:c::1 src 2001:db8:b::10\n",
        )
    }

    /// Deletes the link between client and gateway.
    ///
    /// # Errors
    /// What `ip` said.
    pub fn unlink_outside(&self) -> Result<(), NetnsError> {
        self.gateway.ip_batch("link del outside\n")
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{SocketAddr, TcpListener, TcpStream},
        path::Path,
        thread,
        time::Duration,
    };

    use super::*;
    use crate::{conntrack::Instant, sys::clock::Clock};

    /// How long what should happen at once may take on a busy machine.
    const SOON: Duration = Duration::from_secs(10);

    #[test]
    fn traffic_crosses_the_gateway_and_nothing_stays_behind() {
        let three = Three::new().expect("three namespaces");
        for family in Family::BOTH {
            let address = SocketAddr::new(family.server(), 4000);
            let listener = three.server.enter(|| TcpListener::bind(address)).unwrap().unwrap();
            let mut client = three.client.enter(|| TcpStream::connect(address)).unwrap().unwrap();
            let (mut server, from) = listener.accept().unwrap();
            assert_eq!(from.ip(), family.client());
            client.write_all(b"through").unwrap();
            let mut heard = [0; 7];
            server.read_exact(&mut heard).unwrap();
            assert_eq!(&heard, b"through");
            // The list is read while the kernel changes it, and may miss one.
            let clock = Clock::start();
            while three.server.tcp_sockets(1, 4000).unwrap() != 1 {
                assert!(clock.now().since(Instant(0)) < SOON, "one established socket");
                thread::sleep(Duration::from_millis(10));
            }
            drop((client, server, listener));
        }
        let names: Vec<String> = [&three.client, &three.gateway, &three.server]
            .iter()
            .map(|space| space.name().to_owned())
            .collect();
        drop(three);
        for name in names {
            assert!(!Path::new("/run/netns").join(&name).exists(), "{name} is left over");
        }
    }

    #[test]
    fn a_panic_takes_the_namespaces_along() {
        let mut name = String::new();
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let three = Three::new().unwrap();
            name = three.gateway.name().to_owned();
            three.gateway.enter(|| panic!("inside")).unwrap();
        }));
        assert!(panicked.is_err());
        assert!(!name.is_empty() && !Path::new("/run/netns").join(&name).exists());
    }
}
