//! The numbers of viewers of channels, which hubs report to each other by broadcasts.
//!
//! A report has the numbers of viewers that one hub has, of some channels. A hub reports what has
//! changed at a short interval, and all channels with viewers in a **round** of reports at a longer
//! one. Numbers are absolute: a report that is lost is repaired by the next round. Until then it is
//! known that one is missing, because reports are numbered.
//!
//! All integers are little-endian. A report is
//!
//! ```text
//! u8 0xFB  u8 version  u8 flags  u64 session  u64 number  u64 time  epoch  count
//! (channel, viewers)…  [16 bytes HMAC]  u32 CRC-32
//! ```
//!
//! An account of the servers is not enough to forge a report, if the cluster has a secret. Nor can
//! an earlier one be sent again: its number was read, its session has ended, its epoch is another
//! one, or the time of the log in it is old.

mod remote_viewers;
mod report;
#[cfg(test)]
mod tests;
mod viewer_reports;

pub use self::remote_viewers::{RemoteViewers, Totals};
pub use self::report::{Report, ReportError};
pub use self::viewer_reports::ViewerReports;
