//! The table as nftables documents: what is loaded, not how.
//!
//! Pure: a specification in, a JSON document out; one document is one
//! transaction, and each begins by making sure that the old table is gone.

use std::collections::HashSet;

use nftables::{
    batch::Batch,
    expr::{BinaryOperation, CT, Expression, Meta, MetaKey, NamedExpression, Payload, PayloadField, SetItem},
    schema::{Chain, NfListObject, Rule, Set, SetFlag, SetType, SetTypeValue, Table},
    stmt::{Counter, JumpTarget, Mangle, Match, Operator, Reject, RejectType, Statement},
    types::{NfChainPolicy, NfChainType, NfFamily, NfHook, RejectCode},
};
use serde_json::Value;

use super::{
    Diversion, NAME, TableError, TableSpec, blocked,
    errands::touched,
    exempt::{DHCP_V4, DHCP_V6, Exempt, LISTENER_DISCOVERY, NEIGHBOUR_DISCOVERY, Share},
    lane::{Lane, to_queue},
    proven::of_proven,
    state::Notes,
};
use crate::{
    policy::{Fail, Hook, Hooks},
    wire::Protocol,
};

/// Before the operator's `mangle` (-150), after conntrack (-200).
pub(super) const DIVERT_PRIORITY: i32 = -160;

/// Where packets go on that were diverted.
pub(super) const fn inspected_priority(diversion: Diversion) -> i32 {
    match diversion {
        // Nothing of the operator's may lie between: it could take the bit away.
        Diversion::Native => DIVERT_PRIORITY + 1,
        // Behind the diverting rule in `mangle`.
        Diversion::Xtables => -140,
    }
}

/// The hooks that a table covers, and how much of each.
pub(super) fn on(hooks: Hooks) -> impl Iterator<Item = (Hook, Share)> {
    [Hook::Forward, Hook::Input, Hook::Output]
        .into_iter()
        .filter_map(move |hook| Share::of(hooks, hook).map(|share| (hook, share)))
}

/// A hook's name, as nftables spells it.
pub(super) const fn name(hook: Hook) -> &'static str {
    match hook {
        Hook::Forward => "forward",
        Hook::Input => "input",
        Hook::Output => "output",
    }
}

/// The live table.
pub(super) fn live(spec: &TableSpec, diversion: Diversion, notes: &Notes) -> Result<Value, TableError> {
    let mut table = Document::begin(notes);
    table.proven_sets();
    table.proofs(spec.marks);
    table.shields(spec, diversion);
    for (ipv6, length) in spec.blocked.each() {
        table.set_of_blocked(ipv6, length);
    }
    table.datagrams(spec, diversion)?;
    table.syns(spec, diversion)?;
    for (hook, share) in touched(spec) {
        let Some(share) = share else {
            match hook {
                Hook::Output => table.only_openings(spec, diversion)?,
                Hook::Forward | Hook::Input => table.only_strays(spec, diversion)?,
            }
            continue;
        };
        table.exempt(hook, share, spec, diversion);
        table.divert(hook, share, spec, diversion)?;
        table.inspected(hook, spec, diversion);
    }
    table.challenges(spec);
    Ok(table.end())
}

/// The static table: no daemon, no queue.
pub(super) fn fixed(hooks: Hooks, fail: Fail, notes: &Notes) -> Value {
    let mut table = Document::begin(notes);
    // Who answers only needs no holding back where nobody can ask.
    for (hook, share) in on(hooks).filter(|(_, share)| *share != Share::Replies) {
        let chain = format!("static_{}", name(hook));
        match fail {
            Fail::Open => {
                table.base(&chain, hook, NfChainType::Filter, DIVERT_PRIORITY, NfChainPolicy::Accept)
            }
            Fail::Closed => {
                table.base(&chain, hook, NfChainType::Filter, DIVERT_PRIORITY, NfChainPolicy::Drop);
                for exempt in exemptions(hook) {
                    table.rule(&chain, with(exempt, [Statement::Accept(None)]));
                }
                if share == Share::Originals {
                    table.rule(&chain, vec![is_reply(), Statement::Accept(None)]);
                }
                table.rule(&chain, vec![counter(), Statement::Drop(None)]);
            }
        }
    }
    table.end()
}

/// No table, whether there is one or not.
pub(super) fn remove() -> Value {
    let mut batch = Batch::new();
    batch.add(table());
    batch.delete(table());
    to_value(batch)
}

