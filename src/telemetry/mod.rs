//! What the hub tells its operator: logs and metrics.

mod log;
mod metrics;
mod process;

pub use log::{Config, Format, InvalidLevel, init};
pub use metrics::{Metrics, encode};
