//! The interface of a format.

use super::content;
use crate::generation::fold::Fold;
use crate::generation::json::Fields;
use crate::generation::mark::Mark;
use crate::generation::outline::Outline;

/// The interface of a format.
pub(in crate::generation) trait Provider {
    /// Returns whether this event belongs to the format, in a stream about which nothing is known.
    fn recognises(&self, event: &Fields<'_>) -> bool;

    /// Returns the mark of this event, if the generation ends with it. `[DONE]` and errors of other
    /// dialects are detected elsewhere. It is called for every event, so it searches for a word
    /// before it parses anything.
    fn mark(&self, event_type: Option<&str>, data: &str) -> Option<Mark>;

    /// Adds the event to the fold.
    fn fold(&self, event_type: Option<&str>, data: &str, fold: &mut Fold) {
        match Fields::parse(data) {
            Some(event) => self.fold_event(event_type, &event, fold),
            None => content::fold_odd(data, fold, |event, fold| {
                self.fold_event(event_type, event, fold);
            }),
        }
    }

    /// Adds an event to the fold, in a format whose events are objects. Content that it does not
    /// know is noted as skipped.
    fn fold_event(&self, event_type: Option<&str>, event: &Fields<'_>, fold: &mut Fold);

    /// Outlines the delta and the fields that may differ; `None` as soon as the event has anything
    /// else that a merge would lose.
    fn outline(&self, data: &str, outline: &mut Outline) -> Option<()>;
}
