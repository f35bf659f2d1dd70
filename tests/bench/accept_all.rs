//! Accepts every packet of one queue through `sys::queue` and does nothing else:
//! what our way of receiving and answering costs above `floor.c`.
//!
//! `accept_all QUEUE RANGE [--no-gso]`; ends on SIGINT or SIGTERM and prints
//! what it did.
#![allow(unsafe_code)]

use std::{
    io::Write,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use anyhow::Context;
use halfgate::sys::queue::{Answer, Queue, QueueSettings, losses};

static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn on_signal(_: libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
}

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize, what: &str| -> anyhow::Result<u32> {
        let text = arguments
            .get(at)
            .with_context(|| format!("usage: accept_all QUEUE RANGE [--no-gso]; no {what}"))?;
        text.parse().with_context(|| format!("{what} {text:?} is not a number"))
    };
    let settings = QueueSettings {
        number: u16::try_from(number(0, "QUEUE")?)?,
        copy_range: number(1, "RANGE")?,
        max_len: 20_000,
        gso: !arguments.iter().any(|argument| argument == "--no-gso"),
        conntrack: false,
        last: 0,
    };
    let handler: extern "C" fn(libc::c_int) = on_signal;
    for signal in [libc::SIGINT, libc::SIGTERM] {
        // SAFETY: the handler does nothing but store an atomic.
        unsafe { libc::signal(signal, handler as libc::sighandler_t) };
    }
    let mut queue = Queue::open(settings)?;
    let (mut packets, mut rounds, mut octets) = (0_u64, 0_u64, 0_u64);
    while !STOP.load(Ordering::Relaxed) {
        let judged = queue.serve(Duration::from_millis(500), &mut |queued, _| {
            octets += u64::from(queued.wire_len);
            Answer::Accept { mark: queued.mark }
        })?;
        packets += judged as u64;
        rounds += u64::from(judged > 0);
    }
    let lost = losses()?.into_iter().find(|loss| loss.number == queue.number());
    let mut out = std::io::stdout().lock();
    writeln!(out, "packets {packets} rounds {rounds} octets {octets} {:?} {lost:?}", queue.troubles())?;
    Ok(())
}
