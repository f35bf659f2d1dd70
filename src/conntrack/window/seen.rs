//! What an end was seen to do, a bit each.

/// What an end has done so far, a bit each.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(Rust, packed)]
pub struct Seen(u16);

impl Seen {
    /// Sent its SYN (or was picked up mid-stream).
    pub const SYN: Self = Self(1);
    /// Its SYN offered window scaling.
    pub const SCALE: Self = Self(1 << 1);
    /// Has acknowledged something.
    pub const ACK: Self = Self(1 << 2);
    /// Sent its FIN; `end` is the number after it.
    pub const FIN: Self = Self(1 << 3);
    /// Its FIN was acknowledged.
    pub const FIN_ACKED: Self = Self(1 << 4);
    /// Sent a keepalive probe that was not answered yet.
    pub const PROBE: Self = Self(1 << 5);
    /// Sent an acknowledgement that passed as stale: a peer that does not know
    /// what it acknowledges answers with an RST of the number of the
    /// challenge (RFC 9293 §3.5.1).
    pub const CHALLENGED: Self = Self(1 << 6);
    /// Sends timestamps.
    pub const TIMESTAMPS: Self = Self(1 << 7);
    /// Sent the RST that ended the connection.
    pub const RST: Self = Self(1 << 8);
    /// Was met mid-stream: may have sent more than was seen.
    pub const MET: Self = Self(1 << 9);
    /// An RST bears its address that was in window but not exact (RFC 5961 §3).
    pub const DOUBTED: Self = Self(1 << 10);
    /// Seems to have forgotten the connection (RFC 9293 §3.5.1): a SYN bears its
    /// address that is not of this connection, or an RST such as a closed port
    /// answers with. Whatever it says in window takes that back.
    pub const FORGOT: Self = Self(1 << 11);
    /// `end` is that of a segment which the peer need not take (an outdated one, or one
    /// beyond its window) and has not acknowledged.
    pub const UNTAKEN: Self = Self(1 << 12);
    /// That segment was a FIN.
    pub const UNTAKEN_FIN: Self = Self(1 << 13);
    /// Its SYN carried data, and nobody has told yet whether they were taken.
    pub const SYN_DATA: Self = Self(1 << 14);
    /// Was sent a keepalive of halfgate's and has not answered it yet.
    pub const ASKED: Self = Self(1 << 15);

    /// Whether all of these happened.
    #[must_use]
    pub const fn has(self, what: Self) -> bool {
        self.0 & what.0 == what.0
    }

    /// Those of these that are among the others.
    #[must_use]
    pub const fn among(self, others: Self) -> Self {
        Self(self.0 & others.0)
    }

    /// These, and those.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Notes these.
    pub const fn add(&mut self, what: Self) {
        self.0 |= what.0;
    }

    /// Forgets these.
    pub const fn clear(&mut self, what: Self) {
        self.0 &= !what.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_end_has_done_has_a_bit_each() {
        let all = [
            Seen::SYN,
            Seen::SCALE,
            Seen::ACK,
            Seen::FIN,
            Seen::FIN_ACKED,
            Seen::PROBE,
            Seen::CHALLENGED,
            Seen::TIMESTAMPS,
            Seen::RST,
            Seen::MET,
            Seen::DOUBTED,
            Seen::FORGOT,
            Seen::UNTAKEN,
            Seen::UNTAKEN_FIN,
            Seen::SYN_DATA,
            Seen::ASKED,
        ];
        let seen = all.iter().fold(0, |seen, what| seen | what.0);
        assert_eq!(seen.count_ones() as usize, all.len());
    }
}
