//! What SYN cookies (`on_excess: syncookies`) need of the kernel: its synproxy, for the
//! destinations that the daemon names.
//!
//! * `shielded4`, `shielded6`: interface, destination and port whose SYNs the kernel answers.
//!   They don't reach conntrack (`notrack`), and so not our queue.
//! * `cookies4`, `cookies6`: destination and port of which there may be cookies about. These
//!   outlive the others for a while, so that nobody's handshake is cut who began it when the
//!   pressure was gone. Whoever acknowledges a cookie belongs to no connection yet (conntrack
//!   calls that invalid, with `nf_conntrack_tcp_loose=0`), and the kernel sends a SYN to the
//!   server in its name. That leaves through `output`, with the cookie in its
//!   acknowledgement field, which no other SYN has, and is brought to the queue. A bit of its
//!   entry's mark says from then on that the connection's numbers are translated.
//! * `underway4`, `underway6`: source and destination, both with ports, of handshakes that were
//!   under way when their destination came into `shielded`. conntrack knows these, and would
//!   not take their clients' acknowledgements of a cookie for invalid: their SYNs go the way of
//!   all others, as many in a second as there may be. Each stays as long as such a handshake is open.
//! * A host that exists, and in whose name somebody has sent a SYN, answers the kernel's cookie
//!   by RST: of a flood of such SYNs there come as many of them. They belong to no connection
//!   that conntrack knows, and past some in a second they are dropped before the queue, where
//!   they would wait before the packets of live connections. Some pass, because one that
//!   conntrack has forgotten may be known here.
//! * The last ACK to the server and the first one to the client leave through `output` too,
//!   made by the kernel while it handles the server's SYN-ACK. They must not be queued: by
//!   the time a verdict came, the kernel would translate what is right already.
//! * nftables' synproxy verifies the checksums of IPv6 as if it were IPv4 (seen up to 6.18):
//!   what no network card has vouched for is dropped. That of xtables does not, so that IPv6
//!   has cookies where xtables diverts, by a rule of its own there.
//! * The SYN-ACK with the cookie is not tracked (`shield_output`). conntrack may know the
//!   connection that had the same addresses and ports before, in `TIME_WAIT` say: it would take
//!   it for an answer in that, and if that one was behind a cookie, change its numbers as it did
//!   there. The client would acknowledge what is no cookie, as often as it tried.
//! * An RST to the client that halfgate sends is not tracked (`shield_output`): of every RST
//!   from the server's side the kernel believes that it refuses the SYN, and changes its
//!   number to what that would have.
//!
//! Read first: nft(8), synproxy; the kernel's `net/netfilter/nf_synproxy_core.c`.

use std::{collections::HashSet, net::IpAddr, time::Duration};

use nftables::{
    expr::{Expression, Meta, MetaKey, NamedExpression},
    schema::{Chain, NfListObject, Set, SetFlag, SetType, SetTypeValue},
    stmt::{Limit, Match, Operator, Statement, SynProxy},
    types::{NfChainPolicy, NfChainType, NfFamily, NfHook, SynProxyFlag},
};
use serde_json::{Value, json};

use super::{
    Diversion, NAME, TableError, TableSpec,
    errands::{ct_mark_has, set_ct_mark},
    exempt::Share,
    lane::Lane,
    rules::{
        DIVERT_PRIORITY, Document, and, counter, ct_state, equals, field, inspected_priority, mark_has, name,
        or, set_mark, string, syn,
    },
    run,
};
use crate::{
    conntrack::Flow,
    policy::{Fail, Hook},
};

/// Destinations that a set holds.
pub const MOST: u32 = 1024;

/// Handshakes that the daemon may have in a set of those under way. The set has room for
/// twice as many, because one whose time is over stays until the kernel cleans up.
pub const MOST_UNDER_WAY: u32 = 8192;

/// RSTs of no connection that conntrack knows, to where the kernel answers SYNs, that are
/// inspected in a second.
const MOST_STRAY_RSTS: u32 = 1000;

/// Before conntrack (-200): where `notrack` must be.
const RAW_PRIORITY: i32 = -300;

