//! Interprets the events of model providers' streams: detects their format and the end of the
//! generation, folds them into text, and merges neighbouring deltas.
//!
//! An event is its SSE type, if it has one, and its data; a line of NDJSON is data without a type.
//! This module neither stores nor forwards events. What it does not understand is left unchanged:
//! an unknown event marks nothing, adds nothing and merges with nothing; but a fold that skipped
//! content reports it.
//!
//! # How a format is recognised
//!
//! By the first event that determines it, with the first row that fits:
//!
//! | the data | format |
//! |---|---|
//! | nothing, `[DONE]`; or the SSE type is `ping`, `heartbeat` or similar | next event decides |
//! | no JSON object or array: a bare `{`, a number, a quoted string | `text`, but see below |
//! | `type` begins with `response.`; or is `error`, with a `message` | `openai-responses` |
//! | `type` is of the Messages API; or is `error`, with an `error` object | `anthropic` |
//! | `type` is of the UI message stream, with the fields that it must have | `ai-sdk` |
//! | `candidates`, `promptFeedback`, `usageMetadata`; or an `error` with a `status` | `gemini` |
//! | `model` and `done`; or an `error` that is a string | `ollama` |
//! | `choices` with a `delta`, or none of them yet; or an `error` object | `openai-chat` |
//! | any other object, and any array | next event decides |
//!
//! A stream that looked like text changes to another format at an event that adds to that format,
//! if only a few events came before it.
//!
//! `formats` has a file for each provider. `docs/formats.md` describes the same for users.

mod address;
mod event;
mod failure;
mod fold;
mod format;
mod formats;
mod mark;
mod merge;
mod outline;
mod partial;
mod recogniser;
mod scan;

pub use event::ModelEvent;
pub use failure::complaint;
pub use fold::{Fold, Part, PartKind};
pub use format::{Format, UnknownFormat};
pub use mark::{Ending, Mark};
pub use merge::Merge;
pub use recogniser::Recogniser;

#[cfg(test)]
mod tests;
