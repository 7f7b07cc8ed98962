//! A load generator for any SSE server, which verifies what it receives.
//!
//! Subscribers are sockets in epoll loops (`subscribers`), publishers keep to a schedule of
//! intended send times (`schedule`, `publishers`). Every event carries its number in its channel
//! and its intended send time, so that loss, duplicates, disorder and the whole latency are
//! measured even if the server stalls.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

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

use std::time::Duration;

use anyhow::Context as _;

/// The arguments of `fanfare bench`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fanfare bench --subscribers 1000 --rate 100 --pid $(pgrep -x fanfare)
  fanfare bench --channels 200 --subscribers 10 --rate 2000 --publish stream
  fanfare bench --scenario replay --history 10000 --subscribers 1000
  fanfare bench --template nchan --url http://127.0.0.1:8080 --json
  fanfare bench --url http://127.0.0.1:4102 --publish-url http://127.0.0.1:4101 --rate 75 --size 60
  fanfare bench --template plain --publish-url /pub?id={channel} --subscribe-url /sub?id={channel}

Events are sent when the schedule says so, however slow the server is; latencies count from then.
A channel's events go over one connection, so that their order is defined. All counts include the
warm-up; times, rates and processor time do not.

Exit codes: 0 measured, 1 could not measure, 3 measured, but events were lost, repeated, out of
order or never sent, connections failed, or the server is not healthy any more.")]
pub struct Args {
    /// The scenario to measure
    #[arg(long, value_enum, default_value_t = plan::Scenario::Fanout)]
    scenario: plan::Scenario,

    /// The server's address, where subscribers connect
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:4100")]
    url: String,

    /// The kind of server, which decides how requests are written
    #[arg(long, value_enum, default_value_t = template::TemplateKind::Fanfare)]
    template: template::TemplateKind,

    /// Address to publish to, with {channel}: a URL, or a path at --url; a URL without a path is
    /// another server of the same kind [default: as at --url]
    #[arg(long, value_name = "URL")]
    publish_url: Option<String>,

    /// Address to subscribe to, in the same way
    #[arg(long, value_name = "URL")]
    subscribe_url: Option<String>,

    /// Address to subscribe to from the earliest event on, if that is another URL
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

    /// Number of channels
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

    /// Time to measure
    #[arg(
        long,
        value_name = "TIME",
        default_value = "10s",
        value_parser = humantime::parse_duration,
    )]
    duration: Duration,

    /// Time to publish before that
    #[arg(
        long,
        value_name = "TIME",
        default_value = "2s",
        value_parser = humantime::parse_duration,
    )]
    warmup: Duration,

    /// One request per event, or one body per channel
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

    /// Number of subscribers that never read
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

    /// Number of source addresses, 127.0.0.2 and following: each has its own ports
    #[arg(long, value_name = "N", default_value_t = 0)]
    source_addresses: u8,

    /// A process of the server, to measure its processor time and memory; can be repeated
    #[arg(long, value_name = "[NAME=]PID", value_parser = process::parse_target)]
    pid: Vec<process::TargetWanted>,

    /// Count the processes that these have started as well
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

/// The result of a run.
#[derive(Clone, Debug)]
pub struct Measurement {
    /// The report, as text or as one JSON object.
    pub report: String,
    /// Whether the server delivered every event once and in order, and is healthy.
    pub is_complete: bool,
}

/// Measures the server.
///
/// # Errors
/// The arguments contradict each other, or the server cannot be measured.
pub async fn run(args: Args) -> anyhow::Result<Measurement> {
    // The epoll loops block, so they run outside the async runtime.
    let measured = tokio::task::spawn_blocking(move || {
        let plan = plan::Plan::new(&args)?;
        scenario::run(&plan).map(|report| (report, args.json))
    });
    let (report, json) = measured.await.context("the measurement died")??;
    let is_complete = report.is_complete();
    let report = if json { serde_json::to_string(&report)? } else { report.text() };
    Ok(Measurement { report, is_complete })
}
