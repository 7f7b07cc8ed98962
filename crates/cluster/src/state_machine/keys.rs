//! Idempotency keys: what was published with each, and by which request.

use std::collections::BTreeSet;

use super::applied::{Appended, KeyStatus, KeyTotals, Refusal};
use super::context::Context;
use super::table::Table;
use crate::command::{Append, KeyId, KeyUse, ReleaseKey, SessionId};
use crate::log::LogTime;

/// Maximum number of keys; past it, the key that was not used for longest is forgotten.
pub const MAX_KEYS: usize = 200_000;

/// Maximum number of runs of lines that are remembered for one key.
const MAX_RUNS: usize = 4096;

/// Maximum number of runs of all keys; past it, keys are forgotten as well.
const MAX_ALL_RUNS: usize = 1_000_000;

/// All keys.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Keys {
    max: usize,
    max_runs: usize,
    /// Number of runs of all keys.
    runs: usize,
    by_id: Table<KeyId, Key>,
    /// Keys by the time at which they are forgotten.
    expiry: BTreeSet<(LogTime, KeyId)>,
    /// The keys of requests that are running.
    running: BTreeSet<(SessionId, KeyId)>,
}

#[derive(Debug, PartialEq, Eq)]
struct Key {
    owner: Owner,
    published: Runs,
    totals: KeyTotals,
    window: u64,
    expires: LogTime,
}

/// The request that uses a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// A request that is running.
    Request(SessionId, u64),
    /// None: it has broken off.
    None,
    /// The request has succeeded.
    Done,
}

/// What to do with a piece that has a key.
pub(super) enum Admission {
    /// Append what is left of it.
    Append,
    /// The publish has succeeded before.
    Replay(KeyTotals),
    /// Refuse it.
    Refuse(Refusal),
}

impl Default for Keys {
    fn default() -> Self {
        Self::new(MAX_KEYS, MAX_ALL_RUNS)
    }
}

impl Keys {
    pub(super) fn new(max: usize, max_runs: usize) -> Self {
        let (by_id, expiry, running) = Default::default();
        Self { max, max_runs, runs: 0, by_id, expiry, running }
    }

    /// Removes all keys: another epoch begins.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.max, self.max_runs);
    }

    /// Forgets the keys whose window has passed, unless their request is running.
    pub(super) fn forget(&mut self, cx: &Context) {
        while let Some((time, id)) = self.expiry.first().copied()
            && time <= cx.now
        {
            self.expiry.remove(&(time, id));
            let Some(key) = self.by_id.get_mut(&id) else { continue };
            if matches!(key.owner, Owner::Request(..)) {
                key.expires = cx.after(key.window.max(1));
                self.expiry.insert((key.expires, id));
            } else {
                self.remove(id);
            }
        }
    }

    /// Notes that the session of requests has ended: a retry continues where they ended.
    pub(super) fn end_session(&mut self, session: SessionId) {
        for id in self.running_in(session) {
            self.running.remove(&(session, id));
            if let Some(key) = self.by_id.get_mut(&id) {
                key.owner = Owner::None;
            }
        }
    }

    /// Moves the requests of a session to the one that replaces it.
    pub(super) fn replace_session(&mut self, old: SessionId, new: SessionId) {
        for id in self.running_in(old) {
            self.running.remove(&(old, id));
            if let Some(Key { owner: Owner::Request(session, _), .. }) = self.by_id.get_mut(&id) {
                *session = new;
                self.running.insert((new, id));
            }
        }
    }

    fn running_in(&self, session: SessionId) -> Vec<KeyId> {
        let from = (session, KeyId::default());
        let running = self.running.range(from..).take_while(|(owner, _)| *owner == session);
        running.map(|(_, id)| *id).collect()
    }

    /// Returns what is known of a key.
    pub(super) fn status(&self, id: &KeyId) -> Option<KeyStatus> {
        let key = self.by_id.get(id)?;
        Some(match key.owner {
            Owner::Request(session, request) => KeyStatus::Running { session, request },
            Owner::None => KeyStatus::Partial(key.totals),
            Owner::Done => KeyStatus::Done(key.totals),
        })
    }

    /// Removes from a piece what was published before.
    pub(super) fn admit(&self, append: &mut Append, cx: &Context) -> Admission {
        let Append { events, close, key: using, .. } = append;
        let Some(using) = using else { return Admission::Append };
        let key = self.by_id.get(&using.id);
        match key.map(|key| (key.owner, key.totals)) {
            Some((Owner::Done, totals)) => return Admission::Replay(totals),
            Some((Owner::Request(session, request), _))
                if (session, request) != (cx.session, using.request) =>
            {
                return Admission::Refuse(Refusal::KeyRunning);
            }
            _ => {}
        }
        let all = events.len();
        if let Some(key) = key {
            let mut event = 0;
            events.retain(|_| {
                event += 1;
                !key.published.contains(using.lines.of(event - 1))
            });
            if events.is_empty() && key.totals.state.is_some() {
                // The end was published with the events.
                *close = None;
            }
        }
        let published = key.map(|key| &key.published);
        let runs = published.map_or(0, |published| published.0.len());
        if runs + all > MAX_RUNS && Runs::with(published, using, all) > MAX_RUNS {
            return Admission::Refuse(Refusal::KeyScattered);
        }
        Admission::Append
    }

    /// Notes what was published with a key, and returns all of it. `events` is the number of events
    /// of the piece, those of earlier requests included.
    pub(super) fn note(
        &mut self,
        using: &KeyUse,
        events: usize,
        appended: Appended,
        closed: bool,
        cx: &Context,
    ) -> KeyTotals {
        let expires = cx.after(using.window);
        let mut key = self.remove(using.id).unwrap_or_else(|| Key {
            owner: Owner::None,
            published: Runs::default(),
            totals: KeyTotals::default(),
            window: using.window,
            expires,
        });
        (key.expires, key.window) = (expires, using.window);
        for event in 0..events {
            key.totals.events += u64::from(key.published.insert(using.lines.of(event)));
        }
        if let Some((first, last)) = appended.offsets {
            let first = key.totals.offsets.map_or(first, |(earliest, _)| earliest);
            key.totals.offsets = Some((first, last));
        }
        if closed {
            key.totals.state = appended.state;
        }
        key.owner = if using.last {
            // A retry is answered with the totals.
            key.published = Runs::default();
            Owner::Done
        } else {
            self.running.insert((cx.session, using.id));
            Owner::Request(cx.session, using.request)
        };
        let totals = key.totals;
        self.runs += key.published.0.len();
        self.by_id.insert(using.id, key);
        self.expiry.insert((expires, using.id));
        while (self.by_id.len() > self.max || self.runs > self.max_runs)
            && let Some((_, oldest)) = self.expiry.first().copied()
        {
            self.remove(oldest);
        }
        totals
    }

    /// Notes that a request has broken off.
    pub(super) fn release(&mut self, release: ReleaseKey, cx: &Context) -> Result<(), Refusal> {
        let owner = Owner::Request(cx.session, release.request);
        let key = self.by_id.get_mut(&release.id).filter(|key| key.owner == owner);
        key.ok_or(Refusal::Outdated)?.owner = Owner::None;
        self.running.remove(&(cx.session, release.id));
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    fn remove(&mut self, id: KeyId) -> Option<Key> {
        let key = self.by_id.remove(&id)?;
        self.runs -= key.published.0.len();
        self.expiry.remove(&(key.expires, id));
        if let Owner::Request(session, _) = key.owner {
            self.running.remove(&(session, id));
        }
        Some(key)
    }
}

