//! How a connection begins: well, or in any of the ways of RFC 9293 §3.5.

use halfgate::wire::SeqNum;

use super::{ACK, End, FIN_ACK, RST, RST_ACK, SYN, SYN_ACK, Side, Teller};

impl Teller {
    pub(super) fn syn(&mut self, from: Side, note: &'static str) {
        let iss = self.end(from).iss;
        let segment = self.make(from, SYN, iss, 0);
        self.end(from).next = iss.plus(1);
        self.send(from, segment, note);
    }

    pub(super) fn syn_ack(&mut self, from: Side, note: &'static str) {
        let iss = self.end(from).iss;
        let segment = self.make(from, SYN_ACK, iss, 0);
        self.end(from).next = iss.plus(1);
        self.send(from, segment, note);
        self.scales = self.ends.iter().all(|end| end.shift.is_some());
    }

    pub(super) fn ack(&mut self, from: Side, note: &'static str) {
        let next = self.end(from).next;
        let segment = self.make(from, ACK, next, 0);
        self.send(from, segment, note);
    }

    pub(super) fn handshake(&mut self) {
        self.syn(Side::Client, "SYN");
        self.syn_ack(Side::Server, "SYN-ACK");
        if self.rng.percent(5) {
            self.syn(Side::Client, "SYN again");
        }
        if self.rng.percent(8) {
            self.syn_ack(Side::Server, "SYN-ACK again");
        }
        if self.rng.percent(2) {
            self.data(Side::Server, "data before the last ACK");
        }
        if self.rng.percent(93) {
            self.ack(Side::Client, "the last ACK");
        }
    }

    pub(super) fn open(&mut self) {
        let (client, server) = (Side::Client, Side::Server);
        match self.rng.range(0, 99) {
            0..=59 => self.handshake(),
            60..=63 => {
                self.syn(client, "SYN");
                self.refuse();
                if self.rng.percent(50) {
                    self.syn(client, "SYN after it was refused");
                }
            }
            64..=68 => self.begin_anew(),
            69..=73 => self.open_both_ways(),
            74..=78 => self.split(),
            79..=83 => self.fast_open(),
            84..=87 => self.meet_an_old_connection(),
            88..=91 => self.meet_an_old_syn_ack(),
            92..=94 => {
                let from = self.side();
                let flags = self.rng.pick(&[ACK, FIN_ACK, RST, RST_ACK, SYN_ACK]);
                let (seq, len) = (self.end(from).iss, self.rng.pick(&[0, 100]));
                let segment = self.make(from, flags, seq, len);
                self.forge(from, segment, "out of the blue");
                self.handshake();
            }
            95..=97 => {
                self.syn(client, "SYN");
                self.syn_ack(server, "SYN-ACK");
                let iss = SeqNum(self.rng.number());
                let old = *self.end(server);
                *self.end(server) = End { iss, next: iss, una: iss, ..old };
                self.syn_ack(server, "SYN-ACK of another instance");
                self.ack(client, "the last ACK");
            }
            _ => {
                self.syn(client, "SYN");
                let flags = self.rng.pick(&[RST, RST_ACK]);
                let next = self.end(client).next;
                let segment = self.make(client, flags, next, 0);
                self.send(client, segment, "the opener gives up");
                if self.rng.percent(50) {
                    self.handshake();
                }
            }
        }
    }

    fn refuse(&mut self) {
        let mut segment = self.make(Side::Server, RST_ACK, SeqNum(0), 0);
        segment.window = 0;
        let next = self.end(Side::Client).next;
        segment.ack = next;
        let note = match self.rng.range(0, 9) {
            0 => {
                segment.ack = next.plus(self.rng.pick(&[1, 1000]));
                "an RST that acknowledges what was not sent"
            }
            1 => {
                segment.flags = RST;
                "an RST that acknowledges nothing"
            }
            2 => {
                segment.seq = SeqNum(self.rng.number());
                "refused, with a sequence number"
            }
            _ => "refused",
        };
        self.forge(Side::Server, segment, note);
    }

