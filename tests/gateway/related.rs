//! Connections that the kernel's helpers announce: FTP's data connections and TFTP's
//! answers, without and through NAT. Both ends are sockets that say what FTP says,
//! line by line; the helpers are the kernel's.
//!
//! Which connection a helper's belongs to, a kernel tells if it was built with
//! `CONFIG_NETFILTER_NETLINK_GLUE_CT`, as those of distributions are; on another the
//! firewall says so at its start, and the same tests find the rules asked.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use halfgate::sys::netns::{Family, Namespace};

use crate::harness::{Gateway, SOON, accept, connect, listen, rules, say, udp};

both_families! {
    data_connections_of_ftp_have_the_rule_of_their_control_connection
    an_answer_of_tftp_comes_from_another_port
}

/// As the operator writes it (docs/RULES.md).
const HELPERS: &str = "table inet helpers {\n\
    ct helper ftp { type \"ftp\" protocol tcp; }\n\
    ct helper tftp { type \"tftp\" protocol udp; }\n\
    chain pre { type filter hook prerouting priority filter; policy accept;\n\
    tcp dport 21 ct helper set \"ftp\"\n\
    udp dport 69 ct helper set \"tftp\"\n\
    }\n\
    }\n";

fn start(more: &str) -> Gateway {
    let gateway = Gateway::start(&rules(
        "rules:\n\
         \x20 - { name: ftp, service: tcp/21, action: accept }\n\
         \x20 - { name: tftp, service: udp/69, action: accept }",
    ));
    gateway.tool("nft", &["-f", "-"], &format!("{HELPERS}{more}"));
    gateway
}

/// The part of the helper that rewrites addresses does not load by itself.
fn start_with_nat(more: &str) -> Gateway {
    // Where it is built in, or there are no modules, there is nothing to load.
    let _ = std::process::Command::new("modprobe").args(["-q", "nf_nat_ftp"]).status();
    start(more)
}

/// Whether this kernel tells.
fn tells(gateway: &Gateway) -> bool {
    !gateway.log().contains("does not tell which connection")
}

/// A control connection on which both ends have said a line: before that the helper
/// does not know where lines begin.
fn control(
    gateway: &Gateway,
    from: &Namespace,
    to: SocketAddr,
    server: &TcpListener,
) -> (TcpStream, TcpStream) {
    let client = connect(from, to, SOON).expect("a control connection");
    let (server, _) = accept(server);
    say(&server, &client, "220 ready\r\n");
    say(&client, &server, "USER somebody\r\n");
    say(&server, &client, "230 welcome\r\n");
    gateway.wait_phase(client.local_addr().unwrap(), "established");
    (client, server)
}

/// One line, which a helper may have changed.
fn line(mut from: &TcpStream, to: &TcpStream, text: &str) -> String {
    use io::{BufRead as _, Write as _};
    from.write_all(text.as_bytes()).expect("send");
    to.set_read_timeout(Some(SOON)).unwrap();
    let mut heard = String::new();
    io::BufReader::with_capacity(1, to).read_line(&mut heard).expect("hear");
    heard
}

/// `h1,h2,h3,h4,p1,p2` (RFC 959 §4.1.2).
fn commas(at: SocketAddr) -> String {
    format!("{},{},{}", at.ip().to_string().replace('.', ","), at.port() >> 8, at.port() & 255)
}

fn of_commas(text: &str) -> SocketAddr {
    let list = text
        .split(|letter: char| !(letter.is_ascii_digit() || letter == ','))
        .find(|part| part.matches(',').count() == 5)
        .unwrap_or_else(|| panic!("{text}"));
    let n: Vec<u8> = list.split(',').map(|number| number.parse().unwrap()).collect();
    SocketAddr::new(IpAddr::from([n[0], n[1], n[2], n[3]]), u16::from_be_bytes([n[4], n[5]]))
}

/// Opens an announced connection; both ends, or nothing where the kernel tells nothing.
fn data(
    gateway: &Gateway,
    from: &Namespace,
    to: SocketAddr,
    at: &TcpListener,
) -> Option<(TcpStream, TcpStream)> {
    if !tells(gateway) {
        let error = connect(from, to, Duration::from_millis(1500)).expect_err("no rule lets it in");
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        return None;
    }
    let opened = connect(from, to, SOON).expect("a data connection");
    let (accepted, _) = accept(at);
    say(&opened, &accepted, "what is in the file");
    say(&accepted, &opened, "thank you");
    let port = format!("sport={}", opened.local_addr().unwrap().port());
    let rows = gateway.connections(&[&port]);
    assert!(rows.iter().any(|row| row["rule"] == "ftp" && row["phase"] == "established"), "{rows:?}");
    Some((opened, accepted))
}

/// Both ends close, and the firewall has understood every number on the way.
fn close(gateway: &Gateway, client: TcpStream, server: TcpStream) {
    say(&client, &server, "QUIT and something more\r\n");
    say(&server, &client, "221 so long\r\n");
    let from = client.local_addr().unwrap();
    drop(client);
    gateway.wait_phase(from, "half_closed");
    drop(server);
    gateway.wait_phase(from, "time_wait");
    let status = gateway.ok(&["status", "--json"]);
    for reason in ["ack_beyond", "ack_old", "seq_beyond", "seq_old", "bad_rst"] {
        assert!(!status.contains(reason), "{status}");
    }
}

