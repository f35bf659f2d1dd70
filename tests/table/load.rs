//! What is loaded and removed, without a packet.

use halfgate::{
    policy::{Fail, Hooks, Marks},
    sys::table::{self, Counts, Damage, Diversion, TableSpec, TableState},
};

use crate::world::{Host, nft, run, spec};

const COMBINATIONS: [&str; 7] = ["f", "i", "o", "fi", "fo", "io", "fio"];

/// Everything that decides about packets here, without counters.
fn everything() -> String {
    let mut text = run("nft", "-s list ruleset");
    for family in ["ip", "ip6"] {
        let names = std::fs::read_to_string(format!("/proc/thread-self/net/{family}_tables_names"));
        for name in names.unwrap_or_default().lines() {
            let rules = run(&format!("{family}tables-legacy"), &format!("-t {name} -S"));
            text.push_str(&format!("# legacy {family} {name}\n{rules}"));
        }
    }
    text
}

/// The chains of our table, by name.
fn our_chains() -> Vec<(String, String)> {
    let listing = run("nft", "-s list table inet halfgate");
    let blocks = listing.split("\tchain ").skip(1);
    let named = blocks.filter_map(|block| {
        let (name, body) = block.split_once(" {\n")?;
        Some((name.to_owned(), body.split_once("\t}\n")?.0.to_owned()))
    });
    named.filter(|(name, _)| !name.starts_with("made_")).collect()
}

fn with_iptables() -> bool {
    table::probe().expect("one way or the other") == Diversion::Xtables
}

#[test]
fn probing_says_what_this_kernel_has_and_leaves_nothing() {
    Host::new().run(|| {
        let before = everything();
        let found = table::probe().expect("one way or the other");
        assert_eq!(everything(), before);
        if let Ok(expected) = std::env::var("HALFGATE_EXPECT_DIVERSION") {
            assert_eq!(found.to_string(), expected);
        }
    });
}

#[test]
fn every_combination_loads_and_goes_without_a_trace() {
    Host::new().run(|| {
        let before = everything();
        let diversion = table::probe().expect("one way or the other");
        for hooks in COMBINATIONS {
            for fail in [Fail::Closed, Fail::Open] {
                table::install(&spec(hooks, fail), diversion).expect("it loads");
                assert_eq!(table::state().expect("asked"), TableState::Live { diversion, intact: true });
                let whole = (None, Counts::default());
                assert_eq!(table::inspect(&spec(hooks, fail), diversion).expect("asked"), whole);
                assert!(table::unload().expect("it unloads"));
                assert_eq!(everything(), before, "{hooks} {fail:?}");
                table::install_static(&spec(hooks, fail)).expect("it loads");
                assert_eq!(table::state().expect("asked"), TableState::Static { fail });
                let (damage, _) = table::inspect(&spec(hooks, fail), diversion).expect("asked");
                assert_eq!(damage, Some(Damage::Static));
                assert!(table::unload().expect("it unloads"));
                assert_eq!(everything(), before, "static {hooks} {fail:?}");
            }
        }
        assert!(!table::unload().expect("twice is fine"));
        assert_eq!(table::state().expect("asked"), TableState::Absent);
        let (damage, _) = table::inspect(&spec("f", Fail::Closed), diversion).expect("asked");
        assert_eq!(damage, Some(Damage::Absent));
    });
}

#[test]
fn the_listing_is_the_documented_one() {
    const GOLDEN: [(&str, &str); 6] = [
        ("native-closed", include_str!("golden/native-closed.nft")),
        ("native-open", include_str!("golden/native-open.nft")),
        ("xtables-closed", include_str!("golden/xtables-closed.nft")),
        ("xtables-open", include_str!("golden/xtables-open.nft")),
        ("static-closed", include_str!("golden/static-closed.nft")),
        ("static-open", include_str!("golden/static-open.nft")),
    ];
    /// What a file should hold, if it does not.
    fn differs(name: &str) -> Option<String> {
        // Protocols by number: their names are in a file that not every machine has.
        let listing = run("nft", "-s -p list ruleset");
        let (_, golden) = GOLDEN.into_iter().find(|(of, _)| *of == name).expect("one of them");
        (listing != golden).then(|| format!("=== golden/{name}.nft\n{listing}"))
    }
    Host::new().run(|| {
        let diversion = table::probe().expect("one way or the other");
        let way = match diversion {
            Diversion::Native => "native",
            Diversion::Xtables => "xtables",
        };
        let mut different = Vec::new();
        for (fail, word) in [(Fail::Closed, "closed"), (Fail::Open, "open")] {
            table::install(&spec("fio", fail), diversion).expect("it loads");
            different.extend(differs(&format!("{way}-{word}")));
            table::unload().expect("it unloads");
            table::install_static(&spec("fio", fail)).expect("it loads");
            different.extend(differs(&format!("static-{word}")));
            table::unload().expect("it unloads");
        }
        assert!(different.is_empty(), "these files differ from what is loaded:\n{}===\n", different.concat());
    });
}

