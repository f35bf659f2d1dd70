//! The rule files that halfgate ships compile without a word, and their own
//! tests pass.

use std::path::{Path, PathBuf};

use halfgate::config::{self, Compiled, FirstRules};

fn compile(name: &str, text: &str) -> Compiled {
    let mut read = |path: &str| Err(format!("{path} is not there"));
    config::compile(name, text, &mut read, None).unwrap_or_else(|diagnostics| {
        let lines: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
        panic!("{name} is refused:\n{}", lines.join("\n"))
    })
}

/// Compiles without a warning, and runs the file's own tests.
fn pass(name: &str, text: &str, at_least: usize) {
    let compiled = compile(name, text);
    let warnings: Vec<String> = compiled.warnings.iter().map(ToString::to_string).collect();
    assert!(warnings.is_empty(), "{}", warnings.join("\n"));
    assert!(compiled.tests.len() >= at_least, "{name} has {} tests", compiled.tests.len());
    let outcomes = config::run_tests(&compiled.policy, &compiled.tests);
    assert_eq!(outcomes.len(), compiled.tests.len());
    let failures: Vec<String> = outcomes
        .iter()
        .filter_map(|outcome| {
            let (line, message) = outcome.failure.as_ref()?;
            Some(format!("{name}:{line}: {}: {message}", outcome.name))
        })
        .collect();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    for (outcome, test) in outcomes.iter().zip(&compiled.tests) {
        assert_eq!(outcome.steps, test.steps.len(), "every step of {} was run", outcome.name);
    }
}

fn files() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("rules");
    let mut files: Vec<PathBuf> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "yaml"))
        .collect();
    files.sort();
    files
}

#[test]
fn every_shipped_file_is_right() {
    let files = files();
    assert!(files.len() >= 4, "{files:?}");
    for path in files {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        pass(&name, &text, if name == "default.yaml" { 0 } else { 3 });
    }
}

/// What the embedded rules promise, as steps; `eth0` is outside.
const DEFAULT_TESTS: &str = r#"
tests:
  - name: out from inside, and the answer
    steps:
      - { packet: "tcp 192.168.1.5:40000 > 203.0.113.80:443 S", in: eth1, out: eth0, expect: accept }
      - { packet: "tcp 203.0.113.80:443 > 192.168.1.5:40000 SA", in: eth0, out: eth1, expect: accept, phase: syn_received }
      - { packet: "udp 192.168.1.5:40000 > 192.168.2.5:53", in: eth1, out: eth2, expect: accept }
  - name: nothing comes in but ping
    steps:
      - { packet: "tcp 203.0.113.80:40000 > 192.168.1.5:443 S", in: eth0, out: eth1, expect: drop }
      - { packet: "udp 203.0.113.80:40000 > 192.168.1.5:443", in: eth0, out: eth1, expect: drop }
      - { packet: "tcp 203.0.113.80:40000 > 198.51.100.1:22 S", in: eth0, expect: drop }
      - { packet: "icmp 203.0.113.80 > 198.51.100.1 echo-request", in: eth0, expect: accept }
      - { packet: "icmp 2001:db8::80 > 2001:db8:1::5 echo-request", in: eth0, out: eth1, expect: accept }
  - name: the gateway's own services, from inside only
    steps:
      - { packet: "tcp 192.168.1.5:40000 > 192.168.1.1:22 S", in: eth1, expect: accept }
"#;

#[test]
fn the_embedded_rules_keep_their_promises() {
    let outside = vec!["eth0".to_owned(), "6in4".to_owned()];
    pass("default", &format!("{}{DEFAULT_TESTS}", config::default_rules(&outside)), 3);
    let compiled = compile("default", &config::default_rules(&outside));
    let interfaces: Vec<&str> = compiled.policy.zones[0].interfaces.iter().map(|name| &**name).collect();
    assert_eq!(interfaces, ["eth0", "6in4"]);
    assert_eq!(config::default_rules(&[]), config::DEFAULT_RULES);
}

#[test]
fn without_a_default_route_everything_is_outside() {
    const TESTS: &str = r#"
tests:
  - name: closed
    steps:
      - { packet: "tcp 192.168.1.5:40000 > 203.0.113.80:443 S", in: eth1, out: eth0, expect: drop }
      - { packet: "icmp 192.168.1.5 > 203.0.113.80 echo-request", in: eth1, out: eth0, expect: accept }
"#;
    pass("default", &format!("{}{TESTS}", config::DEFAULT_RULES), 1);
}

#[test]
fn a_first_file_is_right_and_does_not_lock_its_writer_out() {
    let mut first =
        FirstRules { wan: vec!["ppp0".to_owned()], lan: vec!["eth1".to_owned(), "no".to_owned()], ssh: None };
    pass("first", &first.text(), 2);
    for (client, step) in [
        ("203.0.113.9", "tcp 203.0.113.9:40000 > 198.51.100.1:2222 S"),
        ("::ffff:203.0.113.9", "tcp 203.0.113.9:40000 > 198.51.100.1:2222 S"),
        ("2001:db8::9", "tcp [2001:db8::9]:40000 > [2001:db8:1::1]:2222 S"),
    ] {
        first.ssh = Some((client.parse().unwrap(), 2222));
        let session = format!(
            "  - name: the session\n    steps:\n      - {{ packet: \"{step}\", in: ppp0, expect: accept }}\n"
        );
        pass("first", &format!("{}{session}", first.text()), 3);
    }
}