/// A table that nobody else has, with the `queue` statement in it: for the
/// kernel's judgement only.
pub(super) fn queue_probe(name: &str, queue: bool) -> Value {
    let family = NfFamily::INet;
    let mut batch = Batch::new();
    batch.add(NfListObject::Table(Table { family, name: name.into(), handle: None }));
    batch.add(NfListObject::Chain(Chain {
        family,
        table: name.into(),
        name: "probe".into(),
        ..Chain::default()
    }));
    let statements = if queue { vec![to_queue((0, 1), Fail::Closed)] } else { vec![known(), counter()] };
    batch.add(NfListObject::Rule(Rule {
        family,
        table: name.into(),
        chain: "probe".into(),
        expr: statements.into(),
        ..Rule::default()
    }));
    to_value(batch)
}

fn table() -> NfListObject<'static> {
    NfListObject::Table(Table { family: NfFamily::INet, name: NAME.into(), handle: None })
}

fn to_value(batch: Batch<'_>) -> Value {
    // The crate's types are structs, strings and numbers; none of them can fail.
    let mut value = serde_json::to_value(batch.to_nftables()).unwrap_or_default();
    super::cookies::mend(&mut value);
    value
}

/// A document that replaces the table.
pub(super) struct Document {
    batch: Batch<'static>,
}

impl Document {
    fn begin(notes: &Notes) -> Self {
        let mut batch = Batch::new();
        batch.add(table());
        batch.delete(table());
        batch.add(table());
        let mut document = Self { batch };
        for note in notes.chains() {
            document.chain(&note);
        }
        document
    }

    fn end(self) -> Value {
        to_value(self.batch)
    }

    pub(super) fn add(&mut self, object: NfListObject<'static>) {
        self.batch.add(object);
    }

    pub(super) fn chain(&mut self, name: &str) {
        self.batch.add(NfListObject::Chain(Chain {
            family: NfFamily::INet,
            table: NAME.into(),
            name: name.to_owned().into(),
            ..Chain::default()
        }));
    }

    pub(super) fn base(
        &mut self,
        name: &str,
        hook: Hook,
        kind: NfChainType,
        priority: i32,
        policy: NfChainPolicy,
    ) {
        self.batch.add(NfListObject::Chain(Chain {
            family: NfFamily::INet,
            table: NAME.into(),
            name: name.to_owned().into(),
            _type: Some(kind),
            hook: Some(match hook {
                Hook::Forward => NfHook::Forward,
                Hook::Input => NfHook::Input,
                Hook::Output => NfHook::Output,
            }),
            prio: Some(priority),
            policy: Some(policy),
            ..Chain::default()
        }));
    }

    pub(super) fn rule(&mut self, chain: &str, statements: Vec<Statement<'static>>) {
        self.batch.add(NfListObject::Rule(Rule {
            family: NfFamily::INet,
            table: NAME.into(),
            chain: chain.to_owned().into(),
            expr: statements.into(),
            ..Rule::default()
        }));
    }

    /// What needs no inspection gets the bit of an accept. Both chains of a hook
    /// ask here, so that they can't disagree.
    fn exempt(&mut self, hook: Hook, share: Share, spec: &TableSpec, diversion: Diversion) {
        let marks = spec.marks;
        let chain = format!("exempt_{}", name(hook));
        let inspected = || set_mark(!0, marks.inspected());
        match hook {
            Hook::Forward => return,
            Hook::Input => self.chain(&chain),
            Hook::Output => {
                self.chain(&chain);
                self.rule(
                    &chain,
                    vec![mark_has(marks.own(), Operator::NEQ), inspected(), Statement::Return(None)],
                );
            }
        }
        self.exempt_cookies(hook, &chain, spec, diversion);
        for exempt in exemptions(hook) {
            self.rule(&chain, with(exempt, [inspected(), Statement::Return(None)]));
        }
        match share {
            Share::All => {}
            Share::Originals => {
                self.rule(&chain, vec![is_reply(), inspected(), Statement::Return(None)]);
            }
            Share::Replies => {
                self.rule(&chain, vec![is_reply(), Statement::Return(None)]);
                self.rule(&chain, vec![inspected()]);
            }
        }
    }

