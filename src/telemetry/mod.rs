//! Logs and metrics.

mod log;
mod metrics;
mod process;

pub use log::{Config, InvalidLevel, LogFormat, init};
pub use metrics::{ClusterState, Metrics, encode};
