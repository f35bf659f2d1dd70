//! Scripted peers against the kernel's own TCP through the gateway: what only a real
//! stack shows. How a script reads: [`crate::player`].

use halfgate::sys::netns::Family;

use crate::{
    harness::{Gateway, rules},
    player::{Kernel, Script, play},
};

both_families! {
    handshakes
    fast_open
    resets
    closing
    time_wait_is_left_by_what_is_newer
    data
}

fn run(family: Family, scripts: &[Script]) {
    let gateway = Gateway::start(&rules(
        "timers: { reset: 2s }\nrules: [{ name: all, from: outside, action: accept, inspect: full }]",
    ));
    for host in [&gateway.three.client, &gateway.three.server] {
        // Both a client and a server of Fast Open (RFC 7413).
        host.sysctls(&[("ipv4/tcp_fastopen", "3")]).unwrap();
    }
    play(&gateway, family, scripts);
}

/// The player notices what is not as the script says.
#[test]
#[should_panic(expected = "step 2")]
fn a_script_that_is_wrong_fails() {
    let steps = "peer   S 0 mss=1400
                 kernel S. 0 ack=2";
    run(Family::V4, &[listener("wrong", steps)]);
}

const fn client(name: &'static str, steps: &'static str) -> Script {
    Script { name, kernel: Kernel::Client, before: "", steps }
}

/// The kernel is the server and has accepted the peer's connection.
const fn server(name: &'static str, steps: &'static str) -> Script {
    let before = "peer   S 0 mss=1400
                  kernel S. 0 ack=1
                  peer   . 1 ack=1
                  app    accept
                  phase  established";
    Script { name, kernel: Kernel::Server, before, steps }
}

/// The kernel is the server, from the peer's SYN on.
const fn listener(name: &'static str, steps: &'static str) -> Script {
    Script { name, kernel: Kernel::Server, before: "", steps }
}

/// RFC 9293 §3.5, figures 7 to 9; §3.10.7.3.
fn handshakes(family: Family) {
    run(
        family,
        &[
            client(
                "an old SYN-ACK is answered with an RST, and the new one counts",
                "
            app    connect
            kernel S 0
            peer   S. 5000 ack=77777
            kernel R 77777
            phase  syn_sent
            peer   S. 0 ack=1 mss=1400
            kernel . 1 ack=1
            phase  established",
            ),
            client(
                "a refusal must acknowledge the SYN",
                "
            app    connect
            kernel S 0
            peer   R. 0 ack=500 dropped=bad_rst
            peer   R. 0 ack=1
            app    refused
            phase  reset",
            ),
            client(
                "both open at once",
                "
            app    connect
            kernel S 0
            peer   S 0 mss=1400
            kernel S. 0 ack=1
            phase  syn_received
            peer   S. 0 ack=1 mss=1400
            phase  established
            app    send 5
            kernel P. 1+5 ack=1
            peer   . 1 ack=6
            peer   P. 1+3 ack=6
            kernel . 6 ack=4
            app    read 3",
            ),
            client(
                "a split handshake: the ACK, then the SYN",
                "
            app    connect
            kernel S 0
            peer   . 1 ack=1
            peer   S 0 mss=1400
            kernel S. 0 ack=1
            peer   . 1 ack=1
            phase  established
            app    send 5
            kernel P. 1+5 ack=1
            peer   . 1 ack=6",
            ),
            client(
                "a SYN that is lost comes again",
                "
            app    connect
            kernel S 0
            kernel S 0
            peer   S. 0 ack=1 mss=1400
            kernel . 1 ack=1
            phase  established",
            ),
            listener(
                "a SYN-ACK that is lost comes again",
                "
            peer   S 0 mss=1400
            kernel S. 0 ack=1
            kernel S. 0 ack=1
            peer   S 0 mss=1400
            kernel S. 0 ack=1
            peer   . 1 ack=1
            app    accept
            phase  established",
            ),
        ],
    );
}

