//! What an operator sees of floods, scans and open ports: `half-open`, `events` under
//! a flood, limits in shadow and suggested ones, scans, `exposure`.

use std::{fs, net::Shutdown, process::Command};

use halfgate::sys::netns::{Family, Process};
use serde_json::Value;

use crate::harness::{Gateway, HALFGATE, SOON, accept, listen, rules, run, s, say};

both_families! {
    half_open_shows_holders_and_ages_and_how_many_handshakes_were_completed
    a_flood_is_a_line_a_second_in_events_and_log
    shadow_acts_on_nothing_and_says_what_would_have_been_done
    limits_are_suggested_from_what_was_seen_and_can_be_pasted
    a_scan_that_the_server_answers_by_rst_is_told_and_blocks_nobody
    a_scan_that_the_rules_refuse_is_told_too
    exposure_shows_what_answered_and_what_listens_here
}

fn rows<'r>(all: &'r [Value], kind: &str, is: &str) -> Vec<&'r Value> {
    all.iter().filter(|row| row[kind] == is).collect()
}

fn number(row: &Value, key: &str) -> u64 {
    row[key].as_u64().unwrap_or_else(|| panic!("no {key} in {row}"))
}

fn half_open_shows_holders_and_ages_and_how_many_handshakes_were_completed(family: Family) {
    let gateway = Gateway::start(&rules(
        "timers: { syn_received: 5m, fin_wait: 5m }\n\
         limits: { embryonic: { per_source: 4, on_excess: drop } }\n\
         rules: [{ name: web, from: outside, service: tcp/80, action: accept }]",
    ));
    let listener = gateway.listen(family, 80);
    let client = gateway.connect(family, 80);
    let _server = accept(&listener);
    let forger = gateway.forger();
    for (source, ports) in [(1, 4), (2, 2)] {
        for port in 0..ports {
            let from = forger.syn(family, source, 4000 + port, 80);
            gateway.wait_phase(from, "syn_received");
        }
    }
    // The server hears no more: nobody acknowledges the FIN.
    let deaf = "add table inet deaf\n\
                add chain inet deaf in { type filter hook input priority 0; }\n\
                add rule inet deaf in tcp dport 80 drop\n";
    let file = gateway.directory().join("deaf.nft");
    fs::write(&file, deaf).unwrap();
    let done = run(gateway.three.server.command("nft").arg("-f").arg(&file));
    assert_eq!(done.code, 0, "{done:?}");
    client.shutdown(Shutdown::Write).unwrap();
    gateway.wait_phase(client.local_addr().unwrap(), "fin_wait");

    let all = gateway.json(&["half-open"]);
    let total = rows(&all, "by", "total")[0];
    assert_eq!((number(total, "syn_received"), number(total, "unacknowledged_fins")), (6, 1), "{total}");
    assert_eq!((number(total, "sources"), number(total, "destinations")), (3, 1));
    let all_time = &total["since_start"];
    assert_eq!((number(all_time, "begun"), number(all_time, "completed")), (7, 1));
    assert_eq!(all_time["percent"], 14.3);
    // On a slow machine the first of them may have been a minute ago.
    assert!((1..=7).contains(&number(&total["lately"], "begun")), "{total}");
    let sources = rows(&all, "by", "source");
    let forged = |source| match family {
        Family::V4 => family.forged(source).to_string(),
        Family::V6 => format!("2001:db8:5:{source}::/64"),
    };
    assert_eq!(sources[0]["src"], forged(1).as_str());
    assert_eq!((number(sources[0], "syn_received"), &sources[0]["next"]), (4, &"drop".into()));
    assert_eq!((sources[1]["src"].as_str(), number(sources[1], "syn_received")), (Some(&*forged(2)), 2));
    assert_eq!(sources[1]["next"], Value::Null, "there is room");
    assert_eq!(number(sources[2], "unacknowledged_fins"), 1);
    let rule = rows(&all, "by", "rule")[0];
    assert_eq!((rule["rule"].as_str(), number(rule, "syn_received")), (Some("web"), 6));
    let destination = rows(&all, "by", "destination")[0];
    assert_eq!(destination["dst"], family.server().to_string().as_str());
    assert_eq!(destination["dport"], 80);
    let ages: u64 = rows(&all, "by", "age").iter().map(|row| number(row, "syn_received")).sum();
    assert_eq!(ages, 6, "each has an age");
    let one = gateway.json(&["half-open", &format!("src={}", family.forged(2))]);
    assert_eq!(number(rows(&one, "by", "total")[0], "syn_received"), 2, "a filter holds");
    let text = gateway.ok(&["half-open", "--top", "1"]);
    assert!(text.contains("6 without a third") && text.contains(&forged(1)), "{text}");
    assert!(!text.contains(&forged(2)), "only the largest: {text}");
}

