//! The most memory that the daemon ever takes: said at the start and in `status`, and
//! held against what there is.

use super::{
    events::REMEMBERED,
    outlet::{CHUNK, CHUNKS_WAITING},
    protocol::Memory,
    seats::SEATS,
    shared::{EVENTS_WAITING, FORGETS_WAITING, TRANSMITS_WAITING},
    text,
};
use crate::{
    conntrack::Flow,
    engine::{Engine, Event, MemoryBound, Transmit, observe::Demand},
    sys::machine::{self, Allowance},
};

/// The most that everything takes that is neither the engine's nor there at the start:
/// what waits for the sender, the recorder and the forgetter, what is remembered of
/// events, scans and services, what clients of the control socket are answered.
const OTHERS: u64 = 96 << 20;

/// An event that is remembered, its texts included, is no longer.
const EVENT_IN_WORDS: usize = 1024;

/// Room for what has small bounds of its own: scans, services, blocked sources, kinds of
/// events, the stacks of threads, the queues' buffers.
const SMALL: usize = 32 << 20;

const WAITING: usize = EVENTS_WAITING * size_of::<Event>()
    + 3 * TRANSMITS_WAITING * size_of::<Transmit>()
    // They may wait a second time, with the time when.
    + FORGETS_WAITING * (3 * size_of::<Flow>());

const ANSWERS: usize = SEATS * (CHUNKS_WAITING + 1) * CHUNK;

const _: () = assert!(
    (WAITING + ANSWERS + REMEMBERED * EVENT_IN_WORDS + Demand::MOST_OCTETS + SMALL) as u64 <= OTHERS,
    "what is not the engine's takes no more than is said"
);

/// What a process has before the first packet: itself, and the rules.
#[derive(Clone, Copy, Debug, Default)]
pub struct AtStart(u64);

impl AtStart {
    /// Looked at now.
    #[must_use]
    pub fn now() -> Self {
        Self(machine::resident().unwrap_or(0))
    }
}

/// What the daemon can take, and what there is.
#[must_use]
pub fn plan(engine: &Engine, start: AtStart) -> Memory {
    let bound = engine.memory_bound();
    let rest = bound.fixed + OTHERS + start.0;
    Memory {
        most: bound.total() + OTHERS + start.0,
        connections: bound.connections,
        half_open: bound.half_open,
        open: bound.open,
        cookies: bound.cookies,
        rest,
        resident: machine::resident().unwrap_or(0),
        machine: machine::memory(),
        allowed: machine::allowance().map(|Allowance { octets, .. }| octets),
    }
}

/// What it can take, in words.
#[must_use]
pub fn words(memory: &Memory) -> String {
    let octets = text::octets;
    let mut parts = vec![
        format!("{} for connections", octets(memory.connections)),
        format!("{} for the counts of half-open ones", octets(memory.half_open)),
    ];
    if memory.open > 0 {
        parts.push(format!("{} for those of open ones", octets(memory.open)));
    }
    if memory.cookies > 0 {
        parts.push(format!("{} for those behind SYN cookies", octets(memory.cookies)));
    }
    let there_is = match (memory.allowed, memory.machine) {
        (Some(allowed), Some(machine)) if allowed < machine => format!("; {} are allowed", octets(allowed)),
        (_, Some(machine)) => format!("; the machine has {}", octets(machine)),
        (_, None) => String::new(),
    };
    format!(
        "{} at most ({}, {} for all else){there_is}",
        octets(memory.most),
        parts.join(", "),
        octets(memory.rest)
    )
}

/// Where the daemon could come to take more than there is: what is wrong, and the cure.
#[must_use]
pub fn warning(engine: &Engine, memory: &Memory) -> Option<String> {
    let (there_is, whose) = match (memory.machine, machine::allowance()) {
        (Some(machine), Some(allowance)) if allowance.octets < machine => {
            (allowance.octets, format!("its control group {} allows", allowance.group.display()))
        }
        (Some(machine), _) => (machine, "this machine has".to_owned()),
        (None, _) => return None,
    };
    let most = engine.policy().settings.max_connections;
    shortfall(memory, there_is, &whose, most, |connections| engine.memory_bound_for(connections))
}

fn shortfall(
    memory: &Memory,
    there_is: u64,
    whose: &str,
    max_connections: u32,
    bound: impl Fn(u32) -> MemoryBound,
) -> Option<String> {
    if memory.most <= there_is {
        return None;
    }
    let others = memory.most.saturating_sub(bound(max_connections).total());
    let fits = |connections: u32| bound(connections).total().saturating_add(others) <= there_is;
    let (mut enough, mut too_many) = (0, max_connections);
    while too_many - enough > 1 {
        let middle = enough + (too_many - enough) / 2;
        if fits(middle) { enough = middle } else { too_many = middle }
    }
    // A number that one would write.
    let step = 10_u32.pow(enough.max(1).ilog10().saturating_sub(1));
    let cure = match enough / step * step {
        0 => "give it more".to_owned(),
        rounded => format!("write max_connections: {rounded} or less, or give it more"),
    };
    Some(format!(
        "with max_connections {max_connections} a flood can make halfgate take {} of memory, and {whose} {}: \
         the kernel would end it; {cure}",
        text::octets(memory.most),
        text::octets(there_is),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::Uses;

    #[test]
    fn more_than_there_is_is_said_with_a_cure_that_helps() {
        let bound = |most| MemoryBound::of(most, Uses::default());
        let memory = |most| Memory { most: bound(most).total() + OTHERS, ..Memory::default() };
        let said = |most, there_is| shortfall(&memory(most), there_is, "this machine has", most, bound);
        assert_eq!(said(1_000_000, 8 << 30), None);
        let words = said(16_000_000, 1 << 30).unwrap();
        assert!(
            words.contains("max_connections 16000000") && words.contains("this machine has 1.0 GiB"),
            "{words}"
        );
        let advised: u32 = words
            .split("write max_connections: ")
            .nth(1)
            .and_then(|rest| rest.split(' ').next())
            .and_then(|word| word.parse().ok())
            .unwrap();
        assert_eq!(said(advised, 1 << 30), None, "{words}");
        assert!(advised > 500_000, "{words}");
        let words = said(1000, 1 << 20).unwrap();
        assert!(words.ends_with("; give it more"), "{words}");
    }

    #[test]
    fn what_it_takes_is_named_in_parts() {
        let memory = Memory {
            most: 900 << 20,
            connections: 500 << 20,
            half_open: 300 << 20,
            rest: 100 << 20,
            machine: Some(2 << 30),
            ..Memory::default()
        };
        assert_eq!(
            words(&memory),
            "900.0 MiB at most (500.0 MiB for connections, 300.0 MiB for the counts of half-open ones, 100.0 MiB \
             for all else); the machine has 2.0 GiB"
        );
        let memory = Memory { open: 5 << 20, allowed: Some(1 << 30), ..memory };
        assert!(words(&memory).contains("5.0 MiB for those of open ones"));
        assert!(words(&memory).ends_with("; 1.0 GiB are allowed"));
    }
}
