//! The output of an export: stdout, or a file that gets its name only when it is complete.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;

/// A writer of JSON lines to stdout or to a file.
pub(super) struct LineOutput {
    writer: BufWriter<Box<dyn Write + Send>>,
    pending: Option<Pending>,
}

impl LineOutput {
    pub(super) fn stdout() -> Self {
        Self { writer: BufWriter::new(Box::new(io::stdout())), pending: None }
    }

    /// Opens a file. A special file, such as `/dev/null` or a pipe, is written to directly, and not
    /// replaced.
    pub(super) fn file(path: &Path) -> anyhow::Result<Self> {
        let cannot_write = || format!("cannot write {}", path.display());
        if fs::metadata(path).is_ok_and(|found| !found.is_file()) {
            let device = File::options().write(true).open(path).with_context(cannot_write)?;
            return Ok(Self { writer: BufWriter::new(Box::new(device)), pending: None });
        }
        // A link is kept, and its target is replaced.
        let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let (file, pending) = Pending::create(target).with_context(cannot_write)?;
        Ok(Self { writer: BufWriter::new(Box::new(file)), pending: Some(pending) })
    }

    /// Writes a value as a line of JSON.
    pub(super) fn line(&mut self, value: &impl Serialize) -> io::Result<()> {
        serde_json::to_writer(&mut self.writer, value)?;
        self.writer.write_all(b"\n")
    }

    /// Syncs the file to disk and gives it its name.
    pub(super) fn finish(mut self) -> anyhow::Result<()> {
        self.writer.flush()?;
        match self.pending {
            None => Ok(()),
            Some(pending) => pending.rename().context("cannot complete the file"),
        }
    }
}

/// A file under a temporary name in the same folder. Dropped before it is complete, it is removed.
struct Pending {
    file: File,
    temporary: PathBuf,
    target: PathBuf,
    is_complete: bool,
}

impl Pending {
    fn create(target: PathBuf) -> io::Result<(File, Self)> {
        let mut temporary = target.clone().into_os_string();
        temporary.push(format!(".{}.partial", std::process::id()));
        let temporary = PathBuf::from(temporary);
        let writer = File::create(&temporary)?;
        let file = writer.try_clone()?;
        Ok((writer, Self { file, temporary, target, is_complete: false }))
    }

    fn rename(mut self) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(&self.temporary, &self.target)?;
        self.is_complete = true;
        // The name is on disk after a sync of the folder.
        let folder = self.target.parent().filter(|parent| !parent.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if !self.is_complete {
            let _ = fs::remove_file(&self.temporary); // an error cannot be reported in a drop
        }
    }
}
