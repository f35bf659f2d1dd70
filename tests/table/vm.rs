//! The tests of this program once more, under Debian's kernel, whose nftables has
//! the `queue` statement.

use std::process::Command;

/// Set in the machine.
const INSIDE: &str = "HALFGATE_EXPECT_DIVERSION";

/// Runs tests of this program in the machine.
fn in_the_machine(boot: &str, filters: &[&str]) {
    if std::env::var_os(INSIDE).is_some() {
        // This is the run inside.
        return;
    }
    let this = std::env::current_exe().expect("known");
    let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/qemu/vm.sh"))
        .args(["--env", &format!("{INSIDE}=nftables queue"), "--boot", boot])
        .arg(this)
        .args(["--test-threads", "2"])
        .args(filters)
        .output()
        .expect("a shell");
    let said = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}\n{complained}", output.status);
    assert!(said.contains("test result: ok.") && !said.contains("ok. 0 passed"), "{said}");
}

#[test]
fn all_of_this_holds_under_debians_kernel_with_nftables_own_queue() {
    in_the_machine("", &[]);
}

#[test]
fn the_table_loads_where_ipv6_is_off() {
    in_the_machine("ipv6.disable=1", &["load::probing", "load::every_combination"]);
}
