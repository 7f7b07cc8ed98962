//! `fanfare store export`: the channels of a running hub as lines of JSON.
//!
//! Reads channel by channel and page by page, so that neither this process nor the hub holds more
//! than a page. Of a channel that is published to meanwhile, everything up to its tail when it was
//! listed is exported, and the rest of the last page.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use fanfare_client::{HubUrl, channel_path};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::line::{EndLine, EventLine, SettingsLine};
use super::output::LineOutput;
use super::progress::StoreProgress;
use super::retrying_client::{Answer, Ask, Asker};
use crate::channel::{ChannelName, ChannelPattern};
use crate::cli::hub_address::HubAddress;
use crate::cli::terminal::{count, notice, warn};
use crate::event::{ChannelState, END, GAP, RESERVED_PREFIX};
use crate::limits::{MAX_LISTED_CHANNELS, MAX_PAGE_EVENTS};
use crate::position::Position;

/// The exit code when everything readable was written, but something was missing.
const INCOMPLETE: u8 = 3;

/// The arguments of `fanfare store export`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Channels or patterns, such as `chat/42` or 'logs/*'
    #[arg(value_name = "PATTERN", default_value = "**")]
    patterns: Vec<ChannelPattern>,

    /// Write to this file, which gets its name when it is complete, instead of stdout
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,

    /// The hub's admin listener, which lists the channels
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:4101")]
    admin_url: HubUrl,

    #[command(flatten)]
    hub: HubAddress,
}

const EXAMPLES: &str = "\
Examples:
  fanfare store export -o hub.ndjson             all channels
  fanfare store export 'chat/**' logs/build      some of them, to stdout
  fanfare store export | gzip > hub.ndjson.gz
  fanfare store export | fanfare store import --url http://other:4100

With credentials it needs `admin` on '**', to list the channels, and `subscribe` on what it reads.
Exit codes: 0 all is there, 1 failed, 3 written, but events or channels were missing.";

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Some(path) = &args.output else {
        return export(&args, LineOutput::stdout()).await;
    };
    let output = LineOutput::file(path)?;
    // An interrupted export removes its incomplete file.
    tokio::select! {
        outcome = export(&args, output) => outcome,
        _ = tokio::signal::ctrl_c() => bail!("interrupted: {} was not written", path.display()),
    }
}

async fn export(args: &Args, output: LineOutput) -> anyhow::Result<ExitCode> {
    let admin = HubAddress { url: args.admin_url.clone(), ..args.hub.clone() };
    let mut list = ExportList {
        asker: Asker::new(admin.client()?),
        prefix: common_prefix(&args.patterns),
        after: Some(String::new()),
    };
    let mut export = Export {
        asker: Asker::new(args.hub.client()?),
        output,
        progress: StoreProgress::new(),
        missing: MissingEvents::default(),
    };
    // Channels that were requested by name have to exist.
    let mut unseen: Vec<_> = args.patterns.iter().filter_map(ChannelPattern::exact).collect();
    while let Some(channels) = list.next().await? {
        for channel in &channels {
            let name: ChannelName = channel.channel.parse()?;
            if args.patterns.iter().any(|pattern| pattern.matches(&name)) {
                unseen.retain(|wanted| *wanted != name);
                let exported = export.channel(channel).await;
                exported.with_context(|| format!("cannot export `{name}`"))?;
            }
        }
    }
    for name in unseen {
        export.missing.channel(format_args!("there is no channel `{name}`"));
    }
    let Export { output, progress, missing, .. } = export;
    output.finish()?;
    notice(format_args!("exported {progress}"));
    Ok(missing.tell())
}

/// The list of channels, page by page.
struct ExportList {
    asker: Asker,
    prefix: String,
    /// The last name so far; `None` after the last page.
    after: Option<String>,
}

/// A page of the list.
#[derive(Deserialize)]
struct ListPage {
    channels: Vec<ExportListed>,
    next: Option<String>,
}

#[derive(Deserialize)]
struct ExportListed {
    channel: String,
    tail: String,
    events: u64,
    settings: Box<RawValue>,
}

