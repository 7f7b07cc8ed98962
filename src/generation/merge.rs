//! Merges neighbouring deltas into one event.
//!
//! Events are not re-encoded. An [`Outline`] has the position of the delta's text in an event's
//! data, and the fields that are free: those that do not affect the text, such as an id or the
//! usage so far, and those that are empty. Two events join under two conditions. All their other
//! bytes are equal, and so is the delta's position in the JSON, the index of its part, and
//! everything else. And the second has all free fields that the first has, so that nothing is lost.
//! The merged event is the last one, with the joined texts of all in place of its own. Texts are
//! joined as written, with their escapes: two string literals joined are the literal of the joined
//! string.

use super::event::{DONE, ModelEvent};
use super::format::Format;
use super::outline::Outline;

/// Neighbouring events that are merged into one.
#[derive(Clone, Debug)]
pub struct Merge {
    format: Format,
    event_type: Option<Box<str>>,
    /// The last event's data, with its outline.
    last: String,
    outline: Outline,
    /// The joined texts of the deltas, as written.
    joined: String,
}

impl Merge {
    /// Begins with an event; `None` if it is not a mere delta and cannot be merged.
    #[must_use]
    pub fn begin(format: Format, event: &ModelEvent<'_>) -> Option<Self> {
        let outline = outline(format, event)?;
        let data = event.data();
        Some(Self {
            format,
            event_type: event.event_type().map(Box::from),
            last: data.to_owned(),
            joined: data[outline.delta()].to_owned(),
            outline,
        })
    }

    /// Adds the next event, if it differs from the one before only in its delta's text.
    #[must_use = "an event that was not added must go out by itself"]
    pub fn try_add(&mut self, event: &ModelEvent<'_>) -> bool {
        if self.event_type.as_deref() != event.event_type() {
            return false;
        }
        let data = event.data();
        if let Some(text) = self.simple_delta(data) {
            return self.join(text);
        }
        let Some(outline) = outline(self.format, event) else {
            return false;
        };
        let fits = self.outline.is_followed_by(&self.last, &outline, data);
        if !fits || !self.join(&data[outline.delta()]) {
            return false;
        }
        self.last.clear();
        self.last.push_str(data);
        self.outline = outline;
        true
    }

    /// Returns the merged event's data; that of a single event is unchanged.
    #[must_use]
    pub fn finish(mut self) -> String {
        self.last.replace_range(self.outline.delta(), &self.joined);
        self.last
    }

    /// Returns the number of bytes that [`finish`](Self::finish) would return.
    #[cfg(any(test, feature = "internals"))]
    #[must_use]
    pub fn len(&self) -> usize {
        self.last.len() - self.outline.delta().len() + self.joined.len()
    }

    /// Returns whether the merged event's data is empty, as that of an empty piece of text is.
    #[cfg(any(test, feature = "internals"))]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the text of an event that is equal before and after its delta, and has no quotes,
    /// escapes or control characters in it: its outline is the same, so it needs no parsing.
    fn simple_delta<'a>(&self, data: &'a str) -> Option<&'a str> {
        let delta = self.outline.delta();
        let text = data.strip_prefix(&self.last[..delta.start])?;
        let text = text.strip_suffix(&self.last[delta.end..])?;
        let plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
        (self.format != Format::Text && text.bytes().all(plain)).then_some(text)
    }

    /// Joins a text, unless the pieces would become an end mark that none of them was.
    fn join(&mut self, text: &str) -> bool {
        if self.format == Format::Text
            && DONE.strip_prefix(self.joined.trim_start()) == Some(text.trim_end())
        {
            return false;
        }
        self.joined.push_str(text);
        true
    }
}

/// Returns the outline of an event; `None` if it must not be merged.
fn outline(format: Format, event: &ModelEvent<'_>) -> Option<Outline> {
    // In the other formats, no delta is a mark.
    let ends = format == Format::Text && format.mark(event).is_some();
    if event.event_type() == Some("error") || event.data() == DONE || ends {
        return None;
    }
    let mut outline = Outline::default();
    format.provider().outline(event, &mut outline)?;
    outline.settle()
}
