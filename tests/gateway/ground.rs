//! The ground under the other tests: without a firewall everything that they
//! expect to be stopped gets through, and is seen.

use halfgate::{
    sys::netns::Family,
    wire::{Flags, SeqNum},
};

use crate::harness::{Gateway, SOON, accept, rules, say, segment};

both_families! {
    without_a_firewall_connections_pass
    without_a_firewall_a_forged_syn_fills_the_backlog_and_is_seen_on_both_wires
}

fn without_a_firewall_connections_pass(family: Family) {
    let gateway = Gateway::without_firewall(&rules("rules: []"));
    for port in [23, 25, 80] {
        let listener = gateway.listen(family, port);
        let client = gateway.connect(family, port);
        let (server, from) = accept(&listener);
        assert_eq!(from, client.local_addr().unwrap());
        say(&client, &server, "there");
        say(&server, &client, "and back");
    }
    assert_eq!(gateway.kernel_rules(), "");
}

fn without_a_firewall_a_forged_syn_fills_the_backlog_and_is_seen_on_both_wires(family: Family) {
    let gateway = Gateway::without_firewall(&rules("rules: []"));
    let _listener = gateway.listen(family, 80);
    let (mut client, mut server) = (gateway.client_tap(), gateway.server_tap());
    let forger = gateway.forger();
    for source in 0..10 {
        let from = forger.syn(family, source, 4000, 80);
        let syn = server.find(SOON, |packet| packet.src == from.ip()).unwrap().expect("the SYN");
        assert_eq!(segment(&syn.packet().unwrap()).unwrap().flags, Flags::SYN);
        let answer = client.find(SOON, |packet| packet.dst == from.ip()).unwrap().expect("its answer");
        let answer = segment(&answer.packet().unwrap()).unwrap();
        assert_eq!((answer.flags, answer.ack), (Flags::SYN.with(Flags::ACK), SeqNum(1001)));
    }
    gateway.eventually("ten half-open sockets", SOON, || gateway.backlog(80) == 10);
}
