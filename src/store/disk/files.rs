//! The seam to the file system: what the store does to its directory, and nothing more.
//!
//! Everything that must survive goes through here, so that tests can put a disk beneath that fails,
//! or loses what was not synced, at any operation.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use super::OpenError;
use super::superblock::LOCK;

/// Bytes of one write to a file that nobody waits for: between two of them, others get the disk.
pub(super) const PIECE_BYTES: usize = 1024 * 1024;

/// One directory. Names are names of files in it.
pub(super) trait Files: fmt::Debug + Send + Sync {
    fn list(&self) -> io::Result<Vec<String>>;
    /// A new, empty file; one of that name is emptied.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;
    /// The file has the new name, and what had it before is gone, in one step.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// What was created, renamed and removed survives a power cut.
    fn sync(&self) -> io::Result<()>;
    /// Bytes that can still be written.
    fn free(&self) -> io::Result<u64>;
    /// Lets another hub have the directory.
    fn release(&self);
}

/// One file.
pub(super) trait File: fmt::Debug + Send + Sync {
    fn size(&self) -> io::Result<u64>;
    fn read_at(&self, position: u64, into: &mut [u8]) -> io::Result<()>;
    fn write_at(&self, position: u64, bytes: &[u8]) -> io::Result<()>;
    fn truncate(&self, size: u64) -> io::Result<()>;
    /// What was written survives a power cut.
    fn sync(&self) -> io::Result<()>;
}

/// An operation that failed, and where.
#[derive(Debug)]
pub(super) struct IoError {
    name: String,
    offset: Option<u64>,
    error: io::Error,
}

impl IoError {
    /// For `map_err`: the operation was on this file.
    pub(super) fn of(name: &str) -> impl FnOnce(io::Error) -> Self {
        let name = name.to_owned();
        move |error| Self { name, offset: None, error }
    }

    /// For `map_err`: the operation was on this file, at this byte.
    pub(super) fn at(name: &str, offset: u64) -> impl FnOnce(io::Error) -> Self {
        let name = name.to_owned();
        move |error| Self { name, offset: Some(offset), error }
    }

    /// Whether it failed for want of room, or of descriptors or memory: nothing is wrong with the
    /// disk.
    pub(super) fn is_full(&self) -> bool {
        let room = [Errno::NOSPC, Errno::DQUOT, Errno::FBIG];
        let others = [Errno::MFILE, Errno::NFILE, Errno::NOMEM];
        let mut full = room.iter().chain(&others);
        full.any(|errno| self.error.raw_os_error() == Some(errno.raw_os_error()))
    }

    pub(super) fn in_directory(self, directory: &Path) -> OpenError {
        OpenError::Io { path: directory.join(self.name), error: self.error }
    }
}

impl fmt::Display for IoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.offset {
            Some(offset) => write!(f, "{} at byte {offset}: {}", self.name, self.error),
            None => write!(f, "{}: {}", self.name, self.error),
        }
    }
}

/// The name of a file that is being written and is not yet to be found.
pub(super) fn unfinished(name: &str) -> String {
    format!("{name}.tmp")
}

/// Puts a file in the place of another, so that a crash leaves the one or the other, whole.
pub(super) fn replace(files: &dyn Files, name: &str, bytes: &[u8]) -> Result<(), IoError> {
    let unfinished = unfinished(name);
    let written = Draft::create(files, &unfinished).and_then(|mut draft| {
        draft.write(bytes)?;
        draft.finish()
    });
    if let Err(fault) = written {
        // What cannot be deleted now is deleted at the next start.
        let _ = files.remove(&unfinished);
        return Err(fault);
    }
    files.rename(&unfinished, name).map_err(IoError::of(name))?;
    files.sync().map_err(IoError::of(name))
}

/// A file that is written from its beginning to its end, and synced once.
pub(super) struct Draft {
    name: String,
    file: Arc<dyn File>,
    position: u64,
    buffer: Vec<u8>,
}

