//! Addresses: how the events of a generation name the part that they add to.

use std::borrow::Cow;

/// The key by which events name the part that they add to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Address<'a> {
    pub(super) choice: u32,
    pub(super) lane: Lane,
    pub(super) key: PartKey<'a>,
}

/// The kind of part, as far as a delta determines it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Lane {
    Text,
    Reasoning,
    /// A summary of the reasoning, which may be sent in addition to it.
    Summary,
    Refusal,
    Tool,
}

impl Lane {
    /// Number of lanes.
    pub(super) const COUNT: usize = Self::Tool as usize + 1;
}

/// Distinguishes parts of one choice and lane.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum PartKey<'a> {
    /// The number of an item, and of a piece of it.
    Index(u32, u32),
    /// An id.
    Id(Cow<'a, str>),
}

impl Address<'_> {
    pub(super) fn into_owned(self) -> Address<'static> {
        let key = match self.key {
            PartKey::Index(item, piece) => PartKey::Index(item, piece),
            PartKey::Id(id) => PartKey::Id(Cow::Owned(id.into_owned())),
        };
        Address { choice: self.choice, lane: self.lane, key }
    }

    /// Returns the bytes of the address and its index.
    pub(super) fn weight(&self) -> usize {
        let id = if let PartKey::Id(id) = &self.key { id.len() } else { 0 };
        size_of::<(Address<'static>, usize)>() + id
    }
}

/// Returns the address of a choice's last call, for formats that send each call in one piece.
pub(super) fn call_address(choice: u32) -> Address<'static> {
    Address { choice, lane: Lane::Tool, key: PartKey::Index(0, 0) }
}
