//! `fanfare publish`: a text, a file, or whatever comes in on stdin, while it comes in.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use bytes::Bytes;
use clap::ValueEnum;
use http::{Request, header, request};
use tokio::sync::mpsc;

use super::client::{self, Client, ClientError, Hub, Problem, Reply};
use super::terminal::{self, count};
use crate::channel::ChannelName;
use crate::event::EventType;
use crate::generation;
use crate::sse;

/// Bytes read at a time: the lines of one read travel together.
const READ_BYTES: usize = 64 * 1024;

/// Reads that wait for the network.
const PENDING_READS: usize = 8;

/// The exit code when somebody has stopped the channel.
const STOPPED: u8 = 3;

/// After Ctrl-C, how long the program in front of us may take to say its last words.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// What `fanfare publish` takes.
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

    /// How to read the file or stdin: by its name if it ends in .sse, .ndjson or .jsonl,
    /// otherwise as lines
    #[arg(long, value_enum, conflicts_with = "text")]
    format: Option<Format>,

    /// The type of the events
    #[arg(long, short, value_name = "TYPE")]
    event: Option<EventType>,

    /// What the events of a generation are, such as `openai-chat`; the hub finds out otherwise
    #[arg(long, value_name = "FORMAT")]
    generation: Option<generation::Format>,

    /// Close the channel: behind the last event, or when a provider's stream says that it ends
    #[arg(long, value_name = "STATE", value_enum)]
    close: Option<Close>,

    /// Makes a retry safe: with the same key nothing is published twice
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,

    /// The longest line, in bytes (the hub has a limit of its own)
    #[arg(long, value_name = "BYTES", default_value_t = 1024 * 1024)]
    max_line: usize,

    #[command(flatten)]
    hub: Hub,
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

Ctrl-D or Ctrl-C ends what is typed. The receipt is a line of JSON on stdout.
Exit code 3: somebody has stopped the channel.";

/// How to read the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Each line is the data of one event
    Lines,
    /// An event stream, passed on as it is
    Sse,
    /// One JSON value per line, passed on as it is
    Ndjson,
    /// All of it is the data of one event
    Whole,
}

impl Format {
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

/// How a channel can be closed by its publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Close {
    /// All is there
    Complete,
    /// The publisher failed
    Error,
    /// Somebody stopped it
    Cancelled,
    /// As the stream's own end mark says
    Auto,
}

/// Somebody has stopped the channel: whoever produces can stop as well.
#[derive(Debug, thiserror::Error)]
#[error("stopped: {0}")]
struct Stopped(Box<Problem>);

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match publish(args).await {
        Err(error) if error.is::<Stopped>() => {
            terminal::notice(error);
            Ok(ExitCode::from(STOPPED))
        }
        outcome => outcome,
    }
}

async fn publish(args: Args) -> anyhow::Result<ExitCode> {
    let format = args.format.or(args.file.as_deref().map(Format::of)).unwrap_or(Format::Lines);
    let text = match (&args.text, &args.file) {
        (Some(text), _) => Some(text.clone().into_bytes()),
        (None, Some(path)) if format == Format::Whole => {
            Some(std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?)
        }
        (None, None) if format == Format::Whole => {
            let mut all = Vec::new();
            io::stdin().lock().read_to_end(&mut all).context("cannot read stdin")?;
            Some(all)
        }
        _ => None,
    };
    match text {
        Some(text) => publish_whole(&args, text).await,
        None => publish_stream(&args, format).await,
    }
}

async fn publish_whole(args: &Args, text: Vec<u8>) -> anyhow::Result<ExitCode> {
    let request = request_for(args, Format::Whole);
    let reply = Client::of(&args.hub).send(request, client::full(text)).await?;
    tell_receipt(succeeded(Ok(reply), &Progress::default()).await?).await?;
    Ok(ExitCode::SUCCESS)
}

