//! Everything in a rule file that is not a zone, a service, a rule or a test;
//! and the timers, which rules have too.

use std::time::Duration;

use super::{
    limits::limits,
    reader::{self, Fields, Report, choice},
    scans::scans,
    schema,
    words::{self, timer_hint},
    yaml::{Kind, Node},
};
use crate::{
    conntrack::Timer,
    policy::{
        Action, Adaptive, Fail, FastOpen, Hooks, Inspect, Marks, OnExpire, Pickup, PickupMode, Probe, Queues,
        Settings, duration, live::check_timer,
    },
};

/// The largest connection table.
const MAX_CONNECTIONS: u32 = 16_000_000;
/// How far apart keepalives may be.
const INTERVALS: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(3600);
/// How many keepalives may stay without an answer.
const MOST_RETRIES: u32 = 100;
/// The longest pickup grace.
const LONGEST_GRACE: Duration = Duration::from_secs(24 * 3600);

/// Reads the settings; what is wrong keeps its default.
pub(super) fn read(fields: &Fields<'_>, report: &mut Report) -> Settings {
    let mut settings = Settings::default();
    match fields.need("version", "begin the file with `version: 1`", report) {
        Some(node) if reader::text(node, "version", report).is_some_and(|text| text != "1") => {
            report.error(
                node.place,
                "this version of halfgate reads rule files of version 1",
                "write `version: 1`",
            );
        }
        _ => {}
    }
    match fields.get("hooks") {
        Some(node) => settings.hooks = hooks(node, report).unwrap_or(settings.hooks),
        None if fields.is_meant("hooks") => {}
        None => report.warning(
            fields.place,
            "`hooks` is left out, so only routed traffic is covered, and not the gateway itself",
            "write `hooks: [forward, input]`, or `hooks: [forward]` if that is meant",
        ),
    }
    if let Some(node) = fields.get("default") {
        settings.default = action(node, "default", report).unwrap_or(settings.default);
    }
    if let Some(node) = fields.get("fail") {
        let choices = [("closed", Fail::Closed), ("open", Fail::Open)];
        let foreign = [
            ("close", "closed"),
            ("drop", "closed"),
            ("block", "closed"),
            ("accept", "open"),
            ("bypass", "open"),
        ];
        settings.fail = choice(node, "fail", &choices, &foreign, &[], report).unwrap_or(settings.fail);
    }
    if let Some(node) = fields.get("pickup") {
        settings.pickup = pickup(node, settings.pickup, report);
    }
    if let Some(node) = fields.get("max_connections") {
        let range = 1..=MAX_CONNECTIONS;
        settings.max_connections =
            reader::number(node, "max_connections", range, report).unwrap_or(settings.max_connections);
    }
    if let Some(node) = fields.get("adaptive") {
        settings.adaptive = adaptive(node, settings.adaptive, report).unwrap_or(settings.adaptive);
    }
    if let Some(node) = fields.get("on_expire") {
        settings.on_expire = on_expire(node, report).unwrap_or(settings.on_expire);
    }
    if let Some(node) = fields.get("timers") {
        settings.timers = timers(node, report);
    }
    if let Some(node) = fields.get("limits") {
        settings.limits = limits(node, report);
    }
    if let Some(node) = fields.get("scans") {
        settings.scans = scans(node, report);
    }
    if let Some(node) = fields.get("queues") {
        settings.queues = queues(node, &settings.queues, report).unwrap_or(settings.queues);
    }
    if let Some(node) = fields.get("marks") {
        settings.marks = marks(node, report).unwrap_or(settings.marks);
    }
    if let Some(node) = fields.get("rst_per_second") {
        let range = 0..=1_000_000;
        settings.rst_per_second =
            reader::number(node, "rst_per_second", range, report).unwrap_or(settings.rst_per_second);
        if settings.rst_per_second == 0 {
            report.warning(
                node.place,
                "with `rst_per_second: 0` every `reset` and every `probe` is a `drop`",
                "give it a budget, as in 1000",
            );
        }
    }
    settings
}

