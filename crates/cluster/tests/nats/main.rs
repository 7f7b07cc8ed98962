//! The shared log on real servers of NATS, which `scripts/test` installs. Each test has servers of
//! its own.

#![allow(clippy::unwrap_used, clippy::expect_used)] // tests may: helpers are not seen as tests

mod access;
mod admin;
mod balancer;
mod broadcast;
mod deployed;
mod ends;
mod failures;
mod holes;
mod hub;
mod large;
mod measure;
mod old_servers;
mod order;
mod proxy;
mod refusals;

use fanfare_testing::nats as server;