/// The one long request: what is read goes out at once, and an early answer ends it.
async fn publish_stream(args: &Args, format: Format) -> anyhow::Result<ExitCode> {
    let (feed, body) = client::streamed();
    let client = Client::of(&args.hub);
    let mut answer = std::pin::pin!(client.send(request_for(args, format), body));
    let mut input = Input::open(args, format)?;
    let outcome = tokio::select! {
        biased;
        // A refusal, or the receipt of a generation that has ended by its own mark.
        early = &mut answer => {
            tell_receipt(succeeded(early, &input.progress).await?).await?;
            return Ok(ExitCode::SUCCESS);
        }
        outcome = forward(&mut input, feed) => outcome,
    };
    // Whatever ended the input, the body has ended with it, and the hub's receipt is true.
    tokio::select! {
        answer = answer => tell_receipt(succeeded(answer, &input.progress).await?).await?,
        _ = tokio::signal::ctrl_c() => bail!("interrupted before the hub's receipt came"),
    }
    outcome?;
    Ok(ExitCode::SUCCESS)
}

/// Passes the input on until it ends, or Ctrl-C does.
async fn forward(input: &mut Input, feed: mpsc::Sender<Bytes>) -> anyhow::Result<()> {
    let pump = async {
        while let Some(piece) = input.pieces.recv().await {
            let (bytes, events) = piece?;
            let len = bytes.len();
            if feed.send(bytes).await.is_err() {
                return Ok(()); // the connection is gone: the answer says why
            }
            input.progress.events += events;
            input.progress.bytes += len;
        }
        Ok(())
    };
    let mut pump = std::pin::pin!(pump);
    tokio::select! {
        outcome = &mut pump => outcome,
        _ = tokio::signal::ctrl_c() => {
            if io::stdin().is_terminal() {
                eprintln!(); // behind the ^C that the terminal shows
            }
            // The program in front of us has been interrupted as well: take its last lines.
            tokio::time::timeout(LAST_WORDS, pump).await.unwrap_or(Ok(()))
        }
    }
}

fn request_for(args: &Args, format: Format) -> request::Builder {
    let mut query = form_urlencoded::Serializer::new(String::new());
    if let Some(event) = &args.event {
        query.append_pair("event", event.as_str());
    }
    if let Some(close) = args.close.as_ref().and_then(ValueEnum::to_possible_value) {
        query.append_pair("close", close.get_name());
    }
    if let Some(generation) = args.generation {
        query.append_pair("format", generation.as_str());
    }
    let query = query.finish();
    let mark = if query.is_empty() { "" } else { "?" };
    let path = format!("{}{mark}{query}", client::channel_path(args.channel.as_str()));
    let request = Request::post(path).header(header::CONTENT_TYPE, format.media_type());
    match &args.idempotency_key {
        Some(key) => request.header("Idempotency-Key", key),
        None => request,
    }
}

async fn tell_receipt(reply: Reply) -> anyhow::Result<()> {
    Ok(terminal::print_line(reply.text().await?.trim_end())?)
}

/// Adds to an error what the publisher wants to know first: what became of what was sent.
async fn succeeded(
    answer: Result<Reply, ClientError>,
    progress: &Progress,
) -> anyhow::Result<Reply> {
    let outcome = match answer {
        Ok(reply) => reply.succeeded().await,
        Err(error) => Err(error),
    };
    outcome.map_err(|error| match error {
        ClientError::Broken(_) => {
            anyhow!("{error}. Of {progress}, the hub may have kept all or only the first ones")
        }
        ClientError::Refused(problem) if problem.code.as_deref() == Some("channel_stopped") => {
            Stopped(problem).into()
        }
        ClientError::Refused(problem) if problem.events.is_some() && progress.events > 0 => {
            anyhow!("the hub refused: {problem}, of {progress}")
        }
        error => error.into(),
    })
}

/// What has been handed to the network.
#[derive(Debug, Default)]
struct Progress {
    /// Stays zero when the input is passed on as it is.
    events: usize,
    bytes: usize,
}