/// The window scale that the kernel offers in a server's name: that of Linux with its
/// ordinary buffers. A server with a larger one is sent less at once than it would take.
const SCALE: u32 = 7;

/// The largest segment that it offers, for a path of Ethernet's size (RFC 9293 §3.7.1).
const MSS: u32 = 1460;

const fn shielded(ipv6: bool) -> &'static str {
    if ipv6 { "shielded6" } else { "shielded4" }
}

const fn cookies(ipv6: bool) -> &'static str {
    if ipv6 { "cookies6" } else { "cookies4" }
}

const fn underway(ipv6: bool) -> &'static str {
    if ipv6 { "underway6" } else { "underway4" }
}

/// Whether it is IPv6: the families whose SYNs the kernel can answer.
const fn families(diversion: Diversion) -> &'static [bool] {
    match diversion {
        Diversion::Native => &[false],
        Diversion::Xtables => &[false, true],
    }
}

/// The arguments of xtables' target for IPv6, as `ip6tables-save` spells them.
pub(super) const XTABLES6: &str = "SYNPROXY --sack-perm --timestamp --wscale 7 --mss 1440";

impl Document {
    /// The sets, and the chains before conntrack.
    pub(super) fn shields(&mut self, spec: &TableSpec, diversion: Diversion) {
        if !spec.syncookies {
            return;
        }
        for &ipv6 in families(diversion) {
            let address = if ipv6 { SetType::Ipv6Addr } else { SetType::Ipv4Addr };
            let one = vec![address, SetType::InetService];
            self.set(shielded(ipv6), [vec![SetType::Ifname], one.clone()].concat());
            self.set(cookies(ipv6), one.clone());
            self.add(NfListObject::Set(Box::new(Set {
                flags: Some(HashSet::from([SetFlag::Timeout])),
                ..concatenated(underway(ipv6), one.repeat(2), MOST_UNDER_WAY.saturating_mul(2))
            })));
        }
        let chain = "shield_prerouting";
        self.raw(chain, NfHook::Prerouting);
        for &ipv6 in families(diversion) {
            let let_by = [bare_syn(), is_shielded(ipv6), is_under_way(ipv6), at_most(MOST_UNDER_WAY)];
            self.rule(chain, let_by.into_iter().chain([Statement::Return(None)]).collect());
            self.rule(chain, vec![bare_syn(), is_shielded(ipv6), Statement::Notrack]);
        }
        let chain = "shield_output";
        self.raw(chain, NfHook::Output);
        let bits = spec.marks.own_untracked();
        let untracked = mark_is(bits);
        self.rule(chain, vec![untracked, Statement::Notrack]);
        for &ipv6 in families(diversion) {
            self.rule(chain, vec![syn_ack(), is_of_shielded(ipv6), Statement::Notrack]);
        }
    }

    fn raw(&mut self, name: &'static str, hook: NfHook) {
        self.add(NfListObject::Chain(Chain {
            family: NfFamily::INet,
            table: NAME.into(),
            name: name.into(),
            _type: Some(NfChainType::Filter),
            hook: Some(hook),
            prio: Some(RAW_PRIORITY),
            policy: Some(NfChainPolicy::Accept),
            ..Chain::default()
        }));
    }

    fn set(&mut self, name: &'static str, key: Vec<SetType>) {
        self.add(NfListObject::Set(Box::new(concatenated(name, key, MOST))));
    }

