//! Stateless cookies: how a source proves that it is where it says it is.
//!
//! A SYN is answered with a SYN-ACK that acknowledges a number which its sender can't
//! accept: the cookie. A stack that has sent the SYN answers with an RST whose sequence
//! number is that acknowledgement (RFC 9293 §3.10.7.3), and so does one that has not
//! (§3.10.7.1): whoever can say the number has received it. Nothing is stored before.
//!
//! The cookie is made of the source's address and port, a coarse count of time and a
//! secret. The destination is not in it: behind a port forward the RST, which belongs
//! to no connection of the kernel's, shows another one than the SYN did.
//! Read first: SipHash, RFC 9293 §3.10.7.

use std::{hash::Hasher, net::IpAddr, time::Duration};

use siphasher::sip::SipHasher24;

use super::Instant;
use crate::wire::SeqNum;

/// How far around a SYN's number its sender might accept an acknowledgement, with what
/// a packet of the largest size carries.
const NEAR: u32 = 1 << 17;

/// Makes cookies and knows them again.
#[derive(Clone, Copy, Debug)]
pub struct Cookies {
    key: [u64; 2],
}

/// The numbers of a challenge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Challenge {
    /// Its sequence number, which means nothing.
    pub seq: SeqNum,
    /// Its acknowledgement: the cookie.
    pub ack: SeqNum,
}

impl Cookies {
    /// How long a cookie is the current one. It counts for one more period, so for 8 to
    /// 16 seconds: longer than any path takes, and an RST that comes later means nothing.
    pub const PERIOD: Duration = Duration::from_secs(8);

    /// Keyed by a secret, of which other keys may be made as well.
    #[must_use]
    pub fn new(seed: [u64; 2]) -> Self {
        let [first, second] = seed;
        let key = |number| {
            let mut hasher = SipHasher24::new_with_keys(first, second);
            hasher.write(b"challenge");
            hasher.write_u8(number);
            hasher.finish()
        };
        Self { key: [key(0), key(1)] }
    }

    /// The challenge for a SYN of this number. `None`, once in 2^28 SYNs: no cookie
    /// of this moment is one that the SYN's sender could not accept.
    #[must_use]
    pub fn challenge(&self, source: IpAddr, port: u16, syn: SeqNum, now: Instant) -> Option<Challenge> {
        let is_wrong = |challenge: &Challenge| challenge.ack.since(syn.minus(NEAR)) > NEAR.saturating_mul(2);
        self.of_now(source, port, now).into_iter().flatten().find(is_wrong)
    }

    /// Whether this is the number of a challenge that was sent to this source lately.
    #[must_use]
    pub fn knows(&self, source: IpAddr, port: u16, seq: SeqNum, now: Instant) -> bool {
        self.of_now(source, port, now).into_iter().flatten().any(|challenge| challenge.ack.0 == seq.0)
    }

    /// Those that count now, the newer one first.
    fn of_now(&self, source: IpAddr, port: u16, now: Instant) -> [Option<Challenge>; 2] {
        let period = u64::try_from(Self::PERIOD.as_millis()).unwrap_or(u64::MAX);
        let count = now.0.checked_div(period).unwrap_or(0);
        [Some(count), count.checked_sub(1)].map(|count| Some(self.at(source, port, count?)))
    }

    fn at(&self, source: IpAddr, port: u16, count: u64) -> Challenge {
        let [first, second] = self.key;
        let mut hasher = SipHasher24::new_with_keys(first, second);
        match source {
            IpAddr::V4(address) => hasher.write(&address.octets()),
            IpAddr::V6(address) => hasher.write(&address.octets()),
        }
        hasher.write_u16(port);
        hasher.write_u64(count);
        let [a, b, c, d, e, f, g, h] = hasher.finish().to_be_bytes();
        Challenge {
            seq: SeqNum(u32::from_be_bytes([a, b, c, d])),
            ack: SeqNum(u32::from_be_bytes([e, f, g, h])),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Instant = Instant(80_000);

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn later(milliseconds: u64) -> Instant {
        Instant(START.0 + milliseconds)
    }

    #[test]
    fn a_cookie_counts_for_its_period_and_the_next() {
        let cookies = Cookies::new([1, 2]);
        for source in ["192.0.2.1", "2001:db8::1"].map(address) {
            let ack = cookies.challenge(source, 4000, SeqNum(7), START).unwrap().ack;
            for now in [0, 7_999, 8_000, 15_999] {
                assert!(cookies.knows(source, 4000, ack, later(now)), "{now}");
            }
            for now in [16_000, 24_000, 1 << 40] {
                assert!(!cookies.knows(source, 4000, ack, later(now)), "{now}");
            }
        }
    }

    #[test]
    fn nobody_else_knows_it() {
        let cookies = Cookies::new([1, 2]);
        let source = address("192.0.2.1");
        let ack = cookies.challenge(source, 4000, SeqNum(7), START).unwrap().ack;
        assert!(!cookies.knows(address("192.0.2.2"), 4000, ack, START));
        assert!(!cookies.knows(source, 4001, ack, START));
        assert!(!cookies.knows(source, 4000, ack.plus(1), START));
        assert!(!Cookies::new([1, 3]).knows(source, 4000, ack, START));
        assert!(!Cookies::new([3, 2]).knows(source, 4000, ack, START));
    }

    #[test]
    fn no_cookie_is_one_that_the_syns_sender_would_take() {
        let cookies = Cookies::new([1, 2]);
        let source = address("192.0.2.1");
        let first = cookies.challenge(source, 4000, SeqNum(7), START).unwrap().ack;
        // SYNs whose acknowledgement it would be, without data and with much.
        for before in [0, 1, 1460, 65_495] {
            let other = cookies.challenge(source, 4000, first.minus(before), START).unwrap().ack;
            assert!(other != first);
            assert!(cookies.knows(source, 4000, other, START), "it is the last period's");
            assert!(!cookies.knows(source, 4000, other, later(8_000)), "and so ends sooner");
        }
    }

    #[test]
    fn the_first_period_has_none_before_it() {
        let cookies = Cookies::new([1, 2]);
        let source = address("192.0.2.1");
        let ack = cookies.challenge(source, 1, SeqNum(0), Instant(0)).unwrap().ack;
        assert!(cookies.knows(source, 1, ack, Instant(0)));
    }

    /// A forged RST has two numbers of 2^32 to hit, whatever it knows of others.
    #[test]
    fn cookies_are_spread_evenly() {
        let cookies = Cookies::new([5, 6]);
        let source = address("192.0.2.1");
        let mut counts = [0_u32; 16];
        for port in 0..16_000_u16 {
            let ack = cookies.challenge(source, port, SeqNum(0), START).unwrap().ack;
            counts[(ack.0 >> 28) as usize] += 1;
        }
        assert!(counts.iter().all(|count| (850..1150).contains(count)), "{counts:?}");
    }
}