/// Reads an action.
pub(super) fn action(node: &Node, title: &str, report: &mut Report) -> Option<Action> {
    let choices = [("accept", Action::Accept), ("drop", Action::Drop), ("reset", Action::Reset)];
    choice(node, title, &choices, words::ACTIONS, &[], report)
}

fn hooks(node: &Node, report: &mut Report) -> Option<Hooks> {
    let before = report.errors();
    let mut hooks = Hooks { forward: false, input: false, output: false };
    let choices = [("forward", 0_u8), ("input", 1), ("output", 2)];
    let foreign = [
        ("in", "input"),
        ("out", "output"),
        ("local", "input"),
        ("fwd", "forward"),
        ("prerouting", "forward"),
    ];
    let nodes = reader::one_or_more(node);
    for node in nodes {
        match choice(node, "hooks", &choices, &foreign, &[], report) {
            Some(0) => hooks.forward = true,
            Some(1) => hooks.input = true,
            Some(_) => hooks.output = true,
            None => {}
        }
    }
    if nodes.is_empty() {
        report.error(
            node.place,
            "`hooks` is an empty list: nothing would be covered",
            "write `hooks: [forward, input]`",
        );
    }
    (report.errors() == before).then_some(hooks)
}

const PICKUP_MODES: [(&str, PickupMode); 2] = [("strict", PickupMode::Strict), ("loose", PickupMode::Loose)];
const PICKUP_WORDS: [(&str, &str); 4] =
    [("on", "loose"), ("off", "strict"), ("true", "loose"), ("false", "strict")];

fn pickup(node: &Node, mut pickup: Pickup, report: &mut Report) -> Pickup {
    let Some(fields) = fields_or_word(node, &schema::PICKUP, report) else {
        pickup.mode =
            choice(node, "pickup", &PICKUP_MODES, &PICKUP_WORDS, &[], report).unwrap_or(pickup.mode);
        return pickup;
    };
    if let Some(node) = fields.get("mode") {
        pickup.mode = choice(node, "mode", &PICKUP_MODES, &PICKUP_WORDS, &[], report).unwrap_or(pickup.mode);
    }
    if let Some(node) = fields.get("grace")
        && let Some(grace) = reader::duration(node, "grace", report)
    {
        pickup.grace = grace;
        if grace > LONGEST_GRACE {
            let cure = "write at most 24h; `mode: loose` picks up for ever";
            report.error(node.place, format!("a grace of {} is too long", duration::text(grace)), cure);
        }
    }
    pickup
}

/// A rule's own pickup: the mode only.
pub(super) fn rule_pickup(node: &Node, report: &mut Report) -> Option<PickupMode> {
    let Some(fields) = fields_or_word(node, &schema::PICKUP, report) else {
        return choice(node, "pickup", &PICKUP_MODES, &PICKUP_WORDS, &[], report);
    };
    if let Some(node) = fields.get("grace") {
        report.error(
            node.place,
            "a rule has no grace of its own",
            "set `pickup: { grace: ... }` for the whole file",
        );
    }
    let node = fields.need("mode", "write `pickup: loose` or `pickup: strict`", report)?;
    choice(node, "mode", &PICKUP_MODES, &PICKUP_WORDS, &[], report)
}

/// The fields of a mapping; `None` where one word stands.
fn fields_or_word<'n>(
    node: &'n Node,
    group: &'static schema::Group,
    report: &mut Report,
) -> Option<Fields<'n>> {
    match node.kind {
        Kind::Text(_) | Kind::Bool(_) => None,
        Kind::Map(_) | Kind::List(_) | Kind::Null => Fields::of(node, group, report),
    }
}

