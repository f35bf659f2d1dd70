//! Sends what the engine asks for: RSTs and keepalives to both ends of connections, and
//! challenges to those who begin one.
//!
//! A raw packet must carry the addresses that its receiver's packets carry before
//! NAT: then the kernel translates it like any other packet of the connection,
//! both ends get it, and conntrack closes. The hooks show addresses after DNAT
//! and before SNAT, so both tuples are asked for over ctnetlink.

use std::{
    io,
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::Duration,
};

use super::{
    log,
    shared::{Forgets, Pulse, Shared, Tally},
};
use crate::{
    conntrack::Flow,
    engine::Transmit,
    policy::Marks,
    sys::{
        ctnetlink::{Ctnetlink, Tuples},
        raw::RawSender,
    },
    wire::{Flags, FourTuple, RawPacket, SegmentBuilder, build},
};

/// How long it waits before it looks whether it should go home.
const TURN: Duration = Duration::from_millis(200);

/// How many are taken at once.
const BATCH: usize = 256;

/// The kernel, as the sender needs it.
pub trait Kernel {
    /// A batch begins: what it concerns is in the kernel's table by now.
    fn begin(&mut self);

    /// Both tuples of a connection.
    ///
    /// # Errors
    /// The kernel's word.
    fn lookup(&mut self, flow: &Flow) -> io::Result<Option<Tuples>>;

    /// Has a connection's packets come to the queue again.
    ///
    /// # Errors
    /// The kernel's word.
    fn release(&mut self, flow: &Flow) -> io::Result<bool>;

    /// Sends a packet.
    ///
    /// # Errors
    /// The kernel's word.
    fn send(&mut self, packet: &RawPacket) -> io::Result<()>;

    /// Sends a packet as it is: the kernel's conntrack does not see it.
    ///
    /// # Errors
    /// The kernel's word.
    fn send_untracked(&mut self, packet: &RawPacket) -> io::Result<()>;
}

/// The real one.
#[derive(Debug)]
pub struct RealKernel {
    conntrack: Ctnetlink,
    raw: RawSender,
    untracked: RawSender,
    /// The bit of the conntrack mark that lets a connection ride.
    fast: u32,
}

impl RealKernel {
    /// Opens the sockets; packets bear these marks.
    ///
    /// # Errors
    /// The kernel's word.
    pub fn open(marks: Marks) -> io::Result<Self> {
        Ok(Self {
            conntrack: Ctnetlink::open()?,
            raw: RawSender::open(marks.own())?,
            untracked: RawSender::open(marks.own_untracked())?,
            fast: marks.fast(),
        })
    }
}

impl Kernel for RealKernel {
    fn begin(&mut self) {
        self.conntrack.begin_batch();
    }

    fn lookup(&mut self, flow: &Flow) -> io::Result<Option<Tuples>> {
        self.conntrack.lookup(flow)
    }

    fn release(&mut self, flow: &Flow) -> io::Result<bool> {
        self.conntrack.unmark(flow, self.fast)
    }

    fn send(&mut self, packet: &RawPacket) -> io::Result<()> {
        self.raw.send(packet)
    }

    fn send_untracked(&mut self, packet: &RawPacket) -> io::Result<()> {
        self.untracked.send(packet)
    }
}

