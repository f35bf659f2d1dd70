//! How far a long replay has come, on a terminal only.

use std::{
    fs,
    io::{self, IsTerminal as _, Write as _},
    path::Path,
};

/// Packets between two pictures, at least.
const EVERY: u64 = 1 << 16;

const WIDTH: u64 = 30;

/// The bar of one capture.
pub(super) struct Progress {
    is_shown: bool,
    name: String,
    octets: u64,
    /// At so many packets it is drawn again.
    next: u64,
    is_drawn: bool,
}

impl Progress {
    pub(super) fn new(path: &Path) -> Self {
        Self {
            is_shown: io::stderr().is_terminal(),
            name: path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned(),
            octets: fs::metadata(path).map_or(0, |about| about.len()),
            next: EVERY,
            is_drawn: false,
        }
    }

    /// Called again and again; cheap.
    pub(super) fn at(&mut self, packets: u64, offset: u64) {
        if packets >= self.next && self.is_shown {
            self.next = packets + EVERY;
            let _ = write!(io::stderr().lock(), "\r{}\x1b[K", bar(&self.name, packets, offset, self.octets));
            self.is_drawn = true;
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.is_drawn {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }
}

fn bar(name: &str, packets: u64, offset: u64, octets: u64) -> String {
    let millions = packets as f64 / 1e6;
    if octets == 0 {
        return format!("{name} {millions:.1} M packets");
    }
    let part = |of: u64| offset.min(octets).saturating_mul(of) / octets;
    let (full, percent) = (part(WIDTH), part(100));
    let (full, empty) = ("#".repeat(full as usize), ".".repeat((WIDTH - full) as usize));
    format!("{name} [{full}{empty}] {percent:3} %  {millions:.1} M packets")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_as_full_as_the_file_is_read() {
        assert_eq!(
            bar("a.pcap", 1_500_000, 50, 100),
            format!("a.pcap [{0}{1}]  50 %  1.5 M packets", "#".repeat(15), ".".repeat(15))
        );
        assert_eq!(bar("-", 300_000, 50, 0), "- 0.3 M packets");
        assert!(bar("grew", 1, 300, 100).contains("100 %"));
    }
}