    /// Has the kernel answer SYNs and take acknowledgements of its cookies, instead of our
    /// queue; and brings the packets of connections behind cookies to the queues of known
    /// connections, of whose numbers a queue need not be told.
    pub(super) fn cookies(
        &mut self,
        hook: Hook,
        chain: &str,
        spec: &TableSpec,
        diversion: Diversion,
    ) -> Result<(), TableError> {
        if !spec.syncookies || hook != Hook::Forward {
            return Ok(());
        }
        for &ipv6 in families(diversion) {
            let synproxy = || {
                if ipv6 {
                    return vec![set_mark(!0, spec.marks.synproxy()), Statement::Return(None)];
                }
                vec![Statement::SynProxy(SynProxy {
                    mss: Some(MSS),
                    wscale: Some(SCALE),
                    flags: Some(HashSet::from([SynProxyFlag::Timestamp, SynProxyFlag::SackPerm])),
                })]
            };
            let there = || within(destination(ipv6), cookies(ipv6));
            self.rule(chain, [vec![ct_state("untracked"), bare_syn(), there()], synproxy()].concat());
            self.rule(chain, [vec![ct_state("invalid"), bare_ack(), there()], synproxy()].concat());
            let past = past(MOST_STRAY_RSTS);
            let rst = vec![ct_state("invalid"), bare_rst(), there(), past, counter(), Statement::Drop(None)];
            self.rule(chain, rst);
        }
        let is_behind = || ct_mark_has(spec.marks.opened_behind());
        self.rule(chain, vec![is_behind(), set_mark(!0, spec.marks.behind())]);
        self.rule(chain, [vec![is_behind()], Lane::Known.queue(spec, diversion)?].concat());
        Ok(())
    }

    /// Brings the SYNs that the kernel sends to the queue, whatever else is inspected.
    pub(super) fn openings(
        &mut self,
        hook: Hook,
        spec: &TableSpec,
        diversion: Diversion,
    ) -> Result<(), TableError> {
        if !spec.syncookies || hook != Hook::Output {
            return Ok(());
        }
        let chain = format!("divert_{}", name(hook));
        let marks = spec.marks;
        for &ipv6 in families(diversion) {
            let note = [set_ct_mark(!0, marks.opened_behind())];
            let queue = Lane::Proven.saying((!marks.mask(), marks.behind()), spec, diversion)?;
            self.rule(&chain, opening(ipv6).into_iter().chain(note).chain(queue).collect());
        }
        Ok(())
    }

    /// What the kernel sends of its own in these handshakes is not to be inspected, where
    /// `output` is.
    pub(super) fn exempt_cookies(&mut self, hook: Hook, chain: &str, spec: &TableSpec, diversion: Diversion) {
        if !spec.syncookies || hook != Hook::Output {
            return;
        }
        let pass = || [set_mark(!0, spec.marks.inspected()), Statement::Return(None)];
        // An acknowledgement of the handshake's, in either direction; of the SYN a queue was told.
        let tracked = vec![ct_mark_has(spec.marks.opened_behind()), no_syn()];
        self.rule(chain, tracked.into_iter().chain(pass()).collect());
        for &ipv6 in families(diversion) {
            let answer = vec![syn_ack(), is_of_shielded(ipv6)];
            self.rule(chain, answer.into_iter().chain(pass()).collect());
        }
    }

    /// The chains of `output` where it is not inspected.
    pub(super) fn only_openings(&mut self, spec: &TableSpec, diversion: Diversion) -> Result<(), TableError> {
        let hook = Hook::Output;
        let chain = format!("divert_{}", name(hook));
        self.base(&chain, hook, NfChainType::Filter, DIVERT_PRIORITY, NfChainPolicy::Accept);
        self.openings(hook, spec, diversion)?;
        let chain = format!("inspected_{}", name(hook));
        let priority = inspected_priority(diversion);
        self.base(&chain, hook, NfChainType::Route, priority, NfChainPolicy::Accept);
        for &ipv6 in families(diversion) {
            if spec.fail == Fail::Closed {
                let missed =
                    [mark_has(spec.marks.inspected(), Operator::EQ), counter(), Statement::Drop(None)];
                self.rule(&chain, opening(ipv6).into_iter().chain(missed).collect());
            }
            let wipe = set_mark(!spec.marks.mask(), 0);
            self.rule(&chain, opening(ipv6).into_iter().chain([wipe]).collect());
        }
        Ok(())
    }
}

/// The share of `output` that is inspected where only cookies need the hook.
pub(super) fn needs_output(spec: &TableSpec) -> bool {
    spec.syncookies && Share::of(spec.hooks, Hook::Output).is_none()
}

