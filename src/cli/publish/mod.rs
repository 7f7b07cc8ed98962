//! `fanfare publish`: a text, a file, or stdin while it arrives.

mod delivery;
mod framing;
mod input;

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;

use super::client::{self, ClientError, HubAddress, ProblemDocument};
use super::terminal;
use crate::channel::ChannelName;
use crate::event::EventType;
use crate::generation;
use crate::sse;
use delivery::{Delivery, DeliveryReceipt};
use framing::Framer;
use input::PublishInput;

/// The exit code when a viewer or an operator has stopped the channel.
const STOPPED: u8 = 3;

/// The exit code when a provider's stream was cut off, or ended with an error.
const PROVIDER_FAILED: u8 = 4;

/// The default of `--retry-for` for a stream, which would lose its input.
const RETRY_STREAM: Duration = Duration::from_secs(60 * 60);

/// The default of `--retry-for` for one event.
const RETRY_ONE: Duration = Duration::from_secs(30);

/// The arguments of `fanfare publish`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// The channel, such as `chat/42`
    channel: ChannelName,

    /// The data of one event; without it, stdin is published while it arrives
    #[arg(conflicts_with = "file")]
    text: Option<String>,

    /// Publish this file instead of stdin
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,

    /// Format of the file or stdin [default: by the name if it ends in .sse, .ndjson or .jsonl,
    /// otherwise lines]
    #[arg(long, value_enum, conflicts_with = "text")]
    format: Option<InputFormat>,

    /// The type of the events
    #[arg(long, short, value_name = "TYPE")]
    event: Option<EventType>,

    /// The format of the events of a generation, such as `openai-chat` [default: detected by the
    /// hub]
    #[arg(long, value_name = "FORMAT")]
    generation: Option<generation::Format>,

    /// Close the channel: after the last event, or when a provider's stream says that it ends
    #[arg(long, value_name = "STATE", value_enum)]
    close: Option<CloseArgument>,

    /// Makes a retry safe: with the same key nothing is published twice
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,

    /// The longest line, in bytes (the hub has a limit of its own)
    #[arg(long, value_name = "BYTES", default_value_t = 1024 * 1024)]
    max_line: usize,

    /// Pass the input on to stdout as well; the receipt then goes to stderr
    #[arg(long, conflicts_with = "text")]
    tee: bool,

    /// Bytes kept until the hub has confirmed them: what can be sent again after a broken
    /// connection
    #[arg(long, value_name = "BYTES", default_value_t = 16 * 1024 * 1024)]
    buffer: usize,

    /// Time to retry a hub that is unreachable [default: 1h, for a text 30s]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    retry_for: Option<Duration>,

    #[command(flatten)]
    hub: HubAddress,
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
enum InputFormat {
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
    fn of(path: &Path) -> Self {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("sse") => Self::Sse,
            Some("ndjson" | "jsonl") => Self::Ndjson,
            _ => Self::Lines,
        }
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::Lines | Self::Sse => sse::MEDIA_TYPE,
            Self::Ndjson => "application/x-ndjson",
            Self::Whole => "text/plain; charset=utf-8",
        }
    }
}

/// The state of a channel that its publisher closes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum CloseArgument {
    /// The channel is complete
    Complete,
    /// The publisher failed
    Error,
    /// The publisher was stopped
    Cancelled,
    /// As the stream's own end mark says
    Auto,
}

impl Args {
    /// Returns the path and query of the requests.
    fn path(&self, close: Option<CloseArgument>) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        if let Some(event) = &self.event {
            query.append_pair("event", event.as_str());
        }
        if let Some(close) = close.as_ref().and_then(ValueEnum::to_possible_value) {
            query.append_pair("close", close.get_name());
        }
        if let Some(generation) = self.generation {
            query.append_pair("format", generation.as_str());
        }
        let query = query.finish();
        let mark = if query.is_empty() { "" } else { "?" };
        format!("{}{mark}{query}", client::channel_path(self.channel.as_str()))
    }

    fn retry_for(&self) -> Duration {
        let usual = if self.text.is_some() { RETRY_ONE } else { RETRY_STREAM };
        self.retry_for.unwrap_or(usual)
    }
}

