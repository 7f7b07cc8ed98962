//! A channel's signals as an event stream, for its producer.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use super::{Config, Egress, Link, StreamFormat};
use crate::channel::ChannelName;
use crate::clock::{now, rfc3339};
use crate::hub::{End, EndReason, ProducerHandle, Signals};
use crate::lease::LeaseEnd;
use crate::sse;

/// The shortest time between two counts of viewers.
const PACE: Duration = Duration::from_millis(250);

/// Pieces that a reader may lag by; past it the feed waits, and skips counts that are outdated.
const QUEUE: usize = 4;

/// The pieces of a feed of signals, which is a response body.
pub type SignalFeed = mpsc::Receiver<Bytes>;

#[derive(Serialize)]
struct ViewersData<'a> {
    channel: &'a str,
    viewers: usize,
}

#[derive(Serialize)]
struct StopData<'a> {
    channel: &'a str,
    signal: &'a str,
    reason: Option<&'a str>,
    time: String,
}

/// The state of a feed that is being written.
struct Feed {
    channel: ChannelName,
    pieces: mpsc::Sender<Bytes>,
    link: Option<Arc<Link>>,
    viewers: Option<usize>,
    config: Arc<Config>,
}

/// The reader of the feed has left.
struct Gone;

impl Egress {
    /// Begins a feed, and returns it with the task that fills it. The task ends when the channel
    /// ends, the reader leaves or closes its side, the lease ends, or the feed's moment in a drain
    /// comes.
    pub fn signals<D, F>(
        &self,
        channel: ChannelName,
        producer: ProducerHandle,
        heartbeat: Duration,
        link: Option<Arc<Link>>,
        draining: D,
        over: F,
    ) -> (SignalFeed, impl Future<Output = ()> + use<D, F>)
    where
        D: Future<Output = ()>,
        F: Future<Output = LeaseEnd>,
    {
        let (pieces, feed) = mpsc::channel(QUEUE);
        let last = pieces.clone();
        let config = self.config.clone();
        let filling = Feed { channel, pieces, link, viewers: None, config };
        let filling = filling.run(producer, heartbeat);
        let reaper = self.reaper.clone();
        let config = self.config.clone();
        let counted = self.feeds.0.clone();
        let late = reaper.draining().map(|drain| drain.late_moment());
        let leaving = async move {
            draining.await;
            let drain = reaper.draining()?;
            sleep_until(late.unwrap_or_else(|| drain.moment())).await;
            Some(drain)
        };
        let task = async move {
            let (reason, drain) = tokio::select! {
                _ = filling => return,
                over = over => (EndReason::from(over), None),
                drain = leaving => (EndReason::Draining, drain),
            };
            let mut text = Vec::new();
            StreamFormat::EventStream.push_end(&config, reason, drain.as_ref(), &mut text);
            // A reader that takes nothing does not get it: the task must not wait.
            let _ = last.try_send(text.into());
            drop(counted);
        };
        (feed, task)
    }
}

impl Feed {
    async fn run(mut self, mut producer: ProducerHandle, heartbeat: Duration) -> Result<(), Gone> {
        let mut heartbeats = interval(heartbeat);
        heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        heartbeats.reset();
        let mut first = Vec::new();
        sse::retry(&mut first, self.config.reconnect_delay);
        self.send(first).await?;
        let mut rested = Instant::now();
        loop {
            let signals = producer.read();
            if signals.end.is_some() {
                return self.send_end(&signals).await;
            }
            if self.viewers != Some(signals.viewers) {
                if Instant::now() >= rested {
                    self.send_viewers(signals.viewers).await?;
                    rested = Instant::now() + PACE;
                    heartbeats.reset();
                    continue;
                }
                tokio::select! {
                    () = producer.changed() => {}
                    () = sleep_until(rested) => {}
                    () = self.pieces.closed() => return Err(Gone),
                }
                continue;
            }
            tokio::select! {
                () = producer.changed() => {}
                _ = heartbeats.tick() => self.send_heartbeat().await?,
                () = self.pieces.closed() => return Err(Gone),
                // The reader has been sent all signals that there are.
                () = self.input_end() => return Ok(()),
            }
        }
    }

    async fn send_heartbeat(&self) -> Result<(), Gone> {
        let mut text = Vec::new();
        sse::comment(&mut text);
        self.send(text).await
    }

    async fn input_end(&self) {
        match &self.link {
            Some(link) => link.input_end().await,
            None => pending().await,
        }
    }

    async fn send_viewers(&mut self, viewers: usize) -> Result<(), Gone> {
        self.viewers = Some(viewers);
        let channel = self.channel.as_str();
        let data = json(&ViewersData { channel, viewers });
        self.send_event("viewers", &data).await
    }

    async fn send_end(&self, signals: &Signals) -> Result<(), Gone> {
        let Some(end) = &signals.end else { return Ok(()) };
        if signals.stopped {
            self.send_stop(end).await?;
        }
        let mut text = Vec::new();
        sse::end_retry(&mut text, self.config.end_reconnect_delay);
        push_event("end", &end.data(), &mut text);
        self.send(text).await
    }

    async fn send_stop(&self, end: &End) -> Result<(), Gone> {
        let channel = self.channel.as_str();
        let reason = end.reason.as_deref();
        let data = json(&StopData { channel, signal: "stop", reason, time: rfc3339(now()) });
        self.send_event("stop", &data).await
    }

    async fn send_event(&self, event_type: &str, data: &str) -> Result<(), Gone> {
        let mut text = Vec::new();
        push_event(event_type, data, &mut text);
        self.send(text).await
    }

    async fn send(&self, text: Vec<u8>) -> Result<(), Gone> {
        self.pieces.send(text.into()).await.map_err(|_| Gone)
    }
}

fn push_event(event_type: &str, data: &str, out: &mut Vec<u8>) {
    let event_type = Some(event_type);
    let data = data.as_bytes();
    sse::event_text(out, &sse::Text { id: None, event_type, data });
}

fn json<T: Serialize>(data: &T) -> String {
    // Strings and numbers: nothing can fail.
    serde_json::to_string(data).unwrap_or_default()
}
