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

use std::ops::Range;

use super::json::{Fields, Json};
use super::{DONE, Format};

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
    pub fn begin(format: Format, event_type: Option<&str>, data: &str) -> Option<Self> {
        let outline = outline(format, event_type, data)?;
        Some(Self {
            format,
            event_type: event_type.map(Box::from),
            last: data.to_owned(),
            joined: data[outline.delta()].to_owned(),
            outline,
        })
    }

    /// Adds the next event, if it differs from the one before only in its delta's text.
    #[must_use = "an event that was not added must go out by itself"]
    pub fn try_add(&mut self, event_type: Option<&str>, data: &str) -> bool {
        if self.event_type.as_deref() != event_type {
            return false;
        }
        if let Some(text) = self.simple_delta(data) {
            return self.join(text);
        }
        let Some(outline) = outline(self.format, event_type, data) else {
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
    #[must_use]
    pub fn len(&self) -> usize {
        self.last.len() - self.outline.delta().len() + self.joined.len()
    }

    /// Returns whether the merged event's data is empty, as that of an empty piece of text is.
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
fn outline(format: Format, event_type: Option<&str>, data: &str) -> Option<Outline> {
    // In the other formats, no delta is a mark.
    let ends = format == Format::Text && format.mark(event_type, data).is_some();
    if event_type == Some("error") || data == DONE || ends {
        return None;
    }
    let mut outline = Outline::default();
    format.provider().outline(data, &mut outline)?;
    outline.settle()
}

/// The role of a field in a merge.
pub(super) enum Field {
    /// It is equal in both events.
    Fixed,
    /// It may differ, and the last event's value is kept: one of [`FREE`].
    Free,
    /// It can contain the delta's text. If several can, such as the `""` content next to a thought,
    /// the one that is not empty does.
    Delta,
}

/// Fields that may differ. An event with one of them does not merge into one without it.
const FREE: [&str; 22] = [
    "CreatedAt",
    "citations",
    "createTime",
    "created",
    "created_at",
    "event_id",
    "id",
    "item_id",
    "message",
    "obfuscation",
    "p",
    "responseId",
    "role",
    "search_results",
    "sequence_number",
    "service_tier",
    "system_fingerprint",
    "timings",
    "traceId",
    "usage",
    "usageMetadata",
    "x_groq",
];

/// The positions in an event's data of what may differ between two events that join.
#[derive(Clone, Debug, Default)]
pub(super) struct Outline {
    delta: Option<Delta>,
    /// The fields that are free, and those that may contain the delta; each with the comma before
    /// it, or after it at the beginning of an object. Sorted once it is settled.
    free: Vec<Range<usize>>,
    /// A bit for each of [`FREE`] that is present.
    has: u32,
}

/// The position of the delta.
#[derive(Clone, Debug, Default)]
struct Delta {
    name: Range<usize>,
    text: Range<usize>,
    /// Number of bytes before it that are not free.
    depth: usize,
}

impl Outline {
    /// Adds the fields of an object. `look` returns the role of each, and descends into nested
    /// objects; `None` if a field has anything that a merge would lose.
    pub(super) fn walk<'a>(
        &mut self,
        object: &Fields<'a>,
        data: &str,
        mut look: impl FnMut(&mut Self, &str, Json<'a>) -> Option<Field>,
    ) -> Option<()> {
        let all = object.all();
        let (mut is_first, mut before) = (true, 0);
        for (number, (name, value)) in all.iter().enumerate() {
            let span = value.span_in(data);
            let begins = name_in(name, data)?.start - 1;
            let field = if value.is_null() { None } else { look(self, name, *value) };
            match field {
                Some(Field::Delta) => self.set_delta(name_in(name, data)?, *value, data)?,
                _ if value.is_empty() => {}
                Some(Field::Free) => {
                    self.has |= 1 << FREE.iter().position(|free| free == name)?;
                }
                Some(Field::Fixed) => {
                    (is_first, before) = (false, span.end);
                    continue;
                }
                None => return None,
            }
            let next = all.get(number + 1).map(|(name, _)| name_in(name, data));
            self.free.push(match next {
                Some(next) if is_first => begins..next?.start - 1,
                _ if is_first => begins..span.end,
                _ => before..span.end,
            });
            before = span.end;
        }
        Some(())
    }

    /// Makes the whole data the delta's text.
    pub(super) fn set_all(&mut self, data: &str) {
        self.delta = Some(Delta { text: 0..data.len(), ..Delta::default() });
        self.free.push(0..data.len());
    }

    fn set_delta(&mut self, name: Range<usize>, value: Json<'_>, data: &str) -> Option<()> {
        if value.contents().is_none() {
            return value.is_empty().then_some(()); // an empty list in place of a text
        }
        let span = value.span_in(data);
        let text = span.start + 1..span.end - 1;
        if self.delta.as_ref().is_none_or(|delta| delta.text.is_empty()) {
            self.delta = Some(Delta { name, text, depth: 0 });
        } else if !text.is_empty() {
            return None;
        }
        Some(())
    }

    fn settle(mut self) -> Option<Self> {
        self.free.sort_unstable_by_key(|span| span.start);
        let delta = self.delta.as_mut()?;
        let text = &delta.text;
        let holds = |span: &Range<usize>| span.start <= text.start && text.end <= span.end;
        let own = self.free.iter().position(holds)?;
        let before = self.free[..own].iter().map(Range::len).sum::<usize>();
        delta.depth = self.free[own].start - before;
        Some(self)
    }

    fn delta(&self) -> Range<usize> {
        self.delta.as_ref().map(|delta| delta.text.clone()).unwrap_or_default()
    }

    /// Returns whether the data of both events is equal except for what is free, with the delta in
    /// the same position, and whether the other has all free fields of this one.
    fn is_followed_by(&self, data: &str, other: &Self, other_data: &str) -> bool {
        let (Some(delta), Some(next)) = (&self.delta, &other.delta) else {
            return false;
        };
        delta.depth == next.depth
            && data[delta.name.clone()] == other_data[next.name.clone()]
            && self.has & !other.has == 0
            && is_same_text(self.fixed(data), other.fixed(other_data))
    }

    /// Returns the bytes that are not free.
    fn fixed<'a>(&'a self, data: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let starts = std::iter::once(0).chain(self.free.iter().map(|span| span.end));
        let ends = self.free.iter().map(|span| span.start).chain([data.len()]);
        starts.zip(ends).map(|(start, end)| &data.as_bytes()[start..end])
    }
}

/// Returns whether the pieces are the same text, wherever each is cut.
fn is_same_text<'a>(
    mut one: impl Iterator<Item = &'a [u8]>,
    mut other: impl Iterator<Item = &'a [u8]>,
) -> bool {
    let (mut left, mut right): (&[u8], &[u8]) = (&[], &[]);
    loop {
        while left.is_empty() {
            let Some(next) = one.next() else {
                return right.is_empty() && other.all(<[u8]>::is_empty);
            };
            left = next;
        }
        while right.is_empty() {
            let Some(next) = other.next() else { return false };
            right = next;
        }
        let shared = left.len().min(right.len());
        if left[..shared] != right[..shared] {
            return false;
        }
        (left, right) = (&left[shared..], &right[shared..]);
    }
}

/// Returns the position of a field's name; `None` if it is written with escapes.
fn name_in(name: &str, data: &str) -> Option<Range<usize>> {
    let start = name.as_ptr().addr().checked_sub(data.as_ptr().addr())?;
    let end = start.checked_add(name.len())?;
    (start > 0 && end <= data.len()).then_some(start..end)
}
