//! What challenges (`on_excess: challenge`) need of the kernel beside the inspection of
//! packets, because a port forward shows its translation to nobody else.
//!
//! * A SYN whose destination was translated bears the `translated` bit. If it is to be
//!   challenged, its verdict changes its sequence number and has the kernel refuse it:
//!   the RST acknowledges the cookie, and shares the SYN's conntrack entry and so its
//!   translation. A bit of that entry's mark says so of the RST, and on its way out its
//!   control bits are made those of a SYN-ACK. (A queue would not take it: the kernel
//!   lets no entry into one that is not confirmed and has two packets.)
//! * The answer is an RST of no connection, so that the forward does not apply to it and
//!   it comes to the gateway itself. Where `input` is not inspected, it is brought to the
//!   queue all the same, and everything else passes there as before.

use nftables::{
    expr::Expression,
    stmt::{Mangle, Match, Operator, Statement},
    types::{NfChainPolicy, NfChainType},
};

use super::{
    Diversion, TableError, TableSpec,
    cookies::needs_output,
    exempt::Share,
    lane::Lane,
    rules::{
        DIVERT_PRIORITY, Document, and, ct, ct_state, equals, field, inspected_priority, is_related,
        mark_has, name, on, or, set_mark, string, syn,
    },
};
use crate::policy::{Hook, Marks};

/// Where the kernel's RSTs become challenges: before anything asks what they are.
const CHALLENGE_PRIORITY: i32 = DIVERT_PRIORITY - 1;

/// The hooks that have queues: those that are inspected, with how much of them, and
/// `input` where only challenges need it, `output` where only SYN cookies do.
pub(super) fn touched(spec: &TableSpec) -> impl Iterator<Item = (Hook, Option<Share>)> + use<> {
    let inspected = on(spec.hooks).map(|(hook, share)| (hook, Some(share)));
    let needs_input = spec.challenge && Share::of(spec.hooks, Hook::Input).is_none();
    let needs_output = needs_output(spec);
    let more = [needs_input.then_some((Hook::Input, None)), needs_output.then_some((Hook::Output, None))];
    inspected.chain(more.into_iter().flatten())
}

impl Document {
    /// Brings what may answer a challenge to the queue, before anything is exempt.
    pub(super) fn strays(
        &mut self,
        hook: Hook,
        share: Option<Share>,
        spec: &TableSpec,
        diversion: Diversion,
    ) -> Result<(), TableError> {
        if !spec.challenge || hook != Hook::Input || matches!(share, Some(Share::All | Share::Originals)) {
            return Ok(());
        }
        let chain = format!("divert_{}", name(hook));
        let stray = vec![ct_state("invalid"), is_rst()];
        self.rule(
            &chain,
            [stray, Lane::Known.saying((!0, spec.marks.challenge()), spec, diversion)?].concat(),
        );
        Ok(())
    }

    /// Tells SYNs with a translated destination from others.
    pub(super) fn note_translated(&mut self, chain: &str, hook: Hook, spec: &TableSpec) {
        if spec.challenge && hook != Hook::Output {
            let marks = spec.marks;
            // The entry may be an old one.
            let clean = set_ct_mark(!marks.challenge(), 0);
            self.rule(chain, vec![syn(), is_translated(), clean, set_mark(!0, marks.translated())]);
        }
    }

    /// Says of an entry that the RST about to be made is to be brought back.
    pub(super) fn note_refusal(&mut self, hook: Hook, spec: &TableSpec) {
        if spec.challenge && hook != Hook::Output {
            let bit = spec.marks.challenge();
            let chain = format!("inspected_{}", name(hook));
            self.rule(&chain, vec![mark_has(bit, Operator::NEQ), set_ct_mark(!0, bit)]);
        }
    }

    /// Makes the kernel's RSTs challenges.
    pub(super) fn challenges(&mut self, spec: &TableSpec) {
        if !spec.challenge {
            return;
        }
        let (chain, bit) = ("challenge_output", spec.marks.challenge());
        self.base(chain, Hook::Output, NfChainType::Filter, CHALLENGE_PRIORITY, NfChainPolicy::Accept);
        let syn_ack = Mangle { key: field("tcp", "flags"), value: or(string("syn"), string("ack")) };
        self.rule(
            chain,
            vec![
                is_related(),
                is_rst(),
                ct_mark_has(bit),
                set_ct_mark(!bit, 0),
                Statement::Mangle(syn_ack),
                set_mark(!0, spec.marks.own()),
            ],
        );
    }

    /// The chains of `input` where it is not inspected.
    pub(super) fn only_strays(&mut self, spec: &TableSpec, diversion: Diversion) -> Result<(), TableError> {
        let hook = Hook::Input;
        let chain = format!("divert_{}", name(hook));
        self.base(&chain, hook, NfChainType::Filter, DIVERT_PRIORITY, NfChainPolicy::Accept);
        self.wipe(&chain, hook, spec.marks);
        self.strays(hook, None, spec, diversion)?;
        let chain = format!("inspected_{}", name(hook));
        let priority = inspected_priority(diversion);
        self.base(&chain, hook, NfChainType::Filter, priority, NfChainPolicy::Accept);
        self.take_proofs(hook, &chain, spec.marks);
        self.rule(&chain, vec![set_mark(!spec.marks.mask(), 0)]);
        Ok(())
    }

    /// Bits that an operator's rule saved and restored must not count as ours.
    pub(super) fn wipe(&mut self, chain: &str, hook: Hook, marks: Marks) {
        // Only what is sent from here can be our own.
        let keep = if hook == Hook::Output { marks.own() } else { 0 };
        self.rule(chain, vec![set_mark(!marks.mask() | keep, 0)]);
    }
}

fn ct_mark() -> Expression<'static> {
    ct("mark")
}

/// This bit of the conntrack entry's mark is set.
pub(super) fn ct_mark_has(bit: u32) -> Statement<'static> {
    let left = and(ct_mark(), Expression::Number(bit));
    Statement::Match(Match { left, right: Expression::Number(0), op: Operator::NEQ })
}

/// This bit of it is not.
pub(super) fn ct_mark_lacks(bit: u32) -> Statement<'static> {
    equals(and(ct_mark(), Expression::Number(bit)), Expression::Number(0))
}

/// The conntrack entry's mark becomes `(mark & keep) | set`.
pub(super) fn set_ct_mark(keep: u32, set: u32) -> Statement<'static> {
    let value = match (keep, set) {
        (keep, 0) => and(ct_mark(), Expression::Number(keep)),
        (u32::MAX, set) => or(ct_mark(), Expression::Number(set)),
        (keep, set) => or(and(ct_mark(), Expression::Number(keep)), Expression::Number(set)),
    };
    Statement::Mangle(Mangle { key: ct_mark(), value })
}

/// Conntrack has given it another destination (`IPS_DST_NAT`).
fn is_translated() -> Statement<'static> {
    super::rules::ct_status(1 << 5)
}

/// An RST, as it answers a SYN or an acknowledgement.
fn is_rst() -> Statement<'static> {
    let flags = or(string("syn"), string("rst"));
    equals(and(field("tcp", "flags"), flags), string("rst"))
}
