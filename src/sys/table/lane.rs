//! The lanes: kinds of queues, and how a rule sends a packet to one.

use std::collections::HashSet;

use nftables::{
    expr::{Expression, Range},
    stmt::{Queue, QueueFlag, Statement},
};

use super::{Diversion, TableError, TableSpec, rules::set_mark};
use crate::policy::{Fail, Marks};

/// A kind of queues, in the order of their numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Lane {
    /// For known connections, and all that is in no other.
    Known,
    /// For SYNs.
    Syns,
    /// For SYNs of sources that have proven that they are there.
    Proven,
}

impl Lane {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Known, Self::Syns, Self::Proven];

    /// The bits by which xtables' rules know its packets.
    pub(super) const fn bits(self, marks: Marks) -> u32 {
        match self {
            Self::Known => marks.divert(),
            Self::Syns => marks.divert_syn(),
            Self::Proven => marks.divert_proven(),
        }
    }

    /// Ends a rule: the mark becomes `(mark & keep) | says`, and the packet goes to this
    /// lane. The rule in xtables' `mangle` queues it where nftables can't.
    pub(super) fn saying(
        self,
        (keep, says): (u32, u32),
        spec: &TableSpec,
        diversion: Diversion,
    ) -> Result<Vec<Statement<'static>>, TableError> {
        let queues = spec.queues(self)?;
        Ok(match diversion {
            Diversion::Native if (keep, says) == NOTHING => vec![to_queue(queues, spec.fail)],
            Diversion::Native => vec![set_mark(keep, says), to_queue(queues, spec.fail)],
            Diversion::Xtables => {
                vec![set_mark(keep, says | self.bits(spec.marks)), Statement::Accept(None)]
            }
        })
    }

    /// The same, and the mark says nothing more of the packet.
    pub(super) fn queue(
        self,
        spec: &TableSpec,
        diversion: Diversion,
    ) -> Result<Vec<Statement<'static>>, TableError> {
        self.saying(NOTHING, spec, diversion)
    }
}

/// The mark stays as it is.
const NOTHING: (u32, u32) = (!0, 0);

/// Hashed by addresses; without `fanout`, so that both directions of a connection
/// meet in one queue.
pub(super) fn to_queue((first, last): (u16, u16), fail: Fail) -> Statement<'static> {
    let number = |number: u16| Expression::Number(number.into());
    let num = if first == last {
        number(first)
    } else {
        Expression::Range(Box::new(Range { range: [number(first), number(last)] }))
    };
    let flags = match fail {
        Fail::Open => Some(HashSet::from([QueueFlag::Bypass])),
        Fail::Closed => None,
    };
    Statement::Queue(Queue { num, flags })
}