fn adaptive(node: &Node, old: Adaptive, report: &mut Report) -> Option<Adaptive> {
    let before = report.errors();
    let fields = Fields::of(node, &schema::ADAPTIVE, report)?;
    let mut percent = |key: &'static str, old: u32| {
        let Some(node) = fields.get(key) else { return old };
        let Some(text) = reader::text(node, key, report) else { return old };
        let number = text.strip_suffix('%').map(str::trim).and_then(|number| number.parse::<u32>().ok());
        match number {
            Some(number) if (1..=1000).contains(&number) => number,
            Some(number) => {
                report.error(
                    node.place,
                    format!("{key} can't be {number}%"),
                    "write a percentage from 1% to 1000%",
                );
                old
            }
            None => {
                let is_number = text.parse::<u32>().is_ok();
                let cure = if is_number { format!("write {text}%") } else { "write it like 60%".to_owned() };
                report.error(node.place, format!("{key} must be a percentage of max_connections"), cure);
                old
            }
        }
    };
    let adaptive = Adaptive { start: percent("start", old.start), end: percent("end", old.end) };
    if report.errors() != before {
        return None;
    }
    if adaptive.start >= adaptive.end {
        report.error(
            node.place,
            format!("adaptive timers would end ({}%) before they start ({}%)", adaptive.end, adaptive.start),
            "write a start below the end, as in { start: 60%, end: 120% }",
        );
        return None;
    }
    Some(adaptive)
}

/// Reads `on_expire`: a word, or `{ probe: { ... } }`.
pub(super) fn on_expire(node: &Node, report: &mut Report) -> Option<OnExpire> {
    if matches!(node.kind, Kind::Map(_)) {
        let fields = Fields::of(node, &schema::ON_EXPIRE, report)?;
        let cure = format!("write it like `{}`", schema::ON_EXPIRE.example);
        let node = fields.need("probe", &cure, report)?;
        return probe(node, report).map(OnExpire::Probe);
    }
    let choices =
        [("reset", OnExpire::Reset), ("drop", OnExpire::Drop), ("probe", OnExpire::Probe(Probe::default()))];
    let foreign = [
        ("silent", "drop"),
        ("none", "drop"),
        ("rst", "reset"),
        ("reject", "reset"),
        ("keepalive", "probe"),
        ("dcd", "probe"),
        ("dpd", "probe"),
    ];
    choice(node, "on_expire", &choices, &foreign, &[], report)
}

fn probe(node: &Node, report: &mut Report) -> Option<Probe> {
    let before = report.errors();
    let fields = Fields::of(node, &schema::PROBE, report)?;
    let mut probe = Probe::default();
    if let Some(node) = fields.get("interval")
        && let Some(interval) = reader::duration(node, "interval", report)
    {
        if !INTERVALS.contains(&interval) {
            report.error(
                node.place,
                format!("an interval of {} is out of range", duration::text(interval)),
                "write one from 1s to 1h",
            );
        }
        probe.interval = interval;
    }
    if let Some(node) = fields.get("retries")
        && let Some(retries) = reader::number(node, "retries", 1..=MOST_RETRIES, report)
    {
        probe.retries = u8::try_from(retries).unwrap_or(u8::MAX);
    }
    (report.errors() == before).then_some(probe)
}

/// Reads a rule's `fast_open:`.
pub(super) fn fast_open(node: &Node, report: &mut Report) -> Option<FastOpen> {
    let choices = [FastOpen::Allow, FastOpen::Strip, FastOpen::Deny].map(|mode| (mode.name(), mode));
    let foreign = [
        ("accept", "allow"),
        ("pass", "allow"),
        ("on", "allow"),
        ("remove", "strip"),
        ("clear", "strip"),
        ("drop", "deny"),
        ("block", "deny"),
        ("off", "strip"),
    ];
    choice(node, "fast_open", &choices, &foreign, &[], report)
}