/// `input` and `output` named alone cover their connections both ways.
fn covered(hooks: &str) -> String {
    let pair = if hooks.contains(['i', 'o']) { "io" } else { "" };
    format!("{}{pair}", if hooks.contains('f') { "f" } else { "" })
}

#[test]
fn a_hook_has_the_same_chains_whatever_the_others_are() {
    Host::new().run(|| {
        let diversion = table::probe().expect("one way or the other");
        for fail in [Fail::Closed, Fail::Open] {
            table::install(&spec("fio", fail), diversion).expect("it loads");
            let all = our_chains();
            // Two for each hook, two of exemptions, and those of datagrams, of SYNs and of proofs.
            assert_eq!(all.len(), 11);
            for hooks in COMBINATIONS {
                table::install(&spec(hooks, fail), diversion).expect("it loads");
                let expected: Vec<_> = all
                    .iter()
                    .filter(|(name, _)| {
                        let hook = name.split_once('_').map(|(_, hook)| &hook[..1]);
                        hook.is_none_or(|hook| covered(hooks).contains(hook))
                    })
                    .cloned()
                    .collect();
                let mut chains = our_chains();
                let alone = hooks.contains('i') != hooks.contains('o');
                for ((name, body), (_, whole)) in chains.iter_mut().zip(&expected) {
                    let is_exempt = name.starts_with("exempt_");
                    assert_eq!(is_exempt && alone, body.contains("ct direction reply"), "{hooks} {name}");
                    if is_exempt && alone {
                        assert!(body.starts_with(whole.as_str()), "{hooks} {name}: {body}");
                        body.clone_from(whole);
                    }
                }
                assert_eq!(chains, expected, "{hooks}");
            }
        }
    });
}

#[test]
fn leftovers_of_a_killed_daemon_are_replaced() {
    Host::new().run(|| {
        let before = everything();
        let diversion = table::probe().expect("one way or the other");
        let old = TableSpec { queue_base: 100, marks: Marks { shift: 8 }, ..spec("fio", Fail::Open) };
        table::install(&old, diversion).expect("it loads");
        table::install(&spec("fi", Fail::Closed), diversion).expect("it replaces");
        let replaced = everything();
        let replaced_chains = our_chains();
        assert_eq!(table::state().expect("asked"), TableState::Live { diversion, intact: true });
        table::unload().expect("it unloads");
        assert_eq!(everything(), before);
        table::install(&spec("fi", Fail::Closed), diversion).expect("it loads");
        assert_eq!(our_chains(), replaced_chains);
        assert!(!replaced.contains("num 100") && !replaced.contains("bypass"), "{replaced}");
    });
}

#[test]
fn a_static_table_takes_the_place_of_a_live_one_and_back() {
    Host::new().run(|| {
        let before = everything();
        let diversion = table::probe().expect("one way or the other");
        for _ in 0..2 {
            table::install(&spec("fio", Fail::Closed), diversion).expect("it loads");
            table::install_static(&spec("fio", Fail::Closed)).expect("it replaces");
            assert_eq!(table::state().expect("asked"), TableState::Static { fail: Fail::Closed });
            let text = everything();
            assert!(!text.contains("queue"), "{text}");
        }
        table::unload().expect("it unloads");
        assert_eq!(everything(), before);
    });
}

