//! The output of the demo: a picture on a capable terminal, or lines.

use std::io;

use tokio::time::Instant;

use super::screen::{self, Screen};
use super::stage::DemoStage;
use crate::cli::ansi;
use crate::cli::terminal::{self, Paint, print_line};

/// Either a picture that is redrawn, or lines.
pub(super) enum DemoOutput {
    Picture(Screen),
    Lines { since: Instant, paint: Paint, quoted: String },
}

impl DemoOutput {
    /// Chooses the picture if the terminal can show it; lines in a pipe, a log, or a very small
    /// window.
    pub(super) fn new() -> Self {
        let paint = Paint::stdout();
        let size = terminal::size();
        if paint.is_on() && screen::fits(size) {
            return Self::Picture(Screen::new(paint, size));
        }
        Self::lines()
    }

    /// Returns lines, also on a terminal that can show the picture.
    pub(super) fn lines() -> Self {
        let paint = Paint::stdout();
        Self::Lines { since: Instant::now(), paint, quoted: String::new() }
    }

    pub(super) fn is_picture(&self) -> bool {
        matches!(self, Self::Picture(_))
    }

    pub(super) fn show(&mut self, stage: &DemoStage) {
        if let Self::Picture(screen) = self {
            screen.draw(stage);
        }
    }

    pub(super) fn resize(&mut self) {
        if let Self::Picture(screen) = self {
            screen.resize(terminal::size());
        }
    }

    /// Prints a caption; the picture shows its own.
    pub(super) fn say(&mut self, text: &str) -> io::Result<()> {
        self.end_quote()?;
        let Self::Lines { since, paint, .. } = self else {
            return Ok(());
        };
        let time = format!("{:5.1} s", since.elapsed().as_secs_f64());
        print_line(format_args!("{}  {text}", paint.with(ansi::DIM, time)))
    }

    /// Prints the text that A reads, in lines of a readable length.
    pub(super) fn quote(&mut self, text: &str) -> io::Result<()> {
        const WIDTH: usize = 64;
        let Self::Lines { quoted, .. } = self else {
            return Ok(());
        };
        let full = quoted.len() + text.len() > WIDTH && text.starts_with(' ');
        if full || text.starts_with('\n') {
            self.end_quote()?;
        }
        if let Self::Lines { quoted, .. } = self {
            quoted.push_str(text.trim_start_matches('\n'));
        }
        Ok(())
    }

    fn end_quote(&mut self) -> io::Result<()> {
        let Self::Lines { paint, quoted, .. } = self else {
            return Ok(());
        };
        let line = std::mem::take(quoted);
        if line.is_empty() {
            return Ok(());
        }
        print_line(format_args!("{}  {}", paint.with(ansi::DIM, "       |"), line.trim_start()))
    }
}
