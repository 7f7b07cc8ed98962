//! Reads the log: from what the stream republishes, with the holes filled.
//!
//! The subscription to the republished messages depends on no other server than the own one and
//! the leader of the stream, but the servers may lose messages of it. A small hole is filled by
//! requests for single messages, which any replica answers. A large one, and one that requests do
//! not fill, is read by a consumer, beside the subscription, until both meet. Silence is no proof
//! that there is nothing to read: the stream is then asked for its last message.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use async_nats::Subscriber;
use futures_util::future::{LocalBoxFuture, join_all};
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, Stream, StreamExt};
use tokio::time::{Instant, interval, timeout};

use super::api::Api;
use super::config::Config;
use super::consumer::{self, Messages};
use super::failure::Failure;
use super::header;
use super::reading::{Reading, Taken};
use super::stream::{self, OpenError, StreamState};
use crate::log::{LogEnd, Message, Sequence};

/// Maximum size of a hole that is filled by requests for single messages.
const MAX_REQUESTS: u64 = 64;

/// The number of times that a hole is requested before a consumer reads it.
const MAX_ROUNDS: u32 = 2;

/// The number of consumers that must find a message deleted before that is believed.
const MAX_HOLES: u32 = 3;

/// The time without a message after which the stream is asked for its last. Hubs send a message
/// each second.
const SILENCE: Duration = Duration::from_secs(2);

/// The time without a message and without an answer after which another server may be better.
const MAX_SILENCE: Duration = Duration::from_secs(6);

/// The interval at which the silence is checked.
const TICK: Duration = Duration::from_millis(500);

/// Maximum number of messages that are kept because others come before them.
const MAX_AHEAD: usize = 1024;

/// Maximum number of bytes of those messages.
const MAX_AHEAD_BYTES: usize = 16 << 20;

/// Reads the log by one connection.
pub(super) struct Tail<'a> {
    api: &'a Api,
    config: &'a Config,
    reading: &'a RefCell<Reading>,
    /// The republished messages; nothing if a consumer reads all.
    subscription: Option<Subscriber>,
    /// The subject of those messages.
    subject: String,
    consumer: Option<Messages<'a>>,
    ahead: Ahead,
    requests: FuturesUnordered<LocalBoxFuture<'a, Answer>>,
    /// The number of requests for messages that are not answered.
    requested: usize,
    /// The number of times that the next message was requested and not found.
    rounds: u32,
    /// The number of consumers that have begun after the next message.
    holes: u32,
    /// The message to be read next when the stream was asked for its state; nothing if it is not
    /// being asked.
    probed_at: Option<Sequence>,
    /// The last message that the log is known to have.
    last: Sequence,
    /// The time of the last message or answer.
    heard: Instant,
}

/// The answer to a request.
enum Answer {
    Message(Option<Message>),
    State(Result<StreamState, OpenError>),
}

impl<'a> Tail<'a> {
    pub(super) fn new(
        api: &'a Api,
        config: &'a Config,
        reading: &'a RefCell<Reading>,
        subscription: Option<Subscriber>,
        state: &StreamState,
    ) -> Self {
        Self {
            api,
            config,
            reading,
            subscription,
            subject: config.tail_subject(),
            consumer: None,
            ahead: Ahead::default(),
            requests: FuturesUnordered::new(),
            requested: 0,
            rounds: 0,
            holes: 0,
            probed_at: None,
            last: state.last,
            heard: Instant::now(),
        }
    }

    /// Reads until the connection is to be given up.
    pub(super) async fn run(mut self, state: &StreamState) -> Failure {
        let from = self.reading.borrow().remembered().max(state.first);
        let begun = match self.subscription {
            Some(_) => self.compare_with_memory(from).await,
            // It begins with the messages that are remembered, and so compares them.
            None => {
                self.consumer = Some(consumer::messages(self.api, from));
                Ok(())
            }
        };
        let mut ticks = interval(TICK);
        let mut result = begun;
        while result.is_ok() {
            self.fill();
            result = tokio::select! {
                message = next_of(&mut self.subscription) => self.take_republished(message),
                message = next_of(&mut self.consumer) => self.take_consumed(message),
                Some(answer) = self.requests.next() => self.take_answer(answer),
                _ = ticks.tick() => self.check_silence(),
            };
        }
        result.err().unwrap_or(Failure::Stopped)
    }

