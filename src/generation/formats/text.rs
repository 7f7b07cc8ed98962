//! Plain text: each event's data is the next piece.

use super::provider::Provider;
use crate::generation::address::{Address, Lane, PartKey};
use crate::generation::fold::Fold;
use crate::generation::json::Fields;
use crate::generation::mark::{DONE, Ending, Mark};
use crate::generation::outline::Outline;

/// The format `text`.
pub(in crate::generation) struct TextFormat;

fn is_done(event_type: Option<&str>, data: &str) -> bool {
    event_type.is_none() && data == DONE
}

impl Provider for TextFormat {
    fn recognises(&self, _: &Fields<'_>) -> bool {
        false // what has fields is no text
    }

    fn mark(&self, event_type: Option<&str>, data: &str) -> Option<Mark> {
        is_done(event_type, data).then_some(Mark::Last(Ending::Complete))
    }

    fn fold(&self, event_type: Option<&str>, data: &str, fold: &mut Fold) {
        if !is_done(event_type, data) {
            let all = Address { choice: 0, lane: Lane::Text, key: PartKey::Index(0, 0) };
            fold.append_text(all, data);
        }
    }

    fn fold_event(&self, _: Option<&str>, _: &Fields<'_>, _: &mut Fold) {} // nor is it parsed

    fn outline(&self, data: &str, outline: &mut Outline) -> Option<()> {
        outline.set_all(data);
        Some(())
    }
}
