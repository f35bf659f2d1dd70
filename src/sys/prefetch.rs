//! What will be needed soon, brought nearer to the processor.

use crate::conntrack::Fetch;

/// Octets that a processor's cache takes at once.
#[cfg(target_arch = "x86_64")]
const LINE: usize = 64;

/// Asks the processor to have all of `what` in its nearest cache. Waits for nothing and
/// changes nothing; where the processor can't be asked it does nothing.
pub fn prefetch<T>(what: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let begin = std::ptr::from_ref(what).cast::<i8>();
        // SAFETY: the offsets given lie in `what`, and a hint reads nothing by itself.
        let ask = |offset| unsafe { _mm_prefetch::<_MM_HINT_T0>(begin.add(offset)) };
        let mut offset = 0;
        while offset < size_of::<T>() {
            ask(offset);
            offset += LINE;
        }
        // What does not begin with a line may end in one more.
        if size_of::<T>() > align_of::<T>() {
            ask(size_of::<T>() - 1);
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = what;
}

/// Brings whatever it is told of into the cache.
#[derive(Clone, Copy, Debug)]
pub struct IntoCache;

impl Fetch for IntoCache {
    fn fetch<T>(&self, what: &T) {
        prefetch(what);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anything_may_be_asked_for() {
        let words = [7_u64; 100];
        prefetch(&words);
        prefetch(&words[99]);
        prefetch(&());
        assert_eq!(words, [7; 100]);
    }
}
