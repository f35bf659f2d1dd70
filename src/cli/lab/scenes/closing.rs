//! Connections of which one side, or both, have said goodbye.

use std::{collections::HashSet, net::SocketAddr, time::Duration};

use super::{Stage, seconds};
use crate::{
    cli::lab::{
        service::{self, DRIP, Ended},
        traffic::{self, PATIENCE},
    },
    sys::netns::Family,
};

/// What `half_closed` is set to, live.
const HALF_CLOSED: Duration = Duration::from_secs(3);

/// `time_wait` in the lab's rules.
const TIME_WAIT: Duration = Duration::from_secs(3);

/// How many connections are closed at once.
const CLOSED: usize = 20;

/// How much later than its timer an end may come, on a busy machine.
const LATE: Duration = Duration::from_millis(2500);

/// The client says goodbye, the server neither answers nor closes. The default
/// would bear it for ten minutes; then an operator turns the timer down.
pub(super) fn silent(stage: &Stage) -> anyhow::Result<()> {
    let ground = &stage.ground;
    let stream = traffic::ask(ground, Family::V4, "hold\n", HALF_CLOSED + LATE)?;
    let from = stream.local_addr()?;
    traffic::half_close(&stream)?;
    let last_packet = ground.now();
    let shown = ground
        .poll(PATIENCE, || Ok(ground.connection(from)?.filter(|shown| shown.phase == "half_closed")))?;
    let Some(shown) = shown else {
        stage.compare("half_closed", "never half_closed", false);
        return Ok(());
    };
    stage.say(format!(
        "{from} sent its FIN, the server is silent; firewall: {}, {} ends it in {}",
        shown.phase, shown.timer, shown.expires_in
    ));
    let value = format!("{}s", HALF_CLOSED.as_secs());
    ground.ask(&["timers", "set", "half_closed", &value])?;
    stage.say(format!("halfgate timers set half_closed {value}"));
    let client = traffic::read_all(&stream);
    let after = ground.since(last_packet);
    let client = match client {
        Err(error) if service::reset(&error) => "reset".to_owned(),
        Err(error) => error.kind().to_string(),
        Ok(_) => "closed by the server".to_owned(),
    };
    let server = ground.poll(PATIENCE, || Ok(ground.service.ended(from)))?;
    let server = match server {
        Some(Ended::Reset) => "reset".to_owned(),
        Some(other) => format!("{other:?}"),
        None => "still open".to_owned(),
    };
    stage.say(format!("client: {client} after {}; server: {server}", seconds(after)));
    let in_time = after > HALF_CLOSED.mul_f64(0.8) && after < HALF_CLOSED + LATE;
    stage.compare(
        format!("set live to {value}: both ends reset {} after the last packet", seconds(HALF_CLOSED)),
        format!("client {client} after {}, server {server}", seconds(after)),
        client == "reset" && server == "reset" && in_time,
    );
    Ok(())
}

/// The client says goodbye, the server has more to say, for longer than the
/// timer: as long as it speaks, it lives.
pub(super) fn sending(stage: &Stage) -> anyhow::Result<()> {
    let ground = &stage.ground;
    let drips = 14;
    let stream = traffic::ask(ground, Family::V6, &format!("drip {drips}\n"), HALF_CLOSED)?;
    let from = stream.local_addr()?;
    traffic::half_close(&stream)?;
    let start = ground.now();
    stage.say(format!("{from} sent its FIN; the server goes on for {}", seconds(DRIP * 14)));
    let reader = std::thread::spawn(move || traffic::read_all(&stream));
    let beyond = HALF_CLOSED + HALF_CLOSED / 2;
    let phase = ground.poll(beyond * 2, || {
        let late = ground.since(start) > beyond;
        Ok(if late { Some(ground.connection(from)?.map(|shown| shown.phase)) } else { None })
    })?;
    let phase = phase.flatten().unwrap_or_else(|| "gone".to_owned());
    stage
        .say(format!("{} after the FIN, and still sending; firewall: {phase}", seconds(ground.since(start))));
    let heard = reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))?;
    let after = seconds(ground.since(start));
    let (octets, end) = match heard {
        Ok(heard) => (heard.len(), "closed in peace".to_owned()),
        Err(error) => (0, error.kind().to_string()),
    };
    stage.say(format!("{octets} of {drips} octets, {end} after {after}"));
    stage.compare(
        format!("half_closed after {}; {drips} of {drips} octets, closed in peace", seconds(beyond)),
        format!("{phase}; {octets} of {drips} octets, {end} after {after}"),
        phase == "half_closed" && octets == drips && end == "closed in peace",
    );
    Ok(())
}

/// Many connections, opened and closed: they linger, then they are gone.
pub(super) fn time_wait(stage: &Stage) -> anyhow::Result<()> {
    let ground = &stage.ground;
    let mut closed: HashSet<SocketAddr> = HashSet::new();
    for round in 0..CLOSED {
        let family = if round % 2 == 0 { Family::V4 } else { Family::V6 };
        let stream = traffic::ask(ground, family, "get 1000\n", PATIENCE)?;
        traffic::read_all(&stream)?;
        closed.insert(stream.local_addr()?);
    }
    let start = ground.now();
    let count = || -> anyhow::Result<usize> {
        let waiting = ground.connections(&["phase=time_wait"])?;
        Ok(waiting.iter().filter(|shown| closed.contains(&shown.src)).count())
    };
    let mut most = 0;
    ground.poll(Duration::from_secs(1), || {
        most = most.max(count()?);
        Ok((most == CLOSED).then_some(()))
    })?;
    stage.say(format!("{CLOSED} connections opened and closed; firewall: {most} in time_wait"));
    let gone = ground.poll(TIME_WAIT + LATE, || Ok((count()? == 0).then(|| ground.since(start))))?;
    let after = gone.map_or_else(|| "never".to_owned(), |after| format!("after {}", seconds(after)));
    stage.say(format!("all gone {after}"));
    stage.compare(
        format!("{CLOSED} in time_wait, all gone after {}", seconds(TIME_WAIT)),
        format!("{most} in time_wait, all gone {after}"),
        most == CLOSED && gone.is_some_and(|after| after > TIME_WAIT.mul_f64(0.6)),
    );
    Ok(())
}