    fn begin_anew(&mut self) {
        self.syn(Side::Client, "SYN");
        let first = *self.end(Side::Client);
        let ahead = self.rng.pick(&[1, 64_000, 1 << 20, 1 << 31, u32::MAX - 1000]);
        let iss = first.iss.plus(ahead);
        *self.end(Side::Client) = End { iss, next: iss, una: iss, limit: iss, ..first };
        self.syn(Side::Client, "SYN with another number");
        if self.rng.percent(30) {
            self.end(Side::Server).rcv = first.next;
            *self.end(Side::Client) = first;
        }
        self.syn_ack(Side::Server, "SYN-ACK");
        self.ack(Side::Client, "the last ACK");
    }

    fn open_both_ways(&mut self) {
        self.syn(Side::Client, "SYN");
        self.syn(Side::Server, "the other end's SYN");
        let first = self.side();
        for side in [first, first.other()] {
            if self.rng.percent(85) {
                self.syn_ack(side, "SYN-ACK to a SYN");
            } else {
                self.ack(side, "ACK to a SYN");
            }
        }
        self.scales = self.ends.iter().all(|end| end.shift.is_some());
        for side in [first, first.other()] {
            if self.rng.percent(60) {
                self.ack(side, "ACK to the SYN-ACK");
            }
        }
    }

    /// The handshake that a server answers with an ACK or nothing, and a SYN of its own.
    fn split(&mut self) {
        self.syn(Side::Client, "SYN");
        if self.rng.percent(60) {
            self.ack(Side::Server, "ACK alone (split handshake)");
        }
        self.syn(Side::Server, "SYN (split handshake)");
        if self.rng.percent(80) {
            self.syn_ack(Side::Client, "SYN-ACK (split handshake)");
        } else {
            self.ack(Side::Client, "ACK (split handshake)");
        }
        if self.rng.percent(40) {
            self.syn_ack(Side::Server, "SYN-ACK (split handshake)");
        }
        self.scales = self.ends.iter().all(|end| end.shift.is_some());
        self.ack(Side::Server, "ACK (split handshake)");
        self.ack(Side::Client, "ACK (split handshake)");
    }

    fn fast_open(&mut self) {
        let iss = self.end(Side::Client).iss;
        let len = self.rng.pick(&[0, 1, 500, 1420]);
        let mut segment = self.make(Side::Client, SYN, iss, len);
        segment.options.fast_open = true;
        let taken = self.rng.percent(70);
        self.end(Side::Client).next = iss.plus(1 + len);
        self.send(Side::Client, segment, "SYN with data");
        if !taken {
            self.end(Side::Server).rcv = iss.plus(1);
            self.end(Side::Client).next = iss.plus(1);
        }
        self.syn_ack(Side::Server, "SYN-ACK");
        if self.rng.percent(60) {
            self.data(Side::Server, "data before the last ACK");
        }
        if !taken {
            self.data(Side::Client, "the SYN's data again");
        }
        self.ack(Side::Client, "the last ACK");
    }

    fn meet_an_old_connection(&mut self) {
        self.syn(Side::Client, "SYN");
        let old = SeqNum(self.rng.number());
        let seq = SeqNum(self.rng.number());
        let mut challenge = self.make(Side::Server, ACK, seq, 0);
        challenge.ack = old;
        self.forge(Side::Server, challenge, "ACK of an old connection");
        let mut rst = self.make(Side::Client, RST, old, 0);
        rst.window = 0;
        self.forge(Side::Client, rst, "RST to it");
        self.handshake();
    }

    fn meet_an_old_syn_ack(&mut self) {
        self.syn(Side::Client, "SYN");
        let next = self.end(Side::Client).next;
        let iss = SeqNum(self.rng.number());
        let mut old = self.make(Side::Server, SYN_ACK, iss, 0);
        old.ack = next.plus(self.rng.pick(&[1, 1000, 1 << 31, u32::MAX - 5000]));
        self.forge(Side::Server, old, "SYN-ACK to an old SYN");
        let rst = self.make(Side::Client, RST, old.ack, 0);
        self.send(Side::Client, rst, "RST to it");
        self.syn_ack(Side::Server, "SYN-ACK");
        self.ack(Side::Client, "the last ACK");
    }
}