/// Reads a rule's `inspect:`.
pub(super) fn inspect(node: &Node, report: &mut Report) -> Option<Inspect> {
    let choices = [Inspect::Lifecycle, Inspect::Full].map(|mode| (mode.name(), mode));
    let foreign = [
        ("all", "full"),
        ("every", "full"),
        ("always", "full"),
        ("true", "full"),
        ("yes", "full"),
        ("on", "full"),
        ("fast", "lifecycle"),
        ("fast_path", "lifecycle"),
        ("offload", "lifecycle"),
        ("flow", "lifecycle"),
        ("false", "lifecycle"),
        ("no", "lifecycle"),
        ("off", "lifecycle"),
    ];
    choice(node, "inspect", &choices, &foreign, &[], report)
}

/// Reads `timers:`.
pub(super) fn timers(node: &Node, report: &mut Report) -> Vec<(Timer, Option<Duration>)> {
    let mut out = Vec::new();
    for (name, place, node) in reader::named(node, "timers", "timers: { half_closed: 10m }", report) {
        let Some(timer) = Timer::from_name(name) else {
            report.error(place, format!("no timer is called `{name}`"), timer_hint(name));
            continue;
        };
        let is_off =
            matches!(&node.kind, Kind::Text(text) if matches!(text.as_str(), "off" | "never" | "none"));
        let value = if is_off || matches!(node.kind, Kind::Bool(false)) {
            None
        } else {
            let Some(value) = reader::duration(node, name, report) else { continue };
            Some(value)
        };
        match check_timer(timer, value) {
            Ok(()) => out.push((timer, value)),
            Err(error) => {
                let message = error.to_string();
                let (message, cure) = message.split_once("; ").unwrap_or((&message, "give it another value"));
                report.error(node.place, message, cure);
            }
        }
    }
    out
}

fn queues(node: &Node, old: &Queues, report: &mut Report) -> Option<Queues> {
    let fields = Fields::of(node, &schema::QUEUES, report)?;
    let mut number = |key: &'static str, range| {
        let node = fields.get(key)?;
        reader::number(node, key, range, report).and_then(|number| u16::try_from(number).ok())
    };
    let queues = Queues {
        base: number("base", 0..=65_000).unwrap_or(old.base),
        count: number("count", 1..=128).or(old.count),
        cpus: fields.get("cpus").map_or_else(Vec::new, |node| cpus(node, report)),
    };
    let all = Queues::in_all(queues.count.unwrap_or(1));
    if u32::from(queues.base).saturating_add(all) > 65_536 {
        report.error(node.place, "the queue numbers end at 65535", "take a smaller base");
        return None;
    }
    Some(queues)
}

/// Processors by their numbers, each once.
fn cpus(node: &Node, report: &mut Report) -> Vec<u16> {
    let mut all = Vec::new();
    for node in reader::one_or_more(node) {
        let number = reader::number(node, "a processor", 0..=1023, report);
        let Some(cpu) = number.and_then(|number| u16::try_from(number).ok()) else { continue };
        if all.contains(&cpu) {
            report.error(node.place, format!("processor {cpu} is named twice"), "name each once");
        }
        all.push(cpu);
    }
    all
}

fn marks(node: &Node, report: &mut Report) -> Option<Marks> {
    let fields = Fields::of(node, &schema::MARKS, report)?;
    let node = fields.need("mask", "write `marks: { mask: 0xff000000 }`", report)?;
    let text = reader::text(node, "mask", report)?.to_ascii_lowercase();
    let mask = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text.parse::<u32>().ok(),
    };
    let shift = mask.map_or(32, u32::trailing_zeros);
    let found =
        u8::try_from(shift).ok().map(|shift| Marks { shift }).filter(|marks| Some(marks.mask()) == mask);
    if found.is_none() {
        report.error(
            node.place,
            format!("`{text}` is not a mask of eight bits side by side"),
            "write it like 0xff000000, 0x00ff0000 or 0x0000ff00",
        );
    }
    found.filter(|marks| marks.shift <= 24)
}
