//! `fanfare subscribe`: watches channels and reconnects.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use fanfare_client::{Client, End, Event, Gap, Signal, Start, Subscription};
use serde::Serialize;

use super::hub_address::HubAddress;
use super::terminal::{self, notice};
use crate::channel::ChannelPattern;

/// The arguments of `fanfare subscribe`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Channels or patterns, such as `chat/42` or 'logs/*'
    #[arg(required = true, value_name = "CHANNEL")]
    channels: Vec<ChannelPattern>,

    /// Start: tail, earliest or last:N
    #[arg(long, value_name = "START", default_value = "tail")]
    from: Start,

    /// Begin right after this event id
    #[arg(long, value_name = "ID", conflicts_with = "from",
          value_parser = clap::builder::NonEmptyStringValueParser::new())]
    last_event_id: Option<String>,

    /// One JSON object per line: id, event, data, and what else is known
    #[arg(long)]
    json: bool,

    /// Print data end to end, as it fits a stream of tokens
    #[arg(long, short = 'n', conflicts_with = "json")]
    no_newline: bool,

    /// Reconnect when nothing, not even a heartbeat, came for this long; 0s: never
    #[arg(long, value_name = "DURATION", default_value = "60s",
          value_parser = humantime::parse_duration)]
    idle_timeout: Duration,

    /// Say nothing on stderr but errors and gaps
    #[arg(long, short)]
    quiet: bool,

    #[command(flatten)]
    hub: HubAddress,
}

const EXAMPLES: &str = "\
Examples:
  fanfare subscribe logs/build                    what comes next
  fanfare subscribe logs/build --from earliest    all that is retained, then live
  fanfare subscribe chat/42 -n --from earliest    tokens, as text
  fanfare subscribe 'logs/*' chat/42 --json       many channels, for jq

Exit codes: 0 when the channel ends as complete, 1 when it ends otherwise.";

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    SubscribeWatch::new(args)?.run().await
}

/// The state of a subscription and its output.
struct SubscribeWatch {
    args: Args,
    client: Client,
    events: Subscription,
    /// Several channels arrive in envelopes.
    merged: bool,
    /// An end other than `complete` has been seen.
    ended_badly: bool,
    ends_seen: usize,
    /// The last output on stdout did not end a line.
    mid_line: bool,
}

impl SubscribeWatch {
    fn new(args: Args) -> anyhow::Result<Self> {
        let client = args.hub.client()?;
        let events = match args.channels.as_slice() {
            [only] if only.exact().is_some() => client.subscribe(only.as_str()),
            channels => client.subscribe_many(channels.iter().map(ChannelPattern::as_str)),
        };
        let merged = args.channels.len() > 1 || args.channels[0].exact().is_none();
        let start = match &args.last_event_id {
            Some(id) => Start::After(id.clone()),
            None => args.from.clone(),
        };
        let events = events.from(start).idle_timeout(args.idle_timeout);
        Ok(Self { args, client, events, merged, ended_badly: false, ends_seen: 0, mid_line: false })
    }

