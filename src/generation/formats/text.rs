//! Plain text: each event's data is the next piece.

use super::provider::Provider;
use crate::generation::address::{Address, Lane, PartKey};
use crate::generation::event::{DONE, ModelEvent};
use crate::generation::fold::Fold;
use crate::generation::mark::{Ending, Mark};
use crate::generation::outline::Outline;
use crate::json::Fields;

/// The format `text`.
pub(in crate::generation) struct TextFormat;

fn is_done(event: &ModelEvent<'_>) -> bool {
    event.event_type().is_none() && event.data() == DONE
}

impl Provider for TextFormat {
    fn recognises(&self, _: &Fields<'_>) -> bool {
        false // what has fields is no text
    }

    fn mark(&self, event: &ModelEvent<'_>) -> Option<Mark> {
        is_done(event).then_some(Mark::Last(Ending::Complete))
    }

    fn fold(&self, event: &ModelEvent<'_>, fold: &mut Fold) {
        if !is_done(event) {
            let all = Address { choice: 0, lane: Lane::Text, key: PartKey::Index(0, 0) };
            fold.append_text(all, event.data());
        }
    }

    fn fold_event(&self, _: Option<&str>, _: &Fields<'_>, _: &mut Fold) {} // nor is it parsed

    fn outline(&self, event: &ModelEvent<'_>, outline: &mut Outline) -> Option<()> {
        outline.set_all(event.data());
        Some(())
    }
}
