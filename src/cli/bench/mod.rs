//! `fanfare bench`: a load generator for any SSE server, which counts what it gets.
//!
//! Subscribers are sockets in epoll loops (`fleet`), publishers keep to a schedule of intended send
//! times (`schedule`, `press`). Every event carries its number in its channel and the time at which
//! it should have been sent, so that loss, duplicates, disorder and the whole latency come out,
//! whatever the server did meanwhile.

mod clock;
#[cfg(test)]
mod fake_server;
mod plan;
mod probe;
mod process;
mod progress;
mod publishers;
mod report;
mod response;
mod scan;
mod scenario;
mod schedule;
mod sequence_check;
mod stats;
mod subscribers;
mod template;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;

use super::client::DEFAULT_URL;
use super::terminal;

/// What `fanfare bench` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fanfare bench --subscribers 1000 --rate 100 --pid $(pgrep -x fanfare)
  fanfare bench --channels 200 --subscribers 10 --rate 2000 --publish stream
  fanfare bench --scenario replay --history 10000 --subscribers 1000
  fanfare bench --template nchan --url http://127.0.0.1:8080 --json
  fanfare bench --template plain --publish-url /pub?id={channel} --subscribe-url /sub?id={channel}

Events are sent when the schedule says so, however slow the server is; latencies count from then.
A channel's events go over one connection, so that their order is defined. All counts include the
warm-up; times, rates and processor time do not.

Exit codes: 0 measured, 1 could not measure, 3 measured, but events were lost, repeated, out of
order or never sent, connections failed, or the server is not healthy any more.")]
pub(super) struct Args {
    /// What to measure
    #[arg(long, value_enum, default_value_t = plan::Scenario::Fanout)]
    scenario: plan::Scenario,

    /// The server's address
    #[arg(long, value_name = "URL", default_value = DEFAULT_URL)]
    url: String,

    /// How to publish to it and subscribe to it
    #[arg(long, value_enum, default_value_t = template::TemplateKind::Fanfare)]
    template: template::TemplateKind,

    /// Where to publish, with {channel}: a URL, or a path at --url
    #[arg(long, value_name = "URL")]
    publish_url: Option<String>,

    /// Where to subscribe, with {channel}: a URL, or a path at --url
    #[arg(long, value_name = "URL")]
    subscribe_url: Option<String>,

    /// Where to subscribe from the earliest event on, if that is another URL
    #[arg(long, value_name = "URL")]
    replay_url: Option<String>,

    /// The body of a publish, with {data} and perhaps {channel}
    #[arg(long, value_name = "TEXT")]
    publish_body: Option<String>,

    /// The Content-Type of a publish
    #[arg(long, value_name = "TYPE")]
    content_type: Option<String>,

    /// A header of every request, such as `Authorization: Bearer …`; can be repeated
    #[arg(long, value_name = "HEADER")]
    header: Vec<String>,

    /// How many channels
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::value_parser!(u32).range(1..=1_000_000),
    )]
    channels: u32,

    /// Subscribers of each channel [default: 1; for ingest 0]
    #[arg(long, value_name = "N")]
    subscribers: Option<usize>,

    /// Events per second over all channels [default: 100; for ingest as fast as they are taken]
    #[arg(long, value_name = "R")]
    rate: Option<f64>,

    /// Bytes of an event's data
    #[arg(long, value_name = "BYTES", default_value_t = 32)]
    size: usize,

    /// How long to measure
    #[arg(
        long,
        value_name = "TIME",
        default_value = "10s",
        value_parser = humantime::parse_duration,
    )]
    duration: Duration,

    /// How long to publish before that
    #[arg(
        long,
        value_name = "TIME",
        default_value = "2s",
        value_parser = humantime::parse_duration,
    )]
    warmup: Duration,

    /// How to publish
    #[arg(long, value_enum, default_value_t = publishers::Mode::Post)]
    publish: publishers::Mode,

    /// Keep-alive connections that POST; one channel never uses more than one
    #[arg(
        long,
        value_name = "N",
        default_value_t = 16,
        value_parser = clap::value_parser!(u32).range(1..=10_000),
    )]
    publishers: u32,

    /// So many of all subscribers never read
    #[arg(long, value_name = "N", default_value_t = 0)]
    slow_readers: usize,

    /// Events per channel that joiners have to catch up with: replay, storm [default: 1000]
    #[arg(long, value_name = "N")]
    history: Option<u32>,

    /// New connections per second; 0: as fast as the server answers
    #[arg(long, value_name = "N", default_value_t = 0)]
    ramp: u64,

    /// Threads for the subscribers
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1,
        value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=64),
    )]
    threads: usize,

    /// Connect from so many addresses, 127.0.0.2 and following: each has its own ports
    #[arg(long, value_name = "N", default_value_t = 0)]
    source_addresses: u8,

    /// The server's process, to measure its processor time and memory
    #[arg(long)]
    pid: Option<u32>,

    /// Count the processes that it has started as well
    #[arg(long, requires = "pid")]
    pid_children: bool,

    /// Allow a server that is not on this machine
    #[arg(long)]
    allow_remote: bool,

    /// Print one JSON object
    #[arg(long)]
    json: bool,

    /// Say nothing while it runs
    #[arg(long)]
    quiet: bool,
}

/// Measured, and something was wrong with what the server did.
const EXIT_INCOMPLETE: u8 = 3;

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    // Loops of our own: the runtime only waits for them.
    let measured = tokio::task::spawn_blocking(move || {
        let plan = plan::Plan::new(&args)?;
        scenario::run(&plan).map(|report| (report, args.json))
    });
    let (report, json) = measured.await.context("the measurement died")??;
    if json {
        terminal::print_line(serde_json::to_string(&report)?)?;
    } else {
        terminal::print_line(report.text())?;
    }
    let good = report.is_complete();
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(EXIT_INCOMPLETE) })
}
