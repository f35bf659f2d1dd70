//! `halfgate connections`

use std::{path::Path, process::ExitCode, time::Duration};

use anyhow::Result;

use super::{
    Usage,
    client::Client,
    output::{Align, Output, Table},
};
use crate::{
    daemon::{
        filter::{self, Filter},
        protocol::{Connection, Line, Request},
        text,
    },
    sys::{clock::Pace, cpus},
};

/// List connections
///
/// FILTER terms must all hold: `halfgate connections proto=tcp
/// phase=half_closed src=10.0.0.0/8 dport=443 rule=web older=5m idle=1m`.
/// Several values for one key are separated by commas, ports may be ranges, and
/// `phase=half_open` means both half-open phases. `stale=yes` are those that one
/// end seems to have forgotten while the other has them.
#[derive(Debug, clap::Args)]
#[command(after_help = filter::GRAMMAR)]
pub(super) struct Args {
    /// Terms like dport=443; all must hold
    #[arg(value_name = "FILTER")]
    filter: Vec<String>,
    /// Show it again and again, every so often
    #[arg(long, value_name = "DURATION", num_args = 0..=1, default_missing_value = "2s",
          require_equals = true, value_parser = text::parse_duration)]
    watch: Option<Duration>,
    /// One object per line instead of a table
    #[arg(long)]
    json: bool,
}

const COLUMNS: [(&str, Align); 11] = [
    ("PROTO", Align::Left),
    ("SOURCE", Align::Left),
    ("DESTINATION", Align::Left),
    ("PHASE", Align::Left),
    ("RULE", Align::Left),
    ("AGE", Align::Right),
    ("IDLE", Align::Right),
    ("EXPIRES", Align::Right),
    ("TIMER", Align::Left),
    ("SENT", Align::Right),
    ("RECEIVED", Align::Right),
];

pub(super) fn run(args: &Args, socket: &Path) -> Result<ExitCode> {
    Filter::parse(&args.filter).map_err(Usage)?;
    let mut output = Output::open();
    // On a gateway a long list competes with packets.
    let _ = cpus::be_nice(cpus::niceness() + cpus::NICE);
    loop {
        // Not kept meanwhile: whoever asks for nothing makes room for others.
        let mut client = Client::connect(socket)?;
        if args.watch.is_some() && !args.json {
            output.clear()?;
        }
        let count = list(&mut client, &mut output, args)?;
        if !args.json && args.watch.is_some() {
            output.line(&format!("{count} connections"))?;
        }
        output.flush()?;
        drop(client);
        let Some(pause) = args.watch else { return Ok(ExitCode::SUCCESS) };
        std::thread::sleep(pause.max(Duration::from_millis(200)));
    }
}

fn list(client: &mut Client, output: &mut Output, args: &Args) -> Result<u64> {
    let mut table = Table::new(&COLUMNS);
    let mut count = 0;
    let mut pace = Pace::begin();
    client.ask(&Request::Connections { filter: args.filter.clone() }, &mut |line| {
        if let Line::Connection(connection) = line {
            count += 1;
            if args.json {
                output.json(&connection)?;
            } else {
                table.row(output, &words(&connection))?;
            }
            pace.step();
        }
        Ok(())
    })?;
    table.finish(output)?;
    Ok(count)
}

fn words(connection: &Connection) -> Vec<String> {
    let end = |address: &str, port: u16| match connection.proto.as_str() {
        "tcp" | "udp" if address.contains(':') => format!("[{address}]:{port}"),
        "tcp" | "udp" => format!("{address}:{port}"),
        _ => address.to_owned(),
    };
    vec![
        connection.proto.clone(),
        end(&connection.src, connection.sport),
        end(&connection.dst, connection.dport),
        if connection.stale { format!("{} (stale)", connection.phase) } else { connection.phase.clone() },
        connection.rule.clone(),
        text::rough_duration(connection.age),
        text::rough_duration(connection.idle),
        text::rough_duration(connection.expires_in),
        match connection.probes {
            0 => connection.timer.clone(),
            probes => format!("{} (probe {probes})", connection.timer),
        },
        text::octets(connection.original.bytes),
        text::octets(connection.reply.bytes),
    ]
}
