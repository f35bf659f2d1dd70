//! The tests of this program once more, under Debian's kernel, whose nftables has
//! the `queue` statement.

use std::process::Command;

#[test]
fn all_of_this_holds_under_debians_kernel_with_nftables_own_queue() {
    if std::env::var_os("HALFGATE_EXPECT_DIVERSION").is_some() {
        // This is the run inside.
        return;
    }
    let this = std::env::current_exe().expect("known");
    let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/qemu/vm.sh"))
        .args(["--env", "HALFGATE_EXPECT_DIVERSION=nftables queue"])
        .arg(this)
        .args(["--test-threads", "2"])
        .output()
        .expect("a shell");
    let said = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}\n{complained}", output.status);
    assert!(said.contains("test result: ok."), "{said}");
}