fn concatenated(name: &'static str, key: Vec<SetType>, size: u32) -> Set<'static> {
    Set {
        family: NfFamily::INet,
        table: NAME.into(),
        name: name.into(),
        set_type: SetTypeValue::Concatenated(key.into()),
        size: Some(size),
        ..Set::default()
    }
}

/// A SYN that the kernel sends behind a cookie of the family's.
fn opening(ipv6: bool) -> Vec<Statement<'static>> {
    let has_cookie = Statement::Match(Match {
        left: field("tcp", "ackseq"),
        right: Expression::Number(0),
        op: Operator::NEQ,
    });
    vec![syn(), has_cookie, within(destination(ipv6), cookies(ipv6))]
}

/// Its SYNs are the kernel's to answer.
fn is_shielded(ipv6: bool) -> Statement<'static> {
    let interface = Expression::Named(NamedExpression::Meta(Meta { key: MetaKey::Iifname }));
    let [address, port] = destination(ipv6);
    within([interface, address, port], shielded(ipv6))
}

/// It comes from a destination of which there may be cookies about.
fn is_of_shielded(ipv6: bool) -> Statement<'static> {
    within(source(ipv6), cookies(ipv6))
}

/// It repeats the SYN of a handshake that conntrack knows.
fn is_under_way(ipv6: bool) -> Statement<'static> {
    let [from, from_port] = source(ipv6);
    let [to, to_port] = destination(ipv6);
    within([from, from_port, to, to_port], underway(ipv6))
}

/// So many in a second, and at once. A client repeats its SYN once in a second at most; who
/// floods with one that he sent before is answered by the kernel like all others.
fn at_most(packets: u32) -> Statement<'static> {
    in_a_second(packets, None)
}

/// Those past so many in a second.
fn past(packets: u32) -> Statement<'static> {
    in_a_second(packets, Some(true))
}

fn in_a_second(packets: u32, past: Option<bool>) -> Statement<'static> {
    Statement::Limit(Limit {
        rate: packets,
        rate_unit: Some("packets".into()),
        per: Some("second".into()),
        burst: Some(packets),
        burst_unit: None,
        inv: past,
    })
}

fn destination(ipv6: bool) -> [Expression<'static>; 2] {
    [field(if ipv6 { "ip6" } else { "ip" }, "daddr"), field("tcp", "dport")]
}

fn source(ipv6: bool) -> [Expression<'static>; 2] {
    [field(if ipv6 { "ip6" } else { "ip" }, "saddr"), field("tcp", "sport")]
}

fn within<const N: usize>(parts: [Expression<'static>; N], set: &str) -> Statement<'static> {
    let key = Expression::Named(NamedExpression::Concat(parts.into()));
    equals(key, Expression::String(format!("@{set}").into()))
}

/// These flags of a segment, among them those of `set` alone.
fn flags(among: &[&'static str], set: &'static str) -> Statement<'static> {
    let all = among.iter().map(|flag| string(flag)).reduce(or).unwrap_or_else(|| string(set));
    equals(and(field("tcp", "flags"), all), string(set))
}

fn bare_syn() -> Statement<'static> {
    flags(&["fin", "syn", "rst", "ack"], "syn")
}

fn bare_ack() -> Statement<'static> {
    flags(&["syn", "rst", "ack"], "ack")
}

/// What a host says to a SYN-ACK that it did not ask for (RFC 9293 §3.10.7.1).
fn bare_rst() -> Statement<'static> {
    flags(&["fin", "syn", "rst", "ack"], "rst")
}

fn syn_ack() -> Statement<'static> {
    let both = || or(string("syn"), string("ack"));
    equals(and(field("tcp", "flags"), both()), both())
}

fn no_syn() -> Statement<'static> {
    let left = and(field("tcp", "flags"), string("syn"));
    Statement::Match(Match { left, right: Expression::Number(0), op: Operator::EQ })
}

fn mark_is(bits: u32) -> Statement<'static> {
    let mark = Expression::Named(NamedExpression::Meta(Meta { key: MetaKey::Mark }));
    equals(and(mark, Expression::Number(bits)), Expression::Number(bits))
}

