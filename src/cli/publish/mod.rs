//! `fanfare publish`: a text, a file, or stdin while it arrives.

mod args;
mod delivery;
mod framing;
mod input;

use std::io::{self, Read};
use std::process::ExitCode;

use anyhow::Context as _;
use fanfare_client::{Error, Receipt};

use super::terminal;
use delivery::{Delivery, StoppedByHub};
use framing::Framer;
use input::PublishInput;

pub(super) use args::Args;
use args::{CloseArgument, InputFormat};

/// The exit code when a viewer or an operator has stopped the channel.
const STOPPED: u8 = 3;

/// The exit code when a provider's stream was cut off, or ended with an error.
const PROVIDER_FAILED: u8 = 4;

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let format =
        args.format.or(args.file.as_deref().map(InputFormat::of)).unwrap_or(InputFormat::Lines);
    let published = match whole(&args, format)? {
        Some(text) => Delivery::new(&args, InputFormat::Whole)?.whole(text).await,
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
    let refused = error.downcast_ref::<Error>();
    refused.and_then(Error::code) == Some("invalid_event")
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

async fn stream(args: &Args, format: InputFormat) -> anyhow::Result<Receipt> {
    // A generation is one request, because the end of its body may end the generation.
    let segment = (args.close != Some(CloseArgument::Auto)).then_some(args.buffer);
    let framer = Framer::new(format, args.event.clone(), args.max_line, segment);
    let mut input = PublishInput::open(args, framer)?;
    let published = match Delivery::new(args, format) {
        Ok(delivery) => delivery.stream(&mut input).await,
        Err(error) => Err(error),
    };
    if args.tee && published.is_err() {
        input.drain().await;
    }
    published
}

/// Prints the receipt, and returns the exit code for the state of the generation.
fn report(args: &Args, receipt: &Receipt) -> anyhow::Result<ExitCode> {
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