#[test]
fn nothing_of_the_operators_is_touched() {
    Host::new().run(|| {
        nft("table inet filter { set s { type ipv4_addr; elements = { 192.0.2.1 }; }
             chain forward { type filter hook forward priority 0; policy drop; ip saddr @s accept; }; }
             table ip nat { chain post { type nat hook postrouting priority 100; masquerade; }; }
             table ip halfgate { chain c { }; }");
        if with_iptables() {
            run("iptables", "-t mangle -A FORWARD -p tcp --syn -j TCPMSS --clamp-mss-to-pmtu");
            run("iptables", "-t mangle -A FORWARD -m comment --comment halfgate -j ACCEPT");
            run("iptables", "-t mangle -A FORWARD -j NFQUEUE --queue-num 99");
            run("ip6tables", "-t filter -A FORWARD -j REJECT");
            run("iptables-legacy", "-t mangle -A OUTPUT -j MARK --set-mark 7");
        }
        let before = everything();
        let diversion = table::probe().expect("one way or the other");
        assert_eq!(everything(), before, "probing");
        table::install(&spec("fio", Fail::Closed), diversion).expect("it loads");
        let during = everything();
        for line in before.lines() {
            assert!(during.contains(line), "{line} is gone in\n{during}");
        }
        table::install_static(&spec("fio", Fail::Open)).expect("it replaces");
        table::unload().expect("it unloads");
        assert_eq!(everything(), before);
    });
}

#[test]
fn what_the_operator_adds_beside_ours_stays() {
    Host::new().run(|| {
        if !with_iptables() {
            return;
        }
        table::install(&spec("f", Fail::Closed), Diversion::Xtables).expect("it loads");
        run("iptables", "-t mangle -A FORWARD -p udp -j ACCEPT");
        assert!(table::unload().expect("it unloads"));
        assert_eq!(
            run("iptables", "-t mangle -S FORWARD"),
            "-P FORWARD ACCEPT\n-A FORWARD -p udp -j ACCEPT\n"
        );
        assert!(!run("nft", "list tables").contains("ip6"), "nobody else uses that one");
    });
}

#[test]
fn rules_that_are_missing_in_mangle_are_noticed_and_mended() {
    Host::new().run(|| {
        if !with_iptables() {
            return;
        }
        let spec = spec("fi", Fail::Closed);
        table::install(&spec, Diversion::Xtables).expect("it loads");
        for (tool, missing) in [
            ("ip6tables", "-t mangle -F FORWARD"),
            ("iptables", "-t mangle -D halfgate 1"),
            ("ip6tables", "-t mangle -D halfgate 2"),
            ("iptables", "-t mangle -F halfgate"),
        ] {
            run(tool, missing);
            let broken = TableState::Live { diversion: Diversion::Xtables, intact: false };
            assert_eq!(table::state().expect("asked"), broken, "{tool} {missing}");
            let (damage, _) = table::inspect(&spec, Diversion::Xtables).expect("asked");
            assert_eq!(damage, Some(Damage::Xtables), "{tool} {missing}");
            table::install(&spec, Diversion::Xtables).expect("it mends");
            let whole = TableState::Live { diversion: Diversion::Xtables, intact: true };
            assert_eq!(table::state().expect("asked"), whole, "{tool} {missing}");
        }
    });
}

#[test]
fn chains_without_rules_are_not_whole() {
    Host::new().run(|| {
        let spec = spec("fi", Fail::Closed);
        let diversion = table::probe().expect("the kernel can queue");
        table::install(&spec, diversion).expect("it loads");
        run("nft", "flush table inet halfgate");
        let state = table::state().expect("asked");
        assert!(matches!(state, TableState::Live { intact: false, .. }), "{state:?}");
        let (damage, _) = table::inspect(&spec, diversion).expect("asked");
        assert_eq!(damage, Some(Damage::Rules));
        table::install(&spec, diversion).expect("it mends");
        assert_eq!(table::state().expect("asked"), TableState::Live { diversion, intact: true });
    });
}

#[test]
fn rules_in_the_other_kind_of_iptables_are_found() {
    Host::new().run(|| {
        if !with_iptables() {
            return;
        }
        let line = "-t mangle -A FORWARD -m mark --mark 0x1/0x1 -m comment --comment halfgate -j NFQUEUE --queue-num 3";
        for tool in ["iptables-legacy", "ip6tables-legacy", "iptables-nft", "ip6tables-nft"] {
            run(tool, line);
        }
        assert!(table::unload().expect("it unloads"));
        let left = everything();
        assert!(!left.contains("NFQUEUE") && !left.contains("queue"), "{left}");
    });
}

