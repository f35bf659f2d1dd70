//! Small packets: what a verdict costs, how late a packet is by it, and how many SYNs of a
//! flood are taken.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use halfgate::{
    sys::{cpus, netns::Family, raw::RawSender},
    wire::{Flags, FourTuple, SegmentBuilder, SeqNum, build::udp},
};

use crate::{
    lab::{DISCARD, Lab, STREAM, WEB, server},
    stream::{self, Traffic},
};

/// Pairs of addresses.
const PAIRS: u16 = 64;

/// Different SYNs of a flood.
const SYNS: usize = 65_536;

/// Thousand verdicts in a second of the judge's processor time.
pub(crate) fn verdicts(lab: &Lab, seconds: u64) -> anyhow::Result<f64> {
    let (taken, busy) = (lab.taken()?, lab.guards_busy()?);
    stream::run(lab, Traffic::Udp, seconds)?;
    let (taken, busy) = (lab.taken()? - taken, lab.guards_busy()?.saturating_sub(busy));
    ensure!(!busy.is_zero(), "it took no time");
    Ok(taken as f64 / busy.as_secs_f64() / 1e3)
}

/// Thousand verdicts in a second of the judge's processor time, on datagrams of 64 pairs of
/// addresses, so that they come to all of its queues.
pub(crate) fn pairs(lab: &Lab, seconds: u64) -> anyhow::Result<f64> {
    let packets: Vec<_> = (0..PAIRS)
        .map(|number| {
            let src = Family::V4.forged(number);
            udp(FourTuple { src, src_port: 4000, dst: Family::V4.mute(), dst_port: DISCARD }, &[0; 36])
        })
        .collect();
    let sender = lab.three.client.enter(|| RawSender::open(0))?.context("open a raw socket")?;
    let (taken, busy, start) = (lab.taken()?, lab.guards_busy()?, Instant::now());
    for packet in packets.iter().cycle() {
        // A full device queue refuses some.
        let _ = sender.send(packet);
        if start.elapsed() >= Duration::from_secs(seconds) {
            break;
        }
    }
    let (taken, busy) = (lab.taken()? - taken, lab.guards_busy()?.saturating_sub(busy));
    ensure!(!busy.is_zero(), "it took no time");
    Ok(taken as f64 / busy.as_secs_f64() / 1e3)
}

/// Thousand SYNs a second that were taken from the queue, of a flood from forged sources.
pub(crate) fn flood(lab: &Lab, seconds: u64) -> anyhow::Result<f64> {
    let syns: Vec<_> = (0..SYNS)
        .map(|number| {
            // A hash, so that sources and ports come in no order.
            let [a, b, c, d] = (number as u32).wrapping_mul(0x9e37_79b9).to_be_bytes();
            let tuple = FourTuple {
                src: Family::V4.forged(u16::from_be_bytes([a, b])),
                src_port: 1024 | u16::from_be_bytes([c, d]),
                dst: Family::V4.mute(),
                dst_port: WEB,
            };
            SegmentBuilder::new(tuple).flags(Flags::SYN).seq(SeqNum(number as u32)).mss(1460).build()
        })
        .collect();
    let sender = lab.three.client.enter(|| RawSender::open(0))?.context("open a raw socket")?;
    let (taken, start) = (lab.taken()?, Instant::now());
    for syn in syns.iter().cycle() {
        // A full device queue refuses some.
        let _ = sender.send(syn);
        if start.elapsed() >= Duration::from_secs(seconds) {
            break;
        }
    }
    let (taken, took) = (lab.taken()? - taken, start.elapsed());
    Ok(taken as f64 / took.as_secs_f64() / 1e3)
}

fn first() {
    cpus::be_nice(-19).expect("the bench runs as root");
}

/// How long datagrams and their answers take, in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    /// Half of them at most.
    pub(crate) half: f64,
    /// 99 of 100.
    pub(crate) of_hundred: f64,
    /// 999 of 1,000.
    pub(crate) of_thousand: f64,
}

/// Datagrams and their answers, one after the other, both through the gateway. Their ends go
/// before everybody, as if they were not on its processors, where no gateway's are.
pub(crate) fn echoes(lab: &Lab, time: Duration) -> anyhow::Result<Times> {
    let to = SocketAddr::new(server(), STREAM);
    let echo = lab.three.server.enter(|| UdpSocket::bind(to))??;
    echo.set_read_timeout(Some(Duration::from_millis(100)))?;
    let client = lab.three.client.enter(|| UdpSocket::bind("0.0.0.0:0"))??;
    client.connect(to)?;
    client.set_read_timeout(Some(Duration::from_secs(1)))?;
    let over = AtomicBool::new(false);
    let mut times = Vec::new();
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let echo = scope.spawn(|| {
            first();
            let mut room = [0; 128];
            while !over.load(Ordering::Relaxed) {
                if let Ok((length, from)) = echo.recv_from(&mut room) {
                    let _ = echo.send_to(&room[..length], from);
                }
            }
        });
        let asks = scope.spawn(|| -> anyhow::Result<()> {
            first();
            let start = Instant::now();
            while start.elapsed() < time {
                let sent = Instant::now();
                client.send(&[0; 64])?;
                // One that is lost is later than all others.
                let _ = client.recv(&mut [0; 128]);
                times.push(sent.elapsed().as_secs_f64() * 1e6);
            }
            Ok(())
        });
        let asked = asks.join().map_err(|_| anyhow::anyhow!("the client panicked"));
        over.store(true, Ordering::Relaxed);
        echo.join().map_err(|_| anyhow::anyhow!("the echo panicked"))?;
        asked?
    })?;
    times.sort_by(f64::total_cmp);
    let at = |part: f64| times.get((times.len() as f64 * part) as usize).copied().context("no answers");
    Ok(Times { half: at(0.5)?, of_hundred: at(0.99)?, of_thousand: at(0.999)? })
}
