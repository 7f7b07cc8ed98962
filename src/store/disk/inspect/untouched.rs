//! Files that are only looked at. What recovery would put in order stays as it is, and recovery
//! goes on as if it were done.

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
        Err(only_read())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        Ok(Arc::new(UntouchedFile(self.0.open(name)?)))
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Err(only_read())
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
        // What is there is written again as it is.
        Ok(())
    }

    fn truncate(&self, _: u64) -> io::Result<()> {
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Recovery makes no files: whoever comes here has a mistake.
fn only_read() -> io::Error {
    io::Error::from(io::ErrorKind::ReadOnlyFilesystem)
}
