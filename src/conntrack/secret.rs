//! What connections are found by is hashed with a secret, so that nobody outside can choose
//! which of them collide.
//!
//! Where the processor has AES, the hash is that block cipher (FIPS 197), ten instructions a
//! block: of IPv4 one block holds all; of IPv6 each address is one, their sum is added to the
//! rest, and that is the last. Elsewhere it is SipHash-1-3. Which of them it is nobody else
//! can tell: the hash says where a connection lies, nothing more.

use std::hash::Hasher;

use aes::{
    Aes128Enc, Block,
    cipher::{BlockCipherEncrypt, KeyInit},
};
use siphasher::sip::SipHasher13;

/// The key of the hash, made ready.
pub struct Secret(Cipher);

enum Cipher {
    Aes(Aes128Enc),
    Sip([u64; 2]),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str("Secret")
    }
}

impl Secret {
    /// From 128 random bits, in the way that is quicker here.
    #[must_use]
    pub fn new(seed: [u64; 2]) -> Self {
        if has_aes() { Self::aes(seed) } else { Self::sip(seed) }
    }

    fn aes([low, high]: [u64; 2]) -> Self {
        Self(Cipher::Aes(Aes128Enc::new(&joined(low, high).to_le_bytes().into())))
    }

    const fn sip(seed: [u64; 2]) -> Self {
        Self(Cipher::Sip(seed))
    }

    /// The hash of two words.
    #[must_use]
    #[inline(always)]
    pub fn of_words(&self, [one, other]: [u64; 2]) -> u64 {
        match &self.0 {
            Cipher::Aes(aes) => lower_half(encrypted(aes, joined(one, other).to_le_bytes())),
            Cipher::Sip(seed) => sip(*seed, &[one, other]),
        }
    }

    /// The hash of two blocks and a word.
    #[must_use]
    #[inline(always)]
    pub fn of_blocks(&self, [one, other]: [[u8; 16]; 2], rest: u64) -> u64 {
        match &self.0 {
            Cipher::Aes(aes) => {
                // Side by side. Two that are the same would cancel each other if the sum
                // were XOR.
                let sum = encrypted(aes, one).wrapping_add(encrypted(aes, other));
                lower_half(encrypted(aes, sum.wrapping_add(u128::from(rest)).to_le_bytes()))
            }
            Cipher::Sip(seed) => {
                let [one, other] = [one, other].map(u128::from_le_bytes);
                sip(*seed, &[lower_half(one), upper_half(one), lower_half(other), upper_half(other), rest])
            }
        }
    }
}

#[inline(always)]
fn encrypted(aes: &Aes128Enc, block: [u8; 16]) -> u128 {
    let mut block = Block::from(block);
    aes.encrypt_block(&mut block);
    u128::from_le_bytes(block.into())
}

#[inline(never)]
fn sip([one, other]: [u64; 2], words: &[u64]) -> u64 {
    let mut hasher = SipHasher13::new_with_keys(one, other);
    for word in words {
        hasher.write_u64(*word);
    }
    hasher.finish()
}

fn joined(lower: u64, upper: u64) -> u128 {
    u128::from(upper) << 64 | u128::from(lower)
}

#[expect(clippy::cast_possible_truncation, reason = "a half is asked for")]
const fn lower_half(block: u128) -> u64 {
    block as u64
}

const fn upper_half(block: u128) -> u64 {
    lower_half(block >> 64)
}

/// Whether the processor has instructions for AES.
fn has_aes() -> bool {
    #[cfg(target_arch = "x86_64")]
    return std::arch::is_x86_feature_detected!("aes");
    #[cfg(target_arch = "aarch64")]
    return std::arch::is_aarch64_feature_detected!("aes");
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    return false;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// FIPS 197, appendix B.
    #[test]
    fn a_pair_is_a_block_of_aes() {
        let word = |octets: [u8; 8]| u64::from_le_bytes(octets);
        let seed = [
            word([0x2b, 0x7e, 0x15, 0x16, 0x28, 0xae, 0xd2, 0xa6]),
            word([0xab, 0xf7, 0x15, 0x88, 0x09, 0xcf, 0x4f, 0x3c]),
        ];
        let text = [
            word([0x32, 0x43, 0xf6, 0xa8, 0x88, 0x5a, 0x30, 0x8d]),
            word([0x31, 0x31, 0x98, 0xa2, 0xe0, 0x37, 0x07, 0x34]),
        ];
        let cipher = word([0x39, 0x25, 0x84, 0x1d, 0x02, 0xdc, 0x09, 0xfb]);
        assert_eq!(Secret::aes(seed).of_words(text), cipher);
    }

    /// Where it is quick and where it is not, each word counts, and the secret does.
    #[test]
    fn either_hash_depends_on_all_that_goes_in() {
        for make in [Secret::aes, Secret::sip] {
            let of = |seed: [u64; 2], words: [u64; 5]| {
                let [a, b, c, d, e] = words;
                let blocks = [joined(a, b), joined(c, d)].map(u128::to_le_bytes);
                let secret = make(seed);
                (secret.of_words([a, b]), secret.of_blocks(blocks, e))
            };
            let plain = of([1, 2], [0; 5]);
            assert_eq!(plain, of([1, 2], [0; 5]));
            for seed in [[1, 3], [2, 2]] {
                let other = of(seed, [0; 5]);
                assert!(plain.0 != other.0 && plain.1 != other.1);
            }
            for bit in 0..5 * 64 {
                let mut words = [0; 5];
                words[bit / 64] = 1 << (bit % 64);
                let other = of([1, 2], words);
                assert_eq!(plain.0 == other.0, bit >= 128, "bit {bit}");
                assert_ne!(plain.1, other.1, "bit {bit}");
            }
            // Two blocks that are the same count, whatever they are.
            let same = |word: u64| of([1, 2], [word, 0, word, 0, 7]).1;
            assert_ne!(same(1), same(2));
        }
    }

    /// The upper bits choose the shard, the lower ones the bucket: of hosts and ports in a row
    /// no more meet than by chance.
    #[test]
    fn either_hash_spreads_neighbours() {
        for make in [Secret::aes, Secret::sip] {
            let secret = make([5, 7]);
            for shift in [0, 32, 48] {
                let mut counts = [0_u32; 1024];
                for number in 0..64 * 1024 {
                    let hash = secret.of_words([0x0a00_0001_0a00_0002, number]);
                    counts[(hash >> shift) as usize % 1024] += 1;
                }
                let (least, most) = (counts.iter().min(), counts.iter().max());
                // Sixty-four each, give or take eight.
                assert!(least > Some(&24) && most < Some(&112), "{least:?} {most:?} at {shift}");
            }
        }
    }
}
