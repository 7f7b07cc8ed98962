//! The event-stream grammar (WHATWG HTML, section 9.2), and nothing else: bytes in, bytes out.
//!
//! No other module knows the field names of an event stream. [`encode`] renders an event once,
//! when it is appended, framed as an HTTP/1.1 chunk; [`Frames`] takes a run of such chunks apart
//! again; [`Parser`] reads what others wrote.

mod encode;
mod frame;
mod parse;

pub use encode::{LAST_CHUNK, Text, chunk, comment, encode, end_retry, event_text, retry};
pub use frame::{Frame, Frames};
pub use parse::{ParseError, ParsedEvent, Parser, Rest};

/// The media type of an event stream.
pub const MEDIA_TYPE: &str = "text/event-stream";

/// The `Content-Type` of an event stream. The standard says UTF-8 in any case, but clients that
/// read text by the rules of HTTP decode it as Latin-1 without the parameter.
pub const CONTENT_TYPE: &str = "text/event-stream; charset=utf-8";
