//! Select Graphic Rendition: a small palette that is readable on dark and on light.

/// Brass: what is ours.
pub(super) const ACCENT: &str = "38;5;179";
/// Brass, loud.
pub(super) const TITLE: &str = "1;38;5;179";
/// Replayed text.
pub(super) const REPLAY: &str = "38;5;74";
/// What went well.
pub(super) const GOOD: &str = "38;5;71";
/// What went wrong.
pub(super) const BAD: &str = "1;38;5;167";
/// What may be overlooked.
pub(super) const DIM: &str = "38;5;244";
/// What is new.
pub(super) const BOLD: &str = "1";
