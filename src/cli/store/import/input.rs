//! Reads the lines of a file or of stdin on request.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal as _, Read};
use std::path::Path;

use anyhow::{Context as _, anyhow};
use tokio::sync::mpsc;

use crate::cli::terminal;

/// The limit of a line: far above the size of an event that a hub accepts.
const MAX_LINE_BYTES: usize = 64 * 1024 * 1024;

/// The number of lines that are read ahead.
const PENDING_LINES: usize = 8;

/// A line with its number, from one.
type Numbered = (u64, Vec<u8>);

/// The lines of an import, read by their own thread.
pub(super) struct ImportInput(mpsc::Receiver<anyhow::Result<Numbered>>);

impl ImportInput {
    pub(super) fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let reader: Box<dyn Read + Send> = match path {
            Some(path) => {
                let file = File::open(path);
                Box::new(file.with_context(|| format!("cannot read {}", path.display()))?)
            }
            None => Box::new(io::stdin()),
        };
        if path.is_none() && io::stdin().is_terminal() {
            terminal::notice("each line you type is imported; Ctrl-D ends");
        }
        let (sender, lines) = mpsc::channel(PENDING_LINES);
        // A separate thread, because a runtime cannot abandon a thread that waits for a keystroke.
        std::thread::Builder::new()
            .name("import-input".into())
            .spawn(move || read_lines(BufReader::new(reader), &sender))
            .context("cannot start a thread to read the input")?;
        Ok(Self(lines))
    }

    /// Returns the next line that is not blank. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<anyhow::Result<Numbered>> {
        self.0.recv().await
    }
}

/// Reads until the end, until an error, or until the receiver is dropped.
fn read_lines(mut reader: impl BufRead, lines: &mpsc::Sender<anyhow::Result<Numbered>>) {
    for number in 1.. {
        let mut text = Vec::new();
        let most = MAX_LINE_BYTES as u64 + 1;
        let line = match (&mut reader).take(most).read_until(b'\n', &mut text) {
            Err(error) => Err(anyhow!(error).context("cannot read the input")),
            Ok(0) => return,
            Ok(_) if text.len() > MAX_LINE_BYTES => {
                Err(anyhow!("line {number} is longer than {MAX_LINE_BYTES} bytes: it is no export"))
            }
            Ok(_) if text.trim_ascii().is_empty() => continue,
            Ok(_) => Ok((number, text)),
        };
        let is_last = line.is_err();
        if lines.blocking_send(line).is_err() || is_last {
            return;
        }
    }
}
