//! Random numbers from the kernel.

use std::io;

/// A key for the engine's hashes.
///
/// # Errors
/// The kernel's word.
pub fn seed() -> io::Result<[u64; 2]> {
    let mut seed = [0_u64; 2];
    loop {
        // SAFETY: pointer and length are those of one exclusive array. Up to
        // 256 octets come whole or not at all.
        let got = unsafe { libc::getrandom(seed.as_mut_ptr().cast(), size_of_val(&seed), 0) };
        if usize::try_from(got) == Ok(size_of_val(&seed)) {
            return Ok(seed);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn two_seeds_differ() {
        let (one, other) = (super::seed().unwrap(), super::seed().unwrap());
        assert_ne!(one, other);
        assert_ne!(one[0], one[1]);
    }
}
