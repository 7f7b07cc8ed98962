//! Neighbouring deltas into one event.
//!
//! Nothing is written anew. An [`Outline`] says where in an event's data the delta's text stands,
//! and where the fields that vary without meaning. Two events join if all their other bytes are
//! equal, and then so is the place that the delta has in the JSON, the index or id of its part, and
//! everything else. The merged event is the last one, with the texts of all in the place of its
//! own. Texts are joined as they are written, escapes included: what stands between two pairs of
//! quotes can stand between one.

use std::ops::Range;

use super::json::Json;
use super::{DONE, Format};

/// Some neighbouring events that are going out as one.
#[derive(Clone, Debug)]
pub struct Merge {
    format: Format,
    event_type: Option<Box<str>>,
    /// The last event's data, and its outline.
    last: String,
    outline: Outline,
    /// The deltas' texts, as written.
    joined: String,
}

impl Merge {
    /// Begins with an event; `None` if it is not a mere delta and can be no part of a merge.
    #[must_use]
    pub fn begin(format: Format, event_type: Option<&str>, data: &str) -> Option<Self> {
        let outline = outline(format, data)?;
        Some(Self {
            format,
            event_type: event_type.map(Box::from),
            last: data.to_owned(),
            joined: data[outline.delta()].to_owned(),
            outline,
        })
    }

    /// Adds the next event, if it differs from the one before in its delta's text only.
    #[must_use = "an event that was not added must go out by itself"]
    pub fn try_add(&mut self, event_type: Option<&str>, data: &str) -> bool {
        if self.event_type.as_deref() != event_type {
            return false;
        }
        if let Some(text) = self.simple_delta(data) {
            return self.join(text);
        }
        let Some(outline) = outline(self.format, data) else {
            return false;
        };
        let fits = self.outline.equal_outside(&self.last, &outline, data);
        if !fits || !self.join(&data[outline.delta()]) {
            return false;
        }
        self.last.clear();
        self.last.push_str(data);
        self.outline = outline;
        true
    }

    /// The merged event's data; that of a single event is unchanged.
    #[must_use]
    pub fn finish(mut self) -> String {
        self.last.replace_range(self.outline.delta(), &self.joined);
        self.last
    }

    /// How many bytes [`finish`](Self::finish) would return.
    #[must_use]
    pub fn len(&self) -> usize {
        self.last.len() - self.outline.delta().len() + self.joined.len()
    }

    /// Whether the merged event's data is empty, as that of an empty piece of text is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The text of an event that is equal up to and from its delta, and plain in between: so it
    /// has the same outline, and nothing has to be parsed.
    fn simple_delta<'a>(&self, data: &'a str) -> Option<&'a str> {
        let delta = self.outline.delta();
        let text = data.strip_prefix(&self.last[..delta.start])?;
        let text = text.strip_suffix(&self.last[delta.end..])?;
        let plain = |byte: u8| byte >= b' ' && byte != b'"' && byte != b'\\';
        (self.format != Format::Text && text.bytes().all(plain)).then_some(text)
    }

    /// Pieces of text must not become an end mark that none of them was.
    fn join(&mut self, text: &str) -> bool {
        if self.format == Format::Text && DONE.strip_prefix(self.joined.as_str()) == Some(text) {
            return false;
        }
        self.joined.push_str(text);
        true
    }
}

fn outline(format: Format, data: &str) -> Option<Outline> {
    if data == DONE {
        return None;
    }
    let mut outline = Outline::default();
    format.provider().outline(data, &mut outline)?;
    outline.settle()
}

/// Where in an event's data stands what may differ between two events that join.
#[derive(Clone, Debug, Default)]
pub(super) struct Outline {
    delta: Option<Range<usize>>,
    /// The delta as well, once it is settled; in order.
    varying: Vec<Range<usize>>,
}

impl Outline {
    /// This string is the delta's text. Where several could be, as the content beside a thought is
    /// `""`, the one that is not empty is; `None` if there are two.
    pub(super) fn set_delta(&mut self, value: Json<'_>, data: &str) -> Option<()> {
        value.contents()?;
        let span = value.span_in(data);
        let span = span.start + 1..span.end - 1;
        if self.delta.as_ref().is_none_or(Range::is_empty) {
            self.delta = Some(span);
        } else if !span.is_empty() {
            return None;
        }
        Some(())
    }

    /// The whole data is the delta's text.
    pub(super) fn set_all(&mut self, data: &str) {
        self.delta = Some(0..data.len());
    }

    /// This value may differ; the last event's is kept.
    pub(super) fn vary(&mut self, value: Json<'_>, data: &str) {
        self.varying.push(value.span_in(data));
    }

    fn settle(mut self) -> Option<Self> {
        self.varying.push(self.delta.clone()?);
        self.varying.sort_unstable_by_key(|span| span.start);
        Some(self)
    }

    fn delta(&self) -> Range<usize> {
        self.delta.clone().unwrap_or_default()
    }

    /// Whether two events' data are equal but for what may differ, which stands at the same places.
    fn equal_outside(&self, data: &str, other: &Self, other_data: &str) -> bool {
        self.varying.len() == other.varying.len() && self.fixed(data).eq(other.fixed(other_data))
    }

    /// The data between the varying spans.
    fn fixed<'a>(&'a self, data: &'a str) -> impl Iterator<Item = &'a str> {
        let starts = std::iter::once(0).chain(self.varying.iter().map(|span| span.end));
        let ends = self.varying.iter().map(|span| span.start).chain([data.len()]);
        starts.zip(ends).map(|(start, end)| &data[start..end])
    }
}
