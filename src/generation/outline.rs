//! Outlines: where in an event's data its delta is, and what may differ between events that join.

use std::ops::Range;

use crate::json::{Fields, Json};

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
        mut look: impl FnMut(&mut Self, &str, Json<'a>) -> Option<Field>,
    ) -> Option<()> {
        let mut all = object.all().peekable();
        let mut is_first = true;
        let mut before = 0;
        while let Some((name, value)) = all.next() {
            let span = value.span();
            let begins = name.span().start;
            // No field that matters is written with escapes.
            let said = name.contents().filter(|_| !name.is_escaped())?;
            let field = if value.is_null() { None } else { look(self, said, value) };
            match field {
                Some(Field::Delta) => self.set_delta(name, value)?,
                _ if value.is_empty() => {}
                Some(Field::Free) => {
                    self.has |= 1 << FREE.iter().position(|free| *free == said)?;
                }
                Some(Field::Fixed) => {
                    (is_first, before) = (false, span.end);
                    continue;
                }
                None => return None,
            }
            let next = all.peek().map(|(name, _)| name.span().start);
            self.free.push(match next {
                Some(next) if is_first => begins..next,
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

    fn set_delta(&mut self, name: Json<'_>, value: Json<'_>) -> Option<()> {
        if value.contents().is_none() {
            return value.is_empty().then_some(()); // an empty list in place of a text
        }
        let span = value.span();
        let text = span.start + 1..span.end - 1;
        if self.delta.as_ref().is_none_or(|delta| delta.text.is_empty()) {
            self.delta = Some(Delta { name: name.span(), text, depth: 0 });
        } else if !text.is_empty() {
            return None;
        }
        Some(())
    }

    pub(super) fn settle(mut self) -> Option<Self> {
        self.free.sort_unstable_by_key(|span| span.start);
        let delta = self.delta.as_mut()?;
        let text = &delta.text;
        let holds = |span: &Range<usize>| span.start <= text.start && text.end <= span.end;
        let own = self.free.iter().position(holds)?;
        let before = self.free[..own].iter().map(Range::len).sum::<usize>();
        delta.depth = self.free[own].start - before;
        Some(self)
    }

    pub(super) fn delta(&self) -> Range<usize> {
        self.delta.as_ref().map(|delta| delta.text.clone()).unwrap_or_default()
    }

    /// Returns whether the data of both events is equal except for what is free, with the delta in
    /// the same position, and whether the other has all free fields of this one.
    pub(super) fn is_followed_by(&self, data: &str, other: &Self, other_data: &str) -> bool {
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
