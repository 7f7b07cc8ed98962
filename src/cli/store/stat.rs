//! `fanfare store stat`: the channels of a hub's directory, and their dead bytes.

use std::path::Path;
use std::process::ExitCode;

use bytesize::ByteSize;
use serde_json::{Value, json};

use super::directory::{StoreDirectory, cannot_open};
use crate::cli::terminal::print_line;
use crate::clock::{Micros, rfc3339};
use crate::store::disk::inspect::{self, ChannelStat, FileStat, Stat};

/// The arguments of `fanfare store stat`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    #[command(flatten)]
    directory: StoreDirectory,

    /// One JSON document instead of tables
    #[arg(long)]
    json: bool,
}

const EXAMPLES: &str = "\
Examples:
  fanfare store stat                             of the hub that is configured here
  fanfare store stat --path /backup/fanfare      of a copy
  fanfare store stat --json | jq .totals

It changes nothing. The hub must not be running.";

pub(super) fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Args { directory, json } = args;
    directory.with(|path| stat(&path, json))
}

fn stat(path: &Path, as_json: bool) -> anyhow::Result<ExitCode> {
    let stat = inspect::stat(path).map_err(cannot_open)?;
    if as_json {
        print_line(document(&stat))?;
    } else {
        table(&stat)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Sums over all channels and files.
#[derive(Default)]
struct StatTotals {
    events: u64,
    event_bytes: u64,
    file_bytes: u64,
    dead: u64,
}

impl StatTotals {
    fn of(stat: &Stat) -> Self {
        Self {
            events: stat.channels.iter().map(|channel| channel.events).sum(),
            event_bytes: stat.channels.iter().map(|channel| channel.bytes).sum(),
            file_bytes: stat.files.iter().map(|file| file.bytes).sum(),
            dead: stat.files.iter().map(|file| file.dead).sum(),
        }
    }
}

fn document(stat: &Stat) -> Value {
    let StatTotals { events, event_bytes, file_bytes, dead } = StatTotals::of(stat);
    let time = |time: Option<Micros>| time.map(rfc3339);
    let channel = |channel: &ChannelStat| {
        json!({
            "channel": channel.channel.as_str(),
            "events": channel.events,
            "bytes": channel.bytes,
            "state": state(channel),
            "first_time": time(channel.first),
            "last_time": time(channel.last),
        })
    };
    let file = |file: &FileStat| {
        let FileStat { name, bytes, dead } = file;
        json!({ "file": name, "bytes": bytes, "dead_bytes": dead })
    };
    json!({
        "channels": stat.channels.iter().map(channel).collect::<Vec<_>>(),
        "files": stat.files.iter().map(file).collect::<Vec<_>>(),
        "totals": {
            "channels": stat.channels.len(),
            "events": events,
            "bytes": event_bytes,
            "files": stat.files.len(),
            "file_bytes": file_bytes,
            "dead_bytes": dead,
        },
    })
}

/// Names are in the last column, because they may be long and contain spaces.
fn table(stat: &Stat) -> std::io::Result<()> {
    let size = |bytes: u64| ByteSize(bytes).to_string();
    let time = |time: Option<Micros>| time.map_or_else(|| "-".to_owned(), rfc3339);
    let wide = "2026-01-01T00:00:00.000Z".len();
    print_line(format_args!(
        "{:>10}  {:>10}  {:9}  {:wide$}  {:wide$}  CHANNEL",
        "EVENTS", "SIZE", "STATE", "FIRST", "LAST"
    ))?;
    for channel in &stat.channels {
        let ChannelStat { events, bytes, first, last, channel: name, .. } = channel;
        let size = size(*bytes);
        let state = state(channel);
        let first = time(*first);
        let last = time(*last);
        print_line(format_args!(
            "{events:>10}  {size:>10}  {state:9}  {first:wide$}  {last:wide$}  {name}"
        ))?;
    }
    print_line(format_args!("\n{:>10}  {:>10}  FILE", "SIZE", "DEAD"))?;
    for FileStat { name, bytes, dead } in &stat.files {
        print_line(format_args!("{:>10}  {:>10}  {name}", size(*bytes), size(*dead)))?;
    }
    let StatTotals { events, event_bytes, file_bytes, dead } = StatTotals::of(stat);
    let channels = stat.channels.len();
    let files = stat.files.len();
    print_line(format_args!(
        "\n{channels} channels with {events} events, {}; {files} files, {}, of which {} are dead",
        size(event_bytes),
        size(file_bytes),
        size(dead)
    ))
}

/// Returns the state of the channel in the form of the API.
fn state(channel: &ChannelStat) -> String {
    let Some(text) = &channel.state else { return "open".to_owned() };
    let saved: Value = serde_json::from_str(text).unwrap_or_default();
    saved["state"].as_str().unwrap_or("unknown").to_owned()
}
