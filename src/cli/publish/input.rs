//! The input of a publish: a file or stdin, read by its own thread.

use std::fs::File;
use std::io::{self, IsTerminal as _, Read, Write as _};
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::args::Args;
use super::framing::{FramedPiece, Framer};
use crate::cli::terminal;

/// Bytes read at a time; the lines of one read are sent together.
const READ_BYTES: usize = 64 * 1024;

/// Pieces that wait for the network.
const PENDING_PIECES: usize = 8;

/// The time after Ctrl-C for the last output of the program that writes to our stdin.
const LAST_OUTPUT: Duration = Duration::from_millis(500);

/// The pieces of the input, in order.
pub(super) struct PublishInput {
    pieces: mpsc::Receiver<anyhow::Result<FramedPiece>>,
    interrupted: CancellationToken,
    /// Cancelled when the input ends early.
    over: CancellationToken,
}

impl PublishInput {
    /// Opens the input and begins to read it.
    ///
    /// # Errors
    /// The file cannot be opened, or no thread can be started.
    pub(super) fn open(args: &Args, framer: Framer) -> anyhow::Result<Self> {
        let reader: Box<dyn Read + Send> = match &args.file {
            Some(path) => {
                let file = File::open(path);
                Box::new(file.with_context(|| format!("cannot read {}", path.display()))?)
            }
            None => Box::new(io::stdin()),
        };
        if args.file.is_none() && io::stdin().is_terminal() {
            terminal::notice("each line you type is published at once; Ctrl-D ends");
        }
        let (sender, pieces) = mpsc::channel(PENDING_PIECES);
        let reading = Reading { reader, tee: args.tee, framer, pieces: sender };
        // A separate thread, because a runtime cannot abandon a thread that waits for a keystroke.
        std::thread::Builder::new()
            .name("publish-input".into())
            .spawn(move || reading.run())
            .context("cannot start a thread to read the input")?;
        let interrupted = CancellationToken::new();
        let over = CancellationToken::new();
        tokio::spawn(end_on_interrupt(interrupted.clone(), over.clone()));
        Ok(Self { pieces, interrupted, over })
    }

    /// Returns the next piece; `None` at the end of the input, and after Ctrl-C. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<anyhow::Result<FramedPiece>> {
        tokio::select! {
            biased;
            () = self.over.cancelled() => None,
            piece = self.pieces.recv() => piece,
        }
    }

    /// Returns whether Ctrl-C was pressed.
    pub(super) fn is_interrupted(&self) -> bool {
        self.interrupted.is_cancelled()
    }

    /// Resolves when Ctrl-C is pressed.
    pub(super) fn interrupted(&self) -> impl Future<Output = ()> + use<> {
        self.interrupted.clone().cancelled_owned()
    }

    /// Reads the input to its end, for `--tee`.
    pub(super) async fn drain(&mut self) {
        while let Some(Ok(_)) = self.next().await {}
    }
}

async fn end_on_interrupt(interrupted: CancellationToken, over: CancellationToken) {
    if tokio::signal::ctrl_c().await.is_err() {
        return;
    }
    if io::stdin().is_terminal() {
        eprintln!(); // ends the line of the ^C that the terminal shows
    }
    interrupted.cancel();
    // The program that writes to our stdin was interrupted as well: read its last lines.
    tokio::time::sleep(LAST_OUTPUT).await;
    over.cancel();
}

/// The state of the reading thread.
struct Reading {
    reader: Box<dyn Read + Send>,
    tee: bool,
    framer: Framer,
    pieces: mpsc::Sender<anyhow::Result<FramedPiece>>,
}

impl Reading {
    /// Reads until the end, until an error, or until the receiver is dropped.
    fn run(mut self) {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let read = match self.reader.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    let error = anyhow::Error::from(error).context("cannot read the input");
                    let _ = self.pieces.blocking_send(Err(error));
                    return;
                }
                Ok(read) => read,
            };
            let framed = if read == 0 {
                self.framer.finish()
            } else {
                self.pass_on(&buffer[..read]);
                self.framer.feed(&buffer[..read])
            };
            let ready = self.framer.take().into_iter().map(Ok);
            for piece in ready.chain(framed.err().map(Err)) {
                let failed = piece.is_err();
                if self.pieces.blocking_send(piece).is_err() || failed {
                    return;
                }
            }
            if read == 0 {
                return;
            }
        }
    }

    /// Writes the input to stdout, for `--tee`. A closed stdout ends this, but not the publish.
    fn pass_on(&mut self, bytes: &[u8]) {
        if !self.tee {
            return;
        }
        let mut stdout = io::stdout().lock();
        if let Err(error) = stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            self.tee = false;
            terminal::warn(format_args!("--tee ends, and publishing goes on: {error}"));
        }
    }
}