/// Writes what the nftables crate writes otherwise than nft reads it: `notrack` is an object
/// there, and flags come in an order of their own each time.
pub(super) fn mend(value: &mut Value) {
    match value {
        Value::String(word) if word == "notrack" => *value = json!({"notrack": null}),
        Value::Array(values) => values.iter_mut().for_each(mend),
        Value::Object(map) => {
            if let Some(Value::Array(flags)) = map.get_mut("synproxy").and_then(|one| one.get_mut("flags")) {
                flags.sort_by_key(ToString::to_string);
            }
            map.values_mut().for_each(mend);
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// A destination whose SYNs the kernel answers.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Shielded {
    /// The interface by which they come in.
    pub interface: String,
    /// Where they go.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
}

/// What is to change in the kernel's sets.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ShieldChange {
    /// The kernel answers their SYNs from now on.
    pub on: Vec<Shielded>,
    /// It does not any more, but takes acknowledgements of its cookies.
    pub off: Vec<Shielded>,
    /// Of these it takes them from now on.
    pub known: Vec<(IpAddr, u16)>,
    /// Of these no more.
    pub unknown: Vec<(IpAddr, u16)>,
    /// Handshakes whose SYNs it leaves to others, each for so long, in whole seconds.
    pub under_way: Vec<(Flow, Duration)>,
    /// Handshakes that are over: it answers their SYNs too.
    pub over: Vec<Flow>,
}

impl ShieldChange {
    /// These handshakes come, and nothing else.
    #[must_use]
    pub fn of_handshakes(under_way: &[(Flow, Duration)]) -> Self {
        Self { under_way: under_way.to_vec(), ..Self::default() }
    }
}

/// Changes them, in one transaction. Whatever is to go must be there.
///
/// # Errors
/// If nft refuses, or the table is gone.
pub fn shield(change: &ShieldChange) -> Result<(), TableError> {
    if *change == ShieldChange::default() { Ok(()) } else { run::nft_apply(&document(change)) }
}

fn document(change: &ShieldChange) -> Value {
    let element = |command: &str, set: &str, value: Value| {
        let element = json!({"concat": value});
        json!({command: {"element": {"family": "inet", "table": NAME, "name": set, "elem": [element]}}})
    };
    let one = |command: &'static str| {
        move |(address, port): &(IpAddr, u16)| {
            element(command, cookies(address.is_ipv6()), json!([address.to_string(), port]))
        }
    };
    let on = |command: &'static str| {
        move |one: &Shielded| {
            let value = json!([one.interface, one.address.to_string(), one.port]);
            element(command, shielded(one.address.is_ipv6()), value)
        }
    };
    let under_way = [false, true].into_iter().filter_map(|ipv6| {
        let of_family = change.under_way.iter().filter(|(flow, _)| flow.src.is_ipv6() == ipv6);
        let elements: Vec<Value> = of_family.map(|(flow, time)| handshake(flow, *time)).collect();
        let set = json!({"family": "inet", "table": NAME, "name": underway(ipv6), "elem": elements});
        (!elements.is_empty()).then(|| json!({"add": {"element": set}}))
    });
    let over = change.over.iter().map(|flow| element("delete", underway(flow.src.is_ipv6()), ends(flow)));
    let all = over.chain(change.known.iter().map(one("add"))).chain(under_way);
    let all = all.chain(change.on.iter().map(on("add"))).chain(change.off.iter().map(on("delete")));
    let all: Vec<Value> = all.chain(change.unknown.iter().map(one("delete"))).collect();
    json!({"nftables": all})
}

fn handshake(flow: &Flow, time: Duration) -> Value {
    json!({"elem": {"val": {"concat": ends(flow)}, "timeout": time.as_secs().max(1)}})
}

fn ends(flow: &Flow) -> Value {
    json!([flow.src.to_string(), flow.src_port, flow.dst.to_string(), flow.dst_port])
}

