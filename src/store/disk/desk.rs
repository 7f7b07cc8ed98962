//! Where answers are given, if not on the threads of the store.

use std::fmt;
use std::sync::Arc;

use super::{Done, WriteError};

/// What became of something, and whom to tell.
pub type Told = (Done, Result<(), WriteError>);

/// A place where answers are given. All that is for one place is put there at once.
pub trait Desk: fmt::Debug + Send + Sync {
    /// Has these told, in this order, behind all that was given before. Never waits.
    fn give(&self, answers: Vec<Told>);
}

/// Answers, sorted by where they are to be given.
#[derive(Default)]
pub(super) struct Tray {
    here: Vec<Told>,
    desks: Vec<(Arc<dyn Desk>, Vec<Told>)>,
}

impl Tray {
    pub(super) fn put(&mut self, desk: Option<Arc<dyn Desk>>, told: Told) {
        let Some(desk) = desk else {
            return self.here.push(told);
        };
        match self.desks.iter_mut().find(|(known, _)| Arc::ptr_eq(known, &desk)) {
            Some((_, answers)) => answers.push(told),
            None => self.desks.push((desk, vec![told])),
        }
    }

    pub(super) fn hand_over(self) {
        self.desks.into_iter().for_each(|(desk, answers)| desk.give(answers));
        self.here.into_iter().for_each(|(done, outcome)| done(outcome));
    }
}
