//! The interface to the file system, with only the operations that the store needs.
//!
//! All durable changes use it, so that tests can simulate a disk that fails at any operation, or
//! loses unsynced writes.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::io::Errno;

use super::error::OpenError;
use super::file_names::{LOCK, unfinished};

/// Maximum bytes per write where no caller waits: between two of them, other writes get the disk.
pub(super) const PIECE_BYTES: usize = 1024 * 1024;

/// A directory. Names are file names in it.
pub(super) trait Files: fmt::Debug + Send + Sync {
    fn list(&self) -> io::Result<Vec<String>>;
    /// Creates an empty file, or truncates an existing one.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;
    /// Renames a file, and replaces the target atomically.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Makes created, renamed and removed names survive a power cut.
    fn sync(&self) -> io::Result<()>;
    /// Returns the bytes that can still be written.
    fn free(&self) -> io::Result<u64>;
    /// Releases the lock of the directory.
    fn release(&self);
}

/// A file.
pub(super) trait File: fmt::Debug + Send + Sync {
    fn size(&self) -> io::Result<u64>;
    fn read_at(&self, position: u64, into: &mut [u8]) -> io::Result<()>;
    fn write_at(&self, position: u64, bytes: &[u8]) -> io::Result<()>;
    fn truncate(&self, size: u64) -> io::Result<()>;
    /// Makes written bytes survive a power cut.
    fn sync(&self) -> io::Result<()>;
}

/// A failed operation, with file and offset.
#[derive(Debug)]
pub(super) struct IoError {
    name: String,
    offset: Option<u64>,
    error: io::Error,
}

impl IoError {
    /// For `map_err`: an operation on this file failed.
    pub(super) fn of(name: &str) -> impl FnOnce(io::Error) -> Self {
        let name = name.to_owned();
        move |error| Self { name, offset: None, error }
    }

    /// For `map_err`: an operation on this file failed at this byte.
    pub(super) fn at(name: &str, offset: u64) -> impl FnOnce(io::Error) -> Self {
        let name = name.to_owned();
        move |error| Self { name, offset: Some(offset), error }
    }

    /// Returns whether space, descriptors or memory ran out, which is no fault of the disk.
    pub(super) fn is_full(&self) -> bool {
        let space = [Errno::NOSPC, Errno::DQUOT, Errno::FBIG];
        let others = [Errno::MFILE, Errno::NFILE, Errno::NOMEM];
        let errno = Errno::from_io_error(&self.error);
        errno.is_some_and(|errno| space.contains(&errno) || others.contains(&errno))
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

/// Replaces a file, so that a crash leaves either the old or the new one whole.
pub(super) fn replace(files: &dyn Files, name: &str, bytes: &[u8]) -> Result<(), IoError> {
    let unfinished = unfinished(name);
    let written = Draft::create(files, &unfinished).and_then(|mut draft| {
        draft.write(bytes)?;
        draft.finish()
    });
    if let Err(fault) = written {
        // If it cannot be deleted now, the next start deletes it.
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

    /// Returns the position of the next write.
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

/// Reads a whole file.
pub(super) fn read_all(file: &dyn File) -> io::Result<Vec<u8>> {
    let size = usize::try_from(file.size()?).map_err(io::Error::other)?;
    let mut bytes = vec![0; size];
    file.read_at(0, &mut bytes)?;
    Ok(bytes)
}

/// A directory of the file system, locked against other hubs.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    lock: fs::File,
    /// Files are opened read-only.
    read_only: bool,
}

impl Directory {
    /// Opens or creates the directory, and locks it for this process alone.
    pub(super) fn lock(path: &Path) -> Result<Self, OpenError> {
        let failed = |error| OpenError::Io { path: path.to_owned(), error };
        fs::create_dir_all(path).map_err(failed)?;
        let mut options = fs::File::options();
        options.create(true).truncate(false).write(true);
        let lock = options.open(path.join(LOCK)).map_err(failed)?;
        let locked = lock.try_lock();
        Self { path: path.to_owned(), lock, read_only: false }.if_locked(locked)
    }

    /// Opens the directory read-only, with a shared lock. Needs no write permission; in a copy
    /// without the lock file, it locks the directory itself.
    pub(super) fn open_read_only(path: &Path) -> Result<Self, OpenError> {
        let failed = |error| OpenError::Io { path: path.to_owned(), error };
        let lock = match fs::File::open(path.join(LOCK)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => fs::File::open(path),
            opened => opened,
        };
        let lock = lock.map_err(failed)?;
        let locked = lock.try_lock_shared();
        Self { path: path.to_owned(), lock, read_only: true }.if_locked(locked)
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
        let entries = fs::read_dir(&self.path)?;
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        names.collect()
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut options = fs::File::options();
        options.read(true).write(true).create(true).truncate(true);
        Ok(Arc::new(options.open(self.path.join(name))?))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut options = fs::File::options();
        Ok(Arc::new(options.read(true).write(!self.read_only).open(self.path.join(name))?))
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
        // Errors do not matter: the lock ends with the process.
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
