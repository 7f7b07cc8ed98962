//! The event-stream grammar (WHATWG HTML, section 9.2): bytes in, bytes out.
//!
//! No other crate knows the field names of an event stream. [`encode`] renders an event once, when
//! it is appended, as an HTTP/1.1 chunk; [`Frames`] decodes such chunks; [`Parser`] reads the
//! streams of other programs.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod byte_buffer;
mod encode;
mod frame;
mod parse;

pub use byte_buffer::Gathered;
pub use encode::{LAST_CHUNK, Text, chunk, comment, encode, end_retry, event_text, retry};
pub use frame::{Frame, Frames};
pub use parse::{ParseError, ParsedEvent, Parser, Rest};

/// The media type of an event stream.
pub const MEDIA_TYPE: &str = "text/event-stream";

/// The `Content-Type` of an event stream. The standard requires UTF-8 in any case, but clients that
/// decode text by the rules of HTTP use Latin-1 without the parameter.
pub const CONTENT_TYPE: &str = "text/event-stream; charset=utf-8";
