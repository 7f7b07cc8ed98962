//! What the hub tells its operator: logs and metrics.

mod log;
mod metrics;

pub use log::{Config, Format, init};
pub use metrics::{Metrics, encode};
