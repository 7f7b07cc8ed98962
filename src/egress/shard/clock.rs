//! A shard's clock: milliseconds since the shard began, in 32 bits.

use std::time::Duration;

/// Returns the whole milliseconds of a duration.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Returns the milliseconds since a moment of a shard's clock. The clock has 32 bits and wraps
/// every 49 days; moments that are compared are at most half of that apart.
pub(super) fn since(now: u32, then: u32) -> u64 {
    u64::from(now.wrapping_sub(then))
}

/// Returns whether a moment of a shard's clock has been reached.
pub(super) fn is_past(now: u32, moment: u32) -> bool {
    now.wrapping_sub(moment) <= u32::MAX / 2
}

/// Adds a delay to a moment of a shard's clock; never zero, which stands for never.
pub(super) fn after(now: u32, delay: Duration) -> u32 {
    now.wrapping_add(millis(delay) as u32).max(1)
}