/// RFC 7413 §3, §4.2.
fn fast_open(family: Family) {
    run(
        family,
        &[
            listener(
                "a cookie is asked for, and buys data in the SYN",
                "
            peer   S 0 mss=1400 fo
            kernel S. 0 ack=1 fo
            peer   . 1 ack=1
            app    accept
            next
            peer   S 0+10 mss=1400 fo=cookie
            kernel S. 0 ack=11
            app    accept
            app    read 10
            phase  syn_received
            app    send 20
            kernel P. 1+20 ack=11
            peer   . 11 ack=21
            phase  established",
            ),
            listener(
                "a wrong cookie buys nothing",
                "
            peer   S 0+10 mss=1400 fo=abcdefgh
            kernel S. 0 ack=1 fo
            peer   . 1 ack=1
            peer   P. 1+10 ack=1
            kernel . 1 ack=11
            app    accept
            app    read 10
            phase  established",
            ),
            client(
                "the kernel uses its cookie: taken; not taken; crossing",
                "
            app    fastopen
            kernel S 0 fo
            peer   S. 0 ack=1 mss=1400 fo=abcdefgh
            kernel . 1 ack=1
            app    close
            kernel F. 1 ack=1
            peer   F. 1 ack=2
            kernel . 2 ack=2
            phase  time_wait
            next
            app    fastopen
            app    send 10
            kernel S 0+10 fo
            peer   S. 0 ack=11 mss=1400
            kernel . 11 ack=1
            phase  established
            next
            app    fastopen
            app    send 10
            kernel S 0+10 fo
            peer   S. 0 ack=1 mss=1400
            kernel P. 1+10 ack=1
            peer   . 1 ack=11
            phase  established
            next
            app    fastopen
            app    send 10
            kernel S 0+10 fo
            peer   S 0+4 mss=1400
            kernel S. 0 ack=1
            peer   S. 0 ack=11 mss=1400
            kernel . 11 ack=1
            peer   P. 1+4 ack=11
            kernel . 11 ack=5
            app    read 4
            phase  established",
            ),
        ],
    );
}

/// RFC 5961 §3, §4; RFC 9293 §3.5.1.
fn resets(family: Family) {
    run(
        family,
        &[
            server(
                "in the window, not exact: challenged, and the connection lives",
                "
            peer   R 50
            kernel . 1 ack=1
            phase  established
            peer   P. 1+5 ack=1
            kernel . 1 ack=6
            app    read 5
            phase  established",
            ),
            server(
                "outside the window: dropped",
                "
            peer   R 9000000 dropped=bad_rst
            peer   R -900000 dropped=bad_rst
            peer   P. 1+5 ack=1
            kernel . 1 ack=6
            app    read 5
            phase  established",
            ),
            server(
                "exact: the end",
                "
            peer   R 1
            app    reset
            phase  reset
            closed rst from client",
            ),
            server(
                "a forged SYN is challenged, and the living peer says nothing to that",
                "
            peer   S 100000 mss=1400
            kernel . 1 ack=1
            phase  established
            peer   P. 1+5 ack=1
            kernel . 1 ack=6
            app    read 5",
            ),
            server(
                "the peer has crashed: its SYN, the challenge, its RST, and again its SYN",
                "
            peer   P. 1+5 ack=1
            kernel . 1 ack=6
            peer   S 100000 mss=1400
            kernel . 1 ack=6
            peer   R 6
            app    reset
            phase  reset
            anew
            peer   S 100000 mss=1400
            kernel S. 0 ack=100001
            peer   . 100001 ack=1
            app    accept
            phase  established",
            ),
        ],
    );
}

