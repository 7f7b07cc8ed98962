//! A disk that fails, or loses unsynced bytes, at the n-th change.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::io::Errno;

use crate::store::disk::files::{File, Files};

/// The fault at the n-th change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// From then on, no change reaches the disk, and none fails.
    Crash,
    /// That one operation fails.
    Fails,
    /// That one operation, if it is a write, finds the disk full.
    Full,
}

/// A disk in memory.
#[derive(Clone, Debug, Default)]
pub(crate) struct Disk(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    names: BTreeMap<String, usize>,
    /// The names that survive a power cut.
    synced_names: BTreeMap<String, usize>,
    contents: Vec<Content>,
    changes: u64,
    fate: Option<(u64, Fate)>,
    crashed: bool,
    free: u64,
    /// The error of every attempt to create a file.
    no_files: Option<Errno>,
    /// The name that is missing in every list.
    unlisted: Option<String>,
}

#[derive(Clone, Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    /// Number of bytes that survive a power cut.
    synced: usize,
    unreadable: Option<std::ops::Range<u64>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    Write,
    Other,
}

impl State {
    /// Counts a change. `Ok(false)` means that it is lost.
    fn change(&mut self, change: Change) -> io::Result<bool> {
        self.changes += 1;
        if let Some((at, fate)) = self.fate
            && self.changes == at
        {
            match fate {
                Fate::Crash => self.crashed = true,
                Fate::Fails => return Err(io::Error::from(Errno::IO)),
                Fate::Full if change == Change::Write => return Err(io::Error::from(Errno::NOSPC)),
                Fate::Full => {}
            }
        }
        Ok(!self.crashed)
    }
}

impl Disk {
    pub(crate) fn new() -> Self {
        let disk = Self::default();
        disk.0.lock().free = u64::MAX;
        disk
    }

    /// Sets the fault of the n-th change from now on.
    pub(crate) fn fate(&self, changes: u64, fate: Fate) {
        let mut state = self.0.lock();
        state.fate = Some((state.changes + changes, fate));
    }

    pub(crate) fn crashed(&self) -> bool {
        self.0.lock().crashed
    }

    pub(crate) fn changes(&self) -> u64 {
        self.0.lock().changes
    }

    /// Sets or clears the error of every attempt to create a file.
    pub(crate) fn make_no_files(&self, why: Option<Errno>) {
        self.0.lock().no_files = why;
    }

    /// Leaves a name out of every list: a list may miss a file that is replaced meanwhile.
    pub(crate) fn leave_out(&self, name: &str) {
        self.0.lock().unlisted = Some(name.to_owned());
    }

    pub(crate) fn set_free(&self, free: u64) {
        self.0.lock().free = free;
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.0.lock().names.keys().cloned().collect()
    }

    pub(crate) fn bytes(&self, name: &str) -> Vec<u8> {
        let state = self.0.lock();
        state.contents[state.names[name]].bytes.clone()
    }

    pub(crate) fn set_bytes(&self, name: &str, bytes: Vec<u8>) {
        let mut state = self.0.lock();
        let at = state.names[name];
        state.contents[at] = Content { synced: bytes.len(), bytes, unreadable: None };
    }

    pub(crate) fn lose(&self, name: &str) {
        self.0.lock().names.remove(name);
    }

    pub(crate) fn make_unreadable(&self, name: &str, bytes: std::ops::Range<u64>) {
        let mut state = self.0.lock();
        let at = state.names[name];
        state.contents[at].unreadable = Some(bytes);
    }

    /// Returns the disk as a killed process leaves it, with everything written.
    pub(crate) fn after_kill(&self) -> Self {
        let state = self.0.lock();
        let names = state.names.clone();
        let contents = state.contents.clone();
        Self::of(names, contents)
    }

    /// Returns the disk as a power cut leaves it: any part of the unsynced bytes, or only their
    /// length, may survive. `chance` decides.
    pub(crate) fn after_power_cut(&self, chance: &mut fastrand::Rng) -> Self {
        let state = self.0.lock();
        let names = if chance.bool() { &state.names } else { &state.synced_names };
        let torn = state.contents.iter().map(|content| {
            let keep = chance.usize(content.synced..=content.bytes.len());
            let mut bytes = content.bytes[..keep].to_vec();
            if chance.bool() {
                let zeros = chance.usize(..=content.bytes.len() - keep);
                bytes.resize(keep + zeros, 0);
            }
            Content { synced: bytes.len(), bytes, unreadable: None }
        });
        Self::of(names.clone(), torn.collect())
    }

    fn of(names: BTreeMap<String, usize>, contents: Vec<Content>) -> Self {
        let synced_names = names.clone();
        let state = State { names, synced_names, contents, free: u64::MAX, ..State::default() };
        Self(Arc::new(Mutex::new(state)))
    }
}

impl Files for Disk {
    fn list(&self) -> io::Result<Vec<String>> {
        let names = self.names();
        let unlisted = self.0.lock().unlisted.clone();
        Ok(names.into_iter().filter(|name| Some(name) != unlisted.as_ref()).collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut state = self.0.lock();
        if let Some(why) = state.no_files {
            return Err(io::Error::from(why));
        }
        let happens = state.change(Change::Write)?;
        state.contents.push(Content::default());
        let at = state.contents.len() - 1;
        if happens {
            state.names.insert(name.to_owned(), at);
        }
        Ok(Arc::new(Opened { disk: self.clone(), at }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let at = self.0.lock().names.get(name).copied();
        let at = at.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        Ok(Arc::new(Opened { disk: self.clone(), at }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        if state.change(Change::Other)? {
            let at = state.names.remove(from);
            let at = at.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
            state.names.insert(to.to_owned(), at);
        }
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut state = self.0.lock();
        if state.change(Change::Other)? {
            let gone = state.names.remove(name);
            gone.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.0.lock();
        if state.change(Change::Other)? {
            state.synced_names = state.names.clone();
        }
        Ok(())
    }

    fn free(&self) -> io::Result<u64> {
        Ok(self.0.lock().free)
    }

    fn release(&self) {}
}

#[derive(Debug)]
struct Opened {
    disk: Disk,
    at: usize,
}

impl File for Opened {
    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.0.lock().contents[self.at].bytes.len() as u64)
    }

    fn read_at(&self, position: u64, into: &mut [u8]) -> io::Result<()> {
        let state = self.disk.0.lock();
        let content = &state.contents[self.at];
        let end = position + into.len() as u64;
        let bad = |bad: &std::ops::Range<u64>| position < bad.end && bad.start < end;
        if content.unreadable.as_ref().is_some_and(bad) {
            return Err(io::Error::from(Errno::IO));
        }
        let bytes = content.bytes.get(position as usize..end as usize);
        into.copy_from_slice(bytes.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_at(&self, position: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        let outcome = state.change(Change::Write);
        // A failed write may have written a part.
        let written = if outcome.is_err() { bytes.len() / 2 } else { bytes.len() };
        if !matches!(outcome, Ok(false)) {
            let content = &mut state.contents[self.at].bytes;
            let end = position as usize + written;
            content.resize(content.len().max(end), 0);
            content[position as usize..end].copy_from_slice(&bytes[..written]);
        }
        outcome.map(drop)
    }

    fn truncate(&self, size: u64) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        if state.change(Change::Other)? {
            let content = &mut state.contents[self.at];
            content.bytes.truncate(size as usize);
            content.synced = content.synced.min(size as usize);
        }
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let mut state = self.disk.0.lock();
        if state.change(Change::Other)? {
            let content = &mut state.contents[self.at];
            content.synced = content.bytes.len();
        }
        Ok(())
    }
}