    /// Reads the last messages again, and compares them with what was read: a log that has lost
    /// its end has others in their place. Nothing new is read before the last one was compared.
    async fn compare_with_memory(&self, from: Sequence) -> Result<(), Failure> {
        let next = self.reading.borrow().next();
        if from >= next {
            return Ok(());
        }
        let gets = (from.0..next.0).map(|sequence| self.api.get(Sequence(sequence)));
        let mut found = None;
        for message in join_all(gets).await.into_iter().flatten() {
            found = Some(message.sequence);
            self.reading.borrow_mut().take(message)?;
        }
        let last = Sequence(next.0 - 1);
        if found == Some(last) {
            return Ok(());
        }
        // Requests may be lost. A consumer reads it, or what comes after it if it was trimmed.
        let message = timeout(MAX_SILENCE, consumer::messages(self.api, last).next()).await;
        let message = message.ok().flatten().ok_or_else(|| {
            Failure::Retry(format!("message {} of the log is not read again", last.0))
        })?;
        self.reading.borrow_mut().take(message).map(drop)
    }

    /// Starts to read what is missing, if it is not being read.
    fn fill(&mut self) {
        let next = self.reading.borrow().next();
        let Some(end) = self.end_of_hole(next) else {
            if self.subscription.is_some() {
                self.consumer = None;
            }
            return;
        };
        if self.consumer.is_some() || self.requested > 0 {
            return;
        }
        let is_large = end.0 - next.0 > MAX_REQUESTS;
        if self.subscription.is_none() || is_large || self.rounds >= MAX_ROUNDS {
            self.consumer = Some(consumer::messages(self.api, next));
            return;
        }
        self.rounds += 1;
        let api = self.api;
        for sequence in next.0..end.0 {
            self.requested += 1;
            self.requests.push(api.get(Sequence(sequence)).map(Answer::Message).boxed_local());
        }
    }

    /// Returns the end of the messages that are missing from `next` on.
    fn end_of_hole(&self, next: Sequence) -> Option<Sequence> {
        let is_consumer_alone = self.subscription.is_none().then(|| next.next());
        let end = self.ahead.first().or(is_consumer_alone).unwrap_or(self.last.next());
        (end > next).then_some(end)
    }

    fn take_republished(&mut self, message: async_nats::Message) -> Result<(), Failure> {
        // A consumer can deliver to this subject what no server has republished, with headers that
        // its publisher has set. Its messages have the subject of the log.
        if *message.subject != *self.subject {
            return Ok(());
        }
        header::stored(message).map_or(Ok(()), |message| self.take(message))
    }

    fn take(&mut self, message: Message) -> Result<(), Failure> {
        self.heard = Instant::now();
        self.last = self.last.max(message.sequence);
        let taken = self.reading.borrow_mut().take(message)?;
        match taken {
            Taken::Delivered => {
                self.rounds = 0;
                self.holes = 0;
                self.take_ahead()?;
            }
            Taken::Later(message) => self.ahead.insert(message),
            Taken::Known => {}
            Taken::Old => self.probe(),
        }
        Ok(())
    }

    /// Delivers the messages that have waited for earlier ones.
    fn take_ahead(&mut self) -> Result<(), Failure> {
        let mut reading = self.reading.borrow_mut();
        while let Some(message) = self.ahead.pop_until(reading.next()) {
            reading.take(message)?;
        }
        Ok(())
    }

    fn take_consumed(&mut self, message: Message) -> Result<(), Failure> {
        let mut reading = self.reading.borrow_mut();
        // Messages that were trimmed before anything was read are not missed.
        if message.sequence > reading.next() {
            reading.begin_at(message.sequence);
        }
        let next = reading.next();
        drop(reading);
        if message.sequence <= next {
            if message.sequence == next {
                self.reading.borrow().health().lock().read_by_consumer += 1;
            }
            return self.take(message);
        }
        self.consumer = None;
        self.holes += 1;
        if self.holes >= MAX_HOLES {
            let to = Sequence(message.sequence.0 - 1);
            return Err(LogEnd::Deleted { from: next, to }.into());
        }
        self.probe();
        Ok(())
    }