/// A set of lines, as disjoint ranges in order: first line and the line after the last.
#[derive(Debug, Default, PartialEq, Eq)]
struct Runs(Vec<(u64, u64)>);

impl Runs {
    /// Returns the number of runs that begin at or before the line.
    fn up_to(&self, line: u64) -> usize {
        self.0.partition_point(|(first, _)| *first <= line)
    }

    fn contains(&self, line: u64) -> bool {
        let run = self.up_to(line).checked_sub(1).and_then(|at| self.0.get(at));
        run.is_some_and(|(_, end)| line < *end)
    }

    /// Adds a line. Returns whether it is new.
    fn insert(&mut self, line: u64) -> bool {
        if self.contains(line) {
            return false;
        }
        let at = self.up_to(line);
        let joins_before = at > 0 && self.0[at - 1].1 == line;
        let joins_after = self.0.get(at).is_some_and(|(first, _)| *first == line + 1);
        match (joins_before, joins_after) {
            (true, true) => {
                self.0[at - 1].1 = self.0[at].1;
                self.0.remove(at);
            }
            (true, false) => self.0[at - 1].1 = line + 1,
            (false, true) => self.0[at].0 = line,
            (false, false) => self.0.insert(at, (line, line + 1)),
        }
        true
    }

    /// Returns the number of runs of these lines with those of a piece. It ends where there are far
    /// too many.
    fn with(published: Option<&Self>, using: &KeyUse, events: usize) -> usize {
        let mut all = Self(published.map_or_else(Vec::new, |published| published.0.clone()));
        for event in 0..events {
            all.insert(using.lines.of(event));
            if all.0.len() > 2 * MAX_RUNS {
                break;
            }
        }
        all.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_joined_in_any_order() {
        let mut random = fastrand::Rng::with_seed(2);
        for _ in 0..200 {
            let mut lines: Vec<u64> = (0..20).collect();
            random.shuffle(&mut lines);
            let mut runs = Runs::default();
            let mut known = BTreeSet::new();
            for line in lines {
                assert!(runs.insert(line) && !runs.insert(line));
                known.insert(line);
                assert!((0..21).all(|line| runs.contains(line) == known.contains(&line)));
                assert!(runs.0.windows(2).all(|pair| pair[0].1 < pair[1].0), "{runs:?}");
            }
            assert_eq!(runs.0, [(0, 20)]);
        }
    }
}
