//! The Internet checksum (RFC 1071), over pieces.
//!
//! A [`Sum`] grows piece by piece: pseudo header, header, data. Pieces may have
//! odd lengths; what counts is where an octet stands in the whole. What a
//! checksum covers is sound if the sum over it, the checksum field included,
//! [`Sum::is_sound`].

use std::net::IpAddr;

use super::packet::Protocol;

/// A one's complement sum in the making.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sum {
    /// Big-endian words with their carries not yet folded in.
    total: u64,
    /// An odd number of octets was added, so the next one is a low half.
    odd: bool,
}

impl Sum {
    /// The sum over nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { total: 0, odd: false }
    }

    /// The pseudo header of RFC 9293 §3.1 and RFC 8200 §8.1. `len` counts the
    /// octets of the transport header and its data.
    #[must_use]
    pub fn pseudo(src: IpAddr, dst: IpAddr, protocol: Protocol, len: u32) -> Self {
        Self::new().address(src).address(dst).word(u32::from(protocol.0)).word(len)
    }

    /// Adds octets.
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        match (self.odd, bytes.split_first()) {
            (true, Some((first, rest))) => {
                Self { total: self.total.wrapping_add(u64::from(*first)), odd: false }.even(rest)
            }
            (true, None) => self,
            (false, _) => self.even(bytes),
        }
    }

    /// Adds octets that begin at an even place. 2^16 is 1 modulo 2^16 - 1, so a
    /// 32-bit word counts as the sum of its halves; 2^32 words fit.
    fn even(self, bytes: &[u8]) -> Self {
        let (words, rest) = bytes.as_chunks::<4>();
        let mut total = self.total;
        for word in words {
            total = total.wrapping_add(u64::from(u32::from_be_bytes(*word)));
        }
        let mut last = [0; 4];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        total = total.wrapping_add(u64::from(u32::from_be_bytes(last)));
        Self { total, odd: rest.len() & 1 == 1 }
    }

    fn word(self, word: u32) -> Self {
        self.bytes(&word.to_be_bytes())
    }

    fn address(self, address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => self.bytes(&v4.octets()),
            IpAddr::V6(v6) => self.bytes(&v6.octets()),
        }
    }

    /// The sum in 16 bits, carries folded in.
    #[must_use]
    pub const fn folded(self) -> u16 {
        // The total stays below 2^64; each fold brings the carries down.
        let total = (self.total & 0xffff_ffff).wrapping_add(self.total >> 32);
        let total = (total & 0xffff_ffff).wrapping_add(total >> 32);
        let total = (total & 0xffff).wrapping_add(total >> 16);
        let total = (total & 0xffff).wrapping_add(total >> 16);
        let total = (total & 0xffff).wrapping_add(total >> 16);
        total as u16
    }

    /// What goes into the checksum field, if that field was added as zero.
    #[must_use]
    pub const fn checksum(self) -> u16 {
        !self.folded()
    }

    /// Whether what was added, its checksum field included, is undamaged.
    #[must_use]
    pub const fn is_sound(self) -> bool {
        self.folded() == 0xffff
    }
}