impl Draft {
    pub(super) fn create(files: &dyn Files, name: &str) -> Result<Self, IoError> {
        let file = files.create(name).map_err(IoError::of(name))?;
        Ok(Self { name: name.to_owned(), file, position: 0, buffer: Vec::new() })
    }

    /// Where what is written next will be.
    pub(super) fn position(&self) -> u64 {
        self.position + self.buffer.len() as u64
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<(), IoError> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= PIECE_BYTES { self.flush() } else { Ok(()) }
    }

    /// Writes the rest, and syncs.
    pub(super) fn finish(mut self) -> Result<Arc<dyn File>, IoError> {
        self.flush()?;
        self.file.sync().map_err(IoError::of(&self.name))?;
        Ok(self.file)
    }

    fn flush(&mut self) -> Result<(), IoError> {
        for piece in self.buffer.chunks(PIECE_BYTES) {
            let failed = IoError::at(&self.name, self.position);
            self.file.write_at(self.position, piece).map_err(failed)?;
            self.position += piece.len() as u64;
        }
        self.buffer.clear();
        Ok(())
    }
}

/// The whole of a file.
pub(super) fn read_all(file: &dyn File) -> io::Result<Vec<u8>> {
    let size = usize::try_from(file.size()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; size];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// A directory of the file system. No hub has it meanwhile.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    lock: fs::File,
    /// Files are opened for reading alone.
    only_read: bool,
}

impl Directory {
    /// Takes the directory, or makes it; at most one process has it at a time.
    pub(super) fn take(path: &Path) -> Result<Self, OpenError> {
        let failed = |error| OpenError::Io { path: path.to_owned(), error };
        fs::create_dir_all(path).map_err(failed)?;
        let mut options = fs::File::options();
        options.create(true).truncate(false).write(true);
        let lock = options.open(path.join(LOCK)).map_err(failed)?;
        let locked = lock.try_lock();
        Self { path: path.to_owned(), lock, only_read: false }.if_locked(locked)
    }

    /// Takes the directory to look at it, beside others who look. Works where nothing can be
    /// written; a copy without the file of the lock has no hub that could be in the way.
    pub(super) fn look(path: &Path) -> Result<Self, OpenError> {
        let failed = |error| OpenError::Io { path: path.to_owned(), error };
        let lock = match fs::File::open(path.join(LOCK)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::File::open(path),
            opened => opened,
        };
        let lock = lock.map_err(failed)?;
        let locked = lock.try_lock_shared();
        Self { path: path.to_owned(), lock, only_read: true }.if_locked(locked)
    }

    fn if_locked(self, locked: Result<(), fs::TryLockError>) -> Result<Self, OpenError> {
        match locked {
            Ok(()) => Ok(self),
            Err(fs::TryLockError::WouldBlock) => Err(OpenError::Locked(self.path)),
            Err(fs::TryLockError::Error(error)) => Err(OpenError::Io { path: self.path, error }),
        }
    }
}

impl Files for Directory {
    fn list(&self) -> io::Result<Vec<String>> {
        let name = |entry: io::Result<fs::DirEntry>| {
            entry.map(|entry| entry.file_name().to_string_lossy().into_owned())
        };
        fs::read_dir(&self.path)?.map(name).collect()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut options = fs::File::options();
        options.read(true).write(true).create(true).truncate(true);
        Ok(Arc::new(options.open(self.path.join(name))?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut options = fs::File::options();
        Ok(Arc::new(options.read(true).write(!self.only_read).open(self.path.join(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        fs::File::open(&self.path)?.sync_all()
    }

    fn free(&self) -> io::Result<u64> {
        let facts = rustix::fs::statvfs(&self.path)?;
        Ok(facts.f_bavail.saturating_mul(facts.f_frsize))
    }

    fn release(&self) {
        // Nothing depends on it: at the latest, the lock goes with the process.
        let _ = self.lock.unlock();
    }
}

impl File for fs::File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, position: u64, into: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(into, position)
    }

    fn write_at(&self, position: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_all_at(bytes, position)
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        self.set_len(size)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
