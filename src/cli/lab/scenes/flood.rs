//! A SYN flood, and those who must not notice it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use super::{Stage, opening::SYN_RECV, seconds};
use crate::{
    cli::lab::{
        ground::Ground,
        service::{self, WEB},
        traffic::{self, Forger, PATIENCE},
    },
    sys::netns::Family,
};

/// How long the flood lasts.
const FLOOD: Duration = Duration::from_secs(5);

/// SYNs each burst brings, half of them IPv4, and the pause between bursts:
/// about 800 a second. Every one beyond the limit costs an RST to the server,
/// and the budget of those is 1000 a second.
const BURST: u16 = 8;
const PAUSE: Duration = Duration::from_millis(10);

/// `per_destination` in the lab's rules; there is one destination per family.
const LIMIT: u64 = 48;

/// One source beyond its own limit.
const PER_SOURCE: usize = 20;

/// Honest connections during the flood.
const HONEST: usize = 30;

/// `syn_received` in the lab's rules and some patience.
const AFTERWARDS: Duration = Duration::from_secs(6);

pub(super) fn flood(stage: &Stage) -> anyhow::Result<()> {
    one_source(stage)?;
    let ground = &stage.ground;
    let start = ground.now();
    let stop = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicU32::new(0));
    let sender = {
        let (forger, stop, sent) = (Forger::open(ground)?, Arc::clone(&stop), Arc::clone(&sent));
        thread::spawn(move || send(&forger, &stop, &sent))
    };
    let honest = {
        let ground = ground.clone();
        thread::spawn(move || honest(&ground))
    };
    let (mut backlog, mut embryonic) = (0_usize, 0_u64);
    while ground.since(start) < FLOOD || !honest.is_finished() {
        backlog = backlog.max(ground.server.tcp_sockets(SYN_RECV, WEB)?);
        let open = ground.half_open()?;
        embryonic = embryonic.max(open);
        stage.say(format!(
            "{} forged SYNs; half-open: {open} in the firewall, {backlog} at most on the server",
            sent.load(Ordering::Relaxed)
        ));
        thread::sleep(Duration::from_millis(500));
    }
    stop.store(true, Ordering::Relaxed);
    sender.join().map_err(|_| anyhow::anyhow!("the sender panicked"))??;
    let (served, slowest) = honest.join().map_err(|_| anyhow::anyhow!("the honest client panicked"))?;
    let sent = sent.load(Ordering::Relaxed);
    stage.say(format!(
        "the flood ends; honest clients: {served} of {HONEST} served, slowest {}",
        seconds(slowest)
    ));
    stage.compare(
        format!("{HONEST} of {HONEST} honest clients served amid the flood"),
        format!("{served} of {HONEST} amid {sent} forged SYNs, slowest {}", seconds(slowest)),
        served == HONEST && sent > 1000,
    );
    // Each family has its own destination, hence a limit of its own. A SYN-ACK
    // may be on its way while the one it displaces is still listed.
    let most = 2 * LIMIT;
    stage.compare(
        format!("never more than {most} half-open"),
        format!("at most {embryonic} in the firewall, {backlog} on the server"),
        embryonic > 0 && embryonic <= most && backlog as u64 <= most + most / 4,
    );
    let calm = ground.poll(AFTERWARDS, || {
        let quiet = ground.half_open()? == 0 && ground.server.tcp_sockets(SYN_RECV, WEB)? == 0;
        Ok(quiet.then_some(()))
    })?;
    let (open, backlog) = (ground.half_open()?, ground.server.tcp_sockets(SYN_RECV, WEB)?);
    stage.say(format!("afterwards: {open} half-open in the firewall, {backlog} on the server"));
    stage.compare(
        "afterwards none half-open, in the firewall and on the server",
        format!("{open} in the firewall, {backlog} on the server"),
        calm.is_some(),
    );
    Ok(())
}

/// A single source that opens more than its share.
fn one_source(stage: &Stage) -> anyhow::Result<()> {
    let ground = &stage.ground;
    let forger = Forger::open(ground)?;
    for port in 42000..42100 {
        forger.syn(Family::V4, 6000, port)?;
    }
    let source = format!("src={}", Family::V4.forged(6000));
    // A listing is no snapshot: while SYNs come it may have one that gives way and the one in its
    // place. So it counts as far as the next one agrees.
    let (mut last, mut most) = (0, 0);
    ground.poll(Duration::from_millis(700), || {
        let open = ground.connections(&[&source])?.len();
        most = most.max(open.min(last));
        last = open;
        Ok(None::<()>)
    })?;
    stage.say(format!("100 SYNs from one source; firewall: {most} half-open"));
    stage.compare(
        format!("{PER_SOURCE} half-open of one source that wants 100"),
        format!("{most} half-open"),
        most == PER_SOURCE,
    );
    Ok(())
}

fn send(forger: &Forger, stop: &AtomicBool, sent: &AtomicU32) -> anyhow::Result<()> {
    for number in (0_u16..4000).cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let family = if number % 2 == 0 { Family::V4 } else { Family::V6 };
        let round = sent.fetch_add(1, Ordering::Relaxed);
        let port = 20_000_u16.wrapping_add(u16::try_from(round / 4000).unwrap_or(0));
        forger.syn(family, number, port)?;
        if number % BURST == 0 {
            thread::sleep(PAUSE);
        }
    }
    Ok(())
}

/// Clients one after another, over the whole time of the flood; how many were
/// served, and how long the slowest took.
fn honest(ground: &Ground) -> (usize, Duration) {
    let (mut served, mut slowest) = (0, Duration::ZERO);
    for round in 0..HONEST {
        let family = if round % 2 == 0 { Family::V4 } else { Family::V6 };
        let start = ground.now();
        let heard = traffic::ask(ground, family, "get 1000\n", PATIENCE)
            .and_then(|stream| Ok(traffic::read_all(&stream)?));
        if heard.is_ok_and(|heard| heard == service::pattern(1000)) {
            served += 1;
        }
        slowest = slowest.max(ground.since(start));
        thread::sleep(FLOOD / 40);
    }
    (served, slowest)
}
