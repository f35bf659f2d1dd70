//! Every cell of the state table, by what the engine does in it.
//!
//! docs/CONNTRACK.md says twice what happens: what a segment means, which
//! `tests/docs.rs` holds against the table in the code, and what becomes of one, which
//! is held against the engine here.

use super::*;
use crate::conntrack::{
    Direction,
    tcp::{Kind, Meaning, meaning},
};

const CONNTRACK: &str = include_str!("../../../docs/CONNTRACK.md");

pub(super) const TCP_PHASES: [Phase; 8] = [
    Phase::SynSent,
    Phase::SynReceived,
    Phase::Established,
    Phase::FinWait,
    Phase::HalfClosed,
    Phase::Closing,
    Phase::TimeWait,
    Phase::Reset,
];

/// The documented cell: what becomes of a segment of this kind.
fn documented(phase: Phase, direction: Direction, kind: Kind) -> &'static str {
    let cells = |line: &'static str| line.trim_matches('|').split('|').map(str::trim);
    let mut lines = CONNTRACK.lines().skip_while(|line| !line.starts_with("| phase, then |"));
    let who = if direction == Direction::Original { "original" } else { "reply" };
    let column = format!("{who} {}", kind.name());
    let place = cells(lines.next().unwrap()).position(|head| head == column).unwrap();
    let mut row = cells(lines.take(12).find(|line| line.starts_with(&format!("| {phase} |"))).unwrap());
    row.nth(place).unwrap()
}

#[test]
fn every_cell_leads_where_the_document_says() {
    let mut cells = 0;
    for phase in TCP_PHASES {
        for (from, direction) in [(From::Client, Direction::Original), (From::Server, Direction::Reply)] {
            for kind in Kind::ALL {
                cells += 1;
                let mut lab = Lab::in_phase(phase);
                let verdict = lab.send(fitting(phase, from, kind));
                let opened = if from == From::Client { lab.phase() } else { opened_by_server(&lab) };
                let replaced = lab.closed() == [CloseReason::Replaced];
                let became = match (verdict, replaced) {
                    (Verdict::Accept, true) => {
                        assert_eq!(opened, Some(Phase::SynSent));
                        "new"
                    }
                    (Verdict::Accept, false) if lab.phase() == Some(phase) => "=",
                    (Verdict::Accept, false) => lab.phase().unwrap().name(),
                    (Verdict::Drop(reason), _) => {
                        assert_eq!((reason, lab.phase()), (DropReason::Unexpected, Some(phase)));
                        "drop"
                    }
                    (verdict, _) => panic!("{verdict:?}"),
                };
                let place = format!("{phase} {direction:?} {}", kind.name());
                assert_eq!(became, documented(phase, direction, kind), "{place}");
                // And it is what the word in the other table means.
                let fits = match meaning(direction, kind, phase).unwrap() {
                    // Nothing here may take another path.
                    Meaning::Crossed | Meaning::Alone => became == "drop",
                    Meaning::Stale => became == "=",
                    Meaning::Reopen => became == "new",
                    Meaning::Cross | Meaning::Answer => became == "syn_received",
                    Meaning::Abort | Meaning::Refuse => became == "reset",
                    Meaning::Rst => became == "reset" || matches!(phase, Phase::TimeWait | Phase::Reset),
                    Meaning::Repeat | Meaning::Data => became != "drop" && became != "new",
                };
                assert!(fits, "{place}: {became}");
            }
        }
    }
    assert_eq!(cells, 80);
}

pub(super) fn opened_by_server(lab: &Lab) -> Option<Phase> {
    let wanted = lab.flow().reversed();
    let mut found = None;
    lab.engine.connections(lab.now, &mut |view| {
        if view.flow == wanted {
            found = Some(view.phase);
        }
        true
    });
    found
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the phases that are TCP's are few")]
/// A segment with the numbers that its sender would use in this phase.
fn fitting(phase: Phase, from: From, kind: Kind) -> Say {
    // After the closing exchange of `bring_to`: the client has sent its FIN from
    // fin_wait on, the server from closing on.
    let client_next = match phase {
        Phase::SynSent | Phase::SynReceived | Phase::Established | Phase::Reset => 1,
        _ => 2,
    };
    let server_next = match phase {
        Phase::SynSent => 0,
        Phase::Closing | Phase::TimeWait => 2,
        _ => 1,
    };
    let (own, other) = match from {
        From::Client => (client_next, server_next),
        From::Server => (server_next, client_next),
    };
    let newer = 1_000_000;
    let say = |flags, seq| say(from, flags, seq);
    match kind {
        Kind::Syn if matches!(phase, Phase::TimeWait | Phase::Reset) => say("S", newer),
        Kind::Syn => say("S", 0),
        Kind::SynAck => say("S.", 0).ack(1),
        Kind::Ack => say(".", own).ack(other),
        Kind::Fin => {
            let sent = matches!(
                (from, phase),
                (From::Client, Phase::FinWait | Phase::HalfClosed | Phase::Closing | Phase::TimeWait)
            ) || matches!((from, phase), (From::Server, Phase::Closing | Phase::TimeWait));
            say("F.", if sent { own - 1 } else { own }).ack(other)
        }
        Kind::Rst if phase == Phase::SynSent && from == From::Server => say("R.", 0).ack(1),
        Kind::Rst => say("R", own),
    }
}
