//! Every fixed limit of the hub, with its reason.
//!
//! Limits that an operator may want to change are settings of the part that they bound (see
//! `deploy/fanfare.toml`). A limit here is a property of the protocol, or a guard that no honest
//! client reaches.

use std::time::Duration;

/// Bytes in a channel name: what fits in a URL, a log line and a file name.
pub const MAX_CHANNEL_NAME_BYTES: usize = 255;

/// Bytes in an event id: browsers send a `Last-Event-ID` of up to 128 bytes without a preflight.
pub const MAX_EVENT_ID_BYTES: usize = 128;

/// Bytes in an event type: a name, not a payload.
pub const MAX_EVENT_TYPE_BYTES: usize = 128;

/// Bytes in the name of a hub of a cluster, which all hubs keep: the name of a machine.
pub const MAX_NODE_NAME_BYTES: usize = 64;

/// Bytes in an `Idempotency-Key`: room for a UUID with a prefix; each is kept for the window.
pub const MAX_IDEMPOTENCY_KEY_BYTES: usize = 255;

/// Bytes that one read returns for one subscriber: large enough to fill a socket buffer, small
/// enough that a subscriber that catches up does not delay the others.
pub const MAX_BATCH_BYTES: usize = 64 * 1024;

/// Unsent bytes of one subscriber whose connection is an HTTP body: what it does not read stays in
/// the log, which all share. A piece is one write, and one turn of the thread; with its framing it
/// fits into the smallest buffer of the HTTP library.
pub const MAX_PIECE_BYTES: usize = 6 * 1024;

/// Unsent bytes of one such subscriber before it has read anything, and of each while
/// `subscribers.max_unwritten` is used up: one event or a few.
pub const MAX_FIRST_BYTES: usize = 2 * 1024;

/// Bytes that the client of a socket that was taken over may send: it should only listen, and this
/// has room for one or two requests that it sends too early. A client that sends more is ended.
pub const MAX_HEARD_BYTES: usize = 64 * 1024;

/// Bytes in a log segment: the unit in which memory is freed.
pub const MAX_SEGMENT_BYTES: usize = 64 * 1024;

/// The difference between the wall clock and the steady clock's prediction of it above which the
/// wall clock counts as set: more than slewing causes while one segment grows, and less than
/// matters for an age.
pub const MAX_CLOCK_DRIFT: Duration = Duration::from_millis(100);

/// Wall clock changes that a store remembers, the latest ones: a machine whose clock is wrong at
/// each start makes one per start. An older time gets its age from the earliest of them.
pub const MAX_CLOCK_STEPS: usize = 64;

/// Offsets whose log position a log on disk remembers: those of subscribers that resume between two
/// pieces. 24 bytes each; one that was forgotten is looked up again.
pub const MAX_RESOLVED_OFFSETS: usize = 1024;

/// Events that one merged read orders at a time, over all its channels.
pub const MAX_MERGE_EVENTS: usize = 512;

/// Channels that one merged read checks, one by one, before it yields its thread.
pub const MAX_MERGE_LOOKS: usize = 512;

/// Events of `last:N` over many channels: their positions are gathered and sorted at once.
pub const MAX_LAST_EVENTS: u64 = 10_000;

/// Channels and patterns of a request that `fanfare.open` repeats: enough to distinguish
/// subscriptions.
pub const MAX_NAMED_CHANNELS: usize = 16;

/// Channels that the patterns of one subscription may select: each costs it a listener.
pub const MAX_MATCHED_CHANNELS: usize = 10_000;

/// Remembered ends of channels that were dropped, so that a resume after one gets a gap and not
/// silence. Some 64 bytes and the name each; when full, the oldest is merged into one lower bound.
pub const MAX_TOMBSTONES: usize = 65_536;

/// Bytes of a request body that is a document and not a stream (`PUT`).
pub const MAX_DOCUMENT_BYTES: usize = 64 * 1024;

/// Clients whose bodies are read and discarded after an early response, so that they get to read
/// it.
pub const MAX_LINGERING: usize = 256;

/// Bytes that reading a body takes in addition to what it holds: a buffer, and a piece in transit.
pub const MAX_READ_BYTES: usize = 32 * 1024;

