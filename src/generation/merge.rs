//! Neighbouring deltas into one event.
//!
//! Nothing is written anew. An [`Outline`] says where in an event's data the delta's text stands,
//! and which fields are free: those that say nothing of the text, such as an id or the usage so
//! far, and those that are empty. Two events join if all their other bytes are equal, and then so
//! is the place that the delta has in the JSON, the index of its part, and everything else; and if
//! the second has all free fields that the first has, so that nothing is lost. The merged event is
//! the last one, with the texts of all in the place of its own. Texts are joined as they are
//! written, escapes included: what stands between two pairs of quotes can stand between one.

use std::ops::Range;

use super::json::{Fields, Json};
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
        let outline = outline(format, event_type, data)?;
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
        if self.format == Format::Text
            && DONE.strip_prefix(self.joined.trim_start()) == Some(text.trim_end())
        {
            return false;
        }
        self.joined.push_str(text);
        true
    }
}

/// Nothing if the event must go out as it is.
fn outline(format: Format, event_type: Option<&str>, data: &str) -> Option<Outline> {
    // Of the other formats, no delta is a mark.
    let ends = format == Format::Text && format.mark(event_type, data).is_some();
    if event_type == Some("error") || data == DONE || ends {
        return None;
    }
    let mut outline = Outline::default();
    format.provider().outline(data, &mut outline)?;
    outline.settle()
}

/// What a field is to a merge.
pub(super) enum Field {
    /// It is equal in both events.
    Fixed,
    /// It may differ, and the last event's is kept: one of [`FREE`].
    Free,
    /// It can have the delta's text. Where several could, as the content beside a thought is `""`,
    /// the one that is not empty has it.
    Delta,
}

/// The fields that may differ. An event that has one does not merge into one that has not.
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

/// Where in an event's data stands what may differ between two events that join.
#[derive(Clone, Debug, Default)]
pub(super) struct Outline {
    delta: Option<Delta>,
    /// The fields that are free, and those that have or could have the delta; each with the comma
    /// before it, or after it at the beginning of an object. In order, once it is settled.
    free: Vec<Range<usize>>,
    /// Which of [`FREE`] there are.
    has: u32,
}

/// The field that has the delta.
#[derive(Clone, Debug, Default)]
struct Delta {
    name: Range<usize>,
    text: Range<usize>,
    /// How many bytes before it are not free.
    depth: usize,
}

impl Outline {
    /// Looks at the fields of an object. `look` says what each is, and looks into those that it
    /// has to; `None` if a field has anything that a merge would lose.
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

    /// The whole data is the delta's text.
    pub(super) fn set_all(&mut self, data: &str) {
        self.delta = Some(Delta { text: 0..data.len(), ..Delta::default() });
        self.free.push(0..data.len());
    }

    fn set_delta(&mut self, name: Range<usize>, value: Json<'_>, data: &str) -> Option<()> {
        if value.contents().is_none() {
            return value.is_empty().then_some(()); // an empty list in the place of a text
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

    /// Whether these events' data are equal but for what is free, with the delta in the same place,
    /// and all that is free in the first is there in the other as well.
    fn is_followed_by(&self, data: &str, other: &Self, other_data: &str) -> bool {
        let (Some(delta), Some(next)) = (&self.delta, &other.delta) else {
            return false;
        };
        delta.depth == next.depth
            && data[delta.name.clone()] == other_data[next.name.clone()]
            && self.has & !other.has == 0
            && is_same_text(self.fixed(data), other.fixed(other_data))
    }

    /// The bytes that are not free.
    fn fixed<'a>(&'a self, data: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let starts = std::iter::once(0).chain(self.free.iter().map(|span| span.end));
        let ends = self.free.iter().map(|span| span.start).chain([data.len()]);
        starts.zip(ends).map(|(start, end)| &data.as_bytes()[start..end])
    }
}

/// Whether these pieces are one text, wherever each is cut.
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

/// Where a field's name stands; nothing if it is written with escapes, and so not in the data.
fn name_in(name: &str, data: &str) -> Option<Range<usize>> {
    let start = name.as_ptr().addr().checked_sub(data.as_ptr().addr())?;
    let end = start.checked_add(name.len())?;
    (start > 0 && end <= data.len()).then_some(start..end)
}