    fn jump_to_exempt(&mut self, chain: &str, hook: Hook) {
        if hook != Hook::Forward {
            self.rule(chain, vec![jump(&format!("exempt_{}", name(hook)))]);
        }
    }

    fn divert(
        &mut self,
        hook: Hook,
        share: Share,
        spec: &TableSpec,
        diversion: Diversion,
    ) -> Result<(), TableError> {
        let marks = spec.marks;
        let chain = format!("divert_{}", name(hook));
        self.base(&chain, hook, NfChainType::Filter, DIVERT_PRIORITY, NfChainPolicy::Accept);
        if hook == Hook::Forward {
            // Nothing is exempt, and what rides is most of what comes.
            self.drop_blocked(&chain, hook, spec);
            self.divert_known(&chain, spec, diversion)?;
            self.divert_new(&chain, hook, marks);
            self.wipe(&chain, hook, marks);
        } else {
            self.wipe(&chain, hook, marks);
            self.strays(hook, Some(share), spec, diversion)?;
            self.openings(hook, spec, diversion)?;
            self.jump_to_exempt(&chain, hook);
            self.rule(&chain, vec![mark_has(marks.inspected(), Operator::NEQ), Statement::Return(None)]);
            self.drop_blocked(&chain, hook, spec);
            self.divert_known(&chain, spec, diversion)?;
            self.divert_new(&chain, hook, marks);
        }
        self.note_latest(&chain, hook, marks);
        self.rule(&chain, vec![known(), set_mark(!0, marks.known())]);
        self.cookies(hook, &chain, spec, diversion)?;
        self.rule(&chain, vec![ct_state("invalid"), set_mark(!0, marks.invalid())]);
        self.note_translated(&chain, hook, spec);
        let of_syns = [is_announced_udp(), vec![is_renumbered()]];
        for packets in of_syns {
            self.rule(&chain, [packets, Lane::Syns.queue(spec, diversion)?].concat());
        }
        for of_one in of_proven(hook) {
            self.rule(&chain, [vec![syn(), of_one], Lane::Proven.queue(spec, diversion)?].concat());
        }
        self.rule(&chain, [vec![syn()], Lane::Syns.queue(spec, diversion)?].concat());
        self.rule(&chain, Lane::Known.queue(spec, diversion)?);
        Ok(())
    }

    fn set_of_blocked(&mut self, ipv6: bool, length: u8) {
        let set_type = if ipv6 { SetType::Ipv6Addr } else { SetType::Ipv4Addr };
        self.batch.add(NfListObject::Set(Box::new(Set {
            family: NfFamily::INet,
            table: NAME.into(),
            name: blocked::set_name(ipv6, length).into(),
            handle: None,
            set_type: SetTypeValue::Single(set_type),
            policy: None,
            flags: Some(HashSet::from([SetFlag::Timeout])),
            elem: None,
            timeout: None,
            gc_interval: None,
            size: Some(blocked::MOST),
            comment: None,
        })));
    }

    /// What a blocked source sends is dropped, but for what is exempt: neighbours must
    /// still find each other. What is sent from here has no blocked source.
    fn drop_blocked(&mut self, chain: &str, hook: Hook, spec: &TableSpec) {
        for (ipv6, length) in spec.blocked.each().filter(|_| hook != Hook::Output) {
            let source = field(if ipv6 { "ip6" } else { "ip" }, "saddr");
            let is_whole = length == if ipv6 { 128 } else { 32 };
            let mask = Expression::String(blocked::mask(ipv6, length).to_string().into());
            let source = if is_whole { source } else { and(source, mask) };
            let set = Expression::String(format!("@{}", blocked::set_name(ipv6, length)).into());
            self.rule(chain, vec![equals(source, set), counter(), Statement::Drop(None)]);
        }
    }

