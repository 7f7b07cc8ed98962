//! The wall clock: the one place that reads it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Wall-clock time in microseconds since the Unix epoch.
pub type Micros = u64;

/// What time it is.
#[must_use]
pub fn now() -> Micros {
    micros(SystemTime::now())
}

/// A time in microseconds since the Unix epoch.
#[must_use]
pub fn micros(time: SystemTime) -> Micros {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// A time as RFC 3339 text: UTC, with milliseconds.
#[must_use]
pub fn rfc3339(time: Micros) -> String {
    // Text has room for the years up to 9999; what a clock says beyond is that year's end.
    let last = Duration::from_secs(253_402_300_799);
    let since = Duration::from_micros(time).min(last);
    humantime::format_rfc3339_millis(UNIX_EPOCH + since).to_string()
}

/// A time as a header carries it (RFC 9110, section 5.6.7).
#[must_use]
pub fn http_date(time: Micros) -> String {
    httpdate::fmt_http_date(UNIX_EPOCH + Duration::from_micros(time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_utc_with_milliseconds() {
        assert_eq!(rfc3339(951_827_696_789_999), "2000-02-29T12:34:56.789Z");
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59.000Z");
    }
}
