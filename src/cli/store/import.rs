//! `fanfare store import`: publishes the output of `export`.
//!
//! Events are sent to the hub in pieces of some hundred, each with its own key, so that a piece
//! that is sent again is not published twice. Only one piece is held in memory.

mod input;

use std::collections::HashSet;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use fanfare_client::{Error, channel_path};
use http::Method;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use self::input::ImportInput;
use super::line::{LineEnd, Says, StoreLine};
use super::progress::StoreProgress;
use super::retrying_client::{Answer, Ask, Asker};
use crate::channel::ChannelName;
use crate::cli::hub_address::HubAddress;
use crate::cli::terminal::{notice, print_line};
use crate::event::{ChannelState, EventType};

/// The limit of events in one piece.
const MAX_PIECE_EVENTS: usize = 1_000;

/// The limit of bytes in one piece, without its last line.
const MAX_PIECE_BYTES: usize = 1024 * 1024;

/// The arguments of `fanfare store import`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct Args {
    /// Output of `fanfare store export` [default: stdin]
    file: Option<PathBuf>,

    /// Publish to channels that have events already, after these
    #[arg(long)]
    append: bool,

    #[command(flatten)]
    hub: HubAddress,
}

const EXAMPLES: &str = "\
Examples:
  fanfare store import hub.ndjson
  gunzip < hub.ndjson.gz | fanfare store import
  fanfare store export 'chat/**' | fanfare store import --url http://other:4100

Events get new ids and times. With credentials it needs `publish` and `admin` on each channel.
The receipt is a line of JSON on stdout. What was imported before an error stays.";

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut input = ImportInput::open(args.file.as_deref())?;
    let mut import = Import::new(&args)?;
    let outcome = tokio::select! {
        outcome = import.all(&mut input) => outcome,
        _ = tokio::signal::ctrl_c() => Err(anyhow!("interrupted")),
    };
    if let Err(error) = outcome {
        notice(match import.through {
            0 => "not complete; nothing was imported".to_owned(),
            line => format!(
                "not complete; what was imported stays: {}, up to line {line}",
                import.progress
            ),
        });
        return Err(error);
    }
    notice(format_args!("imported {}", import.progress));
    print_line(serde_json::to_string(&import.receipt())?)?;
    Ok(ExitCode::SUCCESS)
}

/// The result of an import.
#[derive(Serialize)]
struct ImportReceipt {
    channels: usize,
    events: usize,
    closed: usize,
}

/// The state of an import.
struct Import {
    asker: Asker,
    append: bool,
    /// The prefix of the keys of this import.
    key: String,
    /// The number of requests that had a key.
    keys: usize,
    piece: ImportPiece,
    /// The channels so far, whose events are from this import. No more than a hub holds.
    seen: HashSet<ChannelName>,
    closed: usize,
    /// All lines up to this one are in the hub.
    through: u64,
    progress: StoreProgress,
}

/// Events that are not sent yet.
#[derive(Default)]
struct ImportPiece {
    /// The body of a publish to many channels.
    body: Vec<u8>,
    /// The input line of each line of the body.
    lines: Vec<u64>,
}

/// A line of a publish to many channels.
#[derive(Serialize)]
struct ImportPublish<'a> {
    channel: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<&'a str>,
    data: &'a RawValue,
}

/// The hub's response to a publish.
#[derive(Deserialize)]
struct Published {
    events: usize,
}

impl Import {
    fn new(args: &Args) -> anyhow::Result<Self> {
        Ok(Self {
            asker: Asker::new(args.hub.client()?),
            append: args.append,
            key: format!("import-{:032x}", fastrand::u128(..)),
            keys: 0,
            piece: ImportPiece::default(),
            seen: HashSet::new(),
            closed: 0,
            through: 0,
            progress: StoreProgress::new(),
        })
    }

    fn receipt(&self) -> ImportReceipt {
        let StoreProgress { channels, events, .. } = self.progress;
        ImportReceipt { channels, events, closed: self.closed }
    }

    async fn all(&mut self, input: &mut ImportInput) -> anyhow::Result<()> {
        while let Some(line) = input.next().await {
            let outcome = match line {
                Ok((number, text)) => {
                    let taken = self.take(number, &text).await;
                    taken.map_err(|error| at(number, error))
                }
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                // The lines before the wrong one are imported all the same.
                self.send_piece().await?;
                return Err(error);
            }
            self.progress.tell("imported");
        }
        self.send_piece().await
    }

    async fn take(&mut self, number: u64, text: &[u8]) -> anyhow::Result<()> {
        let StoreLine { channel, says } = StoreLine::parse(text)?;
        let is_new = !self.seen.contains(&channel);
        if is_new {
            self.enter(&channel).await?;
        }
        match says {
            Says::Event(event_type, data) => {
                self.piece.push(number, &channel, event_type.as_ref(), &data)?;
                if self.piece.is_full() {
                    self.send_piece().await?;
                }
            }
            Says::Settings(options) => {
                if !is_new {
                    self.send_piece().await?; // keeps the order of the lines
                }
                self.set(&channel, options).await?;
            }
            Says::End(end, reason) => {
                self.send_piece().await?;
                self.close(&channel, end, reason).await?;
            }
        }
        if self.piece.lines.is_empty() {
            self.through = number;
        }
        Ok(())
    }