    fn inspected(&mut self, hook: Hook, spec: &TableSpec, diversion: Diversion) {
        let chain = format!("inspected_{}", name(hook));
        // `route`: what is sent from here was routed again by its changed mark.
        let kind = if hook == Hook::Output { NfChainType::Route } else { NfChainType::Filter };
        self.base(&chain, hook, kind, inspected_priority(diversion), NfChainPolicy::Accept);
        self.pass_inspected(&chain, spec.marks);
        self.take_proofs(hook, &chain, spec.marks);
        self.note_ride(&chain, spec.marks);
        self.note_refusal(hook, spec);
        // The kernel refuses in our name: only it can answer through NAT for a packet
        // whose conntrack entry is not confirmed.
        // Without a verdict the bit says something else.
        let refused = spec.marks.refuse() | spec.marks.inspected();
        let refuse = || mark_is(refused, refused);
        self.rule(&chain, vec![refuse(), is_tcp(), counter(), reject(RejectType::TCPReset, None)]);
        let prohibited = Some(RejectCode::AdminProhibited);
        self.rule(&chain, vec![refuse(), counter(), reject(RejectType::ICMPX, prohibited)]);
        if spec.fail == Fail::Closed {
            self.jump_to_exempt(&chain, hook);
            self.rule(
                &chain,
                vec![mark_has(spec.marks.inspected(), Operator::EQ), counter(), Statement::Drop(None)],
            );
        }
        self.rule(&chain, vec![set_mark(!spec.marks.mask(), 0)]);
    }
}

/// What passes on a hook without inspection, as matches.
fn exemptions(hook: Hook) -> Vec<Vec<Statement<'static>>> {
    Exempt::on(hook).iter().flat_map(|exempt| matches(*exempt, hook)).collect()
}

/// The packets of one kind: those that all matches of one of the lists match.
fn matches(exempt: Exempt, hook: Hook) -> Vec<Vec<Statement<'static>>> {
    let icmpv6 = |types: [(u8, &'static str); 4], hop_limit| {
        vec![vec![
            equals(field("ip6", "hoplimit"), Expression::Number(hop_limit)),
            equals(field("icmpv6", "type"), one_of(types.map(|(_, kind)| string(kind)))),
        ]]
    };
    match exempt {
        Exempt::Loopback => {
            let interface = if hook == Hook::Output { MetaKey::Oif } else { MetaKey::Iif };
            vec![vec![equals(meta(interface), string("lo"))]]
        }
        Exempt::NeighbourDiscovery => icmpv6(NEIGHBOUR_DISCOVERY, 255),
        Exempt::ListenerDiscovery => icmpv6(LISTENER_DISCOVERY, 1),
        Exempt::Refusal => {
            let rst = equals(and(field("tcp", "flags"), string("rst")), string("rst"));
            let icmp = one_of([number(Protocol::ICMP), number(Protocol::ICMPV6)]);
            vec![vec![is_related(), rst], vec![is_related(), equals(meta(MetaKey::L4proto), icmp)]]
        }
        Exempt::DhcpClient => [("ipv4", DHCP_V4), ("ipv6", DHCP_V6)]
            .map(|(family, (client, server))| {
                let (from, to) = if hook == Hook::Output { (client, server) } else { (server, client) };
                vec![
                    equals(meta(MetaKey::Nfproto), string(family)),
                    equals(field("udp", "sport"), Expression::Number(from.into())),
                    equals(field("udp", "dport"), Expression::Number(to.into())),
                ]
            })
            .into(),
    }
}

fn one_of<const N: usize>(values: [Expression<'static>; N]) -> Expression<'static> {
    Expression::Named(NamedExpression::Set(values.map(SetItem::Element).into()))
}

pub(super) fn with<const N: usize>(
    mut statements: Vec<Statement<'static>>,
    more: [Statement<'static>; N],
) -> Vec<Statement<'static>> {
    statements.extend(more);
    statements
}

pub(super) fn string(text: &'static str) -> Expression<'static> {
    Expression::String(text.into())
}

fn meta(key: MetaKey) -> Expression<'static> {
    Expression::Named(NamedExpression::Meta(Meta { key }))
}

pub(super) fn field(protocol: &'static str, field: &'static str) -> Expression<'static> {
    Expression::Named(NamedExpression::Payload(Payload::PayloadField(PayloadField {
        protocol: protocol.into(),
        field: field.into(),
    })))
}

pub(super) fn and(left: Expression<'static>, right: Expression<'static>) -> Expression<'static> {
    Expression::BinaryOperation(Box::new(BinaryOperation::AND(left, right)))
}

pub(super) fn or(left: Expression<'static>, right: Expression<'static>) -> Expression<'static> {
    Expression::BinaryOperation(Box::new(BinaryOperation::OR(vec![left, right])))
}

pub(super) fn equals(left: Expression<'static>, right: Expression<'static>) -> Statement<'static> {
    Statement::Match(Match { left, right, op: Operator::EQ })
}

