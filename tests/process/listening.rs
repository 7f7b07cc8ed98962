//! Waits for a hub that is a child process.

use std::io::{BufRead, BufReader};
use std::process::Child;

/// Waits until the hub listens. Returns the line of its log with the addresses; the rest of the log
/// is discarded, since a process that writes to a full pipe would block.
pub(crate) fn until_listening(child: &mut Child) -> String {
    let mut log = BufReader::new(child.stderr.take().expect("a log"));
    let mut line = String::new();
    while !line.contains("listening") {
        line.clear();
        assert!(log.read_line(&mut line).expect("a log") > 0, "the hub ended at once");
    }
    std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
    line
}
