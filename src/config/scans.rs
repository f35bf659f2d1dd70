//! `scans:`: from when on a source scans, or `off`.

use std::time::Duration;

use super::{
    reader::{self, Fields, Report, choice},
    schema,
    yaml::{Kind, Node},
};
use crate::policy::{ScanLimit, duration};

/// Fewer would be told of clients whose servers are down, more than the counting tells
/// apart.
const DISTINCT: std::ops::RangeInclusive<u32> = 5..=1000;

/// How long a window may be.
const WINDOWS: std::ops::RangeInclusive<Duration> = Duration::from_secs(10)..=Duration::from_secs(24 * 3600);

/// Reads it; what is wrong keeps its default.
pub(super) fn scans(node: &Node, report: &mut Report) -> Option<ScanLimit> {
    let mut scans = ScanLimit::default();
    if matches!(node.kind, Kind::Text(_) | Kind::Bool(_)) {
        let foreign = [("no", "off"), ("false", "off"), ("none", "off"), ("never", "off")];
        let is_off = choice(node, "scans", &[("off", true)], &foreign, &[], report);
        return if is_off == Some(true) { None } else { Some(scans) };
    }
    let Some(fields) = Fields::of(node, &schema::SCANS, report) else { return Some(scans) };
    if let Some(node) = fields.get("distinct")
        && let Some(distinct) = reader::number(node, "distinct", DISTINCT, report)
    {
        scans.distinct = distinct;
    }
    if let Some(node) = fields.get("window")
        && let Some(window) = reader::duration(node, "window", report)
    {
        if !WINDOWS.contains(&window) {
            let message = format!("a window of {} is out of range", duration::text(window));
            report.error(node.place, message, "write one from 10s to 24h");
        }
        scans.window = window;
    }
    Some(scans)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::compile;

    fn read(scans: &str) -> Result<Option<ScanLimit>, String> {
        let text =
            format!("version: 1\nhooks: [forward]\n{scans}\nrules:\n  - {{ name: a, action: accept }}\n");
        match compile("t", &text, &mut |_| Err("none".to_owned()), None) {
            Ok(compiled) => Ok(compiled.policy.settings.scans),
            Err(all) => Err(all.iter().map(|one| format!("{}: {}", one.message, one.cure)).collect()),
        }
    }

    #[test]
    fn scans_have_a_threshold_and_a_window_or_are_off() {
        assert_eq!(read(""), Ok(Some(ScanLimit { distinct: 64, window: Duration::from_secs(300) })));
        assert_eq!(
            read("scans: { distinct: 20, window: 1m }"),
            Ok(Some(ScanLimit { distinct: 20, window: Duration::from_secs(60) }))
        );
        assert_eq!(read("scans: off"), Ok(None));
        for (wrong, cure) in [
            ("scans: { distinct: 2 }", "5"),
            ("scans: { window: 1s }", "10s"),
            ("scans: { windows: 1m }", "window"),
            ("scans: on", "off"),
            ("scans: [1]", "distinct"),
        ] {
            let error = read(wrong).unwrap_err();
            assert!(error.contains(cure), "{wrong}: {error}");
        }
    }
}