/// `NEQ`: the bit is set; `EQ`: it is not.
pub(super) fn mark_has(bit: u32, op: Operator) -> Statement<'static> {
    let left = and(meta(MetaKey::Mark), Expression::Number(bit));
    Statement::Match(Match { left, right: Expression::Number(0), op })
}

/// All of these bits are as in `value`.
pub(super) fn mark_is(bits: u32, value: u32) -> Statement<'static> {
    equals(and(meta(MetaKey::Mark), Expression::Number(bits)), Expression::Number(value))
}

/// The mark becomes `(mark & keep) | set`.
pub(super) fn set_mark(keep: u32, set: u32) -> Statement<'static> {
    let mark = || meta(MetaKey::Mark);
    let value = match (keep, set) {
        (u32::MAX, set) => or(mark(), Expression::Number(set)),
        (keep, 0) => and(mark(), Expression::Number(keep)),
        (keep, set) => or(and(mark(), Expression::Number(keep)), Expression::Number(set)),
    };
    Statement::Mangle(Mangle { key: mark(), value })
}

/// The kernel's conntrack knows the connection both ways.
pub(super) fn known() -> Statement<'static> {
    ct_state("established")
}

pub(super) fn jump(chain: &str) -> Statement<'static> {
    Statement::Jump(JumpTarget { target: chain.to_owned().into() })
}

pub(super) fn ct_state(state: &'static str) -> Statement<'static> {
    Statement::Match(Match { left: ct("state"), right: string(state), op: Operator::IN })
}

/// `IPS_SEQ_ADJUST`.
const RENUMBERED: u32 = 1 << 6;

pub(super) fn ct(key: &'static str) -> Expression<'static> {
    Expression::Named(NamedExpression::CT(CT { key: key.into(), family: None, dir: None }))
}

/// The packet is about another one that conntrack knows.
pub(super) fn is_related() -> Statement<'static> {
    ct_state("related")
}

/// UDP that a helper has announced: only the queues of SYNs come with what conntrack
/// knows, its parent.
fn is_announced_udp() -> Vec<Statement<'static>> {
    vec![is_related(), is_of(Protocol::UDP)]
}

/// A helper has changed the length of what was said: conntrack knows by how much.
fn is_renumbered() -> Statement<'static> {
    ct_status(RENUMBERED)
}

/// Its numbers are what its sender wrote.
pub(super) fn is_not_renumbered() -> Statement<'static> {
    equals(and(ct("status"), Expression::Number(RENUMBERED)), Expression::Number(0))
}

/// One of these bits is in the state of the conntrack entry.
pub(super) fn ct_status(bits: u32) -> Statement<'static> {
    Statement::Match(Match { left: ct("status"), right: Expression::Number(bits), op: Operator::IN })
}

fn is_tcp() -> Statement<'static> {
    is_of(Protocol::TCP)
}

/// The packet is of this protocol.
pub(super) fn is_of(protocol: Protocol) -> Statement<'static> {
    equals(meta(MetaKey::L4proto), number(protocol))
}

/// By its number: nft knows the names only where `/etc/protocols` is (Debian's
/// package netbase), and a small system has none.
fn number(protocol: Protocol) -> Expression<'static> {
    Expression::Number(protocol.0.into())
}

fn reject(how: RejectType, code: Option<RejectCode>) -> Statement<'static> {
    Statement::Reject(Some(Reject::new(Some(how), code)))
}

/// The packet answers the one that opened its connection.
fn is_reply() -> Statement<'static> {
    equals(ct("direction"), string("reply"))
}

/// A SYN without ACK.
pub(super) fn syn() -> Statement<'static> {
    as_syn(Operator::EQ)
}

/// TCP, and anything else.
pub(super) fn not_syn() -> Statement<'static> {
    as_syn(Operator::NEQ)
}

fn as_syn(op: Operator) -> Statement<'static> {
    let left = and(field("tcp", "flags"), or(string("syn"), string("ack")));
    Statement::Match(Match { left, right: string("syn"), op })
}

