//! A progress line on stderr, once a second.

use std::io::{self, IsTerminal as _, Write as _};

use super::clock::{self, SECOND};

/// Writes the progress of a run to stderr.
#[derive(Debug)]
pub(crate) struct BenchProgress {
    quiet: bool,
    terminal: bool,
    next: u64,
}

impl BenchProgress {
    pub(crate) fn new(quiet: bool) -> Self {
        Self { quiet, terminal: io::stderr().is_terminal(), next: clock::now() + SECOND }
    }

    /// Writes the text, at most once a second.
    pub(crate) fn tell(&mut self, text: impl FnOnce() -> String) {
        let now = clock::now();
        if self.quiet || now < self.next {
            return;
        }
        self.next = now + SECOND;
        let text = text();
        let mut stderr = io::stderr().lock();
        let _ = if self.terminal {
            write!(stderr, "\r\x1b[K{text}") // a closed stderr is ignored
        } else {
            writeln!(stderr, "{text}")
        };
        let _ = stderr.flush();
    }
}

impl Drop for BenchProgress {
    /// Clears the line, for other output.
    fn drop(&mut self) {
        if self.terminal && !self.quiet {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }
}
