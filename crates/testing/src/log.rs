//! The output of a process, in a file without a name.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::Stdio;

/// The bytes that are printed when a test fails.
const SHOWN: usize = 4 << 10;

/// The output of all lives of a process.
pub(crate) struct Log(File);

impl Log {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempfile().expect("a file"))
    }

    /// Returns an output that appends to it.
    pub(crate) fn output(&self) -> Stdio {
        self.0.try_clone().expect("a copy of the descriptor").into()
    }

    pub(crate) fn len(&self) -> u64 {
        self.0.metadata().expect("its size").len()
    }

    /// Returns the text after this many bytes.
    pub(crate) fn text_after(&self, start: u64) -> String {
        let mut bytes = vec![0; (self.len() - start) as usize];
        self.0.read_exact_at(&mut bytes, start).expect("the text");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Returns the last warnings and errors: hundreds of starts write the same other lines.
    pub(crate) fn warnings(&self) -> String {
        let text = self.text_after(0);
        let lines: Vec<_> = text.lines().filter(|line| !line.contains(" INFO ")).collect();
        let all = lines.join("\n");
        let from = all.ceil_char_boundary(all.len().saturating_sub(SHOWN));
        all[from..].to_owned()
    }
}