impl std::fmt::Display for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (n, noun) = if self.events > 0 { (self.events, "event") } else { (self.bytes, "byte") };
        write!(f, "{} sent", count(n, noun))
    }
}

/// What is read, piece by piece.
struct Input {
    pieces: mpsc::Receiver<anyhow::Result<(Bytes, usize)>>,
    progress: Progress,
}

impl Input {
    fn open(args: &Args, format: Format) -> anyhow::Result<Self> {
        let reader: Box<dyn Read + Send> = match &args.file {
            Some(path) => {
                let file = File::open(path);
                Box::new(file.with_context(|| format!("cannot read {}", path.display()))?)
            }
            None => Box::new(io::stdin()),
        };
        if args.file.is_none() && io::stdin().is_terminal() {
            terminal::notice("each line you type is published at once; Ctrl-D ends");
        }
        let event_type = args.event.clone();
        let framer = (format == Format::Lines).then(|| LineFramer::new(event_type, args.max_line));
        let (sender, pieces) = mpsc::channel(PENDING_READS);
        // A thread of our own: a runtime's cannot be left behind while it waits for a keystroke.
        std::thread::Builder::new()
            .name("publish-input".into())
            .spawn(move || read_input(reader, framer, &sender))
            .context("cannot start a thread to read the input")?;
        Ok(Self { pieces, progress: Progress::default() })
    }
}

/// Reads until the end, until an error, or until nobody wants more.
fn read_input(
    mut reader: Box<dyn Read + Send>,
    mut framer: Option<LineFramer>,
    pieces: &mpsc::Sender<anyhow::Result<(Bytes, usize)>>,
) {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let read = match reader.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.context("cannot read the input"),
        };
        let (bytes, ended) = match read {
            Ok(n) => (&buffer[..n], n == 0),
            Err(error) => {
                let _ = pieces.blocking_send(Err(error));
                return;
            }
        };
        let (ready, outcome) = match &mut framer {
            None => ((Bytes::copy_from_slice(bytes), 0), Ok(())),
            Some(framer) => {
                let outcome = if ended { framer.finish() } else { framer.feed(bytes) };
                (framer.take(), outcome)
            }
        };
        if !ready.0.is_empty() && pieces.blocking_send(Ok(ready)).is_err() {
            return;
        }
        if let Err(error) = outcome {
            let _ = pieces.blocking_send(Err(error));
            return;
        }
        if ended {
            return;
        }
    }
}

/// Lines into events, wherever the reads cut them.
struct LineFramer {
    event_type: Option<EventType>,
    max_line: usize,
    /// The beginning of a line whose end has not come yet.
    partial: Vec<u8>,
    /// Events that are ready to go.
    ready: Vec<u8>,
    ready_events: usize,
    /// Lines so far.
    lines: usize,
    warned: bool,
}

impl LineFramer {
    fn new(event_type: Option<EventType>, max_line: usize) -> Self {
        Self {
            event_type,
            max_line,
            partial: Vec::new(),
            ready: Vec::new(),
            ready_events: 0,
            lines: 0,
            warned: false,
        }
    }

