//! Fanfare: an SSE hub. Producers publish events into named channels over HTTP; the hub delivers
//! each channel to any number of viewers, live and from where they left off.
//!
//! # Layout
//!
//! A module imports from lower floors only. Modules of one floor do not import each other, except
//! on floors 0 and 7, where a module may import those before it. `tests/tidy.rs` checks it;
//! `docs/ARCHITECTURE.md` has a diagram.
//!
//! | floor | modules |
//! |---|---|
//! | 0 types | words, limits, clock, position, channel, event |
//! | 0 utilities | shutdown, lease, telemetry, value |
//! | 1 formats | [`sse`]: the grammar; [`generation`]: events of models; [`outbound`]: HTTP calls |
//! | 2 services | [`store`]: logs; [`auth`]: permissions; [`quota`]: rates and shares |
//! | 3 core | [`hub`]: channels and subscriptions |
//! | 4 data paths | [`ingest`]: publishing; [`egress`]: delivery; [`hooks`]: outgoing calls |
//! | 5 transport | [`http`]: connections, routes, problems |
//! | 6 API | [`protocol`], [`admin`] |
//! | 7 process | [`config`], [`server`], [`cli`] |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

/// The grammar of event streams, a crate of its own.
pub use fanfare_sse as sse;

pub mod admin;
pub mod auth;
pub mod channel;
pub mod cli;
pub mod clock;
pub mod config;
pub mod egress;
pub mod event;
pub mod generation;
pub mod hooks;
pub mod http;
pub mod hub;
pub mod ingest;
pub mod lease;
pub mod limits;
pub mod outbound;
pub mod position;
pub mod protocol;
pub mod quota;
pub mod server;
pub mod shutdown;
pub mod store;
pub mod telemetry;
pub mod value;
mod words;
