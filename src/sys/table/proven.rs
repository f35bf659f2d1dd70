//! Sources that have proven that they are there: a set of the kernel's for each family,
//! so that their SYNs have queues of their own, which no flood of other SYNs fills.
//!
//! The daemon fills the sets by a bit in the mark of a verdict: the packet that proves
//! its source puts it there, behind the queue. Whoever proves itself again stays longer.
//! Where a set is full, the next source is not taken until another's time is over, and
//! rides with the SYNs of strangers.

use std::collections::HashSet;

use nftables::{
    expr::Expression,
    schema::{NfListObject, Set, SetFlag, SetType, SetTypeValue},
    stmt::{Operator, SetOp, Statement},
    types::NfFamily,
};

use super::{
    NAME,
    rules::{Document, and, equals, field, jump, mark_has, string},
};
use crate::{
    conntrack::proven::{MOST_PROVEN, PROVEN_FOR},
    policy::{Hook, Marks},
};

/// The chain that they come to.
const PROOFS: &str = "proofs";

const IPV4: &str = "proven_ipv4";
const IPV6: &str = "proven_ipv6";

impl Document {
    /// The sets.
    pub(super) fn proven_sets(&mut self) {
        for (name, set_type) in [(IPV4, SetType::Ipv4Addr), (IPV6, SetType::Ipv6Addr)] {
            self.add(NfListObject::Set(Box::new(Set {
                family: NfFamily::INet,
                table: NAME.into(),
                name: name.into(),
                set_type: SetTypeValue::Single(set_type),
                flags: Some(HashSet::from([SetFlag::Timeout])),
                timeout: u32::try_from(PROVEN_FOR.as_secs()).ok(),
                size: Some(MOST_PROVEN),
                ..Set::default()
            })));
        }
    }

    /// The chain that takes the source of a packet that proves it into its set, and has a
    /// packet go that is for nobody else.
    pub(super) fn proofs(&mut self, marks: Marks) {
        self.chain(PROOFS);
        // Without a verdict these bits say what they say before the queue.
        self.rule(PROOFS, vec![mark_has(marks.inspected(), Operator::EQ), Statement::Return(None)]);
        for (source, set) in sources() {
            let proof = mark_has(marks.proof(), Operator::NEQ);
            let take = nftables::stmt::Set { op: SetOp::Update, elem: source, set: format!("@{set}").into() };
            self.rule(PROOFS, vec![proof, Statement::Set(take)]);
        }
        self.rule(PROOFS, vec![mark_has(marks.discard(), Operator::NEQ), Statement::Drop(None)]);
    }

    /// Looks for proofs behind a queue: one rule for all other packets. What the gateway
    /// sends proves nothing of others.
    pub(super) fn take_proofs(&mut self, hook: Hook, chain: &str, marks: Marks) {
        if hook != Hook::Output {
            let either = mark_has(marks.proof() | marks.discard(), Operator::NEQ);
            self.rule(chain, vec![either, jump(PROOFS)]);
        }
    }
}

/// Of a proven source, as a match for each family. What the gateway sends is of none.
pub(super) fn of_proven(hook: Hook) -> Vec<Statement<'static>> {
    if hook == Hook::Output {
        return Vec::new();
    }
    let of_set = |(source, set): (_, &str)| equals(source, Expression::String(format!("@{set}").into()));
    sources().into_iter().map(of_set).collect()
}

/// What a source is, and its set: an IPv4 address, an IPv6 /64.
fn sources() -> [(Expression<'static>, &'static str); 2] {
    let network = and(field("ip6", "saddr"), string("ffff:ffff:ffff:ffff::"));
    [(field("ip", "saddr"), IPV4), (network, IPV6)]
}
