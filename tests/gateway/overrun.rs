//! More events than can be taken: what they add up to says that it is a lower bound.
// The recorder is held by ptrace(2).
#![allow(unsafe_code)]

use std::fs;

use halfgate::sys::netns::Family;
use serde_json::Value;

use crate::harness::{Gateway, SOON, rules};

/// A thread of the daemon's that does not go on until this value is dropped.
struct Held(libc::pid_t);

impl Held {
    /// Holds the thread of this name where it waits for something.
    fn thread(process: u32, name: &str) -> Self {
        let threads = fs::read_dir(format!("/proc/{process}/task")).expect("the daemon's threads");
        let id: libc::pid_t = threads
            .map(|thread| thread.unwrap().path())
            .find(|thread| fs::read_to_string(thread.join("comm")).is_ok_and(|comm| comm.trim() == name))
            .and_then(|thread| thread.file_name()?.to_str()?.parse().ok())
            .unwrap_or_else(|| panic!("no thread {name}"));
        loop {
            // SAFETY: no pointers but null ones are passed, or one to a status that lives.
            unsafe {
                let null = std::ptr::null_mut::<libc::c_void>();
                assert_eq!(libc::ptrace(libc::PTRACE_SEIZE, id, null, null), 0, "ptrace(2) needs root");
                assert_eq!(libc::ptrace(libc::PTRACE_INTERRUPT, id, null, null), 0);
                let mut status = 0;
                assert_eq!(libc::waitpid(id, &raw mut status, libc::__WALL), id);
            }
            let held = Self(id);
            // Amid its work it could hold a lock that others need.
            let call = fs::read_to_string(format!("/proc/{process}/task/{id}/syscall")).unwrap();
            if call.split(' ').next() == Some(&libc::SYS_futex.to_string()) {
                return held;
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let null = std::ptr::null_mut::<libc::c_void>();
        // SAFETY: no pointers but null ones are passed.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.0, null, null) };
    }
}

fn exposure(gateway: &Gateway, kind: &str) -> Option<Value> {
    gateway.json(&["exposure"]).into_iter().find(|row| row["kind"] == kind)
}

#[test]
fn what_a_flood_left_uncounted_is_said_where_the_counts_are() {
    let file = "rules: [{ name: web, from: outside, service: tcp/80, action: accept, log: true }]";
    let mut gateway = Gateway::start(&rules(file));
    let _listener = gateway.listen(Family::V4, 80);
    let _first = gateway.connect(Family::V4, 80);
    gateway.eventually("the service is known", SOON, || exposure(&gateway, "service").is_some());
    assert_eq!(exposure(&gateway, "overrun"), None);
    assert_eq!(exposure(&gateway, "service").unwrap()["at_least"], Value::Null);
    assert_eq!(gateway.json(&["status"])[0]["overrun"], Value::Null);

    let held = Held::thread(gateway.firewall().id(), "recorder");
    let forger = gateway.forger();
    let mut number = 0;
    while gateway.json(&["status"])[0]["events_lost"] == 0 {
        assert!(number < 60_000, "the recorder's room has no end");
        for _ in 0..1000 {
            forger.syn(Family::V4, number % 4000, 4000 + number / 4000, 80);
            number += 1;
        }
    }
    drop(held);

    let status = gateway.json(&["status"]).remove(0);
    let overrun = &status["overrun"];
    assert!(overrun["events"].as_u64() > Some(0), "{status}");
    assert!(overrun["since"].as_str() <= overrun["last"].as_str(), "{status}");
    let text = gateway.ok(&["status"]);
    assert!(text.contains("0 seen, none now; a lower bound: "), "{text}");
    assert!(text.contains("scans and exposure are lower bounds since "), "{text}");
    let row = exposure(&gateway, "overrun").expect("it is said");
    assert!(row["events"].as_u64() >= overrun["events"].as_u64() && row["since"].is_string(), "{row}");
    assert_eq!(exposure(&gateway, "service").unwrap()["at_least"], true);
    let text = gateway.ok(&["exposure"]);
    assert!(text.contains("incomplete: ") && text.contains(" at least "), "{text}");
    gateway.eventually("the gap is an event", SOON, || {
        gateway.json(&["events"]).iter().any(|event| event["event"] == "lost")
    });
}