fn a_flood_is_a_line_a_second_in_events_and_log(family: Family) {
    let gateway = Gateway::start(&rules(
        "limits: { embryonic: { total: 10, on_excess: drop } }\n\
         rules: [{ name: web, from: outside, service: tcp/80, action: accept, log: true }]",
    ));
    let _listener = gateway.listen(family, 80);
    let forger = gateway.forger();
    let followed = gateway.directory().join("followed");
    let mut follow = gateway.three.gateway.command(HALFGATE);
    follow.arg("--socket").arg(gateway.socket()).args(["events", "--follow", "--json"]);
    follow.stdout(fs::File::create(&followed).unwrap());
    let follower = Process::start(&mut follow).expect("follow the events");
    let start = gateway.now();
    for number in 0..20_000_u16 {
        forger.syn(family, number % 5000, 4000 + number / 5000, 80);
    }
    let mut told = (0, 0, 0);
    gateway.eventually("every SYN past the limit is accounted for", SOON, || {
        let limits = gateway.json(&["limits"]);
        let passed: u64 = limits.iter().filter_map(|row| row["passed"].as_u64()).sum();
        let events = gateway.json(&["events"]);
        let lost: u64 = events.iter().filter_map(|event| event["lost"].as_u64()).sum();
        let limit = rows(&events, "event", "limit");
        let counted: u64 = limit.iter().map(|event| 1 + event["left_out"].as_u64().unwrap_or(0)).sum();
        told = (passed, counted, lost);
        assert!(limit.len() as u64 <= 200 + passed / 10, "{} events of a flood of {passed}", limit.len());
        passed > 1000 && counted <= passed && counted + lost >= passed
    });
    let followed = || fs::read_to_string(&followed).unwrap();
    gateway.eventually("who follows sees the flood", SOON, || followed().contains("left_out"));
    let lines = followed().lines().count() as u64;
    assert!(lines <= 4 * 200 + told.0 / 5, "{lines} lines for who follows a flood of {}", told.0);
    drop(follower);
    let log = gateway.log();
    // To now: what waited in the queues was judged later than it was sent.
    let lasted = gateway.since(start).as_secs() + 1;
    let lines = |of: &str| log.lines().filter(|line| line.contains(of)).count() as u64;
    assert!((1..=lasted + 1).contains(&lines("limit embryonic.total passed")), "{told:?}\n{log}");
    assert!((1..=10 * lasted).contains(&lines("rule web: accept")), "{log}");
    assert!(log.contains("more like it left out before"), "{log}");
}

fn shadow_acts_on_nothing_and_says_what_would_have_been_done(family: Family) {
    let gateway = Gateway::start(&rules(
        "timers: { syn_received: 5m }\n\
         limits: { embryonic: { per_destination: 2, on_excess: evict, shadow: true } }\n\
         rules: [{ name: web, from: outside, service: tcp/80, action: accept }]",
    ));
    let _listener = gateway.listen(family, 80);
    let forger = gateway.forger();
    for source in 0..6 {
        let from = forger.syn(family, source, 4000, 80);
        gateway.wait_phase(from, "syn_received");
    }
    assert_eq!(gateway.connections(&["phase=syn_received"]).len(), 6, "nothing was done");
    let limits = gateway.json(&["limits"]);
    let row = rows(&limits, "limit", "embryonic.per_destination")[0];
    assert_eq!((number(row, "passed"), number(row, "passed_in_shadow")), (0, 4));
    assert_eq!((&row["on_excess"], &row["shadow"]), (&"evict".into(), &true.into()));
    let mut events = Vec::new();
    gateway.eventually("each of the four is told", SOON, || {
        let all = gateway.json(&["events"]);
        events = rows(&all, "event", "limit").into_iter().cloned().collect();
        events.len() == 4
    });
    assert!(events.iter().all(|event| event["action"] == "evict" && event["shadow"] == true), "{events:?}");
    let status = gateway.json(&["status"]).remove(0);
    assert_eq!(status["limits_passed"], Value::Array(Vec::new()));
    assert_eq!(status["limits_passed_in_shadow"][0]["count"], 4);
    let holders = gateway.json(&["half-open"]);
    let destination = rows(&holders, "by", "destination")[0];
    assert_eq!((&destination["next"], &destination["shadow"]), (&"evict".into(), &true.into()));
}

