//! The fast path: packets of connections that a verdict has let ride pass without a queue.
//!
//! A bit of the conntrack mark says which; the packet's verdict that begins it, or ends it,
//! bears a bit that the chain behind the queue makes that of the entry. SYN, FIN, RST and
//! what conntrack calls invalid come to the queue whatever the mark says.

use nftables::{expr::Expression, stmt::Statement};

use super::{
    errands::{ct_mark_has, set_ct_mark},
    rules::{Document, and, equals, field, is_of, known, mark_is, or, set_mark, string},
};
use crate::{policy::Marks, wire::Protocol};

impl Document {
    /// Before the queue: what rides goes by. It bears the bit of an accept, as everything
    /// does that passes.
    pub(super) fn fast_path(&mut self, chain: &str, marks: Marks) {
        let passes = || [set_mark(!0, marks.inspected()), Statement::Accept(None)];
        for is_carried in [carries_on(), is_of(Protocol::UDP)] {
            let of_rider = [ct_mark_has(marks.fast()), known(), is_carried];
            self.rule(chain, of_rider.into_iter().chain(passes()).collect());
        }
    }

    /// Behind the queue: what was accepted and is nothing else goes on at the first rule.
    pub(super) fn pass_inspected(&mut self, chain: &str, marks: Marks) {
        let accepted = mark_is(marks.mask(), marks.inspected());
        self.rule(chain, vec![accepted, set_mark(!marks.mask(), 0), Statement::Accept(None)]);
    }

    /// Behind the queue: connections begin to ride, and end it. Without a verdict these bits
    /// say what they say before the queue.
    pub(super) fn note_ride(&mut self, chain: &str, marks: Marks) {
        let (verdict, bit) = (marks.inspected(), marks.fast());
        for (says, change) in
            [(marks.ride_begins(), set_ct_mark(!0, bit)), (marks.ride_ends(), set_ct_mark(!bit, 0))]
        {
            self.rule(chain, vec![mark_is(verdict | says, verdict | says), change]);
        }
    }
}

/// TCP, and neither SYN nor FIN nor RST.
fn carries_on() -> Statement<'static> {
    let any = or(or(string("fin"), string("syn")), string("rst"));
    equals(and(field("tcp", "flags"), any), Expression::Number(0))
}
