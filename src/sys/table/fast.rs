//! The fast path: packets of connections that a verdict has let ride pass without a queue.
//!
//! A bit of the conntrack mark says which; the packet's verdict that begins it, or ends it,
//! bears a bit that the chain behind the queue makes that of the entry. SYN, FIN, RST and
//! what conntrack calls invalid come to the queue whatever the mark says.
//!
//! Packets that ride overtake those that still wait in the queue. So a ride begins in two
//! steps: the first verdict makes the connection a candidate; the next packet of it is known
//! as the latest that has come to the queue, until one comes behind it; and the verdict of
//! that packet begins the ride only if it still is the latest when it leaves the queue. There
//! is one latest packet at a time: who judges makes no other packet a candidate before that
//! one has come to it, or the packet after that would be the latest in its name. The one that
//! comes behind it bears a bit that says so, because who judges must know that the ride that
//! it began has not begun.
//!
//! UDP has no order: where a stream's packets always have others behind them, a verdict
//! begins the ride at once, and those that wait then are overtaken.

use nftables::{expr::Expression, stmt::Statement};

use super::{
    Diversion, TableError, TableSpec,
    errands::{ct_mark_has, ct_mark_lacks, set_ct_mark},
    lane::Lane,
    proven::of_proven,
    rules::{
        Document, and, ct_state, equals, field, is_not_renumbered, is_of, is_related, jump, known, mark_is,
        not_syn, or, set_mark, string, syn, with,
    },
};
use crate::{
    policy::{Hook, Marks},
    wire::Protocol,
};

impl Document {
    /// What [`Document::divert_known`] does with UDP, for all hooks: in a chain of its own nothing
    /// is asked of a datagram that only segments can be.
    pub(super) fn datagrams(&mut self, spec: &TableSpec, diversion: Diversion) -> Result<(), TableError> {
        self.chain(DATAGRAMS);
        self.rule(DATAGRAMS, with(rides(spec.marks), pass(spec.marks)));
        self.rule(DATAGRAMS, [is_usual(spec.marks), queue_known(spec, diversion)?].concat());
        Ok(())
    }

    /// What [`Document::divert_new`] does, for both hooks: all that is asked below of what opens a
    /// connection.
    pub(super) fn syns(&mut self, spec: &TableSpec, diversion: Diversion) -> Result<(), TableError> {
        let hook = Hook::Forward;
        self.chain(SYNS);
        self.wipe(SYNS, hook, spec.marks);
        self.note_translated(SYNS, hook, spec);
        for of_one in of_proven(hook) {
            self.rule(SYNS, [vec![of_one], Lane::Proven.queue(spec, diversion)?].concat());
        }
        self.rule(SYNS, Lane::Syns.queue(spec, diversion)?);
        Ok(())
    }

    /// Before the queue, and before nearly all other rules: what rides goes by. Behind that comes
    /// what nearly every other packet is, of a connection that conntrack knows and of which its
    /// entry says nothing that the rules below would ask. They would all be asked in vain, and
    /// give it the same bits.
    pub(super) fn divert_known(
        &mut self,
        chain: &str,
        spec: &TableSpec,
        diversion: Diversion,
    ) -> Result<(), TableError> {
        self.rule(chain, vec![is_of(Protocol::UDP), jump(DATAGRAMS)]);
        self.rule(chain, [rides(spec.marks), vec![carries_on()], pass(spec.marks).into()].concat());
        let usual = [is_usual(spec.marks), vec![is_not_renumbered(), not_syn()]].concat();
        self.rule(chain, [usual, queue_known(spec, diversion)?].concat());
        Ok(())
    }

    /// Behind that: a SYN of which conntrack has seen nothing before, most of what comes in a
    /// flood.
    pub(super) fn divert_new(&mut self, chain: &str, hook: Hook, marks: Marks) {
        if hook != Hook::Output {
            self.rule(chain, vec![ct_state("new"), ct_mark_lacks(noted(marks)), syn(), jump(SYNS)]);
        }
    }