    /// Checks at the first line of a channel whether it may be imported.
    async fn enter(&mut self, channel: &ChannelName) -> anyhow::Result<()> {
        let ask = Ask::new(Method::HEAD, channel_path(channel.as_str()));
        let answer = self.asker.ask(&ask).await?;
        let header = |name| answer.header(name).filter(|_| answer.is_found());
        let open = ChannelState::Open.as_str();
        match header("fanfare-state") {
            Some(state) if state != open => {
                return Err(anyhow!(
                    "`{channel}` has ended ({state}), and takes no more events: delete it first, \
                     or import into another hub"
                ));
            }
            _ => {}
        }
        let events = header("fanfare-events").unwrap_or("0");
        if events != "0" && !self.append {
            return Err(anyhow!(
                "`{channel}` has events already ({events}): delete it first, import into another \
                 hub, or give --append to publish after them"
            ));
        }
        self.seen.insert(channel.clone());
        self.progress.channels += 1;
        Ok(())
    }

    async fn set(&mut self, channel: &ChannelName, options: String) -> anyhow::Result<()> {
        let mut ask = Ask::new(Method::PUT, channel_path(channel.as_str()));
        ask.body = options.into();
        self.asker.ask(&ask).await?.found()?;
        Ok(())
    }

    async fn close(
        &mut self,
        channel: &ChannelName,
        end: LineEnd,
        reason: Option<String>,
    ) -> anyhow::Result<()> {
        if end == LineEnd::Abandoned {
            notice(format_args!("`{channel}` was abandoned: it is closed as an error"));
        }
        let mut query = form_urlencoded::Serializer::new(String::new());
        query.append_pair("close", end.closing());
        if let Some(reason) = reason {
            query.append_pair("reason", &reason);
        }
        let path = format!("{}?{}", channel_path(channel.as_str()), query.finish());
        let key = Some(self.next_key());
        self.asker.ask(&Ask { key, ..Ask::new(Method::POST, path) }).await?.found()?;
        self.closed += 1;
        Ok(())
    }

    /// Publishes the collected events.
    async fn send_piece(&mut self) -> anyhow::Result<()> {
        if self.piece.lines.is_empty() {
            return Ok(());
        }
        let ImportPiece { body, lines } = std::mem::take(&mut self.piece);
        let ask = Ask {
            content_type: "application/x-ndjson",
            key: Some(self.next_key()),
            body: Bytes::from(body),
            ..Ask::new(Method::POST, "/v1/publish".into())
        };
        match self.asker.ask(&ask).await.and_then(Answer::found) {
            Ok(answer) => {
                let published: Published = serde_json::from_str(&answer.text)
                    .context("the hub's receipt cannot be read")?;
                self.progress.events += published.events;
                self.through = lines.last().copied().unwrap_or(self.through);
                Ok(())
            }
            Err(Error::Refused(problem)) => {
                let kept = problem.events.unwrap_or_default() as usize;
                self.progress.events += kept;
                let last = kept.checked_sub(1).and_then(|index| lines.get(index));
                self.through = last.copied().unwrap_or(self.through);
                let index = problem.line.and_then(|line| line.checked_sub(1));
                let line = index.and_then(|index| lines.get(usize::try_from(index).ok()?));
                let refused = format!("the hub refused: {}", problem.sentence());
                Err(match line {
                    Some(line) => AtLine(*line, refused).into(),
                    None => anyhow!(refused),
                })
            }
            Err(error) => Err(error.into()),
        }
    }

    fn next_key(&mut self) -> String {
        self.keys += 1;
        format!("{}-{}", self.key, self.keys)
    }
}

impl ImportPiece {
    fn push(
        &mut self,
        number: u64,
        channel: &ChannelName,
        event_type: Option<&EventType>,
        data: &RawValue,
    ) -> anyhow::Result<()> {
        let channel = channel.as_str();
        let event = event_type.map(EventType::as_str);
        serde_json::to_writer(&mut self.body, &ImportPublish { channel, event, data })?;
        self.body.push(b'\n');
        self.lines.push(number);
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.lines.len() >= MAX_PIECE_EVENTS || self.body.len() >= MAX_PIECE_BYTES
    }
}

/// Adds the line number to the error. Not if the hub is unreachable, which no line caused, nor if
/// the error has its own line, because an earlier event may have been sent only now.
fn at(number: u64, error: anyhow::Error) -> anyhow::Error {
    let elsewhere = match error.downcast_ref::<Error>() {
        None => error.is::<AtLine>(),
        // A wrong address or credential concerns all lines.
        Some(Error::Refused(problem)) => matches!(problem.status, 401 | 404),
        Some(_) => true,
    };
    if elsewhere { error } else { AtLine(number, format!("{error:#}")).into() }
}

/// An error with its line of the input.
#[derive(Debug, thiserror::Error)]
#[error("line {0}: {1}")]
struct AtLine(u64, String);
