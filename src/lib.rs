//! Fanfare: an SSE hub. Producers publish events into named channels over HTTP; the hub fans each
//! channel out to as many viewers as care to watch, live and from where they left off.
//!
//! # Layout
//!
//! A house in floors: a module imports from lower floors only, and neighbours do not know each
//! other. `tests/tidy.rs` holds the walls; `docs/ARCHITECTURE.md` has the drawing.
//!
//! | floor | modules |
//! |---|---|
//! | 0 ground | limits, clock, position, channel, event, shutdown, lease, telemetry, value |
//! | 1 masonry | [`sse`]: the grammar; [`generation`]: the events of models; [`outbound`]: calls |
//! | 2 cellars | [`store`]: where logs live; [`auth`]: who may do what; [`quota`]: how much |
//! | 3 hall | [`hub`]: channels and subscriptions |
//! | 4 doors | [`ingest`]: the only way in; [`egress`]: the only way out; [`hooks`]: calls out |
//! | 5 corridor | [`http`]: connections, routes, problems |
//! | 6 rooms | [`protocol`], [`admin`] |
//! | 7 roof | [`config`], [`server`], [`cli`] |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

pub mod admin;
pub mod auth;
pub mod channel;
pub mod cli;
pub mod clock;
pub mod config;
pub mod egress;
pub mod event;
pub mod gathered;
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
pub mod sse;
pub mod store;
pub mod telemetry;
pub mod value;
