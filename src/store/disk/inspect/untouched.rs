//! A read-only view of files. Writes and deletions succeed without effect, so that recovery can
//! run.

use std::io;
use std::sync::Arc;

use crate::store::disk::files::{File, Files};

#[derive(Debug)]
pub(super) struct Untouched(pub(super) Arc<dyn Files>);

impl Files for Untouched {
    fn list(&self) -> io::Result<Vec<String>> {
        self.0.list()
    }

    fn create(&self, _: &str) -> io::Result<Arc<dyn File>> {
        Err(read_only())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(UntouchedFile(self.0.open(name)?)))
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Err(read_only())
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn free(&self) -> io::Result<u64> {
        self.0.free()
    }

    fn release(&self) {
        self.0.release();
    }
}

#[derive(Debug)]
struct UntouchedFile(Arc<dyn File>);

impl File for UntouchedFile {
    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }

    fn read_at(&self, position: u64, into: &mut [u8]) -> io::Result<()> {
        self.0.read_at(position, into)
    }

    fn write_at(&self, _: u64, _: &[u8]) -> io::Result<()> {
        // Recovery rewrites only bytes that are there already.
        Ok(())
    }

    fn truncate(&self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the error of operations that recovery does not use.
fn read_only() -> io::Error {
    io::Error::from(io::ErrorKind::ReadOnlyFilesystem)
}
