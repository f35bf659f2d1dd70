//! How the heap lies in memory.

/// Octets by which the heap grows at once.
#[cfg(target_env = "gnu")]
const STEP: i32 = 32 << 20;

/// The heap in large pages, as far as the kernel has them: whoever goes through much
/// memory in no order waits less for the way to it. Only for a process that soon ends,
/// because memory is given back late.
#[derive(Debug)]
pub struct LargePages {
    /// Up to this address the heap was asked for.
    #[cfg(target_env = "gnu")]
    end: usize,
}

impl LargePages {
    /// From now on the heap grows in large steps.
    #[must_use]
    pub fn begin() -> Self {
        #[cfg(target_env = "gnu")]
        {
            // SAFETY: both only set a number; what the allocator refuses stays as it is.
            unsafe {
                libc::mallopt(libc::M_MMAP_THRESHOLD, STEP);
                libc::mallopt(libc::M_TOP_PAD, STEP);
            }
            Self { end: heap_end() }
        }
        #[cfg(not(target_env = "gnu"))]
        Self {}
    }

    /// Asks for large pages wherever the heap has grown since.
    pub fn ask(&mut self) {
        #[cfg(target_env = "gnu")]
        {
            let end = heap_end();
            if end <= self.end {
                return;
            }
            let begin = self.end.next_multiple_of(PAGE);
            // SAFETY: a wish about pages that this process has, which changes nothing
            // that is in them; where it can't be had the kernel says so.
            unsafe {
                libc::madvise(
                    std::ptr::with_exposed_provenance_mut(begin),
                    end.saturating_sub(begin),
                    libc::MADV_HUGEPAGE,
                )
            };
            self.end = end;
        }
    }
}

/// What `madvise` wants its addresses to be multiples of.
#[cfg(target_env = "gnu")]
const PAGE: usize = 4096;

#[cfg(target_env = "gnu")]
fn heap_end() -> usize {
    // SAFETY: asks where the heap ends, and moves nothing.
    unsafe { libc::sbrk(0) }.addr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_heap_holds_stays_as_it_is() {
        let mut pages = LargePages::begin();
        let mut pieces = Vec::new();
        for number in 0..64_u8 {
            pieces.push(vec![number; 1 << 20]);
            pages.ask();
        }
        assert!(pieces.iter().zip(0..).all(|(piece, number)| piece.iter().all(|octet| *octet == number)));
    }
}
