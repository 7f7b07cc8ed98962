//! The interface of a format.

use super::content;
use crate::generation::event::ModelEvent;
use crate::generation::fold::Fold;
use crate::generation::mark::Mark;
use crate::generation::outline::Outline;
use crate::json::Fields;

/// The interface of a format.
pub(in crate::generation) trait Provider {
    /// Returns whether this event belongs to the format, in a stream about which nothing is known.
    fn recognises(&self, event: &Fields<'_>) -> bool;

    /// Returns the mark of this event, if the generation ends with it. `[DONE]` and errors of other
    /// dialects are detected elsewhere.
    fn mark(&self, event: &ModelEvent<'_>) -> Option<Mark>;

    /// Adds the event to the fold.
    fn fold(&self, event: &ModelEvent<'_>, fold: &mut Fold) {
        if event.is_done() {
            return;
        }
        match event.fields() {
            Some(fields) => self.fold_event(event.event_type(), &fields, fold),
            None => content::fold_odd(event.data(), fold, |fields, fold| {
                self.fold_event(event.event_type(), fields, fold);
            }),
        }
    }

    /// Adds an event to the fold, in a format whose events are objects. Content that it does not
    /// know is noted as skipped.
    fn fold_event(&self, event_type: Option<&str>, event: &Fields<'_>, fold: &mut Fold);

    /// Outlines the delta and the fields that may differ; `None` as soon as the event has anything
    /// else that a merge would lose.
    fn outline(&self, event: &ModelEvent<'_>, outline: &mut Outline) -> Option<()>;
}
