//! The messages of the log from one on, by a consumer. A consumer lives on one server, and is made
//! again when that server is lost.

use std::time::Duration;

use async_nats::{Message as NatsMessage, StatusCode, Subscriber};
use futures_util::stream::{self, BoxStream, StreamExt};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};

use super::api::{Api, ApiError};
use super::header::{self, nanoseconds};
use super::position::REMEMBERED;
use crate::log::{Message, Sequence};

/// The number of messages that are requested at once: fewer than a subscription keeps, so that none
/// is lost, and few enough for the memory that they need before they are read.
const REQUESTED: usize = 64;

/// The time for which the server keeps a request.
const EXPIRY: Duration = Duration::from_secs(30);

/// The interval at which the server reports that a request waits.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Maximum time without a message or a heartbeat.
const SILENCE: Duration = Duration::from_millis(2500);

/// Maximum time until a consumer is made.
const CREATE_TIMEOUT: Duration = Duration::from_secs(3);

/// The pause before a consumer is made again.
const PAUSE: Duration = Duration::from_millis(100);

/// The time without requests after which the server deletes the consumer.
const INACTIVE: Duration = Duration::from_secs(10);

/// Messages of the log. The first may be later than the one that was asked for, if that is deleted.
pub(super) type Messages<'a> = BoxStream<'a, Message>;

/// A consumer, on the server that has made it.
struct Consumer<'a> {
    api: &'a Api,
    name: String,
    inbox: String,
    subscription: Subscriber,
    /// The number of messages that it has delivered.
    delivered: u64,
    /// The number of messages that the last request still expects.
    expected: usize,
}

/// Returns the messages of the log from this one on. Never ends, and makes a consumer again where
/// that is needed: from some messages earlier on, which are compared with what was read.
pub(super) fn messages(api: &Api, from: Sequence) -> Messages<'_> {
    let start = (None, from);
    stream::unfold(start, move |(mut consumer, next)| async move {
        loop {
            let Some(current) = &mut consumer else {
                let begin = from.max(Sequence(next.0.saturating_sub(REMEMBERED as u64)));
                match Consumer::create(api, begin).await {
                    Ok(created) => consumer = Some(created),
                    Err(error) => {
                        tracing::debug!(%error, "a consumer of the shared log was not made");
                        sleep(PAUSE).await;
                    }
                }
                continue;
            };
            let Some(message) = current.next().await else {
                consumer = None;
                sleep(PAUSE).await;
                continue;
            };
            let next = message.sequence.next();
            return Some((message, (consumer, next)));
        }
    })
    .boxed()
}

impl<'a> Consumer<'a> {
    async fn create(api: &'a Api, from: Sequence) -> Result<Self, ApiError> {
        let name = format!("fanfare-{:016x}", fastrand::u64(..));
        let inbox = api.client.new_inbox();
        let subscription = api.client.subscribe(inbox.clone()).await;
        let subscription = subscription.map_err(|error| ApiError::Other(error.to_string()))?;
        let body = json!({
            "stream_name": api.stream(),
            "config": {
                "name": name,
                "deliver_policy": "by_start_sequence",
                "opt_start_seq": from.0,
                "ack_policy": "none",
                "replay_policy": "instant",
                "inactive_threshold": nanoseconds(INACTIVE),
                "mem_storage": true,
                "num_replicas": 1,
            },
        });
        let subject = format!("{}.{name}", api.subject("CONSUMER.CREATE"));
        let _: Value = api.call(subject, &body, CREATE_TIMEOUT).await?;
        Ok(Self { api, name, inbox, subscription, delivered: 0, expected: 0 })
    }

    /// Returns the next message; nothing if the consumer is lost, or has lost a message.
    async fn next(&mut self) -> Option<Message> {
        loop {
            if self.expected == 0 {
                self.request().await?;
            }
            let message = timeout(SILENCE, self.subscription.next()).await.ok()??;
            // A message of the log may have a status too, which its publisher has set.
            let Some(delivered) = header::delivered(&message) else {
                self.take_status(&message)?;
                continue;
            };
            if delivered.number != self.delivered + 1 {
                return None;
            }
            self.delivered += 1;
            self.expected = self.expected.saturating_sub(1);
            return Some(delivered.message);
        }
    }

    async fn request(&mut self) -> Option<()> {
        let body = json!({
            "batch": REQUESTED,
            "expires": nanoseconds(EXPIRY),
            "idle_heartbeat": nanoseconds(HEARTBEAT),
        });
        let subject = format!("{}.{}", self.api.subject("CONSUMER.MSG.NEXT"), self.name);
        let body = serde_json::to_vec(&body).ok()?.into();
        self.api.client.publish_with_reply(subject, self.inbox.clone(), body).await.ok()?;
        self.expected = REQUESTED;
        Some(())
    }

    /// Handles a message about a request. Returns nothing if the consumer is lost.
    fn take_status(&mut self, message: &NatsMessage) -> Option<()> {
        match message.status? {
            StatusCode::IDLE_HEARTBEAT => Some(()),
            // The request has expired.
            StatusCode::TIMEOUT => {
                self.expected = 0;
                Some(())
            }
            _ => None,
        }
    }
}
