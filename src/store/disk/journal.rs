//! The journal: the file that is written to.

use std::io;
use std::sync::Arc;

use super::file_names::Role;
use super::files::{File, Files, IoError};
use super::index::IndexedFile;

/// The file that is written to.
#[derive(Debug)]
pub(super) struct Journal {
    pub(super) number: u32,
    pub(super) name: String,
    pub(super) file: Arc<dyn File>,
    /// Bytes written to earlier journals since the store was opened.
    pub(super) begin: u64,
    pub(super) position: u64,
    /// End of the zeros written ahead.
    pub(super) prepared: u64,
}

impl Journal {
    /// Creates a journal and syncs the directory, so that it survives a power cut.
    pub(super) fn create(files: &dyn Files, number: u32, begin: u64) -> Result<Self, IoError> {
        let name = Role::Journal.file_name(number);
        let file = files.create(&name).map_err(IoError::of(&name))?;
        if let Err(error) = files.sync() {
            // The journal before is written to again: only the newest may have a torn end.
            let _ = files.remove(&name);
            return Err(IoError::of(&name)(error));
        }
        Ok(Self { number, name, file, begin, position: 0, prepared: 0 })
    }

    pub(super) fn to_indexed(&self) -> IndexedFile {
        IndexedFile::new(self.name.clone(), self.file.clone(), false, 0)
    }

    /// Returns the bytes written since the store was opened.
    pub(super) fn written(&self) -> u64 {
        self.begin + self.position
    }

    /// Writes at the end. If the prepared zeros do not suffice, first writes `ahead` more bytes of
    /// them.
    pub(super) fn append(&mut self, bytes: &[u8], ahead: u64) -> io::Result<()> {
        let end = self.position + bytes.len() as u64;
        if end > self.prepared && ahead > 0 {
            let from = self.prepared.max(self.position);
            self.file.write_at(from, &vec![0; (end + ahead - from) as usize])?;
            self.prepared = end + ahead;
        }
        self.file.write_at(self.position, bytes)?;
        self.position = end;
        Ok(())
    }

    /// Truncates the file after the end: prepared zeros, and the rest of a failed write.
    pub(super) fn cut(&mut self) -> io::Result<()> {
        self.prepared = 0;
        self.file.truncate(self.position)
    }

    /// Removes the prepared zeros and syncs: nothing more will be written.
    pub(super) fn finish(&mut self) -> io::Result<()> {
        if self.prepared > self.position {
            self.cut()?;
        }
        self.file.sync()
    }
}
