//! Select Graphic Rendition: a small palette that is readable on dark and on light.

/// The accent colour, brass.
pub(super) const ACCENT: &str = "38;5;179";
/// The accent colour, bold, for titles.
pub(super) const TITLE: &str = "1;38;5;179";
/// Replayed text.
pub(super) const REPLAY: &str = "38;5;74";
/// Success.
pub(super) const GOOD: &str = "38;5;71";
/// Failure.
pub(super) const BAD: &str = "1;38;5;167";
/// Secondary text.
pub(super) const DIM: &str = "38;5;244";
/// Emphasis.
pub(super) const BOLD: &str = "1";
