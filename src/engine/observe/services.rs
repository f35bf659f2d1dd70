//! Which services answered: since when, last, how often, asked from where, by which
//! rule.

use std::{collections::HashMap, net::IpAddr};

use crate::{conntrack::Instant, engine::IfIndex, policy::RuleId, wire::Protocol};

/// A service as it is reached: a row of its own for each rule that lets it be, and
/// each interface that it is asked by.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Service {
    /// Where.
    pub address: IpAddr,
    /// TCP or UDP.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
    /// The rule that let it be reached.
    pub rule: RuleId,
    /// The interface by which it was asked; 0: by the gateway itself.
    pub asked_by: IfIndex,
    /// It is the gateway's own.
    pub is_gateway: bool,
}

/// How it answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answered {
    /// Which.
    pub service: Service,
    /// The first answer.
    pub first: Instant,
    /// The last.
    pub last: Instant,
    /// How many connections were answered.
    pub count: u64,
}

/// All of them, up to a number: then the quarter that answered longest ago goes.
#[derive(Debug)]
pub struct Services {
    most: usize,
    rows: HashMap<Service, Answered>,
    forgotten: u64,
}

impl Services {
    /// None yet; `most` at once.
    #[must_use]
    pub fn new(most: usize) -> Self {
        // Keys that an attacker chose can collide only as far as the bound goes.
        Self { most: most.max(4), rows: HashMap::new(), forgotten: 0 }
    }

    /// One more answer.
    pub fn note(&mut self, service: Service, now: Instant) {
        if let Some(row) = self.rows.get_mut(&service) {
            row.last = row.last.max(now);
            row.count = row.count.saturating_add(1);
            return;
        }
        if self.rows.len() >= self.most {
            self.forget_a_quarter();
        }
        self.rows.insert(service, Answered { service, first: now, last: now, count: 1 });
    }

    fn forget_a_quarter(&mut self) {
        let mut lasts: Vec<Instant> = self.rows.values().map(|row| row.last).collect();
        lasts.sort_unstable();
        let Some(line) = lasts.get(lasts.len() / 4).copied() else { return };
        let before = self.rows.len();
        self.rows.retain(|_, row| row.last > line);
        let gone = before.saturating_sub(self.rows.len());
        self.forgotten = self.forgotten.saturating_add(u64::try_from(gone).unwrap_or(u64::MAX));
    }

    /// All that are remembered, in the order of their addresses and ports.
    #[must_use]
    pub fn all(&self) -> Vec<Answered> {
        let mut rows: Vec<Answered> = self.rows.values().copied().collect();
        rows.sort_unstable_by_key(|row| row.service);
        rows
    }

    /// How many had to make room.
    #[must_use]
    pub const fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(number: u32) -> Service {
        Service {
            address: std::net::Ipv4Addr::from_bits(number).into(),
            protocol: Protocol::TCP,
            port: 443,
            rule: RuleId(1),
            asked_by: IfIndex(2),
            is_gateway: false,
        }
    }

    #[test]
    fn an_answer_has_its_first_and_last_time_and_is_counted() {
        let mut all = Services::new(10);
        for now in [5, 9, 7] {
            all.note(service(1), Instant(now));
        }
        all.note(Service { rule: RuleId(2), ..service(1) }, Instant(8));
        let rows = all.all();
        assert_eq!((rows[0].first, rows[0].last, rows[0].count), (Instant(5), Instant(9), 3));
        assert_eq!((rows[1].service.rule, rows[1].count), (RuleId(2), 1), "each rule has its row");
    }

    #[test]
    fn there_are_no_more_than_may_be_and_the_stalest_go() {
        let mut all = Services::new(100);
        for number in 0..10_000 {
            all.note(service(number), Instant(u64::from(number)));
            all.note(service(u32::MAX), Instant(u64::from(number)));
        }
        let rows = all.all();
        assert!(rows.len() <= 100, "{}", rows.len());
        assert!(rows.iter().any(|row| row.service == service(u32::MAX) && row.count == 10_000));
        assert!(rows.iter().any(|row| row.service == service(9999)));
        assert_eq!(all.forgotten() + rows.len() as u64, 10_001);
    }
}