/// They had no chain of their own, and are known by their comment.
#[test]
fn the_rules_of_an_older_halfgate_are_replaced() {
    Host::new().run(|| {
        if !with_iptables() {
            return;
        }
        for tool in ["iptables", "ip6tables"] {
            for (bit, queues) in [("0x3000000", "4:5"), ("0x2000000", "2:3"), ("0x1000000", "0:1")] {
                let line =
                    format!("-t mangle -A FORWARD -m mark --mark {bit}/{bit} -m comment --comment halfgate");
                run(tool, &format!("{line} -j NFQUEUE --queue-balance {queues}"));
            }
        }
        table::install(&spec("f", Fail::Closed), Diversion::Xtables).expect("it replaces");
        for tool in ["iptables", "ip6tables"] {
            let rules = run(tool, "-t mangle -S FORWARD");
            assert_eq!(
                rules, "-P FORWARD ACCEPT\n-A FORWARD -m mark ! --mark 0x0/0x3000000 -j halfgate\n",
                "{tool}"
            );
        }
        let whole = TableState::Live { diversion: Diversion::Xtables, intact: true };
        assert_eq!(table::state().expect("asked"), whole);
        assert!(table::unload().expect("it unloads"));
        let after = everything();
        assert!(!after.contains("halfgate") && !after.contains("queue"), "{after}");
    });
}

#[test]
fn a_refused_change_leaves_what_was_there() {
    Host::new().run(|| {
        let diversion = table::probe().expect("one way or the other");
        table::install(&spec("fi", Fail::Closed), diversion).expect("it loads");
        let before = everything();
        let wrong = TableSpec { queue_base: 65535, ..spec("fio", Fail::Open) };
        let error = table::install(&wrong, diversion).expect_err("there are no such queues");
        assert!(error.to_string().contains("65535"), "{error}");
        assert_eq!(everything(), before);
        // The kernel refuses: this one's nftables can't queue.
        if diversion == Diversion::Xtables {
            let error =
                table::install(&spec("fio", Fail::Open), Diversion::Native).expect_err("no such statement");
            assert!(error.to_string().contains("nft"), "{error}");
            assert_eq!(everything(), before);
        }
    });
}

#[test]
fn chains_of_others_that_drop_are_told() {
    Host::new().run(|| {
        nft("table inet mine { chain forward { type filter hook forward priority 10; policy drop; }
             chain in { type filter hook input priority filter; tcp dport 23 reject; }
             chain out { type filter hook output priority filter; tcp dport 23 accept; }; }");
        table::install_static(&spec("fio", Fail::Closed)).expect("it loads");
        let all = Hooks { forward: true, input: true, output: true };
        let found = table::foreign_drops(all).expect("asked");
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].starts_with("inet mine forward (hook forward, priority 10) drops by its policy"),
            "{found:?}"
        );
        assert!(found[1].starts_with("inet mine in (hook input, priority 0) has rules"), "{found:?}");
        let forward = table::foreign_drops(spec("f", Fail::Closed).hooks).expect("asked");
        assert_eq!(forward.len(), 1, "{forward:?}");
        if with_iptables() {
            run("iptables", "-N DOCKER-USER");
            run("iptables", "-A FORWARD -j DOCKER-USER");
            run("iptables", "-A DOCKER-USER -j REJECT");
            run("iptables-legacy", "-P FORWARD DROP");
            let found = table::foreign_drops(spec("f", Fail::Closed).hooks).expect("asked");
            assert_eq!(found.len(), 3, "{found:?}");
            assert!(
                found[1].contains("ip filter FORWARD (hook forward, priority 0, made by docker) has rules"),
                "{found:?}"
            );
            assert!(found[2].contains("made by iptables-legacy) drops by its policy"), "{found:?}");
        }
    });
}

#[test]
fn without_privileges_one_sentence_says_so() {
    let host = Host::new();
    let error = host.run(|| {
        // SAFETY: both take numbers only; only this thread's identity changes.
        let result = unsafe { libc::syscall(libc::SYS_setresuid, 65534, 65534, 65534) };
        assert_eq!(result, 0);
        table::probe().expect_err("nobody may not")
    });
    assert!(error.to_string().contains("root"), "{error}");
    assert!(!error.to_string().contains('\n'), "{error}");
}
