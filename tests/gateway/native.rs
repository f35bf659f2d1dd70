//! Tests of this program once more, under Debian's kernel in a virtual machine:
//! there is no iptables, and nftables queues by itself.

use std::process::Command;

use crate::harness::{EXPECTED_DIVERSION, HALFGATE, PACE};

/// How much slower the machine is, with emulated processors and on a busy host.
const SLOWER: &str = "4";

/// What is asked of that kernel: everything whose answer is the kernel's more than
/// ours.
const TESTS: &[&str] = &[
    "handshake::a_normal_handshake_outlives_the_timers_of_the_handshake::ipv6",
    "handshake::a_client_that_never_finishes_is_cut_and_the_server_gets_its_rst::ipv4",
    "forbidden::reset_is_connection_refused_at_once::ipv4",
    "forbidden::reset_is_connection_refused_at_once::ipv6",
    "forbidden::reset_for_udp_is_administratively_prohibited::ipv4",
    "closing::half_closed_by_the_client_and_silent_ends_on_time::ipv4",
    "closing::half_closed_and_still_sending_lives_on::ipv6",
    "closing::a_rst_ends_it::ipv4",
    "limits::per_source_holds_while_others_connect::ipv6",
    "limits::total_holds_and_eviction_makes_room_and_frees_the_server::ipv4",
    "challenge::a_client_passes_a_full_limit_and_forged_sources_never_do::ipv4",
    "challenge::through_a_port_forward_the_client_is_challenged_from_where_it_dialled::ipv6",
    "challenge::through_a_port_forward_with_every_hook::ipv4",
    "cookies::kill_and_timers_send_rsts_that_both_ends_take::ipv4",
    "cookies::an_rst_of_either_end_reaches_the_other::ipv4",
    "cookies::a_daemon_that_comes_back_finds_its_connections::ipv4",
    "proven::a_finished_handshake_gives_the_source_queues_of_its_own::ipv6",
    "proven::an_answered_challenge_does_too::ipv4",
    "flood::honest_clients_connect_amid_a_flood_and_the_limit_holds::ipv4",
    "nat::both_at_once_timers_and_kill_reach_both_ends::ipv4",
    "nat::masquerade_timers_and_kill_reach_both_ends::ipv6",
    "fast_open::stripped_the_data_of_a_client_with_a_cookie_arrive_whole::ipv4",
    "fast_path::a_transfer_leaves_the_queue::ipv6",
    "fast_path::a_fin_leads_to_the_phases_that_it_should::ipv4",
    "fast_path::killed_amid_a_transfer_both_ends_are_reset_at_once::ipv4",
    "fast_path::killed_while_it_is_silent_both_ends_are_reset::ipv6",
    "fast_path::udp_that_is_answered_rides::ipv4",
    "related::data_connections_of_ftp_have_the_rule_of_their_control_connection::ipv6",
    "related::ftp_in_through_a_port_forward",
    "related::ftp_out_through_masquerading",
    "related::an_answer_of_tftp_comes_from_another_port::ipv4",
    "fragments::a_datagram_in_fragments_passes_whole_both_ways::ipv4",
    "fragments::a_tiny_first_fragment_opens_no_way_around_a_rule::ipv6",
    "fragments::overlapping_fragments_never_arrive::ipv4",
    "fragments::path_mtu_discovery_works_behind_the_gateway::ipv6",
    "hooks::input_guards_the_gateways_own_service::ipv4",
    "hooks::output_guards_what_the_gateway_opens::ipv6",
    "mend::a_flushed_rule_set_comes_back",
    "mend::packets_that_nobody_judged_are_counted_and_warned_of",
    "lifecycle::what_a_killed_daemon_left_is_replaced_at_the_next_start",
];

#[test]
fn the_firewall_holds_under_debians_kernel_with_nftables_own_queue() {
    let conntrack = ["/usr/sbin/conntrack", "/usr/bin/conntrack"];
    let conntrack = conntrack.into_iter().find(|path| std::path::Path::new(path).exists());
    let output = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/qemu/vm.sh"))
        .args(["--env", &format!("{EXPECTED_DIVERSION}=nftables queue")])
        .args(["--env", &format!("{PACE}={SLOWER}")])
        .args(["--add", HALFGATE])
        .args(["--add", conntrack.expect("conntrack: install the package conntrack")])
        .arg(std::env::current_exe().expect("known"))
        // Most of the time they wait.
        .args(["--test-threads", "3", "--exact"])
        .args(TESTS)
        .output()
        .expect("a shell");
    let said = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{said}\n{complained}", output.status);
    let all = format!("test result: ok. {} passed", TESTS.len());
    assert!(said.contains(&all), "each of them ran:\n{said}");
}
