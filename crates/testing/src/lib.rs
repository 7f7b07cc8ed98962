//! Support of the tests: hubs, servers of NATS and other programs as processes, requests to them,
//! and waits with a time limit.
//!
//! It does not know where the program is: only the tests of package `fanfare` do, by
//! `env!("CARGO_BIN_EXE_fanfare")`.
#![allow(clippy::unwrap_used, clippy::expect_used)] // tests may: a failure here fails the test

pub mod http;
mod hub;
mod log;
pub mod nats;
mod ports;
mod process;
pub mod publishes;
pub mod seen;
pub mod usage;
mod wait;
pub mod wire;

pub use rustix::process::Signal;

pub use hub::HubProcess;
pub use ports::free_address;
pub use process::Process;
pub use wait::{eventually, until, within};
