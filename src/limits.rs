//! Every fixed cap in the system, on one page, each with its reason.
//!
//! What an operator may want to change is a setting of the part that it bounds (see
//! `deploy/fanfare.toml`); what stands here is a property of the protocol or a guard that no
//! honest client meets.

/// Bytes in a channel name: what fits in a URL, a log line and a file name.
pub const MAX_CHANNEL_NAME_BYTES: usize = 255;

/// Bytes in an event id: browsers send a `Last-Event-ID` of up to 128 bytes without a preflight.
pub const MAX_EVENT_ID_BYTES: usize = 128;

/// Bytes in an event type: a name, not a payload.
pub const MAX_EVENT_TYPE_BYTES: usize = 128;

/// Bytes in an `Idempotency-Key`: room for a UUID with a prefix; each is kept for the window.
pub const MAX_IDEMPOTENCY_KEY_BYTES: usize = 255;

/// Bytes that one read hands to one subscriber: large enough to fill a socket buffer, small
/// enough that a subscriber who catches up does not keep the others waiting.
pub const MAX_BATCH_BYTES: usize = 64 * 1024;

/// Bytes in a log segment: the unit in which memory is freed.
pub const MAX_SEGMENT_BYTES: usize = 64 * 1024;

/// Events that one merged read orders at a time, over all its channels.
pub const MAX_MERGE_EVENTS: usize = 512;

/// Events of `last:N` over many channels: their places are gathered and sorted at once.
pub const MAX_LAST_EVENTS: u64 = 10_000;

/// Channels that the patterns of one subscription may select: each costs it a listener.
pub const MAX_MATCHED_CHANNELS: usize = 10_000;

/// Remembered ends of channels that are gone, so that a resume behind one is answered with a gap
/// and not with silence. Sixteen bytes each; when full, the oldest is folded into a floor.
pub const MAX_TOMBSTONES: usize = 65_536;

/// Bytes of a request body that is a document and not a stream (`PUT`).
pub const MAX_DOCUMENT_BYTES: usize = 64 * 1024;

/// Events in one JSON page: a page is one allocation.
pub const MAX_PAGE_EVENTS: usize = 1_000;

/// Bytes of event data in one JSON page, past its first event.
pub const MAX_PAGE_BYTES: usize = 1024 * 1024;

/// Channels in one answer of the admin list.
pub const MAX_LISTED_CHANNELS: usize = 1_000;
