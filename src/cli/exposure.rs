//! `halfgate exposure`
#![expect(clippy::wildcard_enum_match_arm, reason = "an answer holds few of the many kinds of line")]

use std::{path::Path, process::ExitCode};

use anyhow::Result;

use super::{
    client,
    output::{Align, Dress, Output, Table},
};
use crate::daemon::protocol::{ExposureRow, Line, ListenerRow, Request, ServiceRow};

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
/// thousand ports, the default action.
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
            Line::Exposure(row) if args.unnamed && !row.is_open_and_unnamed() => {}
            Line::Exposure(row) if args.json => output.json(&row)?,
            Line::Exposure(row) => match *row {
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
        row.answered.to_string(),
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
