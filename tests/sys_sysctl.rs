//! Conntrack's settings in a network namespace of their own.
#![allow(clippy::disallowed_methods)]

#[path = "sys_common/net.rs"]
mod net;

use std::{fs, io::ErrorKind, path::PathBuf, time::Duration};

use halfgate::sys::sysctl::{Needs, SysctlError, raise_for, restore_from};
use net::{Net, inside};

const CLOSE_WAIT: &str = "tcp_timeout_close_wait";
const STREAM: &str = "udp_timeout_stream";

fn path(name: &str) -> String {
    format!("/proc/sys/net/netfilter/nf_conntrack_{name}")
}

fn read(name: &str) -> u64 {
    fs::read_to_string(path(name)).unwrap().trim().parse().unwrap()
}

fn write(name: &str, value: u64) {
    fs::write(path(name), value.to_string()).unwrap();
}

fn needs() -> Needs {
    let seconds = Duration::from_secs;
    Needs {
        half_closed: seconds(600),
        udp_stream: seconds(180),
        established: seconds(7440),
        ..Needs::default()
    }
}

/// A file that is gone when the test ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("halfgate-{}-{name}.json", std::process::id())))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn settings_are_raised_listed_and_put_back() {
    let net = Net::new();
    inside(&net.gateway, || {
        let before = [read(CLOSE_WAIT), read(STREAM), read("tcp_timeout_established"), read("acct")];
        assert_eq!(before, [60, 120, 432_000, 0]);
        let mut saved = raise_for(&Needs { accounting: true, ..needs() }, None).unwrap();
        // Raised, and never lowered.
        assert_eq!(
            [read(CLOSE_WAIT), read(STREAM), read("tcp_timeout_established"), read("acct")],
            [660, 240, 432_000, 1]
        );
        let listed = |name: &str| {
            let name = format!("net.netfilter.nf_conntrack_{name}");
            saved.changes().iter().find(|raised| raised.name == name).map(|raised| (raised.old, raised.new))
        };
        assert_eq!(listed(CLOSE_WAIT), Some((60, 660)));
        assert_eq!(listed("tcp_timeout_established"), None);
        assert_eq!(saved.shortfalls(), []);

        // A timer grew; another shrank, which changes nothing.
        saved
            .raise(&Needs {
                half_closed: Duration::from_secs(1000),
                udp_stream: Duration::from_secs(1),
                ..needs()
            })
            .unwrap();
        assert_eq!([read(CLOSE_WAIT), read(STREAM)], [1060, 240]);
        saved.restore().unwrap();
        assert_eq!([read(CLOSE_WAIT), read(STREAM), read("tcp_timeout_established"), read("acct")], before);
    });
}

#[test]
fn what_another_hand_changed_stays() {
    let net = Net::new();
    inside(&net.gateway, || {
        let saved = raise_for(&needs(), None).unwrap();
        write(STREAM, 999);
        saved.restore().unwrap();
        assert_eq!([read(CLOSE_WAIT), read(STREAM)], [60, 999]);
    });
}

#[test]
fn the_successor_of_a_killed_daemon_knows_the_true_values() {
    let file = Scratch::new("successor");
    let net = Net::new();
    inside(&net.gateway, || {
        drop(raise_for(&needs(), Some(&file.0)).unwrap());
        assert_eq!(read(CLOSE_WAIT), 660);
        // Killed; somebody changes one of the values; the next one needs more.
        write(STREAM, 200);
        let more = Needs { half_closed: Duration::from_secs(900), ..needs() };
        let saved = raise_for(&more, Some(&file.0)).unwrap();
        assert_eq!([read(CLOSE_WAIT), read(STREAM)], [960, 240]);
        saved.restore().unwrap();
        assert_eq!([read(CLOSE_WAIT), read(STREAM)], [60, 200]);
        assert!(!file.0.exists());

        // Killed again, and nobody comes but `unload`.
        drop(raise_for(&needs(), Some(&file.0)).unwrap());
        assert!(restore_from(&file.0).unwrap());
        assert_eq!(read(CLOSE_WAIT), 60);
        assert!(!restore_from(&file.0).unwrap());
    });
    // After a reboot the file speaks of values that are no more.
    let net = Net::new();
    fs::write(&file.0, r#"[{"name":"net.netfilter.nf_conntrack_udp_timeout_stream","old":5,"new":777}]"#)
        .unwrap();
    inside(&net.gateway, || {
        let saved = raise_for(&needs(), Some(&file.0)).unwrap();
        assert_eq!(read(STREAM), 240);
        saved.restore().unwrap();
        assert_eq!(read(STREAM), 120);
    });
}

#[test]
fn a_bad_file_changes_nothing_and_is_named() {
    let file = Scratch::new("bad");
    let net = Net::new();
    for text in ["{", r#"[{"name":"kernel.panic","old":5,"new":0}]"#] {
        fs::write(&file.0, text).unwrap();
        inside(&net.gateway, || {
            let error = raise_for(&needs(), Some(&file.0)).unwrap_err();
            assert!(
                matches!(error, SysctlError::File { .. }) && error.to_string().contains("bad.json"),
                "{error}"
            );
            assert!(restore_from(&file.0).is_err());
            assert_eq!(read(CLOSE_WAIT), 60);
        });
    }
    let nowhere = PathBuf::from("/nonexistent/settings.json");
    inside(&net.gateway, || {
        let error = raise_for(&needs(), Some(&nowhere)).unwrap_err();
        let SysctlError::File { source, .. } = error else { panic!("{error}") };
        assert_eq!(source.kind(), ErrorKind::NotFound);
        assert_eq!(read(CLOSE_WAIT), 60);
    });
}

#[test]
fn what_the_kernel_refuses_is_told() {
    let net = Net::new();
    inside(&net.gateway, || {
        // Only the first network namespace may raise the size of the table.
        let before = read("max");
        let saved = raise_for(&Needs { connections: before * 4, ..needs() }, None).unwrap();
        let [short] = saved.shortfalls() else { panic!("{:?}", saved.shortfalls()) };
        assert_eq!((short.name.as_str(), short.value), ("net.netfilter.nf_conntrack_max", before));
        assert_eq!(short.needed, before * 4 + before / 2);
        assert!(!short.reason.is_empty());
        assert!(saved.changes().iter().all(|raised| raised.name != short.name));
        assert_eq!([read("max"), read(CLOSE_WAIT)], [before, 660]);
    });
}
