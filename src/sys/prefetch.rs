//! What will be needed soon, brought nearer to the processor.

use crate::conntrack::Fetch;

/// Octets that a processor's cache takes at once.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

/// Asks the processor to have so many octets from `begin` on in its nearest cache. Waits for
/// nothing and changes nothing, whatever lies there; where the processor can't be asked it
/// does nothing.
pub fn prefetch(begin: *const u8, octets: usize) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint reads nothing by itself, and no address is wrong for it.
        let ask = |offset| unsafe { _mm_prefetch::<_MM_HINT_T0>(begin.wrapping_add(offset).cast()) };
        let mut offset = 0;
        while offset < octets {
            ask(offset);
            offset += LINE;
        }
        // What does not begin with a line may end in one more.
        if octets > size_of::<u64>() {
            ask(octets - 1);
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (begin, octets);
}

/// Brings whatever it is told of into the cache.
#[derive(Clone, Copy, Debug)]
pub struct IntoCache;

impl Fetch for IntoCache {
    fn fetch_at(&self, begin: *const u8, octets: usize) {
        prefetch(begin, octets);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anything_may_be_asked_for() {
        let words = [7_u64; 100];
        prefetch(words.as_ptr().cast(), size_of_val(&words));
        prefetch(std::ptr::null(), 100);
        prefetch(std::ptr::null(), 0);
        assert_eq!(words, [7; 100]);
    }
}