/// Sends until everybody goes home, and what waits then too: connections that
/// were killed just before deserve their RST.
///
/// # Errors
/// None; what the kernel refuses is counted.
pub fn run(
    shared: &Shared,
    inbox: &Receiver<Transmit>,
    kernel: &mut dyn Kernel,
    forgets: &Forgets,
    pulse: &Pulse,
) -> Result<(), String> {
    let mut complained = false;
    loop {
        pulse.beat();
        match inbox.recv_timeout(TURN) {
            Ok(first) => {
                let batch: Vec<_> = std::iter::once(first).chain(inbox.try_iter().take(BATCH)).collect();
                kernel.begin();
                for transmit in batch {
                    if let Transmit::Forget { flow } = transmit {
                        // Its RSTs came before it.
                        forgets.pass(flow, &shared.tally);
                        continue;
                    }
                    let sent = send(&transmit, kernel, &shared.tally);
                    let Err(error) = sent else { continue };
                    Tally::count(&shared.tally.send_failed);
                    // The first one is worth a line, the rest are counted.
                    if !std::mem::replace(&mut complained, true) {
                        log::warning(format_args!("the kernel refused to send {transmit:?}: {error}"));
                    }
                }
            }
            Err(RecvTimeoutError::Timeout) if shared.stopping() => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

fn send(transmit: &Transmit, kernel: &mut dyn Kernel, tally: &Tally) -> io::Result<()> {
    match transmit {
        // Past the kernel's translation of numbers, and so of addresses too.
        Transmit::Reset { tuple, seq, ack, untranslated: true, .. } => {
            kernel.send_untracked(&build::tcp(*tuple, *seq, *ack, Flags::RST, 0))?;
            Tally::count(&tally.rst_sent);
        }
        Transmit::Reset { flow, tuple, seq, ack, .. } => {
            let tuple = before_nat(flow, *tuple, tuples_of(flow, kernel, tally));
            let packet = build::tcp(tuple, *seq, *ack, Flags::RST, 0);
            kernel.send(&packet)?;
            Tally::count(&tally.rst_sent);
        }
        Transmit::Keepalive { flow, tuple, keepalive } => {
            let tuple = before_nat(flow, *tuple, tuples_of(flow, kernel, tally));
            // Its receiver answers before it looks at the window (RFC 9293 §3.10.7.4),
            // and the peer's is not known: this one promises nothing.
            let mut segment = SegmentBuilder::new(tuple).seq(keepalive.seq).ack(keepalive.ack).window(0);
            if let Some((value, echo)) = keepalive.timestamps {
                segment = segment.timestamps(value, echo);
            }
            if keepalive.has_octet {
                segment = segment.payload(&[0]);
            }
            kernel.send(&segment.build())?;
            Tally::count(&tally.keepalives_sent);
        }
        Transmit::Acknowledge { flow, tuple, seq, ack, window, timestamps } => {
            let tuple = before_nat(flow, *tuple, tuples_of(flow, kernel, tally));
            let mut segment = SegmentBuilder::new(tuple).seq(*seq).ack(*ack).window(*window);
            if let Some((value, echo)) = timestamps {
                segment = segment.timestamps(*value, *echo);
            }
            kernel.send(&segment.build())?;
        }
        Transmit::Challenge { tuple, seq, ack } => {
            let mut packet = RawPacket { bytes: Vec::new() };
            build::opening(*tuple, *seq, Some(*ack), &mut packet.bytes);
            // Who forges sources forges some without a route.
            let sent = kernel.send(&packet).is_ok();
            Tally::count(if sent { &tally.challenges_sent } else { &tally.challenges_failed });
        }
        // The forgetter's, and the asker's.
        Transmit::Forget { .. } | Transmit::Ask { .. } => {}
        Transmit::Release { flow } => drop(kernel.release(flow)?),
    }
    Ok(())
}

fn tuples_of(flow: &Flow, kernel: &mut dyn Kernel, tally: &Tally) -> Option<Tuples> {
    kernel.lookup(flow).unwrap_or_else(|_| {
        Tally::count(&tally.lookup_failed);
        None
    })
}

/// The addresses that an RST or a keepalive must carry on its way into the kernel: as the
/// packets of the end that it speaks for arrive.
fn before_nat(flow: &Flow, tuple: FourTuple, tuples: Option<Tuples>) -> FourTuple {
    let Some(tuples) = tuples else { return tuple };
    // It speaks for the client if its source is the flow's source.
    let speaks_for_client = tuple.src == flow.src && tuple.src_port == flow.src_port;
    let from = if speaks_for_client { tuples.original } else { tuples.reply };
    FourTuple { src: from.src, src_port: from.src_port, dst: from.dst, dst_port: from.dst_port }
}

#[cfg(test)]
mod tests {
    use std::sync::{atomic::Ordering, mpsc::sync_channel};

    use super::*;
    use crate::{
        conntrack::keepalive::Keepalive,
        policy::Hook,
        wire::{Checksums, SeqNum, Transport, parse},
    };

    const CLIENT: &str = "192.168.10.20";
    const SERVER: &str = "198.51.100.7";
    const OUTSIDE: &str = "203.0.113.1";

    /// Remembers what it was asked, in order.
    #[derive(Default)]
    struct Fake {
        tuples: Option<Tuples>,
        refuses: bool,
        said: Vec<String>,
    }

    impl Kernel for Fake {
        fn send_untracked(&mut self, packet: &RawPacket) -> io::Result<()> {
            self.said.push("past conntrack".to_owned());
            self.send(packet)
        }

        fn begin(&mut self) {
            self.said.push("begin".to_owned());
        }

        fn lookup(&mut self, _: &Flow) -> io::Result<Option<Tuples>> {
            Ok(self.tuples)
        }

        fn release(&mut self, flow: &Flow) -> io::Result<bool> {
            self.said.push(format!("release {flow}"));
            Ok(true)
        }

        fn send(&mut self, packet: &RawPacket) -> io::Result<()> {
            if self.refuses {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            let parsed = parse(&packet.bytes, packet.bytes.len() as u32, Checksums::Verify).unwrap();
            let Transport::Tcp(segment) = parsed.transport else { panic!("not TCP") };
            let path = format!(
                "{}:{} > {}:{} seq {}",
                parsed.src, segment.src_port, parsed.dst, segment.dst_port, segment.seq
            );
            self.said.push(if segment.flags.contains(Flags::RST) {
                format!("rst {path}")
            } else {
                assert_eq!(segment.flags, Flags::ACK);
                assert_eq!(segment.payload_len > 0, segment.options.timestamps.is_some());
                format!("keepalive {path} ack {} {:?}", segment.ack, segment.options.timestamps)
            });
            Ok(())
        }
    }

    #[test]
    fn masquerade_is_undone_on_the_way_to_both_ends() {
        // Client 192.168.10.20:4000 leaves as 203.0.113.1:61000.
        let inside = Flow::tcp(CLIENT, 4000, SERVER, 80);
        let tuples = Tuples { original: inside, reply: Flow::tcp(SERVER, 80, OUTSIDE, 61000) };
        let toward_server = before_nat(&inside, inside.tuple(), Some(tuples));
        assert_eq!(toward_server, inside.tuple());
        let toward_client = before_nat(&inside, inside.reversed().tuple(), Some(tuples));
        assert_eq!(toward_client, Flow::tcp(SERVER, 80, OUTSIDE, 61000).tuple());
    }

    #[test]
    fn a_port_forward_is_undone_on_the_way_to_both_ends() {
        // A stranger asks 203.0.113.1:8080, the forward hook shows 192.168.10.20:80.
        let shown = Flow::tcp(SERVER, 4000, CLIENT, 80);
        let original = Flow::tcp(SERVER, 4000, OUTSIDE, 8080);
        let tuples = Tuples { original, reply: Flow::tcp(CLIENT, 80, SERVER, 4000) };
        assert_eq!(before_nat(&shown, shown.tuple(), Some(tuples)), original.tuple());
        assert_eq!(before_nat(&shown, shown.reversed().tuple(), Some(tuples)), tuples.reply.tuple());
    }

    #[test]
    fn without_an_entry_the_addresses_stay() {
        let shown = Flow::tcp(CLIENT, 4000, SERVER, 80);
        assert_eq!(before_nat(&shown, shown.reversed().tuple(), None), shown.reversed().tuple());
    }

    fn shared() -> Shared {
        crate::daemon::shared::tests::shared()
    }

    /// Sends what waits; what the forgetter has got then.
    fn send_all(shared: &Shared, inbox: &Receiver<Transmit>, kernel: &mut Fake) -> Vec<Flow> {
        let (forgets, forgotten) = sync_channel(8);
        run(shared, inbox, kernel, &Forgets::new(forgets), &Pulse::new("sender".to_owned())).unwrap();
        forgotten.try_iter().collect()
    }

    #[test]
    fn rsts_go_to_both_ends_before_the_forgetter_hears_of_it() {
        let shared = shared();
        let (into, inbox) = sync_channel(8);
        let flow = Flow::tcp(CLIENT, 4000, SERVER, 80);
        for tuple in [flow.tuple(), flow.reversed().tuple()] {
            let (seq, hook) = (SeqNum(7), Hook::Forward);
            into.send(Transmit::Reset { flow, tuple, seq, ack: None, hook, untranslated: false }).unwrap();
        }
        into.send(Transmit::Forget { flow }).unwrap();
        drop(into);
        let mut kernel = Fake::default();
        let forgotten = send_all(&shared, &inbox, &mut kernel);
        assert_eq!(
            kernel.said,
            [
                "begin",
                "rst 192.168.10.20:4000 > 198.51.100.7:80 seq 7",
                "rst 198.51.100.7:80 > 192.168.10.20:4000 seq 7",
            ]
        );
        assert_eq!(shared.tally.rst_sent.load(Ordering::Relaxed), 2);
        assert_eq!(forgotten, [flow], "handed on when its RSTs are sent");
        assert_eq!(shared.tally.forgets_waiting.load(Ordering::Relaxed), 1);
        assert_eq!(shared.tally.send_failed.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_keepalive_has_the_addresses_before_nat_too() {
        let shared = shared();
        let (into, inbox) = sync_channel(8);
        let inside = Flow::tcp(CLIENT, 4000, SERVER, 80);
        let (seq, ack) = (SeqNum(6), SeqNum(9));
        for (from, timestamps) in [(inside, None), (inside.reversed(), Some((70, 40)))] {
            let keepalive = Keepalive { seq, ack, timestamps, has_octet: timestamps.is_some() };
            into.send(Transmit::Keepalive { flow: inside, tuple: from.tuple(), keepalive }).unwrap();
        }
        drop(into);
        let tuples = Tuples { original: inside, reply: Flow::tcp(SERVER, 80, OUTSIDE, 61000) };
        let mut kernel = Fake { tuples: Some(tuples), ..Fake::default() };
        assert!(send_all(&shared, &inbox, &mut kernel).is_empty());
        assert_eq!(
            kernel.said,
            [
                "begin",
                "keepalive 192.168.10.20:4000 > 198.51.100.7:80 seq 6 ack 9 None",
                "keepalive 198.51.100.7:80 > 203.0.113.1:61000 seq 6 ack 9 Some((70, 40))",
            ]
        );
        assert_eq!(shared.tally.keepalives_sent.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn what_the_kernel_refuses_is_counted() {
        let shared = shared();
        let (into, inbox) = sync_channel(8);
        let flow = Flow::tcp(CLIENT, 4000, SERVER, 80);
        let (seq, hook) = (SeqNum(7), Hook::Forward);
        into.send(Transmit::Reset { flow, tuple: flow.tuple(), seq, ack: None, hook, untranslated: false })
            .unwrap();
        drop(into);
        let mut kernel = Fake { refuses: true, ..Fake::default() };
        assert!(send_all(&shared, &inbox, &mut kernel).is_empty());
        assert_eq!(shared.tally.rst_sent.load(Ordering::Relaxed), 0);
        assert_eq!(shared.tally.send_failed.load(Ordering::Relaxed), 1);
    }
}
