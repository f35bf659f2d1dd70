//! Queues that lose packets, or are lost.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use halfgate::sys::{cpus, netns::Family};

use crate::harness::{Gateway, SOON, rules, s};

/// SIGSTOP, SIGCONT (signal(7)).
const SIGSTOP: i32 = 19;
const SIGCONT: i32 = 18;

/// Takes a second descriptor of the socket that has queue 0 (`pidfd_open` 434,
/// `pidfd_getfd` 438) and unbinds the queue through it (NFQNL_MSG_CONFIG with
/// NFQNL_CFG_CMD_UNBIND): the kernel lets nobody else do that. The worker hears
/// nothing of it: no packet comes any more.
const THIEF: &str = r#"
import ctypes, os, socket, struct, sys
pid = int(sys.argv[1])
rows = [line.split() for line in open("/proc/%d/net/netfilter/nfnetlink_queue" % pid)]
port = next(int(row[1]) for row in rows if row[0] == "0")
call = ctypes.CDLL(None, use_errno=True).syscall
process = call(434, pid, 0)
assert process >= 0, os.strerror(ctypes.get_errno())
message = struct.pack("=IHHIIBBH", 28, 0x302, 1, 0, 0, 0, 0, 0) + struct.pack("=HHBBH", 8, 1, 2, 0, 0)
for number in os.listdir("/proc/%d/fd" % pid):
    fd = call(438, process, int(number), 0)
    if fd < 0:
        continue
    try:
        stolen = socket.socket(fileno=fd)
    except OSError:
        continue
    if stolen.family == socket.AF_NETLINK and stolen.getsockname()[0] == port:
        stolen.sendto(message, (0, 0))
        sys.exit(0)
sys.exit("no socket has port %d" % port)
"#;

fn open(rest: &str) -> String {
    rules(&format!("{rest}rules: [{{ name: web, from: outside, service: tcp/80, action: accept }}]"))
}

#[test]
fn packets_that_a_queue_lost_are_warned_of() {
    let mut gateway = Gateway::start(&open(""));
    let lost = |gateway: &Gateway| {
        let status = gateway.json(&["status"]).remove(0);
        let queues = status["queues"].as_array().expect("queues").clone();
        let sum: u64 = queues.iter().filter_map(|queue| queue["lost_full"].as_u64()).sum();
        (sum, status["warnings"].to_string())
    };
    assert_eq!(lost(&gateway).0, 0);
    let forger = gateway.forger();
    gateway.firewall().signal(SIGSTOP).unwrap();
    // More than the longest queue holds.
    for number in 0..40_000 {
        forger.syn(Family::V4, (number % 250) as u16, 1024 + (number / 250) as u16, 443);
    }
    gateway.firewall().signal(SIGCONT).unwrap();
    let (sum, warnings) = lost(&gateway);
    assert!(sum > 0 && warnings.contains("because it was full"), "{sum} {warnings}");
    drop(gateway.pair(Family::V4, 80));
}

#[test]
fn a_queue_that_is_taken_away_ends_the_daemon_and_holds_what_fail_says() {
    for (fail, passes) in [("closed", false), ("open", true)] {
        let mut gateway = Gateway::start(&open(&format!("fail: {fail}\n")));
        let pid = gateway.firewall().id().to_string();
        let mut thief = Command::new("python3");
        let mut thief = thief.args(["-", &pid]).stdin(Stdio::piped()).spawn().expect("python3");
        thief.stdin.take().unwrap().write_all(THIEF.as_bytes()).unwrap();
        assert!(thief.wait().unwrap().success());
        let status = gateway.firewall().wait(SOON).expect("it ends");
        assert_eq!(status.code(), Some(1), "{}", gateway.log());
        assert!(gateway.log().contains("queue 0 is gone: somebody unbound it"), "{}", gateway.log());
        let kept = gateway.tool("nft", &["list", "table", "inet", "halfgate"], "");
        assert!(kept.contains("static_forward"), "{kept}");
        let _listener = gateway.listen(Family::V4, 8080);
        assert_eq!(gateway.try_connect(Family::V4, 8080, s(1)).is_ok(), passes, "fail: {fail}");
        gateway.ok(&["unload"]);
        assert_eq!(gateway.kernel_rules(), "");
    }
}

#[test]
fn workers_run_on_the_processors_that_the_rule_file_names() {
    let mut gateway = Gateway::start(&open("queues: { count: 2, cpus: [0] }\n"));
    let tasks = format!("/proc/{}/task", gateway.firewall().id());
    let mut seen = 0;
    for task in std::fs::read_dir(tasks).unwrap() {
        let task = task.unwrap().path();
        let (name, status) = (task.join("comm"), task.join("status"));
        let is_worker = std::fs::read_to_string(name).unwrap().starts_with("queue-");
        let status = std::fs::read_to_string(status).unwrap();
        let cpus = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap().trim();
        assert!(!is_worker || cpus == "0", "{status}");
        seen += u32::from(is_worker);
    }
    assert_eq!(seen, 5, "two of each kind, and one for SYNs of strangers");
    drop(gateway.pair(Family::V4, 80));

    let gateway = Gateway::without_firewall(&open("queues: { cpus: [0, 1023] }\n"));
    let mut command = gateway.three.gateway.command(crate::harness::HALFGATE);
    command.arg("--socket").arg(gateway.socket()).arg("run").arg(gateway.rules_file());
    let done = crate::harness::run(&mut command);
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.err.contains("names processor 1023, and halfgate may run on 0"), "{done:?}");
    assert_eq!(gateway.kernel_rules(), "");
}

/// How many workers have which niceness and policy (proc_pid_stat(5): the 19th field and the 41st;
/// the second is a name in brackets).
fn turns(daemon: u32) -> Vec<((i32, i32), usize)> {
    let tasks = format!("/proc/{daemon}/task");
    let mut all = std::collections::BTreeMap::new();
    for task in std::fs::read_dir(tasks).unwrap() {
        // Some end meanwhile.
        let Ok(stat) = std::fs::read_to_string(task.unwrap().path().join("stat")) else { continue };
        let (name, fields) = stat.rsplit_once(')').unwrap();
        if name.contains("(queue-") {
            let field = |at| fields.split_whitespace().nth(at).unwrap().parse().unwrap();
            *all.entry((field(16), field(38))).or_insert(0) += 1;
        }
    }
    all.into_iter().collect()
}

#[test]
fn workers_of_live_connections_go_first_while_syns_wait() {
    let mut gateway = Gateway::start(&open("queues: { count: 2 }\n"));
    let daemon = gateway.firewall().id();
    let usual = i32::from(cpus::niceness());
    let all_are_patient = || turns(daemon) == [((usual, libc::SCHED_BATCH), 5)];
    gateway.eventually("all are alike, and patient", SOON, all_are_patient);
    let forger = gateway.forger();
    gateway.firewall().signal(SIGSTOP).unwrap();
    for number in 0..20_000 {
        forger.syn(Family::V4, number, 4000, 80);
    }
    gateway.firewall().signal(SIGCONT).unwrap();
    // Whoever serves a queue looks when a packet comes, or once a second.
    gateway.eventually("live connections go first", SOON, || {
        let [known, of_syns] = [usual - 6, usual - 3].map(|niceness| (niceness, libc::SCHED_OTHER));
        turns(daemon) == [(known, 2), (of_syns, 3)]
    });
    // Or somewhat later, where timers of all those connections fire meanwhile on a busy machine.
    gateway.eventually("all are alike again, ten seconds later", 3 * SOON, all_are_patient);
}