    /// Takes what was read. After an error, the lines before the bad one are still ready.
    fn feed(&mut self, mut rest: &[u8]) -> anyhow::Result<()> {
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let mut line = std::mem::take(&mut self.partial);
            line.extend_from_slice(&rest[..end]);
            rest = &rest[end + 1..];
            self.push_line(&line)?;
            line.clear();
            self.partial = line;
        }
        self.partial.extend_from_slice(rest);
        self.check(self.partial.len())
    }

    /// A last line may lack its line end.
    fn finish(&mut self) -> anyhow::Result<()> {
        let line = std::mem::take(&mut self.partial);
        if line.is_empty() { Ok(()) } else { self.push_line(&line) }
    }

    /// What is ready, and how many events that is.
    fn take(&mut self) -> (Bytes, usize) {
        (std::mem::take(&mut self.ready).into(), std::mem::take(&mut self.ready_events))
    }

    fn push_line(&mut self, line: &[u8]) -> anyhow::Result<()> {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.check(line.len())?;
        let text = String::from_utf8_lossy(line);
        self.lines += 1;
        if matches!(text, std::borrow::Cow::Owned(_)) && !std::mem::replace(&mut self.warned, true)
        {
            let at = self.lines;
            terminal::warn(format_args!(
                "line {at} is not UTF-8: what is not is replaced by U+FFFD"
            ));
        }
        push_event(&mut self.ready, self.event_type.as_ref().map(EventType::as_str), &text);
        self.ready_events += 1;
        Ok(())
    }

    fn check(&self, len: usize) -> anyhow::Result<()> {
        if len <= self.max_line {
            return Ok(());
        }
        bail!(
            "line {} is longer than {} bytes; the {} before it went out. --max-line allows more",
            self.lines + 1,
            self.max_line,
            count(self.lines, "line"),
        )
    }
}

/// Appends an event as a publisher writes it: without an id, which is the hub's to give.
pub(super) fn push_event(out: &mut Vec<u8>, event_type: Option<&str>, data: &str) {
    sse::event_text(out, &sse::Text { id: None, event_type, data: data.as_bytes() });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(pieces: &[&[u8]], max_line: usize) -> (String, usize, Option<String>) {
        let mut framer = LineFramer::new(None, max_line);
        let mut fed = pieces.iter().map(|piece| framer.feed(piece)).collect::<Vec<_>>();
        fed.push(framer.finish());
        let error = fed.into_iter().find_map(Result::err).map(|error| error.to_string());
        let (bytes, events) = framer.take();
        (String::from_utf8(bytes.to_vec()).unwrap(), events, error)
    }

    #[test]
    fn each_line_is_an_event_wherever_the_reads_cut_it() {
        let text = "one\n\n two\r\nthree".as_bytes();
        for size in 1..=text.len() {
            let pieces: Vec<_> = text.chunks(size).collect();
            let (stream, events, error) = framed(&pieces, 100);
            assert_eq!(stream, "data: one\n\ndata: \n\ndata:  two\n\ndata: three\n\n");
            assert_eq!((events, error), (4, None));
        }
    }

    #[test]
    fn a_progress_bar_cannot_break_out_of_its_event() {
        let (stream, events, _) = framed(&[b"10%\r20%\revent: x\n"], 100);
        assert_eq!((stream.as_str(), events), ("data: 10%\ndata: 20%\ndata: event: x\n\n", 1));
    }

    #[test]
    fn a_line_over_the_limit_keeps_the_lines_before_it() {
        let (stream, events, error) = framed(&[b"ok\n", b"far too ", b"long"], 10);
        assert_eq!((stream.as_str(), events), ("data: ok\n\n", 1));
        let error = error.unwrap();
        assert!(error.contains("line 2 is longer than 10 bytes"), "{error}");
        assert!(error.contains("the 1 line before"), "{error}");
    }

    #[test]
    fn what_is_not_utf8_is_replaced() {
        let (stream, _, error) = framed(&[b"caf\xe9\n"], 100);
        assert_eq!((stream.as_str(), error), ("data: caf\u{fffd}\n\n", None));
    }

    #[test]
    fn events_carry_their_type() {
        let mut out = Vec::new();
        push_event(&mut out, Some("token"), " a\nb");
        assert_eq!(out, b"event: token\ndata:  a\ndata: b\n\n");
    }

    #[test]
    fn the_name_of_a_file_says_what_is_in_it() {
        for (name, format) in [
            ("a.sse", Format::Sse),
            ("a.ndjson", Format::Ndjson),
            ("a.jsonl", Format::Ndjson),
            ("a.log", Format::Lines),
            ("a", Format::Lines),
        ] {
            assert_eq!(Format::of(Path::new(name)), format, "{name}");
        }
    }
}