impl ExportList {
    async fn next(&mut self) -> anyhow::Result<Option<Vec<ExportListed>>> {
        let Some(after) = &self.after else { return Ok(None) };
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("prefix", &self.prefix).append_pair("after", after);
        query.append_pair("limit", &MAX_LISTED_CHANNELS.to_string());
        let path = format!("/v1/channels?{}", query.finish());
        // A separate message: the usual hint, another --url, does not help here.
        let cannot = |error: &dyn std::fmt::Display| {
            anyhow!("cannot list the channels: {error}; --admin-url names the hub's admin listener")
        };
        let answer = self.asker.ask(&Ask::get(path)).await.and_then(Answer::found);
        let answer = answer.map_err(|error| cannot(&error))?;
        let page: ListPage = serde_json::from_str(&answer.text).map_err(|error| cannot(&error))?;
        self.after = page.next;
        Ok(Some(page.channels))
    }
}

/// Returns the longest prefix of all names that the patterns select.
fn common_prefix(patterns: &[ChannelPattern]) -> String {
    let plain = |pattern: &ChannelPattern| -> String {
        pattern.as_str().chars().take_while(|c| *c != '*').collect()
    };
    let common = |one: String, other: String| -> String {
        one.chars().zip(other.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a).collect()
    };
    patterns.iter().map(plain).reduce(common).unwrap_or_default()
}

/// The state of an export.
struct Export {
    asker: Asker,
    output: LineOutput,
    progress: StoreProgress,
    missing: MissingEvents,
}

/// A page of a channel's events.
#[derive(Deserialize)]
struct ExportPage {
    events: Vec<ExportRecord>,
    next: String,
    state: Option<String>,
}

#[derive(Deserialize)]
struct ExportRecord {
    id: String,
    event: Option<String>,
    data: String,
    time: String,
}

/// The data of control events.
#[derive(Deserialize)]
struct ExportData {
    state: Option<String>,
    reason: Option<String>,
    message: Option<String>,
}

/// The next step after a page.
enum Then {
    Next(String),
    Done,
}

impl Export {
    async fn channel(&mut self, listed: &ExportListed) -> anyhow::Result<()> {
        self.output.line(&SettingsLine { channel: &listed.channel, options: &listed.settings })?;
        self.progress.channels += 1;
        let gaps = self.missing.gaps;
        let mut from = "from=earliest".to_owned();
        while let Then::Next(next) = self.page(listed, &from).await? {
            from = form_urlencoded::Serializer::new(String::new())
                .append_pair("last_event_id", &next)
                .finish();
            self.progress.tell("exported");
        }
        if self.missing.gaps > gaps + 1 {
            let gaps = self.missing.gaps - gaps;
            warn(format_args!("`{}` has {} in all", listed.channel, count(gaps, "gap")));
        }
        Ok(())
    }

    /// Writes the next page, and returns the next step.
    async fn page(&mut self, listed: &ExportListed, from: &str) -> anyhow::Result<Then> {
        let path = channel_path(&listed.channel);
        // Events as they were published: the channel's default may be to merge them.
        let path = format!("{path}?{from}&limit={MAX_PAGE_EVENTS}&coalesce=off");
        let answer = self.asker.ask(&Ask::get(path)).await?.found()?;
        let page: ExportPage = serde_json::from_str(&answer.text)
            .context("the hub's page of events cannot be read")?;
        for record in &page.events {
            if record.event.as_deref() == Some(END) {
                self.end(listed, &serde_json::from_str(&record.data)?)?;
                return Ok(Then::Done);
            }
            self.record(&listed.channel, record)?;
        }
        let open = ChannelState::Open.as_str();
        let state = page.state.as_deref().unwrap_or(open);
        let is_reached = is_at_or_past(&page.next, &listed.tail);
        match (page.events.is_empty(), state == open) {
            (true, true) if listed.events > 0 && !is_reached => {
                self.look_for(&listed.channel).await?;
                Ok(Then::Done)
            }
            (true, false) => {
                let state = Some(state.to_owned());
                let reason = None;
                self.end(listed, &ExportData { state, reason, message: None })?;
                Ok(Then::Done)
            }
            (true, true) => Ok(Then::Done),
            // A publisher may be faster than this export: events after the listed tail can be left
            // out.
            (false, true) if is_reached => Ok(Then::Done),
            (false, _) => Ok(Then::Next(page.next)),
        }
    }