pub(super) fn counter() -> Statement<'static> {
    Statement::Counter(Counter::Anonymous(None))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Marks;

    /// One command a line, without what is the same in all.
    fn lines(document: &Value) -> String {
        let commands = document.get("nftables").and_then(Value::as_array).expect("a document");
        let lines = commands.iter().map(|command| {
            let text = command.to_string();
            text.replace(r#""family":"inet","#, "").replace(r#","table":"halfgate""#, "") + "\n"
        });
        lines.collect()
    }

    fn spec(fail: Fail, queue_count: u16) -> TableSpec {
        TableSpec {
            hooks: Hooks { forward: true, input: true, output: true },
            fail,
            marks: Marks { shift: 24 },
            queue_base: 10,
            queue_count,
            challenge: false,
            syncookies: false,
            blocked: Default::default(),
        }
    }

    fn document(diversion: Diversion, fail: Fail, queue_count: u16) -> Value {
        live(&spec(fail, queue_count), diversion, &Notes::default()).expect("in range")
    }

    #[test]
    fn the_native_document_is_the_documented_one() {
        insta::assert_snapshot!("native_closed", lines(&document(Diversion::Native, Fail::Closed, 2)));
        insta::assert_snapshot!("native_open_one_queue", lines(&document(Diversion::Native, Fail::Open, 1)));
    }

    #[test]
    fn the_xtables_document_is_the_documented_one() {
        insta::assert_snapshot!("xtables_closed", lines(&document(Diversion::Xtables, Fail::Closed, 2)));
    }

    /// The rules that are there for challenges only, and their chains.
    fn of_challenges(hooks: Hooks, diversion: Diversion) -> String {
        let set = |spec, challenge| TableSpec { challenge, ..spec };
        added(TableSpec { hooks, ..spec(Fail::Closed, 2) }, diversion, set)
    }

    /// What is there only where something is set.
    fn added(spec: TableSpec, diversion: Diversion, set: impl Fn(TableSpec, bool) -> TableSpec) -> String {
        let [with, without] = [true, false]
            .map(|is_set| lines(&live(&set(spec, is_set), diversion, &Notes::default()).expect("in range")));
        let mut others: Vec<&str> = without.lines().collect();
        let mut more = String::new();
        for line in with.lines() {
            match others.iter().position(|other| *other == line) {
                Some(at) => drop(others.remove(at)),
                None => more += &format!("{line}\n"),
            }
        }
        assert_eq!(others, [""; 0], "nothing else changes");
        more
    }

    #[test]
    fn challenges_add_what_is_documented() {
        let routed = Hooks { forward: true, input: false, output: false };
        let all = Hooks { forward: true, input: true, output: true };
        insta::assert_snapshot!("challenge_native_routed", of_challenges(routed, Diversion::Native));
        insta::assert_snapshot!("challenge_xtables_routed", of_challenges(routed, Diversion::Xtables));
        insta::assert_snapshot!("challenge_all_hooks", of_challenges(all, Diversion::Xtables));
        assert_eq!(of_challenges(all, Diversion::Native), of_challenges(all, Diversion::Xtables));
    }

    #[test]
    fn cookies_add_what_is_documented() {
        let of = |hooks, diversion| {
            let set = |spec, syncookies| TableSpec { syncookies, ..spec };
            added(TableSpec { hooks, ..spec(Fail::Closed, 2) }, diversion, set)
        };
        let routed = Hooks { forward: true, input: false, output: false };
        let all = Hooks { forward: true, input: true, output: true };
        insta::assert_snapshot!("cookies_native_routed", of(routed, Diversion::Native));
        insta::assert_snapshot!("cookies_xtables_routed", of(routed, Diversion::Xtables));
        insta::assert_snapshot!("cookies_xtables_all_hooks", of(all, Diversion::Xtables));
    }

    /// Rule by rule: where one queues, the other sets a bit and accepts, for the same packets.
    #[test]
    fn the_ways_of_diversion_differ_in_nothing_else() {
        let queues = |line: &str| line.contains(r#"{"queue":"#);
        for fail in [Fail::Closed, Fail::Open] {
            let [native, xtables] =
                [Diversion::Native, Diversion::Xtables].map(|diversion| lines(&document(diversion, fail, 2)));
            let native = native.replace(r#""prio":-159"#, r#""prio":-140"#);
            assert_eq!(native.lines().count(), xtables.lines().count());
            let mut queued = 0;
            for (native, xtables) in native.lines().zip(xtables.lines()) {
                if queues(native) {
                    let [of_native, of_xtables] = [native, xtables].map(|line| {
                        let ends = [r#"{"mangle":{"key":{"meta":{"key":"mark""#, r#"{"queue":"#];
                        ends.iter().filter_map(|end| line.find(end)).min().map(|end| &line[..end])
                    });
                    assert_eq!(of_native, of_xtables);
                    assert!(xtables.ends_with(r#"{"accept":null}]}}}"#), "{xtables}");
                    queued += 1;
                } else {
                    assert_eq!(native, xtables);
                }
            }
            assert!(queued > 10, "{queued}");
            assert!(!queues(&xtables), "{xtables}");
        }
    }

    /// A set for each length, and a rule for each on what comes from elsewhere, behind
    /// what is exempt and before the queue.
    #[test]
    fn what_is_blocked_is_dropped_before_it_is_queued() {
        let prefix = crate::conntrack::SourcePrefix { ipv4: 24, ipv6: 128 };
        let blocked = blocked::Lengths::default().with(prefix);
        for diversion in [Diversion::Native, Diversion::Xtables] {
            let spec = TableSpec { blocked, ..spec(Fail::Closed, 2) };
            let text = lines(&live(&spec, diversion, &Notes::default()).expect("in range"));
            for set in ["blocked4_24", "blocked6_128"] {
                let declared = format!(r#""name":"{set}""#);
                assert_eq!(text.matches(&declared).count(), 1, "{text}");
            }
            let drops = |hook: &str| {
                let of_chain = |line: &&str| line.contains(&format!(r#""chain":"divert_{hook}""#));
                let chain: Vec<&str> = text.lines().filter(of_chain).collect();
                let at = |word: &str| chain.iter().position(|line| line.contains(word));
                let drops: Vec<usize> =
                    (0..chain.len()).filter(|&at| chain[at].contains("@blocked")).collect();
                if let Some(&last) = drops.last() {
                    assert!(chain[last].contains("counter") && chain[last].contains("drop"), "{text}");
                    assert!(Some(last) < at("established"), "{text}");
                    assert!(at(r#""jump":{"target":"exempt"#) < drops.first().copied(), "{text}");
                }
                drops.len()
            };
            assert_eq!([drops("forward"), drops("input"), drops("output")], [2, 2, 0]);
            assert!(text.contains("255.255.255.0"), "{text}");
        }
    }

    #[test]
    fn every_document_begins_by_replacing_the_table() {
        let documents = [
            document(Diversion::Native, Fail::Open, 1),
            fixed(spec(Fail::Closed, 1).hooks, Fail::Closed, &Notes::default()),
        ];
        for document in documents {
            let commands = document.get("nftables").and_then(Value::as_array).expect("a document");
            let kinds: Vec<_> =
                commands[..3].iter().map(|c| c.as_object().expect("one").keys().next().cloned()).collect();
            assert_eq!(kinds, [Some("add".into()), Some("delete".into()), Some("add".into())]);
            assert!(commands[..3].iter().all(|command| command.to_string().contains(r#""name":"halfgate""#)));
        }
    }

    /// What is compared with a mark, or set in one, as it is 24 bits further up.
    fn move_bits(value: &mut Value) {
        let is_of_mark = |value: &Value| value.to_string().contains(r#""key":"mark""#);
        let up = |value: &mut Value| {
            if let Some(bits) = value.as_u64() {
                *value = u32::try_from(bits).expect("a mark").rotate_left(24).into();
            }
        };
        match value {
            Value::Array(values) => values.iter_mut().for_each(move_bits),
            Value::Object(fields) => {
                if fields.get("left").is_some_and(is_of_mark)
                    && let Some(right) = fields.get_mut("right")
                {
                    up(right);
                }
                for operator in ["&", "|"] {
                    if let Some([left, right]) =
                        fields.get_mut(operator).and_then(Value::as_array_mut).map(Vec::as_mut_slice)
                        && is_of_mark(left)
                    {
                        up(right);
                    }
                }
                fields.values_mut().for_each(move_bits);
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    #[test]
    fn bits_keep_their_place_wherever_the_mask_is() {
        let mut low = spec(Fail::Closed, 2);
        low.marks.shift = 0;
        let mut moved = live(&low, Diversion::Native, &Notes::default()).expect("in range");
        move_bits(&mut moved);
        assert_eq!(lines(&document(Diversion::Native, Fail::Closed, 2)), lines(&moved));
    }
}
