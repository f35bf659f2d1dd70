//! Asymmetric paths: the client and the server have a second link, and one direction
//! passes the gateway by. `pickup: loose` follows what it sees; nothing else does.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
};

use halfgate::sys::netns::Family;

use crate::harness::{Gateway, SOON, accept, rules, s, say};

both_families! {
    only_the_client_is_seen
    only_the_server_is_seen
    a_rst_ends_what_is_seen_from_one_end
    without_loose_one_direction_opens_nothing
}

/// Which direction goes by the second link.
#[derive(Clone, Copy)]
enum Beside {
    FromServer,
    FromClient,
}

fn gateway(pickup: &str, beside: Beside) -> Gateway {
    let gateway = Gateway::start(&rules(&format!(
        "rules: [{{ name: web, from: outside, service: tcp/80, action: accept, pickup: {pickup} }}]"
    )));
    gateway.three.link_beside().expect("a second link");
    match beside {
        Beside::FromServer => gateway.three.from_server_beside(),
        Beside::FromClient => gateway.three.from_client_beside(),
    }
    .expect("a route beside the gateway");
    gateway
}

/// A million octets that know their place.
fn send_and_hear(mut from: &TcpStream, to: &TcpStream) {
    let sent: Vec<u8> = (0..1_000_000_u32).map(|at| (at % 251) as u8).collect();
    let mut hears = to.try_clone().unwrap();
    let expected = sent.clone();
    let hearer = thread::spawn(move || {
        let mut heard = vec![0; expected.len()];
        hears.read_exact(&mut heard).expect("hear");
        assert!(heard == expected);
    });
    from.write_all(&sent).expect("send");
    hearer.join().expect("all of it arrives");
}

fn live_and_close(family: Family, beside: Beside) {
    let gateway = gateway("loose", beside);
    let (client, server) = gateway.pair(family, 80);
    client.set_read_timeout(Some(s(20))).unwrap();
    let from = client.local_addr().unwrap();
    send_and_hear(&client, &server);
    send_and_hear(&server, &client);
    assert_eq!(gateway.phase(from).as_deref(), Some("established"));
    let row = gateway.connection(from).unwrap();
    let (seen, unseen) = match beside {
        Beside::FromServer => (&row["original"], &row["reply"]),
        Beside::FromClient => (&row["reply"], &row["original"]),
    };
    assert!(seen["packets"].as_u64().unwrap() > 3, "{row}");
    assert_eq!(unseen["packets"], 0, "{row}");
    // Half-closed by the client: the server goes on.
    client.shutdown(Shutdown::Write).unwrap();
    assert_eq!((&server).read(&mut [0; 1]).unwrap(), 0, "the client's FIN");
    send_and_hear(&server, &client);
    drop(server);
    assert_eq!((&client).read(&mut [0; 1]).unwrap(), 0, "the server's FIN");
    gateway.wait_phase(from, "fin_wait");
    drop(client);
    let status = gateway.json(&["status"]);
    let dropped = status.iter().any(|row| row.to_string().contains("\"seq_beyond\""));
    assert!(!dropped, "{status:?}");
}

fn only_the_client_is_seen(family: Family) {
    live_and_close(family, Beside::FromServer);
}

fn only_the_server_is_seen(family: Family) {
    live_and_close(family, Beside::FromClient);
}

fn a_rst_ends_what_is_seen_from_one_end(family: Family) {
    let gateway = gateway("loose", Beside::FromServer);
    let (client, server) = gateway.pair(family, 80);
    say(&client, &server, "there");
    say(&server, &client, "and back");
    let from = client.local_addr().unwrap();
    // Closing with something unread is an RST.
    (&server).write_all(b"unread").unwrap();
    gateway.eventually("it lies there", SOON, || client.peek(&mut [0; 8]).is_ok_and(|octets| octets > 0));
    drop(client);
    gateway.wait_phase(from, "reset");
    let start = gateway.now();
    gateway.wait_gone(from, start, s(20));
}

fn without_loose_one_direction_opens_nothing(family: Family) {
    for beside in [Beside::FromServer, Beside::FromClient] {
        let gateway = gateway("strict", beside);
        let listener = gateway.listen(family, 80);
        let client = gateway.try_connect(family, 80, s(2));
        if let Ok(client) = client {
            // The client has its SYN-ACK by the second link; its own ACK is dropped.
            let from: SocketAddr = client.local_addr().unwrap();
            (&client).write_all(b"anybody?").unwrap();
            gateway.wait_phase(from, "syn_sent");
            gateway.always("the server has no connection", s(1), || {
                listener.set_nonblocking(true).unwrap();
                listener.accept().is_err()
            });
        }
    }
    // The ground: with a loose rule the same client gets through.
    let gateway = gateway("loose", Beside::FromServer);
    let listener = gateway.listen(family, 80);
    let client = gateway.connect(family, 80);
    let (server, _) = accept(&listener);
    say(&client, &server, "there");
}
