//! What the kernel's synproxy has counted: `/proc/net/stat/synproxy`.

use std::{fs, io};

/// Counts since the network namespace began, all processors' together. Each wraps at 2^32.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// SYNs that it answered.
    pub syns: u32,
    /// Acknowledgements that no cookie fits.
    pub invalid: u32,
    /// Acknowledgements of cookies.
    pub valid: u32,
}

impl Counts {
    /// What was counted since `earlier`.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Self {
        Self {
            syns: self.syns.wrapping_sub(earlier.syns),
            invalid: self.invalid.wrapping_sub(earlier.invalid),
            valid: self.valid.wrapping_sub(earlier.valid),
        }
    }

    /// SYNs that nobody followed up.
    #[must_use]
    pub const fn unanswered(self) -> u32 {
        self.syns.saturating_sub(self.valid)
    }
}

/// The counts of the calling thread's network namespace. A kernel that has not loaded the
/// module has counted nothing.
///
/// # Errors
/// If `/proc` can't be read.
pub fn counts() -> io::Result<Counts> {
    match fs::read_to_string("/proc/thread-self/net/stat/synproxy") {
        Ok(text) => Ok(read(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Counts::default()),
        Err(error) => Err(error),
    }
}

/// A heading, then a line for each processor: `entries syn_received cookie_invalid
/// cookie_valid cookie_retrans conn_reopened`, in hexadecimal.
fn read(text: &str) -> Counts {
    text.lines().skip(1).fold(Counts::default(), |sum, line| {
        let mut columns = line.split_whitespace().map(|word| u32::from_str_radix(word, 16).unwrap_or(0));
        let mut next = |skip| columns.nth(skip).unwrap_or(0);
        let (syns, invalid, valid) = (next(1), next(0), next(0));
        Counts {
            syns: sum.syns.wrapping_add(syns),
            invalid: sum.invalid.wrapping_add(invalid),
            valid: sum.valid.wrapping_add(valid),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_added_up_and_counters_wrap() {
        let text = "entries\t\tsyn_received\tcookie_invalid\tcookie_valid\tcookie_retrans\tconn_reopened\n\
                    00000000\t00000010\t00000001\t00000002\t00000000\t00000000\n\
                    00000000\tffffffff\t00000000\t0000000a\t00000003\t00000000\n";
        let counts = read(text);
        assert_eq!(counts, Counts { syns: 15, invalid: 1, valid: 12 });
        let later = Counts { syns: 20, invalid: 0, valid: 12 };
        assert_eq!(later.since(counts), Counts { syns: 5, invalid: u32::MAX, valid: 0 });
        assert_eq!(later.since(counts).unanswered(), 5);
        assert_eq!(read(""), Counts::default());
    }
}
