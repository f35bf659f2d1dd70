//! SYN cookies: what they need is loaded and removed, and destinations come and go.

use std::{net::IpAddr, time::Duration};

use halfgate::{
    conntrack::Flow,
    policy::Fail,
    sys::table::{self, Counts, Diversion, MOST_UNDER_WAY, ShieldChange, Shielded, TableSpec, TableState},
    wire::Protocol,
};

use crate::world::{Host, eventually, run, spec};

fn with_cookies(hooks: &str, fail: Fail) -> TableSpec {
    TableSpec { challenge: true, syncookies: true, ..spec(hooks, fail) }
}

fn everything() -> String {
    let mut text = run("nft", "-s list ruleset");
    for family in ["ip", "ip6"] {
        let names = std::fs::read_to_string(format!("/proc/thread-self/net/{family}_tables_names"));
        text.push_str(&names.unwrap_or_default());
    }
    text
}

fn shielded(address: &str) -> Shielded {
    Shielded { interface: "wan".to_owned(), address: address.parse().unwrap(), port: 80 }
}

fn place(one: &Shielded) -> (IpAddr, u16) {
    (one.address, one.port)
}

#[test]
fn with_cookies_every_combination_loads_and_goes_without_a_trace() {
    Host::new().run(|| {
        let before = everything();
        let diversion = table::probe().expect("one way or the other");
        table::probe_cookies(diversion).expect("this kernel has them");
        assert_eq!(everything(), before, "asking leaves nothing");
        for hooks in ["f", "fi", "fo", "fio"] {
            for fail in [Fail::Closed, Fail::Open] {
                let spec = with_cookies(hooks, fail);
                table::install(&spec, diversion).expect("it loads");
                assert_eq!(table::state().expect("asked"), TableState::Live { diversion, intact: true });
                assert_eq!(table::inspect(&spec, diversion).expect("asked"), (None, Counts::default()));
                assert!(table::unload().expect("it unloads"));
                assert_eq!(everything(), before, "{hooks} {fail:?}");
            }
        }
    });
}

#[test]
fn destinations_come_and_go() {
    Host::new().run(|| {
        let diversion = table::probe().expect("one way or the other");
        table::install(&with_cookies("f", Fail::Closed), diversion).expect("it loads");
        let mut all = vec![shielded("192.0.2.1"), shielded("192.0.2.2")];
        if diversion == Diversion::Xtables {
            all.push(shielded("2001:db8::1"));
        }
        let known: Vec<_> = all.iter().map(place).collect();
        let on = ShieldChange { on: all.clone(), known: known.clone(), ..ShieldChange::default() };
        table::shield(&on).expect("they come");
        let count = |what: &str| run("nft", "list table inet halfgate").matches(what).count();
        assert_eq!((count("\"wan\" . "), count("elements = ")), (all.len(), 2 * (all.len() - 1)));
        let off = ShieldChange { off: all.clone(), ..ShieldChange::default() };
        table::shield(&off).expect("they go");
        assert_eq!(count("\"wan\" . "), 0);
        assert!(count("192.0.2.1 . 80") > 0, "their cookies are still taken");
        assert!(table::shield(&off).is_err(), "they are gone");
        let unknown = ShieldChange { unknown: known, ..ShieldChange::default() };
        table::shield(&unknown).expect("these go too");
        assert_eq!(count("elements = "), 0);
        table::shield(&on).expect("they come again");
        table::install(&with_cookies("f", Fail::Closed), diversion).expect("it is replaced");
        assert_eq!(count("elements = "), 0, "a new table shields nobody");
        table::unload().expect("it unloads");
        assert!(table::shield(&on).expect_err("there is no table").is_absent());
    });
}

#[test]
fn handshakes_under_way_come_with_their_destinations_and_go_by_themselves() {
    Host::new().run(|| {
        let diversion = table::probe().expect("one way or the other");
        table::install(&with_cookies("f", Fail::Closed), diversion).expect("it loads");
        let mut all = vec![shielded("192.0.2.1")];
        if diversion == Diversion::Xtables {
            all.push(shielded("2001:db8::1"));
        }
        // As many as the sets are promised to take.
        let sources = || (0..MOST_UNDER_WAY as u16).map(|number| (number, Duration::from_secs(100)));
        let handshake = |one: &Shielded, port, time| {
            let (src, protocol) = (one.address, Protocol::TCP);
            (Flow { protocol, src, src_port: port, dst: one.address, dst_port: one.port }, time)
        };
        for one in &all {
            let under_way: Vec<_> = sources().map(|(port, time)| handshake(one, port, time)).collect();
            let (first, rest) = under_way.split_at(1024);
            let on =
                ShieldChange { on: vec![one.clone()], known: vec![place(one)], ..ShieldChange::default() };
            table::shield(&ShieldChange { under_way: first.to_vec(), ..on }).expect("it comes with some");
            for part in rest.chunks(1024) {
                table::shield(&ShieldChange::of_handshakes(part)).expect("they come");
            }
            // The same again, as after a look that found them still there, and one more.
            let more = vec![
                handshake(one, 7, Duration::from_secs(100)),
                handshake(one, 9999, Duration::from_secs(1)),
            ];
            table::shield(&ShieldChange::of_handshakes(&more)).expect("one more");
        }
        let count = |what: &str| run("nft", "list table inet halfgate").matches(what).count();
        assert_eq!(count(" . 80 timeout 1m40s expires"), all.len() * MOST_UNDER_WAY as usize);
        eventually("its second is over", || count(" . 9999 . ") == 0);
    });
}
