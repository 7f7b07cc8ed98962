//! The texts of commands: what a hub would not accept of a client, no hub accepts of the log.

use super::wire::WireError;
use crate::command::{Append, Command};
use crate::text::Text;

/// Maximum bytes of the name of a channel, or of a hub.
const MAX_NAME: usize = 255;

/// Maximum bytes of an event type, and of an epoch.
const MAX_WORD: usize = 128;

/// Maximum bytes of a reason.
const MAX_REASON: usize = 4096;

/// The beginning of event types that are the hub's own.
const RESERVED: &str = "fanfare.";

/// Checks the texts of a command. Data may be any text.
///
/// # Errors
/// One of them is not valid.
pub fn check_texts(command: &Command) -> Result<(), WireError> {
    let is_valid = match command {
        Command::Hello(hello) => is_line(&hello.node, 0, MAX_NAME),
        Command::Append(append) => is_channel(&append.channel) && has_valid_parts(append),
        Command::Produce(produce) => {
            let format = produce.format.as_ref();
            is_channel(&produce.channel) && format.is_none_or(|format| is_line(format, 1, MAX_WORD))
        }
        Command::Release(release) => is_channel(&release.channel) && is_reason(&release.reason),
        Command::Stop(stop) => is_channel(&stop.channel) && is_reason(&stop.reason),
        Command::Lapse(lapse) => is_channel(&lapse.channel) && is_reason(&lapse.reason),
        Command::Configure(configure) => is_channel(&configure.channel),
        Command::Renew(renew) => is_channel(&renew.channel),
        Command::Delete(delete) => is_channel(&delete.channel),
        Command::Epoch(change) => is_epoch(&change.old) && is_epoch(&change.new),
        Command::Bye | Command::ReleaseKey(_) | Command::Check(_) | Command::Unknown => true,
    };
    if is_valid { Ok(()) } else { Err(WireError::Range) }
}

fn has_valid_parts(append: &Append) -> bool {
    let mut types = append.events.iter().filter_map(|event| event.event_type.as_ref());
    types.all(is_event_type) && append.close.as_ref().is_none_or(|close| is_reason(&close.reason))
}

/// Returns whether the text is segments without control characters and wildcards.
fn is_channel(name: &Text) -> bool {
    let has_segments = |name: &str| !name.split('/').any(|part| matches!(part, "" | "." | ".."));
    is_line(name, 1, MAX_NAME) && !name.as_bytes().contains(&b'*') && has_segments(name.as_str())
}

fn is_event_type(event_type: &Text) -> bool {
    is_line(event_type, 1, MAX_WORD) && !event_type.as_bytes().starts_with(RESERVED.as_bytes())
}

fn is_reason(reason: &Option<Text>) -> bool {
    reason.as_ref().is_none_or(|reason| reason.as_bytes().len() <= MAX_REASON)
}

fn is_epoch(epoch: &Text) -> bool {
    let is_plain = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    (1..=MAX_WORD).contains(&epoch.as_bytes().len()) && epoch.as_bytes().iter().all(is_plain)
}

/// Returns whether the text has no control characters, and this number of bytes.
fn is_line(text: &Text, least: usize, most: usize) -> bool {
    let bytes = text.as_bytes();
    (least..=most).contains(&bytes.len())
        && if bytes.is_ascii() {
            !bytes.iter().any(u8::is_ascii_control)
        } else {
            !text.as_str().chars().any(char::is_control)
        }
}