/// Whether the kernel has what SYN cookies need.
///
/// # Errors
/// Why not, in the kernel's words.
pub fn probe_cookies(diversion: Diversion) -> Result<(), TableError> {
    let name = format!("{NAME}_probe_{}", std::process::id());
    let family = "inet";
    let synproxy = json!({"synproxy": {"mss": MSS, "wscale": SCALE, "flags": ["sack-perm", "timestamp"]}});
    let chain = |chain: &str, hook: &str, prio: i32| {
        json!({"add": {"chain": {"family": family, "table": name, "name": chain, "type": "filter",
            "hook": hook, "prio": prio, "policy": "accept"}}})
    };
    let rule = |chain: &str, statement: &Value| {
        let is_tcp = json!({"match": {"op": "==", "left": {"meta": {"key": "l4proto"}}, "right": 6}});
        json!({"add": {"rule": {"family": family, "table": name, "chain": chain, "expr": [is_tcp, statement]}}})
    };
    let document = json!({"nftables": [
        {"add": {"table": {"family": family, "name": name}}},
        chain("before", "prerouting", RAW_PRIORITY),
        chain("forwarded", "forward", DIVERT_PRIORITY),
        rule("before", &json!({"notrack": null})),
        rule("forwarded", &synproxy),
    ]});
    run::nft_check(&document)?.map_err(TableError::NoSynproxy)?;
    match diversion {
        Diversion::Native => Ok(()),
        Diversion::Xtables => super::xtables::probe_synproxy()?.map_err(TableError::NoSynproxy),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Marks;

    fn flow(src: &str, dst: &str) -> Flow {
        Flow::tcp(src, 4000, dst, 443)
    }

    #[test]
    fn a_change_is_one_document_and_what_comes_is_known_before_it_is_shielded() {
        let one = |address: &str| Shielded {
            interface: "wan".to_owned(),
            address: address.parse().unwrap(),
            port: 443,
        };
        let gone = ("192.0.2.2".parse().unwrap(), 443);
        let change = ShieldChange {
            on: vec![one("192.0.2.1"), one("2001:db8::1")],
            off: vec![one("192.0.2.2")],
            known: vec![("192.0.2.1".parse().unwrap(), 443)],
            unknown: vec![gone],
            under_way: vec![(flow("198.51.100.7", "192.0.2.1"), Duration::from_millis(30_900))],
            over: vec![flow("2001:db8::7", "2001:db8::1")],
        };
        let text = document(&change).to_string();
        let at = |words: &str| text.find(words).unwrap_or_else(|| panic!("{words} in {text}"));
        assert!(at(r#""name":"cookies4""#) < at(r#""name":"shielded4""#), "{text}");
        assert!(text.contains(r#"{"concat":["wan","2001:db8::1",443]}"#), "{text}");
        assert!(at(r#""name":"underway4""#) < at(r#""name":"shielded4""#), "{text}");
        let handshake = r#"{"elem":{"timeout":30,"val":{"concat":["198.51.100.7",4000,"192.0.2.1",443]}}}"#;
        assert!(text.contains(handshake), "{text}");
        let over = r#"{"delete":{"element":{"elem":[{"concat":["2001:db8::7",4000,"2001:db8::1",443]}],"#;
        assert!(text.contains(over) && text.matches("underway6").count() == 1, "{text}");
        assert_eq!((text.matches(r#"{"add""#).count(), text.matches(r#"{"delete""#).count()), (4, 3));
    }

    #[test]
    fn what_the_crate_writes_otherwise_is_mended() {
        let mut value = json!({"expr": ["notrack", {"synproxy": {"flags": ["timestamp", "sack-perm"]}}]});
        mend(&mut value);
        assert_eq!(
            value,
            json!({"expr": [{"notrack": null}, {"synproxy": {"flags": ["sack-perm", "timestamp"]}}]})
        );
    }

    #[test]
    fn no_bit_here_says_something_else_where_it_is_read() {
        let marks = Marks { shift: 24 };
        let (behind, untracked) = (marks.opened_behind(), marks.own_untracked());
        // In the conntrack mark a bit of challenges stands beside it.
        assert_eq!(behind & marks.challenge(), 0);
        assert_eq!(untracked & marks.own(), marks.own());
        assert_eq!((behind | untracked) & !marks.mask(), 0);
    }
}