    /// Behind that: what does not ride is the latest packet if it comes behind a candidate's.
    /// That the one before is so no longer is noted before anything is asked, or that one
    /// might begin the ride between the two. A connection that a helper has announced is
    /// given the mark of its parent's, which says nothing of itself.
    pub(super) fn note_latest(&mut self, chain: &str, hook: Hook, marks: Marks) {
        let (candidate, latest) = (marks.candidate(), marks.latest());
        let inherited = noted(marks);
        for is_carried in [is_of(Protocol::TCP), is_of(Protocol::UDP)] {
            let of_parent = vec![is_related(), is_carried, ct_mark_has(inherited)];
            self.rule(chain, with(of_parent, [set_ct_mark(!inherited, 0)]));
        }
        // On `output` that bit means that it is our own.
        let says = (hook != Hook::Output).then(|| set_mark(!0, marks.overtaken()));
        let is_behind = [ct_mark_has(latest), set_ct_mark(!latest, 0)];
        self.rule(chain, is_behind.into_iter().chain(says).collect());
        let is_latest = set_ct_mark(!candidate, latest);
        self.rule(chain, vec![ct_mark_has(candidate), is_latest, set_mark(!0, marks.may_begin())]);
    }

    /// Behind the queue: what was accepted and is nothing else goes on at the first rule.
    pub(super) fn pass_inspected(&mut self, chain: &str, marks: Marks) {
        let accepted = mark_is(marks.mask(), marks.inspected());
        self.rule(chain, vec![accepted, set_mark(!marks.mask(), 0), Statement::Accept(None)]);
    }

    /// Behind the queue: connections begin to ride, and end it. Without a verdict these bits
    /// say what they say before the queue.
    pub(super) fn note_ride(&mut self, chain: &str, marks: Marks) {
        let (fast, candidate, latest) = (marks.fast(), marks.candidate(), marks.latest());
        let all = marks.inspected() | marks.ride_begins();
        let says = |bits| mark_is(all, marks.inspected() | bits);
        // If one is the latest, it is this one: the next is the candidate's, and not behind it.
        self.rule(chain, vec![says(marks.ride_may_begin()), set_ct_mark(!latest, candidate)]);
        let begins = says(marks.ride_begins());
        self.rule(chain, vec![begins, ct_mark_has(latest), set_ct_mark(!latest, fast)]);
        let at_once = marks.inspected() | marks.ride_begins_at_once();
        self.rule(chain, vec![mark_is(at_once, at_once), set_ct_mark(!(candidate | latest), fast)]);
        let ends = says(marks.ride_ends());
        self.rule(chain, vec![ends, set_ct_mark(!(fast | candidate | latest), 0)]);
    }
}

/// The chain that datagrams go through first.
const DATAGRAMS: &str = "datagrams";

/// The chain of SYNs that open a connection.
const SYNS: &str = "syns";

/// All that the rules say of a connection in its conntrack mark.
const fn noted(marks: Marks) -> u32 {
    marks.fast() | marks.candidate() | marks.latest() | marks.opened_behind()
}

/// A verdict has let its connection ride.
fn rides(marks: Marks) -> Vec<Statement<'static>> {
    vec![ct_mark_has(marks.fast()), known()]
}

/// It bears the bit of an accept, as everything does that passes, and no other of ours.
fn pass(marks: Marks) -> [Statement<'static>; 2] {
    [set_mark(!marks.mask(), marks.inspected()), Statement::Accept(None)]
}

/// Its connection is known, and nothing is noted of it.
fn is_usual(marks: Marks) -> Vec<Statement<'static>> {
    vec![known(), ct_mark_lacks(noted(marks))]
}

/// To the queue of what conntrack knows.
fn queue_known(spec: &TableSpec, diversion: Diversion) -> Result<Vec<Statement<'static>>, TableError> {
    Lane::Known.saying((!spec.marks.mask(), spec.marks.known()), spec, diversion)
}

/// TCP, and neither SYN nor FIN nor RST.
fn carries_on() -> Statement<'static> {
    let any = or(or(string("fin"), string("syn")), string("rst"));
    equals(and(field("tcp", "flags"), any), Expression::Number(0))
}
