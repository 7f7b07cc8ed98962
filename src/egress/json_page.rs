//! One bounded read, for catch-up and long poll.

use std::future::{Future, poll_fn};
use std::pin::pin;

use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use super::background::Turns;
use super::format::each_record;
use crate::hub::{Next, Step, Subscription};
use crate::limits::{MAX_PAGE_BYTES, MAX_PIECE_BYTES};

/// A page of events.
#[derive(Debug, Serialize)]
pub struct Page {
    /// The events, as records.
    pub events: Vec<Box<RawValue>>,
    /// The id after which the next page begins.
    pub next: String,
    /// The channel's state; nothing for a page over many channels.
    pub state: Option<&'static str>,
}

/// Reads up to `limit` events. If there is none, waits for the first until `enough` resolves. Each
/// piece after the first takes a turn, as other tasks need the thread.
pub async fn page(
    mut subscription: Subscription,
    name_channel: bool,
    limit: usize,
    enough: impl Future<Output = ()>,
) -> Page {
    let mut enough = pin!(enough);
    let next = subscription.start().to_string();
    let mut page = Page { events: Vec::new(), next, state: None };
    let mut bytes = 0;
    let mut paid = MAX_PIECE_BYTES;
    let mut turns = Turns::here();
    subscription.read_at_most(MAX_PIECE_BYTES);
    while page.events.len() < limit && bytes < MAX_PAGE_BYTES {
        if bytes >= paid {
            // Not held, because the read may wait for the disk.
            drop(turns.next().await);
            paid = bytes + MAX_PIECE_BYTES;
        }
        let step = match subscription.try_next() {
            Next::Step(step) => step,
            Next::Again => {
                drop(turns.next().await);
                continue;
            }
            // There are events, which are being loaded from disk.
            Next::Pending if subscription.is_fetching() => {
                match poll_fn(|cx| subscription.poll_next(cx)).await {
                    Some(step) => step,
                    None => break,
                }
            }
            Next::Pending if page.events.is_empty() => {
                let next = tokio::select! {
                    // What was published meanwhile comes before the end of the wait.
                    biased;
                    next = poll_fn(|cx| subscription.poll_next(cx)) => next,
                    () = &mut enough => None,
                };
                let Some(step) = next else { break };
                step
            }
            Next::Pending | Next::Finished => break,
        };
        bytes += page.take(&step, name_channel, limit);
    }
    page
}

impl Page {
    /// Appends the step's events up to the limits. Returns their bytes.
    fn take(&mut self, step: &Step, name_channel: bool, limit: usize) -> usize {
        let mut bytes = 0;
        each_record(step, name_channel, |record| {
            if self.events.len() < limit
                && bytes < MAX_PAGE_BYTES
                && let (Ok(json), Some(id)) = (to_raw_value(record), record.id())
            {
                bytes += json.get().len();
                self.next = id.to_owned();
                self.events.push(json);
            }
        });
        bytes
    }
}
