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
    service::{MAIL, TELNET, WEB},
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
    let (client, gateway) = (ground.client.name(), ground.gateway.name());
    let server = Family::V4.server();
    report.line(&format!("  ip netns exec {gateway} nft list table inet halfgate"))?;
    report.line(&format!("  ip netns exec {client} bash      a shell on the client; there:"))?;
    for (port, meaning) in [(WEB, "the service's port"), (TELNET, "a forbidden one"), (MAIL, "a silent one")]
    {
        report.line(&format!("    {:<30} {meaning}", format!("echo > /dev/tcp/{server}/{port}")))?;
    }
    report.line(&format!("  its rules: {}", lab.rules().display()))
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
