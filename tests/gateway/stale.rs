//! One end has forgotten the connection (RFC 9293 §3.5.1), as after a reboot, and
//! the kernel's own TCP at both ends sorts it out through the gateway.

use std::{
    io::Write as _,
    net::TcpStream,
    process::{Command, Stdio},
};

use halfgate::sys::netns::{Family, Namespace};

use crate::harness::{Gateway, SOON, accept, rules, say, wait_reset};

both_families! {
    who_opens_again_from_the_same_port_has_the_other_end_reset
    who_is_sent_data_answers_with_the_rst_that_the_other_end_needs
    the_server_may_forget_too
}

fn open() -> String {
    rules("rules: [{ name: web, from: outside, service: tcp/80, action: accept }]")
}

pub(crate) fn nft(at: &Namespace, script: &str) {
    let mut command: Command = at.command("nft");
    let mut child = command.args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("nft");
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "nft: {script}");
}

/// Has a host forget its end without a word, as if it had been switched off and on:
/// its kernel closes the socket with an RST (it has data that nobody read), and that
/// does not get out.
pub(crate) fn forget(gateway: &Gateway, at: &Namespace, end: TcpStream, mut other: &TcpStream) {
    other.write_all(b"never read").unwrap();
    gateway.eventually("it arrived", SOON, || end.peek(&mut [0; 10]).is_ok_and(|octets| octets == 10));
    nft(
        at,
        "table inet mute { chain out { type filter hook output priority 0; tcp flags & (fin|rst) != 0 drop; }; }",
    );
    drop(end);
    nft(at, "delete table inet mute");
}

/// The SYN comes again within 10 ms, and may be judged before the RST, as each has a queue of its own: what
/// became of the old connection is told in either order.
fn who_opens_again_from_the_same_port_has_the_other_end_reset(family: Family) {
    let gateway = Gateway::start(&open());
    gateway.three.client.sysctls(&[("ipv4/ip_local_port_range", "40000 40000")]).unwrap();
    let listener = gateway.listen(family, 80);
    let client = gateway.connect(family, 80);
    let (server, from) = accept(&listener);
    say(&client, &server, "before");
    assert_eq!(gateway.connection(from).unwrap()["stale"], false);
    forget(&gateway, &gateway.three.client, client, &server);
    let client = gateway.connect(family, 80);
    wait_reset(&server, SOON);
    let (server, again) = accept(&listener);
    assert_eq!(again, from, "the same port");
    say(&client, &server, "after");
    say(&server, &client, "and back");
    assert_eq!(gateway.close_reason(from), "stale: the client had forgotten it");
    assert!(
        gateway.json(&["events"]).iter().any(|event| event["event"] == "stale"),
        "it was told when it was seen"
    );
    let status = &gateway.json(&["status"])[0];
    assert_eq!((&status["stale"], &status["forgotten"]), (&0.into(), &1.into()), "{status}");
}

fn who_is_sent_data_answers_with_the_rst_that_the_other_end_needs(family: Family) {
    let gateway = Gateway::start(&open());
    let (client, mut server) = gateway.pair(family, 80);
    let from = client.local_addr().unwrap();
    say(&client, &server, "before");
    forget(&gateway, &gateway.three.client, client, &server);
    server.write_all(b"is anybody there?").unwrap();
    wait_reset(&server, SOON);
    gateway.wait_phase(from, "reset");
    let row = &gateway.connections(&["stale=yes"])[0];
    assert_eq!((&row["stale"], &row["forgotten_by"]), (&true.into(), &"client".into()), "{row}");
    assert!(gateway.connections(&["stale=no"]).is_empty());
    assert!(gateway.ok(&["connections"]).contains("reset (stale)"));
    let status = &gateway.json(&["status"])[0];
    assert_eq!((&status["stale"], &status["forgotten"]), (&1.into(), &0.into()), "{status}");
    assert!(gateway.ok(&["status"]).contains(" 1 stale"));
}

fn the_server_may_forget_too(family: Family) {
    let gateway = Gateway::start(&open());
    let (mut client, server) = gateway.pair(family, 80);
    say(&client, &server, "before");
    forget(&gateway, &gateway.three.server, server, &client);
    client.write_all(b"is anybody there?").unwrap();
    wait_reset(&client, SOON);
    gateway.eventually("it is stale by the server", SOON, || {
        let rows = gateway.connections(&["stale=yes"]);
        rows.first().is_some_and(|row| row["forgotten_by"] == "server" && row["phase"] == "reset")
    });
}
