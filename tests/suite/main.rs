//! The black-box suite: the promises of `docs/API.md`, tested over a socket.
//!
//! Every test starts its own hub on a free port and is an ordinary client of it. The clients are
//! this suite's own (`support`), so that they are an independent oracle of `src`.
#![allow(clippy::unwrap_used, clippy::expect_used)] // tests may: helpers are not seen as tests

mod support;

mod around;
mod auth_browser;
mod auth_credentials;
mod auth_grants;
mod auth_jwks;
mod auth_secrecy;
mod auth_streams;
mod auth_tokens;
mod bad_input;
mod bare;
mod bounds;
mod clock;
mod coalesce;
mod drain;
mod durable;
mod endings;
mod generations;
mod h2;
mod hardening;
mod hooks;
mod http_rules;
mod long_poll;
mod mistakes;
mod model;
mod multi;
mod one_generation;
mod operations;
mod proxy;
mod publish;
mod quotas;
mod refusals;
mod resume;
mod retention;
mod same_text;
mod signals;
mod snapshot;
mod subscribe;
mod tls;