fn limits_are_suggested_from_what_was_seen_and_can_be_pasted(family: Family) {
    let file = rules("rules: [{ name: web, from: outside, service: tcp/80, action: accept }]");
    let gateway = Gateway::start(&file);
    let _listener = gateway.listen(family, 80);
    let forger = gateway.forger();
    for port in 0..30 {
        forger.syn(family, 1, 4000 + port, 80);
    }
    let mut seen = Vec::new();
    gateway.eventually("it was looked at for three seconds", SOON, || {
        seen = gateway.json(&["limits", "suggest"]);
        seen.iter().all(|row| number(row, "samples") >= 3) && seen.len() == 6
    });
    for row in &seen {
        assert!(row["rule"] == Value::Null || row["rule"] == "web", "{row}");
        assert_eq!(number(row, "peak"), 30, "{row}");
        assert!(row["peak_at"].is_string() && number(row, "busy") >= 1, "{row}");
        assert!(number(row, "suggested") > 30, "what was seen has room: {row}");
    }
    let text = gateway.ok(&["limits", "suggest", "--hours", "1"]);
    let (global, own) = text.split_once("\n\n").expect("the rule set's and the rule's");
    let pasted = format!(
        "{}\n{global}\nrules:\n  - name: web\n    from: outside\n    service: tcp/80\n    action: accept\n{own}\n",
        rules("").trim_end(),
    );
    let path = gateway.directory().join("pasted.yaml");
    fs::write(&path, &pasted).unwrap();
    let path = path.display().to_string();
    let checked = gateway.cli(&["check", &path]);
    assert_eq!(checked.code, 0, "{pasted}\n{checked:?}");
    gateway.ok(&["reload", &path]);
    let limits = gateway.json(&["limits"]);
    let values = |limit: &str| {
        rows(&limits, "limit", limit).iter().filter_map(|row| row["value"].as_u64()).collect::<Vec<_>>()
    };
    for limit in ["embryonic.total", "embryonic.per_source", "embryonic.per_destination"] {
        assert_eq!(values(limit).len(), 2, "in force for the rule set and the rule: {limits:?}");
    }
}

/// A SYN scan of 200 ports of the server, from the client.
fn scan(gateway: &Gateway, family: Family) {
    let mut command: Command = gateway.three.client.command("nmap");
    command.args(["-sS", "-n", "-Pn", "-T5", "--max-retries", "0", "-p", "1-200"]);
    if family == Family::V6 {
        command.arg("-6");
    }
    let done = run(command.arg(family.server().to_string()));
    assert_eq!(done.code, 0, "{done:?}");
}

/// The scan as an event tells it, once one does.
fn scan_told(gateway: &Gateway) -> Value {
    let mut told = Vec::new();
    gateway.eventually("the scan is told", SOON, || {
        let events = gateway.json(&["events"]);
        told = rows(&events, "event", "scan").into_iter().map(|event| event["scan"].clone()).collect();
        !told.is_empty()
    });
    let status = gateway.json(&["status"]).remove(0);
    assert_eq!((number(&status, "scans"), status["scanning"].as_array().unwrap().len()), (1, 1));
    assert!(gateway.log().contains("scans: about"), "{}", gateway.log());
    told.remove(0)
}

fn scanner(family: Family) -> &'static str {
    match family {
        Family::V4 => "203.0.113.10",
        Family::V6 => "2001:db8:a::/64",
    }
}

fn a_scan_that_the_server_answers_by_rst_is_told_and_blocks_nobody(family: Family) {
    let gateway = Gateway::start(&rules("rules: [{ name: all, from: outside, action: accept }]"));
    let listener = gateway.listen(family, 80);
    scan(&gateway, family);
    let told = scan_told(&gateway);
    assert_eq!(told["src"], scanner(family));
    assert!(number(&told, "distinct") >= 60 && number(&told, "addresses") == 1, "{told}");
    assert!(number(&told, "reset") >= 55 && number(&told, "refused") == 0, "{told}");
    let client = gateway.connect(family, 80);
    let (server, _) = loop {
        // The scan's own half-open visit may be first.
        let (server, from) = accept(&listener);
        if from == client.local_addr().unwrap() {
            break (server, from);
        }
    };
    say(&client, &server, "still let in");
}

