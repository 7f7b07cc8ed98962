//! Tests with real parts: the hub as a process, a real browser, real programs whose output is
//! published.
#![allow(clippy::unwrap_used, clippy::expect_used)] // tests may: helpers are not seen as tests

mod auth;
mod browser;
mod build_log;
mod cli;
mod deploy;
mod golden;
mod inspect;
mod killed;
mod monitoring;
mod process;
mod publish;
mod schema;
mod sdk;
mod sockets;
mod store;
mod support;
mod trust;
