//! A control group that allows less memory than a flood could make the daemon take: said
//! at the start and in `status`, with a cure that helps.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::harness::{Gateway, SOON, rules};

/// Enough to start and to answer, and too little for a million connections.
const ALLOWED: u64 = 256 << 20;

/// How the names of our groups start; the pid of their owner follows.
const PREFIX: &str = "halfgate-test-";

/// A control group inside this process's own, or, where that passes the memory's on to
/// nobody, inside the nearest around it that does. Gone when dropped.
struct Group(PathBuf);

impl Group {
    fn new(octets: u64) -> Self {
        let groups = fs::read_to_string("/proc/self/cgroup").expect("a kernel with control groups");
        let (root, own, limit) = groups.lines().find_map(memory).unwrap_or_else(|| {
            panic!("no control groups for memory, in either version (cgroups(7)), but:\n{groups}")
        });
        let mut refusals = String::new();
        for around in own.ancestors() {
            let around = root.join(around);
            sweep(&around);
            let group = Self(around.join(format!("{PREFIX}{}", std::process::id())));
            let made = fs::create_dir(&group.0)
                .and_then(|()| fs::OpenOptions::new().write(true).open(group.0.join(limit)))
                .and_then(|mut file| io::Write::write_all(&mut file, octets.to_string().as_bytes()));
            match made {
                Ok(()) => return group,
                Err(error) => refusals.push_str(&format!("{}: {error}\n", group.0.display())),
            }
        }
        panic!(
            "no control group with a limit of memory could be made; this needs root, and {} mounted for \
             writing:\n{refusals}",
            root.display()
        );
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Where memory's groups are mounted, this process's own among them, and the file that
/// limits.
fn memory(line: &str) -> Option<(PathBuf, PathBuf, &'static str)> {
    let mut parts = line.splitn(3, ':').skip(1);
    let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
    let first = Path::new("/sys/fs/cgroup/memory");
    match controllers {
        // Where the first version has the memory, the second has not.
        "" if !first.exists() => Some((PathBuf::from("/sys/fs/cgroup"), path.into(), "memory.max")),
        some if some.split(',').any(|one| one == "memory") => {
            Some((first.to_owned(), path.into(), "memory.limit_in_bytes"))
        }
        _ => None,
    }
}

/// Removes what tests that were killed left behind.
fn sweep(around: &Path) {
    for entry in fs::read_dir(around).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::remove_dir(entry.path());
        }
    }
}

fn warning(gateway: &Gateway) -> Option<String> {
    let status = gateway.json(&["status"]).remove(0);
    assert_eq!(status["memory"]["allowed"], ALLOWED, "{status}");
    let warnings = status["warnings"].as_array().unwrap();
    let mut words = warnings.iter().map(|warning| warning.as_str().unwrap().to_owned());
    words.find(|words| words.contains("max_connections"))
}

#[test]
fn a_group_that_allows_too_little_is_said_and_the_cure_helps() {
    let group = Group::new(ALLOWED);
    let mut gateway = Gateway::without_firewall(&rules("max_connections: 1000000\nrules: []"));
    gateway.start_firewall_in(&group.0);
    let said = warning(&gateway).expect("status warns");
    let name = group.0.file_name().unwrap().to_str().unwrap();
    assert!(said.contains(&format!("{name} allows 256.0 MiB")), "{said}");
    assert!(gateway.log().contains(&said), "{said}, but at the start:\n{}", gateway.log());
    let text = gateway.ok(&["status"]);
    assert!(text.contains(&said) && text.contains("; 256.0 MiB are allowed"), "{text}");

    let advised = said.split_once("write max_connections: ").expect("a cure").1;
    let (advised, _) = advised.split_once(' ').unwrap();
    assert!(advised.parse::<u32>().unwrap() >= 10_000, "{said}");
    gateway.firewall().terminate().unwrap();
    let before = gateway.log().len();
    fs::write(gateway.rules_file(), rules(&format!("max_connections: {advised}\nrules: []"))).unwrap();
    gateway.start_firewall_in(&group.0);
    assert_eq!(warning(&gateway), None);
    assert!(!gateway.log()[before..].contains("control group"), "{}", gateway.log());
    gateway.firewall().terminate().unwrap();
    gateway.eventually("nobody is left in the group", SOON, || {
        fs::read_to_string(group.0.join("cgroup.procs")).unwrap().is_empty()
    });
    let path = group.0.clone();
    drop(group);
    assert!(!path.exists(), "{} is left over", path.display());
}
