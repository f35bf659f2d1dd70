//! Connections that open, that may not, and one that never finishes to.

use std::{
    io,
    net::{Shutdown, SocketAddr},
    time::Duration,
};

use super::{Stage, seconds};
use crate::{
    cli::lab::{
        service::{self, ECHO, MAIL, QUIET, TELNET},
        traffic::{self, Forger, PATIENCE},
    },
    sys::netns::Family,
};

/// Octets of a normal connection.
const MEBIBYTE: usize = 1 << 20;

/// `syn_received` in the lab's rules.
const SYN_RECEIVED: Duration = Duration::from_secs(2);

/// The kernel's number for SYN_RECV (include/net/tcp_states.h).
pub(super) const SYN_RECV: u8 = 3;

pub(super) fn normal_v4(stage: &Stage) -> anyhow::Result<()> {
    normal(stage, Family::V4)
}

pub(super) fn normal_v6(stage: &Stage) -> anyhow::Result<()> {
    normal(stage, Family::V6)
}

/// A request and a mebibyte of answer.
fn normal(stage: &Stage, family: Family) -> anyhow::Result<()> {
    let ground = &stage.ground;
    let start = ground.now();
    let stream = traffic::ask(ground, family, &format!("get {MEBIBYTE}\n"), PATIENCE)?;
    let from = stream.local_addr()?;
    stage.say(format!("{from} connected"));
    let heard = traffic::read_all(&stream)?;
    let intact = heard == service::pattern(MEBIBYTE);
    stream.shutdown(Shutdown::Both).ok();
    drop(stream);
    let took = seconds(ground.since(start));
    let last = ground.poll(PATIENCE, || {
        let shown = ground.connection(from)?;
        Ok(shown.map(|shown| shown.phase).filter(|phase| phase == "time_wait"))
    })?;
    let phase = last.unwrap_or_else(|| "another phase".to_owned());
    stage.say(format!("{} octets arrived, both closed; the firewall says {phase}", heard.len()));
    let state = if intact { "intact" } else { "damaged" };
    stage.compare(
        format!("{MEBIBYTE} octets intact, then time_wait"),
        format!("{} octets {state} in {took}, then {phase}", heard.len()),
        intact && phase == "time_wait",
    );
    Ok(())
}

/// A datagram and its answer, both families.
pub(super) fn udp(stage: &Stage) -> anyhow::Result<()> {
    let mut answered = 0;
    for family in Family::BOTH {
        let socket = traffic::udp(&stage.ground, family, ECHO)?;
        socket.send(b"anyone there?")?;
        let mut heard = [0; 64];
        if socket.recv(&mut heard).is_ok_and(|len| heard.starts_with(b"anyone there?") && len == 13) {
            answered += 1;
        }
    }
    stage.say(format!("{answered} of 2 datagrams came back"));
    stage.compare("2 of 2 datagrams answered", format!("{answered} of 2 answered"), answered == 2);
    Ok(())
}

/// The server listens there, and the firewall says no aloud.
pub(super) fn refused(stage: &Stage) -> anyhow::Result<()> {
    for family in Family::BOTH {
        let to = SocketAddr::new(family.server(), TELNET);
        let start = stage.ground.now();
        let outcome = traffic::connect(&stage.ground, to, PATIENCE)?;
        let took = stage.ground.since(start);
        let seen = match &outcome {
            Ok(_) => "connected".to_owned(),
            Err(error) => format!("{} after {}", error.kind(), seconds(took)),
        };
        stage.say(format!("connect to {to}: {seen}"));
        let refused = outcome.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
        stage.compare("connection refused at once", seen, refused && took < Duration::from_secs(1));
    }
    Ok(())
}

/// The server listens there too, and the firewall says nothing.
pub(super) fn dropped(stage: &Stage) -> anyhow::Result<()> {
    let waits = Duration::from_millis(1500);
    for family in Family::BOTH {
        let to = SocketAddr::new(family.server(), MAIL);
        let outcome = traffic::connect(&stage.ground, to, waits)?;
        let seen = match &outcome {
            Ok(_) => "connected".to_owned(),
            Err(error) => error.kind().to_string(),
        };
        stage.say(format!("connect to {to}: {seen}"));
        let silent = outcome.is_err_and(|error| error.kind() == io::ErrorKind::TimedOut);
        stage.compare(format!("no answer within {}", seconds(waits)), seen, silent);
    }
    Ok(())
}

/// A SYN whose sender never says anything again. The server alone would keep
/// its half for a minute.
pub(super) fn stalled(stage: &Stage) -> anyhow::Result<()> {
    let ground = &stage.ground;
    let forger = Forger::open(ground)?;
    for (family, port) in [(Family::V4, 41000), (Family::V6, 41001)] {
        let from = forger.syn_to(family, 5000, port, QUIET)?;
        let start = ground.now();
        let phase = ground.poll(Duration::from_secs(1), || {
            Ok(ground.connection(from)?.map(|shown| shown.phase).filter(|phase| phase == "syn_received"))
        })?;
        // The kernel's list, read while it changes, may miss one.
        let mut waiting = 0;
        ground.poll(Duration::from_secs(1), || {
            waiting = ground.server.tcp_sockets(SYN_RECV, QUIET)?;
            Ok((waiting == 1).then_some(()))
        })?;
        let phase = phase.unwrap_or_else(|| "not syn_received".to_owned());
        stage.say(format!("a SYN from {from}, then silence; firewall: {phase}; server's backlog: {waiting}"));
        let freed = ground.poll(SYN_RECEIVED * 4, || {
            Ok((ground.server.tcp_sockets(SYN_RECV, QUIET)? == 0).then(|| ground.since(start)))
        })?;
        let gone = ground.connection(from)?.is_none();
        let (seen, in_time) = match freed {
            Some(after) => (
                format!("{phase}, backlog {waiting}, freed after {}", seconds(after)),
                after > SYN_RECEIVED.mul_f64(0.8) && after < SYN_RECEIVED * 2,
            ),
            None => (format!("{phase}, backlog {waiting}, never freed"), false),
        };
        stage.say(format!("{seen}; the firewall {} it", if gone { "forgot" } else { "still lists" }));
        stage.compare(
            format!("syn_received, the server's backlog freed by RST after {}", seconds(SYN_RECEIVED)),
            seen,
            phase == "syn_received" && waiting == 1 && in_time && gone,
        );
    }
    Ok(())
}