    fn take_answer(&mut self, answer: Answer) -> Result<(), Failure> {
        match answer {
            Answer::Message(found) => {
                self.requested -= 1;
                let Some(message) = found else { return Ok(()) };
                let reading = self.reading.borrow();
                if message.sequence >= reading.next() {
                    reading.health().lock().filled_by_request += 1;
                }
                drop(reading);
                self.take(message)
            }
            Answer::State(described) => {
                let probed_at = self.probed_at.take().unwrap_or_default();
                self.take_state(described, probed_at)
            }
        }
    }

    fn take_state(
        &mut self,
        described: Result<StreamState, OpenError>,
        probed_at: Sequence,
    ) -> Result<(), Failure> {
        match described {
            Ok(state) => {
                self.heard = Instant::now();
                self.last = self.last.max(state.last);
                self.reading.borrow_mut().compare(&state, probed_at)?;
                self.take_ahead()
            }
            Err(OpenError::Missing) => {
                let text = format!("the stream `{}` was deleted", self.api.stream());
                Err(self.reading.borrow_mut().doubt(text))
            }
            // The own server may be frozen, and another one may be better.
            Err(OpenError::Silent(text)) => Err(Failure::Retry(text)),
            // The stream may have no leader for some seconds.
            Err(OpenError::Failed(_)) => Ok(()),
        }
    }

    fn check_silence(&mut self) -> Result<(), Failure> {
        let silence = self.heard.elapsed();
        if silence >= MAX_SILENCE {
            return Err(Failure::Retry(format!(
                "the shared log has been silent for {}s, and the NATS servers do not say why",
                silence.as_secs()
            )));
        }
        if silence >= SILENCE {
            self.probe();
        }
        Ok(())
    }

    /// Asks the stream for its state, if it is not being asked.
    fn probe(&mut self) {
        if self.probed_at.is_none() {
            self.probed_at = Some(self.reading.borrow().next());
            let (api, config) = (self.api, self.config);
            let state = stream::describe(api, config).map(Answer::State);
            self.requests.push(state.boxed_local());
        }
    }
}

/// Returns the next item of a stream; waits without an end if there is no stream.
async fn next_of<S: Stream + Unpin>(stream: &mut Option<S>) -> S::Item {
    if let Some(stream) = stream
        && let Some(item) = stream.next().await
    {
        return item;
    }
    std::future::pending().await
}

/// Messages that are kept because others come before them. The last ones are kept: a consumer reads
/// the log up to them.
#[derive(Default)]
struct Ahead {
    messages: BTreeMap<Sequence, Message>,
    bytes: usize,
}

impl Ahead {
    fn first(&self) -> Option<Sequence> {
        self.messages.keys().next().copied()
    }

    fn insert(&mut self, message: Message) {
        self.bytes += message.content.len();
        if let Some(replaced) = self.messages.insert(message.sequence, message) {
            self.bytes -= replaced.content.len();
        }
        while self.messages.len() > MAX_AHEAD || self.bytes > MAX_AHEAD_BYTES {
            self.pop();
        }
    }

    fn pop(&mut self) -> Option<Message> {
        let (_, message) = self.messages.pop_first()?;
        self.bytes -= message.content.len();
        Some(message)
    }

    /// Removes the first message, if it is not after this sequence.
    fn pop_until(&mut self, sequence: Sequence) -> Option<Message> {
        let is_due = self.first().is_some_and(|first| first <= sequence);
        is_due.then(|| self.pop()).flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::LogTime;

    #[test]
    fn the_last_messages_are_kept() {
        let mut ahead = Ahead::default();
        let content = bytes::Bytes::from(vec![0; 1 << 20]);
        for sequence in 1..=40 {
            let (sequence, content) = (Sequence(sequence), content.clone());
            ahead.insert(Message { sequence, time: LogTime(0), content: content.clone() });
            ahead.insert(Message { sequence, time: LogTime(0), content });
        }
        assert_eq!((ahead.first(), ahead.bytes), (Some(Sequence(25)), MAX_AHEAD_BYTES));
        assert_eq!(ahead.pop_until(Sequence(24)), None);
        assert_eq!(ahead.pop_until(Sequence(30)).map(|it| it.sequence), Some(Sequence(25)));
        assert_eq!(ahead.messages.len(), 15);
    }
}