    fn record(&mut self, channel: &str, record: &ExportRecord) -> anyhow::Result<()> {
        let ExportRecord { id, event, data, time } = record;
        match event.as_deref() {
            Some(GAP) => {
                let gap: ExportData = serde_json::from_str(data)?;
                self.missing.gap(channel, &gap.message.unwrap_or_else(|| data.clone()));
            }
            Some(own) if own.starts_with(RESERVED_PREFIX) => {}
            event => {
                self.output.line(&EventLine { channel, event, data, id, time })?;
                self.progress.events += 1;
            }
        }
        Ok(())
    }

    fn end(&mut self, listed: &ExportListed, end: &ExportData) -> anyhow::Result<()> {
        let channel = listed.channel.as_str();
        let state = end.state.as_deref().unwrap_or_default();
        if state == ChannelState::Deleted.as_str() {
            self.missing.gone(channel);
            return Ok(());
        }
        self.output.line(&EndLine { channel, state, reason: end.reason.as_deref() })?;
        Ok(())
    }

    /// There was more when the channel was listed: finds out whether the channel is gone, or only
    /// its events.
    async fn look_for(&mut self, channel: &str) -> anyhow::Result<()> {
        let ask = Ask::new(http::Method::HEAD, channel_path(channel));
        if !self.asker.ask(&ask).await?.is_found() {
            self.missing.gone(channel);
        }
        Ok(())
    }
}

/// Returns whether an event id is that of the tail or later. Ids of another epoch cannot be
/// compared: then there is no tail to reach.
fn is_at_or_past(id: &str, tail: &str) -> bool {
    match (id.parse::<Position>(), tail.parse::<Position>()) {
        (Ok(id), Ok(tail)) => id.epoch != tail.epoch || id.offset >= tail.offset,
        _ => false,
    }
}

/// The events and channels that could not be exported.
#[derive(Debug, Default)]
struct MissingEvents {
    gaps: usize,
    channels: usize,
}

impl MissingEvents {
    fn gap(&mut self, channel: &str, message: &str) {
        self.gaps += 1;
        warn(format_args!("`{channel}` has a gap: {message}"));
    }

    fn gone(&mut self, channel: &str) {
        self.channel(format_args!("`{channel}` went away while it was exported"));
    }

    fn channel(&mut self, what: std::fmt::Arguments<'_>) {
        self.channels += 1;
        warn(what);
    }

    /// Prints the summary and returns the exit code.
    fn tell(&self) -> ExitCode {
        if self.gaps == 0 && self.channels == 0 {
            return ExitCode::SUCCESS;
        }
        let gaps = count(self.gaps, "gap");
        let channels = count(self.channels, "channel");
        warn(format_args!("the export is not complete: {gaps}, {channels} missing"));
        ExitCode::from(INCOMPLETE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hub_is_asked_for_no_more_names_than_may_match() {
        for (patterns, prefix) in [
            (&["**"][..], ""),
            (&["logs/*"], "logs/"),
            (&["logs/web", "logs/worker/*"], "logs/w"),
            (&["a/1", "b/1"], ""),
            (&["a/é", "a/è"], "a/"),
        ] {
            let patterns: Vec<_> = patterns.iter().map(|text| text.parse().unwrap()).collect();
            assert_eq!(common_prefix(&patterns), prefix);
        }
    }

    #[test]
    fn the_tail_is_reached_with_its_id_and_with_every_later_one() {
        assert!(!is_at_or_past("e-1", "e-2"));
        assert!(is_at_or_past("e-2", "e-2") && is_at_or_past("e-10", "e-9"));
        assert!(is_at_or_past("f-1", "e-9"), "the hub was restarted");
    }
}
