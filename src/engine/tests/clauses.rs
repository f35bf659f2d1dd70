//! The clauses of the RFCs that concern a middle box, one by one.
//!
//! Each test names its clauses by the number that they have in the conformance table
//! of docs/CONNTRACK.md, and that table names the test: `tests/clauses.rs` holds both
//! against each other.

mod closing;
mod datagrams;
mod errors;
mod handshake;
mod options;
mod resets;
mod reuse;
mod windows;

use super::*;

/// The phases in which both ends have finished the handshake and neither has forgotten.
const SYNCHRONISED: [Phase; 4] = [Phase::Established, Phase::FinWait, Phase::HalfClosed, Phase::Closing];

impl Lab {
    /// Sends a segment with something that a script has no word for.
    fn send_with(&mut self, say: Say, with: impl FnOnce(SegmentBuilder) -> SegmentBuilder) -> Verdict {
        let packet = with(self.builder(say)).build();
        self.raw(Self::meta(say.from, packet.bytes.len()), &packet.bytes)
    }

    /// The timer that the connection is under, and the seconds that it has left.
    #[track_caller]
    fn timer(&self) -> (Timer, u64) {
        let view = self.view().unwrap();
        (view.timer, view.expires_in.as_secs())
    }

    /// It passes and neither moves the phase nor buys time.
    #[track_caller]
    fn changes_nothing(&mut self, say: Say) {
        self.seconds(1);
        let before = (self.phase(), self.timer());
        self.pass(&[say]);
        assert_eq!((self.phase(), self.timer()), before, "{say:?}");
    }
}

/// The absolute number of one of the client's relative ones.
const fn of_client(number: u32) -> SeqNum {
    SeqNum(CLIENT_ISS.wrapping_add(number))
}
