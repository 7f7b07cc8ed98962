//! The capabilities of the terminal, and messages to it on stderr.

use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};

use terminal_size::{Height, Width};

use super::ansi;

/// Colours if the terminal shows them, plain text elsewhere.
#[derive(Clone, Copy, Debug)]
pub(super) struct Paint(bool);

impl Paint {
    /// Colours for stdout if it is a terminal, unless `NO_COLOR` or `TERM=dumb` is set.
    pub(super) fn stdout() -> Self {
        Self(io::stdout().is_terminal() && colours_are_welcome())
    }

    /// Colours for stderr if it is a terminal, unless `NO_COLOR` or `TERM=dumb` is set.
    pub(super) fn stderr() -> Self {
        Self(io::stderr().is_terminal() && colours_are_welcome())
    }

    pub(super) fn is_on(self) -> bool {
        self.0
    }

    /// Returns the text in this colour.
    pub(super) fn with(self, sgr: &str, text: impl fmt::Display) -> String {
        if self.0 { format!("\x1b[{sgr}m{text}\x1b[0m") } else { text.to_string() }
    }
}

/// Returns the columns and rows of the terminal, or 80 by 24 if they are unknown.
pub(super) fn size() -> (usize, usize) {
    match terminal_size::terminal_size() {
        Some((Width(columns @ 1..), Height(rows @ 1..))) => (columns.into(), rows.into()),
        _ => (80, 24),
    }
}

/// Writes a message to stderr that is no error: progress, connections, ends.
pub(super) fn notice(text: impl fmt::Display) {
    let line = Paint::stderr().with(ansi::DIM, format_args!("fanfare: {text}"));
    let _ = writeln!(io::stderr().lock(), "{line}"); // a closed stderr is ignored
}

/// Writes a warning to stderr.
pub(super) fn warn(text: impl fmt::Display) {
    let mark = Paint::stderr().with(ansi::ACCENT, "warning:");
    let _ = writeln!(io::stderr().lock(), "{mark} {text}");
}

/// Writes the error of a failed command, with a hint.
pub(super) fn tell_error(error: &anyhow::Error, hint: Option<&str>) {
    let paint = Paint::stderr();
    let mut stderr = io::stderr().lock();
    let _ = writeln!(stderr, "{} {}", paint.with(ansi::BAD, "error:"), whole(error));
    if let Some(hint) = hint {
        let _ = writeln!(stderr, "{} {hint}", paint.with(ansi::ACCENT, "hint:"));
    }
}

/// Joins an error and its causes in one line, without repetition.
fn whole(error: &anyhow::Error) -> String {
    let mut told = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !told.contains(&cause) {
            told.push_str(": ");
            told.push_str(&cause);
        }
    }
    told
}

/// Writes one line of data to stdout.
pub(super) fn print_line(text: impl fmt::Display) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    writeln!(stdout, "{text}")?;
    stdout.flush()
}

/// Returns whether the error is a closed stdout.
pub(super) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// Formats a count: 1 event, 2 events, 1,024 events.
pub(super) fn count(n: usize, noun: &str) -> String {
    let digits = n.to_string();
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    format!("{grouped} {noun}{}", if n == 1 { "" } else { "s" })
}

/// Reads `NO_COLOR` and `TERM`, which describe the terminal, as `isatty` does: they are not
/// settings of the hub.
fn colours_are_welcome() -> bool {
    let unset_or_empty = |value: Option<std::ffi::OsString>| value.is_none_or(|v| v.is_empty());
    unset_or_empty(std::env::var_os("NO_COLOR"))
        && std::env::var_os("TERM").is_some_and(|term| !term.is_empty() && term != "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Paint {
        pub(in crate::cli) const OFF: Self = Self(false);
        const ON: Self = Self(true);
    }

    #[test]
    fn no_cause_is_told_twice() {
        let error = anyhow::anyhow!("cannot listen on :1: refused").context("cannot start");
        assert_eq!(whole(&error), "cannot start: cannot listen on :1: refused");
        let error = anyhow::anyhow!("refused").context("cannot listen on :1: refused");
        assert_eq!(whole(&error), "cannot listen on :1: refused");
    }

    #[test]
    fn counts_read_like_english() {
        assert_eq!(count(0, "event"), "0 events");
        assert_eq!(count(1, "event"), "1 event");
        assert_eq!(count(1_234_567, "byte"), "1,234,567 bytes");
    }

    #[test]
    fn paint_that_is_off_leaves_the_text_alone() {
        assert_eq!(Paint::OFF.with(ansi::BAD, "x"), "x");
        assert_eq!(Paint::ON.with(ansi::BOLD, "x"), "\x1b[1mx\x1b[0m");
    }
}