/// RFC 9293 §3.6.
fn closing(family: Family) {
    run(
        family,
        &[
            server(
                "both close at once",
                "
            app    close
            kernel F. 1 ack=1
            peer   F. 1 ack=1
            kernel . 2 ack=2
            phase  closing
            peer   . 2 ack=2
            phase  time_wait",
            ),
            server(
                "a FIN that is lost comes again, and so does the other",
                "
            app    close
            kernel F. 1 ack=1
            kernel F. 1 ack=1
            phase  fin_wait
            peer   . 1 ack=2
            phase  half_closed
            peer   F. 1 ack=2
            kernel . 2 ack=2
            phase  time_wait
            peer   F. 1 ack=2
            kernel . 2 ack=2
            phase  time_wait",
            ),
            server(
                "the peer has closed and still hears; the last ACK is lost",
                "
            peer   F. 1 ack=1
            kernel . 1 ack=2
            app    eof
            phase  half_closed
            app    send 10
            kernel P. 1+10 ack=2
            peer   . 2 ack=11
            phase  half_closed
            app    close
            kernel F. 11 ack=2
            kernel F. 11 ack=2
            phase  closing
            peer   . 2 ack=12
            phase  time_wait",
            ),
            server(
                "the kernel has closed and still hears",
                "
            app    shutdown
            kernel F. 1 ack=1
            peer   . 1 ack=2
            phase  half_closed
            peer   P. 1+10 ack=2
            kernel . 2 ack=11
            app    read 10
            phase  half_closed
            peer   F. 11 ack=2
            kernel . 2 ack=12
            app    eof
            phase  time_wait",
            ),
        ],
    );
}

/// RFC 9293 §3.6.1, RFC 6191 §2.
fn time_wait_is_left_by_what_is_newer(family: Family) {
    run(
        family,
        &[
            server(
                "by its number; not by an older one",
                "
            app    close
            kernel F. 1 ack=1
            peer   F. 1 ack=2
            kernel . 2 ack=2
            phase  time_wait
            peer   S -5000 mss=1400
            kernel . 2 ack=2
            phase  time_wait
            anew
            peer   S 100000 mss=1400
            kernel S. 0 ack=100001
            peer   . 100001 ack=1
            app    accept
            phase  established",
            ),
            listener(
                "by its timestamp",
                "
            peer   S 0 mss=1400 ts=1000
            kernel S. 0 ack=1
            peer   . 1 ack=1 ts=1001
            app    accept
            app    close
            kernel F. 1 ack=1
            peer   F. 1 ack=2 ts=1002
            kernel . 2 ack=2
            phase  time_wait
            anew
            peer   S -5000 mss=1400 ts=2000
            kernel S. 0 ack=-4999
            peer   . -4999 ack=1 ts=2001
            app    accept
            phase  established",
            ),
        ],
    );
}

/// RFC 9293 §3.8, RFC 1122 §4.2.3.6.
fn data(family: Family) {
    run(
        family,
        &[
            server(
                "what is lost comes again, either way",
                "
            app    send 5
            kernel P. 1+5 ack=1
            kernel P. 1+5 ack=1
            peer   . 1 ack=6
            peer   P. 1+5 ack=6
            kernel . 6 ack=6
            peer   P. 1+5 ack=6
            kernel . 6 ack=6
            app    read 5",
            ),
            server(
                "beyond the window nothing arrives",
                "
            peer   P. 9000000+5 ack=1 dropped=seq_beyond
            peer   P. 1+5 ack=1
            kernel . 1 ack=6
            app    read 5",
            ),
            server(
                "keepalives, either way",
                "
            app    keepalive
            kernel . 0 ack=1
            peer   . 1 ack=1
            peer   . 0 ack=1
            kernel . 1 ack=1
            phase  established",
            ),
            listener(
                "a closed window is probed",
                "
            peer   S 0 mss=1400
            kernel S. 0 ack=1
            peer   . 1 ack=1 win=0
            app    accept
            app    send 5
            kernel . 0 ack=1
            peer   . 1 ack=1 win=0
            kernel . 0 ack=1
            peer   . 1 ack=1 win=1000
            kernel P. 1+5 ack=1
            peer   . 1 ack=6
            phase  established",
            ),
            server(
                "urgent data, either way",
                "
            app    urgent
            kernel PU. 1+1 ack=1
            peer   . 1 ack=2
            peer   PU. 1+1 ack=2
            kernel . 2 ack=2
            phase  established",
            ),
        ],
    );
}
