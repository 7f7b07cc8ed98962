//! The hub as a part of a program: publishing and subscribing without HTTP.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio_stream::Stream;

use crate::channel::ChannelName;
use crate::event::{ChannelState, END, GAP, NewEvent, SNAPSHOT};
use crate::hub::{self, Bounds, Close, OnLag, Opened, Selection, Step};
use crate::ingest::Ingest;
use crate::position::{Position, StartFrom};
use crate::sse::Frames;

pub use crate::hub::{SubmitError as PublishError, SubscribeError};

/// Bounds of a subscription that has none: an in-process reader holds no memory while it lags.
const UNBOUNDED: Bounds =
    Bounds { max_lag_events: u64::MAX, max_lag_bytes: u64::MAX, on_lag: OnLag::Disconnect };

/// The channels of a [`Server`](crate::Server), for the program that runs it. A cheap handle.
///
/// Limits of requests, such as `publish.max_event_bytes`, and quotas do not apply to the program
/// itself. Its subscriptions do not end when the server does: drop them.
///
/// ```
/// use fanfare::{CloseState, Config, Server, StartFrom};
/// use tokio_stream::StreamExt as _;
///
/// # #[tokio::main]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let mut config = Config::default();
/// # config.server.listen = ([127, 0, 0, 1], 0).into();
/// # config.server.admin_listen = ([127, 0, 0, 1], 0).into();
/// let hub = Server::bind(config).await?.hub();
/// let story = "story".parse()?;
///
/// hub.publish(&story, &["once".into(), "upon a time".into()]).await?;
/// hub.close(&story, CloseState::Complete).await?;
///
/// let mut events = hub.subscribe(&story, StartFrom::Earliest).await?;
/// assert_eq!(events.next().await.unwrap().data, "once");
/// assert_eq!(events.next().await.unwrap().data, "upon a time");
/// assert_eq!(events.next().await.unwrap().event_type.as_deref(), Some("fanfare.end"));
/// assert!(events.next().await.is_none());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Hub {
    hub: hub::Hub,
    ingest: Ingest,
}

/// A subscription to one channel: a stream of its events, which ends after the channel's end. A
/// subscriber that lags behind retention gets a gap.
pub struct Subscription {
    inner: Option<hub::Subscription>,
    /// Events that were read and not yet returned.
    pending: VecDeque<Event>,
}

/// An event as every subscriber receives it. The hub's own events are events, too: their types
/// begin with `fanfare.`, and their data is JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// The id: a subscription continues [after](StartFrom::After) it.
    pub id: String,
    /// The type; without one, browsers call it `message`.
    pub event_type: Option<String>,
    /// The data.
    pub data: String,
}

/// The state in which a publisher ends its channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseState {
    /// All events were published.
    Complete,
    /// The publisher failed.
    Error,
    /// The publisher was stopped.
    Cancelled,
}

impl From<CloseState> for ChannelState {
    fn from(state: CloseState) -> Self {
        match state {
            CloseState::Complete => Self::Complete,
            CloseState::Error => Self::Error,
            CloseState::Cancelled => Self::Cancelled,
        }
    }
}

impl Hub {
    pub(crate) fn new(hub: hub::Hub, ingest: Ingest) -> Self {
        Self { hub, ingest }
    }

    /// Publishes events to a channel, which is created if it does not exist. Returns when they are
    /// as durable as the channel requires.
    ///
    /// # Errors
    /// The channel has ended, there are too many channels, or the store takes no writes.
    pub async fn publish(
        &self,
        channel: &ChannelName,
        events: &[NewEvent],
    ) -> Result<(), PublishError> {
        self.ingest.append(channel, events, None).await
    }

    /// Ends a channel.
    ///
    /// # Errors
    /// The channel has ended, there are too many channels, or the store takes no writes.
    pub async fn close(
        &self,
        channel: &ChannelName,
        state: CloseState,
    ) -> Result<(), PublishError> {
        let close = Close { state: state.into(), reason: None };
        self.ingest.append(channel, &[], Some(&close)).await
    }

    /// Subscribes to a channel, which is created if it does not exist.
    ///
    /// # Errors
    /// There are too many channels.
    pub async fn subscribe(
        &self,
        channel: &ChannelName,
        from: StartFrom,
    ) -> Result<Subscription, SubscribeError> {
        self.hub.reach(&from).await;
        loop {
            let selection = Selection::One(channel.clone());
            let inner = match self.hub.subscribe(selection, &from, UNBOUNDED)? {
                Opened::Live(subscription) => Some(subscription),
                Opened::Over => None,
                Opened::Later(reads) => {
                    reads.over().await;
                    continue;
                }
            };
            return Ok(Subscription { inner, pending: VecDeque::new() });
        }
    }
}

impl Subscription {
    fn take(&mut self, step: Step) {
        let own = |position: Position, name: &str, data: String| Event {
            id: position.to_string(),
            event_type: Some(name.to_owned()),
            data,
        };
        match step {
            Step::Events { batch, .. } => {
                let bytes = batch.bytes();
                self.pending.extend(Frames::new(&bytes).map(|frame| Event {
                    id: frame.id().to_owned(),
                    event_type: frame.event_type().map(str::to_owned),
                    data: frame.data().into_owned(),
                }));
            }
            Step::Snapshot { snapshot, position } => {
                self.pending.push_back(own(position, SNAPSHOT, snapshot.data.to_string()));
            }
            Step::Gap(gap) => {
                let data = gap.data();
                self.pending.push_back(own(gap.resumed, GAP, data));
            }
            Step::Ended { end, position } => self.pending.push_back(own(position, END, end.data())),
        }
    }
}

impl Stream for Subscription {
    type Item = Event;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let this = self.get_mut();
        loop {
            if let Some(event) = this.pending.pop_front() {
                return Poll::Ready(Some(event));
            }
            let Some(inner) = &mut this.inner else { return Poll::Ready(None) };
            match ready!(inner.poll_next(cx)) {
                Some(step) => this.take(step),
                None => this.inner = None,
            }
        }
    }
}

impl fmt::Debug for Hub {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hub").finish_non_exhaustive()
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").finish_non_exhaustive()
    }
}
