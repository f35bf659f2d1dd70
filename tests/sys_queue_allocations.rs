//! Serving packets allocates nothing.
#![allow(unsafe_code, clippy::disallowed_methods)]

#[path = "sys_common/counting.rs"]
mod counting;
#[path = "sys_common/net.rs"]
mod net;

use std::{net::UdpSocket, time::Duration};

use counting::allocations;
use halfgate::sys::queue::{Answer, Queue, QueueSettings, losses};
use net::{CLIENT, Net, SERVER, eventually, inside};

#[test]
fn serving_packets_allocates_nothing() {
    let net = Net::new();
    let settings = QueueSettings { number: 1, copy_range: 128, max_len: 1000, gso: true, conntrack: false };
    let mut queue = inside(&net.gateway, || Queue::open(settings).unwrap());
    net.divert("FORWARD", "-p udp", 1);
    let client = inside(&net.client, || UdpSocket::bind((CLIENT[0], 700)).unwrap());
    for _ in 0..200 {
        client.send_to(&[7; 300], (SERVER[0], 700)).unwrap();
    }
    eventually("all packets wait", || {
        (inside(&net.gateway, losses).unwrap()[0].waiting == 200).then_some(())
    });

    // Drops, accepts and rewrites, from the very first call on.
    let (mut judged, mut number) = (0, 0_u32);
    let before = allocations();
    while judged < 200 {
        judged += queue
            .serve(Duration::from_secs(1), &mut |queued, rewritten| {
                number += 1;
                match number % 3 {
                    0 => Answer::Drop,
                    1 => Answer::Accept { mark: queued.mark },
                    _ => {
                        rewritten.extend_from_slice(queued.bytes);
                        Answer::Rewrite { mark: queued.mark }
                    }
                }
            })
            .unwrap();
    }
    assert_eq!(allocations() - before, 0);

    // The counting itself works.
    let before = allocations();
    drop(std::hint::black_box(vec![1_u8; 100]));
    assert_eq!(allocations() - before, 1);
}
