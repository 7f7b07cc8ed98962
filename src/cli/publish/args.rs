//! The arguments of `fanfare publish`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use fanfare_client::{Client, Close, Publish};

use crate::channel::ChannelName;
use crate::cli::hub_address::HubAddress;
use crate::event::EventType;
use crate::generation;
use crate::sse;

/// The default of `--retry-for` for a stream, which would lose its input.
const RETRY_STREAM: Duration = Duration::from_secs(60 * 60);

/// The default of `--retry-for` for one event.
const RETRY_ONE: Duration = Duration::from_secs(30);

/// The arguments of `fanfare publish`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(in crate::cli) struct Args {
    /// The channel, such as `chat/42`
    pub(super) channel: ChannelName,

    /// The data of one event; without it, stdin is published while it arrives
    #[arg(conflicts_with = "file")]
    pub(super) text: Option<String>,

    /// Publish this file instead of stdin
    #[arg(long, value_name = "PATH")]
    pub(super) file: Option<PathBuf>,

    /// Format of the file or stdin [default: by the name if it ends in .sse, .ndjson or .jsonl,
    /// otherwise lines]
    #[arg(long, value_enum, conflicts_with = "text")]
    pub(super) format: Option<InputFormat>,

    /// The type of the events
    #[arg(long, short, value_name = "TYPE")]
    pub(super) event: Option<EventType>,

    /// The format of the events of a generation, such as `openai-chat` [default: detected by the
    /// hub]
    #[arg(long, value_name = "FORMAT")]
    pub(super) generation: Option<generation::Format>,

    /// Close the channel: after the last event, or when a provider's stream says that it ends
    #[arg(long, value_name = "STATE", value_enum)]
    pub(super) close: Option<CloseArgument>,

    /// Makes a retry safe: with the same key nothing is published twice
    #[arg(long, value_name = "KEY")]
    pub(super) idempotency_key: Option<String>,

    /// The longest line, in bytes (the hub has a limit of its own)
    #[arg(long, value_name = "BYTES", default_value_t = 1024 * 1024)]
    pub(super) max_line: usize,

    /// Pass the input on to stdout as well; the receipt then goes to stderr
    #[arg(long, conflicts_with = "text")]
    pub(super) tee: bool,

    /// Bytes kept until the hub has confirmed them: what can be sent again after a broken
    /// connection
    #[arg(long, value_name = "BYTES", default_value_t = 16 * 1024 * 1024)]
    pub(super) buffer: usize,

    /// Time to retry a hub that is unreachable [default: 1h, for a text 30s]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    pub(super) retry_for: Option<Duration>,

    #[command(flatten)]
    pub(super) hub: HubAddress,
}

const EXAMPLES: &str = "\
Examples:
  fanfare publish chat/42 'Hello'                           one event
  cargo build 2>&1 | fanfare publish logs/build             each line an event, at once
  fanfare publish chat/42 --file reply.sse --close complete
  curl -N https://… | fanfare publish chat/42 --format sse  a provider's stream as it is
  curl -N https://… | fanfare publish chat/42 --format sse --close auto
                                                            and closed when it says that it ends
  fanfare publish chat/42 '' --close complete               only close

  make 2>&1 | fanfare publish logs/make --tee               and still seen in this terminal

Ctrl-D or Ctrl-C ends what is typed. The receipt is a line of JSON on stdout.
A connection that breaks is made again, and the hub gets each event once. Silence is no end.
Exit codes: 3 the channel was stopped; 4 the provider's stream broke off, reported an
error, or was none.";

/// The format of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum InputFormat {
    /// Each line is the data of one event
    Lines,
    /// An event stream, passed on as it is
    Sse,
    /// One JSON value per line, passed on as it is
    Ndjson,
    /// All of it is the data of one event
    Whole,
}

impl InputFormat {
    pub(super) fn of(path: &Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("sse") => Self::Sse,
            Some("ndjson" | "jsonl") => Self::Ndjson,
            _ => Self::Lines,
        }
    }

    pub(super) fn media_type(self) -> &'static str {
        match self {
            Self::Lines | Self::Sse => sse::MEDIA_TYPE,
            Self::Ndjson => "application/x-ndjson",
            Self::Whole => "text/plain; charset=utf-8",
        }
    }
}

/// The state of a channel that its publisher closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum CloseArgument {
    /// The channel is complete
    Complete,
    /// The publisher failed
    Error,
    /// The publisher was stopped
    Cancelled,
    /// As the stream's own end mark says
    Auto,
}

impl From<CloseArgument> for Close {
    fn from(close: CloseArgument) -> Self {
        match close {
            CloseArgument::Complete => Self::Complete,
            CloseArgument::Error => Self::Error,
            CloseArgument::Cancelled => Self::Cancelled,
            CloseArgument::Auto => Self::Auto,
        }
    }
}

impl Args {
    /// Begins a publish under an idempotency key.
    pub(super) fn publish(
        &self,
        client: &Client,
        key: &str,
        close: Option<CloseArgument>,
    ) -> Publish {
        let mut publish = client.publish(self.channel.as_str()).idempotency_key(key);
        if let Some(event) = &self.event {
            publish = publish.event_type(event.as_str());
        }
        if let Some(close) = close {
            publish = publish.close(close.into());
        }
        if let Some(generation) = self.generation {
            publish = publish.format(generation.as_str());
        }
        publish
    }

    pub(super) fn retry_for(&self) -> Duration {
        let usual = if self.text.is_some() { RETRY_ONE } else { RETRY_STREAM };
        self.retry_for.unwrap_or(usual)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_of_a_file_says_what_is_in_it() {
        for (name, format) in [
            ("a.sse", InputFormat::Sse),
            ("a.ndjson", InputFormat::Ndjson),
            ("a.jsonl", InputFormat::Ndjson),
            ("a.log", InputFormat::Lines),
            ("a", InputFormat::Lines),
        ] {
            assert_eq!(InputFormat::of(Path::new(name)), format, "{name}");
        }
    }
}