/// The channel was stopped, so the producer can stop as well.
#[derive(Debug, thiserror::Error)]
#[error("stopped: {0}")]
struct StoppedByHub(Box<ProblemDocument>);

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let format =
        args.format.or(args.file.as_deref().map(InputFormat::of)).unwrap_or(InputFormat::Lines);
    let published = match whole(&args, format)? {
        Some(text) => Delivery::new(&args, InputFormat::Whole).whole(text).await,
        None => stream(&args, format).await,
    };
    match published {
        Ok(receipt) => report(&args, &receipt),
        Err(error) if error.is::<StoppedByHub>() => {
            terminal::notice(error);
            Ok(ExitCode::from(STOPPED))
        }
        Err(error) if args.close == Some(CloseArgument::Auto) && is_of_input(&error) => {
            terminal::warn(error);
            Ok(ExitCode::from(PROVIDER_FAILED))
        }
        Err(error) => Err(error),
    }
}

/// Returns whether the hub refused the content of the body, such as the error document of a
/// provider.
fn is_of_input(error: &anyhow::Error) -> bool {
    let refused = error.downcast_ref::<ClientError>();
    refused.and_then(ClientError::code) == Some("invalid_event")
}

/// Returns the data, if one event is to be published.
fn whole(args: &Args, format: InputFormat) -> anyhow::Result<Option<Vec<u8>>> {
    Ok(match (&args.text, &args.file) {
        (Some(text), _) => Some(text.clone().into_bytes()),
        (None, Some(path)) if format == InputFormat::Whole => {
            Some(std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?)
        }
        (None, None) if format == InputFormat::Whole => {
            let mut all = Vec::new();
            io::stdin().lock().read_to_end(&mut all).context("cannot read stdin")?;
            Some(all)
        }
        _ => None,
    })
}

async fn stream(args: &Args, format: InputFormat) -> anyhow::Result<DeliveryReceipt> {
    // A generation is one request, because the end of its body may end the generation.
    let segment = (args.close != Some(CloseArgument::Auto)).then_some(args.buffer);
    let framer = Framer::new(format, args.event.clone(), args.max_line, segment);
    let mut input = PublishInput::open(args, framer)?;
    let published = Delivery::new(args, format).stream(&mut input).await;
    if args.tee && published.is_err() {
        input.drain().await;
    }
    published
}

/// Prints the receipt, and returns the exit code for the state of the generation.
fn report(args: &Args, receipt: &DeliveryReceipt) -> anyhow::Result<ExitCode> {
    let text = serde_json::to_string(receipt).context("cannot write the receipt")?;
    if args.tee {
        terminal::notice(text)
    } else {
        terminal::print_line(text)?
    }
    let failed = args.close == Some(CloseArgument::Auto) && receipt.state != "complete";
    match receipt.state.as_str() {
        _ if !failed => return Ok(ExitCode::SUCCESS),
        "cancelled" => return Ok(ExitCode::SUCCESS),
        "open" => terminal::warn(
            "the input ended without the end mark of a generation: its provider may have failed. \
             The channel stays open for a moment, and is then `abandoned`",
        ),
        state => terminal::warn(format_args!("the generation ended as `{state}`")),
    }
    Ok(ExitCode::from(PROVIDER_FAILED))
}

/// Appends an event in the form of a publisher: without an id, which the hub assigns.
pub(super) fn push_event(out: &mut Vec<u8>, event_type: Option<&str>, data: &str) {
    sse::event_text(out, &sse::Text { id: None, event_type, data: data.as_bytes() });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_carry_their_type() {
        let mut out = Vec::new();
        push_event(&mut out, Some("token"), " a\nb");
        assert_eq!(out, b"event: token\ndata:  a\ndata: b\n\n");
    }

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
