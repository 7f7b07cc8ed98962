//! What all channels of a hub share.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use super::control_events::OnEnd;
use super::deadlines::Deadlines;
use super::memory::Memory;
use super::pending_deletes::PendingDeletes;
use super::read_cache::ReadCache;
use super::sequencer::Sequencer;
use super::viewer_changes::ViewerChanges;
use crate::clock::Clock;
use crate::telemetry::Metrics;

/// State that all channels of a hub share.
#[derive(Debug)]
pub(super) struct ChannelContext {
    pub(super) sequencer: Sequencer,
    pub(super) memory: Memory,
    pub(super) metrics: Arc<Metrics>,
    pub(super) deadlines: Deadlines,
    /// For the other hubs; `None` for a hub that is alone.
    pub(super) viewer_changes: Option<ViewerChanges>,
    pub(super) on_end: OnceLock<OnEnd>,
    pub(super) read_cache: ReadCache,
    pub(super) pending_deletes: Arc<PendingDeletes>,
    /// The reconnect delay in an end event.
    pub(super) end_retry: Duration,
    pub(super) clock: Clock,
}
