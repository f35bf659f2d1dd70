//! `halfgate exposure`
#![expect(clippy::wildcard_enum_match_arm, reason = "an answer holds few of the many kinds of line")]

use std::{path::Path, process::ExitCode};

use anyhow::Result;

use super::{
    client,
    output::{Align, Dress, Output, Table},
};
use crate::daemon::protocol::{ExposureRow, Line, ListenerRow, OverrunRow, Request, ServiceRow};

/// Open ports as they are seen from outside: services that answered, and what listens
/// on the gateway itself
///
/// Services behind the gateway and on it that answered a connection (TCP with a
/// SYN-ACK, UDP with a packet) since the start: since when, how often, by which rule,
/// asked by which interface. What lies behind a default route is not listed. Then
/// every socket of the gateway itself that listens, and what a stranger meets there:
/// an address that no rule, list or zone names, by the interface of a default route
/// (without one, by each). NAMED is `no` where the rule that lets it be reached does
/// not name its port: `service: any`, a whole protocol, a range of more than a
/// thousand ports, the default action. Where events were lost in a flood, it says since
/// when and how many: services may be missing, and ANSWERED is a lower bound.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only open ports that no rule names
    #[arg(long)]
    unnamed: bool,
    /// One object per line instead of tables
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &Args, socket: &Path) -> Result<ExitCode> {
    let mut output = Output::open();
    let mut services = Table::new(&[
        ("SERVICE", Align::Left),
        ("ASKED BY", Align::Left),
        ("RULE", Align::Left),
        ("NAMED", Align::Left),
        ("ANSWERED", Align::Right),
        ("SINCE", Align::Left),
        ("LAST", Align::Left),
    ]);
    let mut listeners = Table::new(&[
        ("LISTENS HERE", Align::Left),
        ("ASKED BY", Align::Left),
        ("A STRANGER MEETS", Align::Left),
        ("RULE", Align::Left),
        ("NAMED", Align::Left),
        ("FOR OTHERS", Align::Left),
    ]);
    let mut both = [false; 2];
    client::ask(socket, &Request::Exposure {}, &mut |line| {
        match line {
            Line::Exposure(row) if args.unnamed && !row.is_open_and_unnamed() && !is_overrun(&row) => {}
            Line::Exposure(row) if args.json => output.json(&row)?,
            Line::Exposure(row) => match *row {
                ExposureRow::Overrun(row) => output.line(&overrun(&output, &row))?,
                ExposureRow::Service(row) => {
                    both[0] = true;
                    let words = service(&output, &row);
                    services.row(&mut output, &words)?;
                }
                ExposureRow::Listener(row) => {
                    if !both[1] {
                        services.finish(&mut output)?;
                        if both[0] {
                            output.line("")?;
                        }
                    }
                    both[1] = true;
                    let words = listener(&output, &row);
                    listeners.row(&mut output, &words)?;
                }
            },
            other => client::aside(&other)?,
        }
        Ok(())
    })?;
    if !both[1] {
        services.finish(&mut output)?;
    }
    listeners.finish(&mut output)?;
    output.flush()?;
    Ok(ExitCode::SUCCESS)
}

fn is_overrun(row: &ExposureRow) -> bool {
    matches!(row, ExposureRow::Overrun(_))
}

fn overrun(output: &Output, row: &OverrunRow) -> String {
    let word = output.dressed(Dress::Odd, "incomplete:");
    format!(
        "{word} {} events were lost since {} (the last: {}): services may be missing, and counts are lower bounds",
        row.events, row.since, row.last
    )
}

fn named(output: &Output, named: bool, is_open: bool) -> String {
    match (named, is_open) {
        (true, _) => "yes".to_owned(),
        (false, true) => output.dressed(Dress::Odd, "no"),
        (false, false) => "-".to_owned(),
    }
}

fn place(proto: &str, address: &str, port: u16) -> String {
    let address = if address.contains(':') { format!("[{address}]") } else { address.to_owned() };
    format!("{proto} {address}:{port}")
}

fn service(output: &Output, row: &ServiceRow) -> Vec<String> {
    let here = if row.gateway { " (gateway)" } else { "" };
    vec![
        format!("{}{here}", place(&row.proto, &row.dst, row.dport)),
        row.asked_by.clone(),
        row.rule.clone(),
        named(output, row.named, true),
        if row.at_least { format!("at least {}", row.answered) } else { row.answered.to_string() },
        row.since.clone(),
        row.last.clone(),
    ]
}

fn listener(output: &Output, row: &ListenerRow) -> Vec<String> {
    vec![
        place(&row.proto, &row.address, row.port),
        row.asked_by.clone(),
        row.verdict.clone(),
        row.rule.clone().unwrap_or_else(|| "(input is not diverted)".to_owned()),
        named(output, row.named, row.verdict == "accept"),
        row.others.join(", "),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_events_are_told_above_the_services() {
        let row = OverrunRow { events: 200, since: "early".to_owned(), last: "late".to_owned() };
        assert_eq!(
            overrun(&Output::open(), &row),
            "incomplete: 200 events were lost since early (the last: late): services may be missing, and counts \
             are lower bounds"
        );
        let json = serde_json::to_value(ExposureRow::Overrun(row)).unwrap();
        assert_eq!((&json["kind"], &json["events"]), (&"overrun".into(), &200.into()));
        assert_eq!((&json["since"], &json["last"]), (&"early".into(), &"late".into()));
        let service = ServiceRow {
            proto: "tcp".to_owned(),
            dst: "192.0.2.10".to_owned(),
            dport: 80,
            gateway: false,
            asked_by: "ppp0".to_owned(),
            rule: "web".to_owned(),
            named: true,
            answered: 12,
            at_least: true,
            since: String::new(),
            last: String::new(),
        };
        assert_eq!(super::service(&Output::open(), &service)[4], "at least 12");
    }

    #[test]
    fn a_listener_is_a_readable_row() {
        let row = ListenerRow {
            proto: "tcp".to_owned(),
            address: "2001:db8::1".to_owned(),
            port: 22,
            asked_by: "ppp0".to_owned(),
            verdict: "drop".to_owned(),
            rule: Some("default".to_owned()),
            named: false,
            others: vec!["ssh".to_owned()],
        };
        let words = listener(&Output::open(), &row);
        assert_eq!(words, ["tcp [2001:db8::1]:22", "ppp0", "drop", "default", "-", "ssh"]);
        assert_eq!(place("udp", "*", 53), "udp *:53");
        assert_eq!(place("udp", "[*]", 53), "udp [*]:53");
    }
}