/// Bytes of a body that is accepted when there is no room for larger ones: no event of a model has
/// more, and as many such bodies as may run at a time hold a bounded amount.
pub const MAX_SMALL_BODY_BYTES: usize = 16 * 1024;

/// Bytes kept of a streamed body until its first event: the error document of a provider or a proxy
/// says within them what is wrong.
pub const MAX_OPENING_BYTES: usize = 8 * 1024;

/// Characters of such a body that an error quotes: the first lines of a document.
pub const MAX_QUOTED_CHARS: usize = 200;

/// Events in one JSON page: a page is one allocation.
pub const MAX_PAGE_EVENTS: usize = 1_000;

/// Bytes of event data in one JSON page, past its first event.
pub const MAX_PAGE_BYTES: usize = 1024 * 1024;

/// Channels in one response of the admin list.
pub const MAX_LISTED_CHANNELS: usize = 1_000;

/// Bytes of the reason of a stop: a word or a sentence for the viewers.
pub const MAX_REASON_BYTES: usize = 256;

/// Seconds for which a stop is kept that arrived before any event: long enough for a producer that
/// is about to begin, short enough that the name is soon free again.
pub const STOP_KEPT_SECONDS: u64 = 60;

/// Events by which a fold may lag behind the log: this many are folded while the channel is locked.
pub const MAX_UNFOLDED_EVENTS: u64 = 64;

/// Bytes of the usage in a fold: providers report a few hundred. Each update of it reads and writes
/// all of it, while the channel is locked.
pub const MAX_USAGE_BYTES: usize = 16 * 1024;

/// Bytes of the first events of a channel from which its format is detected each time it is listed.
/// The result is not cached, because no client has asked for the content.
pub const MAX_APPARENT_BYTES: usize = 8 * 1024;

/// Bytes of events whose merged form is kept for the next reader: those of one coalescing window.
pub const MAX_SHARED_MERGE_BYTES: usize = 16 * 1024;

/// The longest coalescing window, in seconds: with a longer one, nothing is live.
pub const MAX_COALESCE_SECONDS: u64 = 10;

/// Ends of channels that are queued for one hook: minutes of a busy hub.
pub const MAX_QUEUED_HOOKS: usize = 1_024;

/// Bytes of the queued ends of each hook: their texts may have any length.
pub const MAX_HOOK_QUEUE_BYTES: usize = 64 * 1024 * 1024;

/// Concurrent calls of one hook, including those that wait for another attempt.
pub const MAX_HOOK_CALLS: usize = 16;

/// Bytes of a hook's response that are read: they are discarded, only to free the connection.
pub const MAX_HOOK_RESPONSE_BYTES: usize = 64 * 1024;

/// Bytes of a token or API key: proxies cut headers at this size, and it is read before it is
/// trusted.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// Bytes of a JWK set: sixty-four large keys, with certificates.
pub const MAX_KEY_SET_BYTES: usize = 256 * 1024;

/// Keys that are taken from one JWK set: providers publish two or three.
pub const MAX_KEYS: usize = 64;

/// Keys that one token is verified with if it does not name its key: each costs a verification.
pub const MAX_TRIED_KEYS: usize = 8;

/// Unknown key ids that are remembered, so that each is fetched at most once in
/// `UNKNOWN_KEY_SECONDS`.
pub const MAX_UNKNOWN_KEYS: usize = 256;

/// Seconds for which an unknown key id is not fetched again.
pub const UNKNOWN_KEY_SECONDS: u64 = 60;

/// Patterns that one token may grant for one operation: all are kept as long as its connection.
pub const MAX_GRANTED_PATTERNS: usize = 256;

/// Bytes of events that may wait for the disk: their publishers may have disconnected long before.
pub const MAX_UNSTORED_BYTES: usize = 64 * 1024 * 1024;

/// Bytes of the subject of a token: a name for logs and limits.
pub const MAX_SUBJECT_BYTES: usize = 255;

/// Seconds of leeway in the times of a token: more than this is not clock skew.
pub const MAX_LEEWAY_SECONDS: u64 = 300;

/// Principals and addresses whose usage is remembered: some 300 bytes each.
pub const MAX_METERS: usize = 100_000;