fn data_connections_of_ftp_have_the_rule_of_their_control_connection(family: Family) {
    let gateway = start("");
    let (outside, inside) = (&gateway.three.client, &gateway.three.server);
    let listener = gateway.listen(family, 21);
    let (client, server) = control(&gateway, outside, SocketAddr::new(family.server(), 21), &listener);
    // Active (RFC 2428 §2): the server comes.
    let at = listen(outside, SocketAddr::new(family.client(), 0));
    let (kind, port) = (if family == Family::V4 { 1 } else { 2 }, at.local_addr().unwrap().port());
    let told = line(&client, &server, &format!("EPRT |{kind}|{}|{port}|\r\n", family.client()));
    assert!(told.contains(&port.to_string()), "{told}");
    let active = data(&gateway, inside, at.local_addr().unwrap(), &at);
    // Passive (RFC 2428 §3): the client comes.
    let at = gateway.listen(family, 0);
    let port = at.local_addr().unwrap().port();
    line(&server, &client, &format!("229 Entering Extended Passive Mode (|||{port}|)\r\n"));
    let passive = data(&gateway, outside, at.local_addr().unwrap(), &at);
    assert_eq!((active.is_some(), passive.is_some()), (tells(&gateway), tells(&gateway)));
    close(&gateway, client, server);
}

/// The server sits behind a forwarded port: the helper writes the gateway's address
/// into what the server says.
#[test]
fn ftp_in_through_a_port_forward() {
    let gateway = start_with_nat(&format!(
        "table ip nat {{ chain pre {{ type nat hook prerouting priority dstnat; policy accept;\n\
         iifname \"outside\" ip daddr {} tcp dport 21 dnat to {}\n}}\n}}\n",
        Family::V4.outside(),
        Family::V4.server()
    ));
    let outside = &gateway.three.client;
    let listener = gateway.listen(Family::V4, 21);
    let to = SocketAddr::new(Family::V4.outside(), 21);
    let (client, server) = control(&gateway, outside, to, &listener);
    if !tells(&gateway) {
        return;
    }
    for _ in 0..3 {
        let at = gateway.listen(Family::V4, 0);
        let sent = format!("227 Entering Passive Mode ({}).\r\n", commas(at.local_addr().unwrap()));
        let told = line(&server, &client, &sent);
        assert_eq!(of_commas(&told).ip(), Family::V4.outside(), "{told}");
        assert_ne!(told.len(), sent.len());
        assert!(data(&gateway, outside, of_commas(&told), &at).is_some());
    }
    close(&gateway, client, server);
}

/// The client sits behind masquerading: the helper writes the gateway's address into
/// what the client says, and the server comes to it (active).
#[test]
fn ftp_out_through_masquerading() {
    let gateway = start_with_nat(
        "table ip nat { chain post { type nat hook postrouting priority srcnat; policy accept;\n\
         oifname \"outside\" ct direction original masquerade\n}\n}\n",
    );
    let (inside, outside) = (&gateway.three.server, &gateway.three.client);
    let listener = listen(outside, SocketAddr::new(Family::V4.client(), 21));
    let (client, server) = control(&gateway, inside, listener.local_addr().unwrap(), &listener);
    if !tells(&gateway) {
        return;
    }
    for _ in 0..3 {
        let at = listen(inside, SocketAddr::new(Family::V4.server(), 0));
        let sent = format!("PORT {}\r\n", commas(at.local_addr().unwrap()));
        let told = line(&client, &server, &sent);
        assert_eq!(of_commas(&told).ip(), Family::V4.outside(), "{told}");
        assert_ne!(told.len(), sent.len());
        assert!(data(&gateway, outside, of_commas(&told), &at).is_some());
    }
    close(&gateway, client, server);
}

/// UDP: the answer to a request for a file comes from a port of its own.
fn an_answer_of_tftp_comes_from_another_port(family: Family) {
    let gateway = start("");
    let server = udp(&gateway.three.server, SocketAddr::new(family.server(), 69));
    let another = udp(&gateway.three.server, SocketAddr::new(family.server(), 0));
    let client = udp(&gateway.three.client, SocketAddr::new(family.client(), 0));
    client.send_to(b"\x00\x01file\x00octet\x00", (family.server(), 69)).unwrap();
    let (_, from) = server.recv_from(&mut [0; 64]).expect("the request arrives");
    another.send_to(b"\x00\x03\x00\x01data", from).unwrap();
    if tells(&gateway) {
        let (len, answered) = client.recv_from(&mut [0; 64]).expect("the data arrive");
        assert_eq!((len, answered), (8, another.local_addr().unwrap()));
        // And what acknowledges them.
        client.send_to(b"\x00\x04\x00\x01", answered).unwrap();
        assert_eq!(another.recv(&mut [0; 64]).expect("acknowledged"), 4);
        let rows = gateway.connections(&[&format!("sport={}", answered.port())]);
        assert_eq!((rows.len(), &rows[0]["rule"]), (1, &"tftp".into()), "{rows:?}");
    }
    // Nobody else's answer passes.
    let stranger = udp(&gateway.three.server, SocketAddr::new(family.server(), 0));
    client.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    stranger.send_to(b"\x00\x03\x00\x01data", from).unwrap();
    assert!(client.recv(&mut [0; 16]).is_err(), "it was not announced");
}