    async fn run(mut self) -> anyhow::Result<ExitCode> {
        loop {
            match self.events.signal().await? {
                Signal::Connected(id) => self.tell(connected(&self.args, id.as_deref())),
                Signal::Event(event) => self.show(&event)?,
                Signal::Lost(why, delay) => {
                    let delay = delay.as_secs_f64();
                    self.tell(format!("{why}; connecting again in {delay:.1} s"));
                }
                Signal::Ended => break,
            }
        }
        if self.ends_seen == 0 {
            self.ask_how_it_ended().await?;
        }
        Ok(if self.ended_badly { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    fn show(&mut self, event: &Event) -> anyhow::Result<()> {
        let end = event.end();
        let gap = event.gap();
        let own = end.is_some() || gap.is_some() || event.is_unauthenticated();
        if let Some(end) = end {
            self.note_end(end);
        } else if let Some(gap) = gap {
            terminal::warn(gap_sentence(gap)); // a loss is reported even with `--quiet`
        } else if own {
            terminal::warn("the hub asks for a new token");
        }
        let mut out = io::stdout().lock();
        if self.args.json {
            writeln!(out, "{}", json_line(event, self.merged && !own)?)?;
        } else if own {
            return Ok(()); // reported on stderr
        } else if self.merged {
            write_labelled(&mut out, event)?;
        } else if self.args.no_newline {
            out.write_all(event.data.as_bytes())?;
            self.mid_line = !event.data.ends_with('\n');
        } else {
            writeln!(out, "{}", event.data)?;
        }
        if !self.events.has_pending() {
            out.flush()?;
        }
        Ok(())
    }

    fn note_end(&mut self, end: End) {
        let state = if end.state.is_empty() { "unknown" } else { &end.state };
        self.ends_seen += 1;
        self.ended_badly |= state != "complete";
        let channel = end.channel.as_deref().unwrap_or("the channel");
        let reason = end.reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
        self.tell(format!("{channel} has ended: {state}{reason}"));
    }

    /// Reads the final state from the channel's head: the subscription began after the end, so no
    /// event reported it.
    async fn ask_how_it_ended(&mut self) -> anyhow::Result<()> {
        for channel in self.args.channels.clone().iter().filter_map(ChannelPattern::exact) {
            let state = self.client.state(channel.as_str()).await?;
            let state = state.as_deref().unwrap_or("deleted");
            self.ended_badly |= state != "complete";
            self.tell(format!("nothing more to come: {channel} has ended: {state}"));
        }
        Ok(())
    }

    /// Writes a notice to stderr, on its own line even if stdout is the same terminal.
    fn tell(&mut self, text: String) {
        if self.args.quiet {
            return;
        }
        let mut out = io::stdout();
        if std::mem::take(&mut self.mid_line) && io::IsTerminal::is_terminal(&out) {
            let _ = writeln!(out);
        }
        notice(text);
    }
}

fn connected(args: &Args, id: Option<&str>) -> String {
    let names: Vec<_> = args.channels.iter().map(ChannelPattern::as_str).collect();
    let names = names.join(", ");
    match id {
        Some(id) => format!("connected to {}: {names}, resuming after {id}", args.hub.url),
        None => format!("connected to {}: {names}, from {}", args.hub.url, args.from),
    }
}

fn gap_sentence(gap: Gap) -> String {
    let channel = gap.channel.map(|channel| format!(" in {channel}")).unwrap_or_default();
    let reason = gap.reason.as_deref().unwrap_or("unknown");
    let message = gap.message.unwrap_or_else(|| {
        let known = |id: Option<String>| id.unwrap_or_else(|| "the start".into());
        format!("asked for {}, resumed at {}", known(gap.requested), known(gap.resumed))
    });
    format!("gap{channel} ({reason}): {message}")
}

/// A line of `--json`. Unknown fields are left out; the type of an event without one is written.
#[derive(Debug, Serialize)]
struct JsonLine<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    id: Option<&'a str>,
    event: Option<&'a str>,
    data: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<&'a str>,
}

fn json_line(event: &Event, enveloped: bool) -> serde_json::Result<String> {
    let envelope = enveloped.then(|| event.envelope()).flatten();
    let id = event.id.as_deref();
    serde_json::to_string(&match &envelope {
        Some(inner) => JsonLine {
            channel: Some(&inner.channel),
            id,
            event: inner.event.as_deref(),
            data: &inner.data,
            time: inner.time.as_deref(),
        },
        None => JsonLine {
            channel: None,
            id,
            event: event.event_type.as_deref(),
            data: &event.data,
            time: None,
        },
    })
}

/// Writes `logs/web
/// text` for each line of the text.
fn write_labelled(out: &mut impl io::Write, event: &Event) -> io::Result<()> {
    match event.envelope() {
        Some(envelope) => envelope
            .data
            .split('\n')
            .try_for_each(|line| writeln!(out, "{} | {line}", envelope.channel)),
        None => writeln!(out, "{}", event.data),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn args(words: &[&str]) -> Result<Args, clap::Error> {
        let words = ["subscribe"].into_iter().chain(words.iter().copied());
        Line::try_parse_from(words).map(|line| line.args)
    }

    #[test]
    fn a_start_cannot_be_given_twice() {
        assert!(args(&["a", "--last-event-id", "e-1"]).is_ok());
        assert!(args(&["a", "--from", "earliest", "--last-event-id", "e-1"]).is_err());
        assert!(args(&["a", "--from", "latest"]).is_err());
        assert!(args(&["a", "--last-event-id", ""]).is_err());
        assert!(args(&[]).is_err());
    }

    #[test]
    fn json_lines_say_what_is_known() {
        let event = |data: &str| Event::new(Some("e-1"), None, data);
        let line = json_line(&event("x"), false).unwrap();
        assert_eq!(line, r#"{"id":"e-1","event":null,"data":"x"}"#);
        let data = r#"{"channel":"a","event":"t","data":"x","time":"2026"}"#;
        let line = json_line(&event(data), true).unwrap();
        let known = r#"{"channel":"a","id":"e-1","event":"t","data":"x","time":"2026"}"#;
        assert_eq!(line, known);
    }

    #[test]
    fn each_line_of_a_merged_event_is_labelled() {
        let mut out = Vec::new();
        let event = Event::new(None, None, r#"{"channel":"a","data":"x\ny"}"#);
        write_labelled(&mut out, &event).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "a | x\na | y\n");
    }

    #[test]
    fn a_gap_is_told_in_the_hubs_words_or_in_ours() {
        let told = |data| gap_sentence(serde_json::from_str(data).unwrap());
        let sentence = told(r#"{"channel":"a","reason":"evicted","message":"Too late."}"#);
        assert_eq!(sentence, "gap in a (evicted): Too late.");
        let sentence = told(r#"{"reason":"epoch","requested":"x-1","resumed":"y-2"}"#);
        assert_eq!(sentence, "gap (epoch): asked for x-1, resumed at y-2");
    }
}
