//! `--keep`: leaves the lab running with traffic to look at, until Ctrl-C.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use super::{
    TICK,
    ground::{Ground, Lab},
    report::Report,
    traffic::{self, Forger},
};
use crate::sys::netns::Family;

/// Between two rounds of traffic.
const ROUND: Duration = Duration::from_secs(2);

/// Says how to look inside, keeps traffic going, and waits for a signal.
pub(super) fn keep(lab: &Lab, report: &mut Report, interrupted: &AtomicBool) -> anyhow::Result<()> {
    let ground = lab.ground().clone();
    how_to_look_inside(lab, report)?;
    thread::spawn(move || background(&ground));
    while !interrupted.load(Ordering::Relaxed) {
        thread::sleep(TICK);
    }
    Ok(())
}

fn how_to_look_inside(lab: &Lab, report: &mut Report) -> io::Result<()> {
    let ground = lab.ground();
    let halfgate = ground.shown_command();
    report.line("")?;
    report.title(
        "It keeps running, with a little traffic, until you press Ctrl-C. In another terminal, as root:",
    )?;
    report.line(&format!("  alias hg='{halfgate}'"))?;
    for (command, meaning) in [
        ("hg connections", "what the firewall tracks"),
        ("hg status", "how it is"),
        ("hg events --follow", "what happens"),
        ("hg timers", "every timer, and where its value comes from"),
        ("hg timers set half_closed 20s", "acts on connections that exist"),
        ("hg kill phase=half_closed", "ends them with RST"),
    ] {
        report.line(&format!("  {command:<32} {meaning}"))?;
    }
    let client = ground.client.name();
    report.line(&format!(
        "  {:<32} a shell on the client; try these there:",
        format!("ip netns exec {client} bash")
    ))?;
    let server = Family::V4.server();
    report.line(&format!("  {:<32} the service's port", format!("  echo get 1000 | nc {server} 8080")))?;
    report.line(&format!("  {:<32} a forbidden one", format!("  nc -v {server} 23")))?;
    report.line(&format!(
        "  {:<32} the firewall's own table",
        format!("ip netns exec {} nft list ruleset", ground.gateway.name())
    ))?;
    report.line(&format!(
        "  its rules: {}; its files: {}",
        lab.rules().display(),
        ground.directory().display()
    ))
}

/// A short connection, a half-closed one that keeps sending, and a stalled
/// handshake every round. What fails is the person's doing, and shows in the
/// firewall's own listing.
fn background(ground: &Ground) {
    let Ok(forger) = Forger::open(ground) else { return };
    for round in 0_u16.. {
        for family in Family::BOTH {
            let _ = traffic::ask(ground, family, "get 1000\n", traffic::PATIENCE)
                .and_then(|stream| Ok(traffic::read_all(&stream)?));
            let _ = forger.syn(family, round % 1000, 4000);
        }
        if round % 10 == 0 {
            let dripping = traffic::ask(ground, Family::V4, "drip 40\n", Duration::from_secs(30));
            if let Ok(stream) = dripping {
                let _ = traffic::half_close(&stream);
                thread::spawn(move || traffic::read_all(&stream));
            }
        }
        thread::sleep(ROUND);
        if round == u16::MAX {
            return;
        }
    }
}