fn a_scan_that_the_rules_refuse_is_told_too(family: Family) {
    let gateway =
        Gateway::start(&rules("rules: [{ name: web, from: outside, service: tcp/80, action: accept }]"));
    let listener = gateway.listen(family, 80);
    scan(&gateway, family);
    let told = scan_told(&gateway);
    assert_eq!(told["src"], scanner(family));
    assert!(number(&told, "refused") >= 55 && number(&told, "reset") == 0, "{told}");
    let client = gateway.connect(family, 80);
    say(&client, &accept(&listener).0, "still let in");
}

fn exposure_shows_what_answered_and_what_listens_here(family: Family) {
    let mut gateway = Gateway::without_firewall(&rules(
        "hooks: [forward, input]\n\
         rules:\n\
         \x20 - { name: web, from: outside, to: inside, service: tcp/80, action: accept }\n\
         \x20 - { name: broad, from: outside, to: inside, action: accept }\n\
         \x20 - { name: out, from: inside, to: outside, action: accept }\n\
         \x20 - { name: admin, from: inside, to: gateway, service: tcp/8022, action: accept }\n\
         \x20 - { name: own, from: outside, to: gateway, service: tcp/8080, action: accept }",
    ));
    let flag = if family == Family::V6 { "-6" } else { "-4" };
    gateway.tool("ip", &[flag, "route", "add", "default", "via", &family.client().to_string()], "");
    gateway.start_firewall();
    let everywhere = |port| {
        std::net::SocketAddr::new(
            match family {
                Family::V4 => std::net::Ipv4Addr::UNSPECIFIED.into(),
                Family::V6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
            },
            port,
        )
    };
    let here = [8080, 8022].map(|port| listen(&gateway.three.gateway, everywhere(port)));
    let _web = (0..3).map(|_| gateway.pair(family, 80)).collect::<Vec<_>>();
    let _broad = gateway.pair(family, 81);
    // From inside to the world: not a service behind the gateway.
    let world = listen(&gateway.three.client, std::net::SocketAddr::new(family.client(), 9000));
    let out = crate::harness::connect(&gateway.three.server, world.local_addr().unwrap(), SOON).unwrap();
    let own = crate::harness::connect(
        &gateway.three.client,
        std::net::SocketAddr::new(family.outside(), 8080),
        s(5),
    );
    own.expect("the gateway's own service");
    accept(&here[0]);
    let mut all = Vec::new();
    gateway.eventually("all that answered is shown", SOON, || {
        all = gateway.json(&["exposure"]);
        let services = rows(&all, "kind", "service");
        services.len() == 3 && services.iter().map(|row| number(row, "answered")).sum::<u64>() == 5
    });
    drop(out);
    let service = |port: u16| {
        let services = rows(&all, "kind", "service");
        let row = services.into_iter().find(|row| row["dport"] == port);
        row.unwrap_or_else(|| panic!("no {port} in {all:?}")).clone()
    };
    let web = service(80);
    assert_eq!((&web["rule"], &web["named"], number(&web, "answered")), (&"web".into(), &true.into(), 3));
    assert_eq!((web["asked_by"].as_str(), web["gateway"].as_bool()), (Some("outside"), Some(false)));
    assert!(web["since"].as_str() <= web["last"].as_str() && web["since"].is_string());
    let broad = service(81);
    assert_eq!((&broad["rule"], &broad["named"]), (&"broad".into(), &false.into()));
    assert_eq!((&service(8080)["rule"], &service(8080)["gateway"]), (&"own".into(), &true.into()));
    let listener = |port: u16| {
        let listeners = rows(&all, "kind", "listener");
        let row = listeners.into_iter().find(|row| row["port"] == port && row["asked_by"] == "outside");
        row.unwrap_or_else(|| panic!("no listener {port} in {all:?}")).clone()
    };
    assert_eq!((&listener(8080)["verdict"], &listener(8080)["rule"]), (&"accept".into(), &"own".into()));
    let admin = listener(8022);
    assert_eq!((&admin["verdict"], &admin["rule"]), (&"drop".into(), &"default".into()));
    assert_eq!(admin["others"], Value::Array(vec!["admin".into()]));
    let unnamed = gateway.json(&["exposure", "--unnamed"]);
    let ports: Vec<&Value> = unnamed.iter().map(|row| &row["dport"]).collect();
    assert_eq!(ports, [81], "{unnamed:?}");
    let text = gateway.ok(&["exposure"]);
    assert!(text.contains("A STRANGER MEETS") && text.contains(":81"), "{text}");
}
