//! Hubs that are a cluster, as processes, on real servers of NATS, which `scripts/test` installs.
//! Each test has servers of its own.
#![allow(clippy::unwrap_used, clippy::expect_used)] // tests may: helpers are not seen as tests

mod chaos;
mod demo;
mod leave;
mod readiness;
mod share;
mod support;
