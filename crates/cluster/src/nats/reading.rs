//! The reader of the log, and how far it has read: what outlives a connection.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::failure::Failure;
use super::health::Health;
use super::position::{Place, Position};
use super::stream::StreamState;
use crate::log::{
    LogEnd, LogInfo, LogReader, MAX_BROADCAST, Message, NotStored, SendNumber, Sequence,
};

/// The time for which a log must seem to be gone, or shorter than what was read, before that is
/// believed: a server that has just started may know less for a moment.
const DOUBT: Duration = Duration::from_secs(3);

/// The reader, and how far it has read.
pub(super) struct Reading {
    reader: Box<dyn LogReader>,
    health: Arc<Mutex<Health>>,
    /// The first message that is to be read, if it is not the first of the log.
    from: Option<Sequence>,
    log: Option<OpenLog>,
}

/// A log that was opened.
struct OpenLog {
    epoch: Box<str>,
    lease: Duration,
    /// The maximum size of a message that the reader may send.
    max_message: usize,
    position: Position,
    /// The last message that the log had when it was opened, until it is read.
    catch_up_to: Option<Sequence>,
    /// The time since when the log seems to be gone or too short.
    in_doubt_since: Option<Instant>,
}

/// Result of [`Reading::take`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// The message was the next, and the reader has received it.
    Delivered,
    /// The message is returned: others come before it.
    Later(Message),
    /// It was read before.
    Known,
    /// It should have been read long ago: the log may be another one.
    Old,
}

impl Reading {
    pub(super) fn new(
        reader: Box<dyn LogReader>,
        from: Option<Sequence>,
        health: Arc<Mutex<Health>>,
    ) -> Self {
        Self { reader, health, from, log: None }
    }

    /// Returns whether the log was opened before.
    pub(super) fn is_opened(&self) -> bool {
        self.log.is_some()
    }

    /// Returns the state that programs read.
    pub(super) fn health(&self) -> &Arc<Mutex<Health>> {
        &self.health
    }

    /// Returns the message to be read next.
    pub(super) fn next(&self) -> Sequence {
        self.log.as_ref().map_or(Sequence(1), |log| log.position.next())
    }

    /// Returns the first message of which the checksum is known; the next, if there is none.
    pub(super) fn remembered(&self) -> Sequence {
        self.log.as_ref().map_or(Sequence(1), |log| log.position.remembered())
    }

    /// Opens the log, or compares it with the one that was read.
    pub(super) fn attach(
        &mut self,
        state: &StreamState,
        max_message: usize,
        server: &str,
    ) -> Result<(), Failure> {
        if self.log.is_none() {
            self.open(state, max_message);
        }
        self.check_size(max_message)?;
        self.compare(state, self.next())?;
        let mut health = self.health.lock();
        health.server = Some(server.into());
        health.connections += 1;
        health.problem = None;
        Ok(())
    }

    /// Refuses a server that takes smaller messages than the reader may send.
    fn check_size(&self, max_message: usize) -> Result<(), Failure> {
        match &self.log {
            Some(log) if max_message < log.max_message => Err(Failure::Refused(format!(
                "`max_payload` of the NATS server is {max_message} bytes, and that of another \
                 server is {}: make them equal",
                log.max_message
            ))),
            _ => Ok(()),
        }
    }

    fn open(&mut self, state: &StreamState, max_message: usize) {
        let StreamState { epoch, lease, first, last } = state.clone();
        self.reader.opened(LogInfo { epoch: epoch.clone(), lease, max_message });
        let from = self.from.filter(|from| *from <= last.next());
        let position = Position::before(first);
        let catch_up_to = Some(last);
        self.log = Some(OpenLog {
            epoch,
            lease,
            max_message,
            position,
            catch_up_to,
            in_doubt_since: None,
        });
        self.begin_at(first.max(from.unwrap_or_default()));
    }

    /// Makes this the first message that is read. Returns whether none was read before.
    pub(super) fn begin_at(&mut self, first: Sequence) -> bool {
        let Some(log) = self.log.as_mut().filter(|log| log.position.is_at_begin()) else {
            return false;
        };
        log.position = Position::before(first);
        {
            let mut health = self.health.lock();
            health.read = Sequence(first.0 - 1);
            // What the log has lost was replaced by later messages.
            log.catch_up_to = log.catch_up_to.map(|last| last.max(health.last));
        }
        self.report_catch_up();
        true
    }

    /// Compares the log with the one that was read. `asked_at` was the next message when the log
    /// was asked for its state: more may have been read since.
    pub(super) fn compare(
        &mut self,
        state: &StreamState,
        asked_at: Sequence,
    ) -> Result<(), Failure> {
        let Some(log) = &mut self.log else { return Ok(()) };
        if log.epoch != state.epoch {
            let text = format!("its epoch is {} and was {}", state.epoch, log.epoch);
            return Err(LogEnd::Replaced(text.into()).into());
        }
        if log.lease != state.lease {
            let text = format!("its lease is {:?} and was {:?}", state.lease, log.lease);
            return Err(LogEnd::Replaced(text.into()).into());
        }
        if state.last.next() < asked_at {
            let (last, read) = (state.last.0, asked_at.0 - 1);
            let text = format!("its last message is {last}, and message {read} was read");
            return Err(self.doubt(text));
        }
        log.in_doubt_since = None;
        let next = log.position.next();
        {
            let mut health = self.health.lock();
            health.last = health.last.max(state.last);
        }
        if next < state.first && !self.begin_at(state.first) {
            let to = Sequence(state.first.0 - 1);
            return Err(LogEnd::Deleted { from: next, to }.into());
        }
        Ok(())
    }

    /// Returns how the connection ends if the log seems to be gone, or shorter than what was read.
    pub(super) fn doubt(&mut self, text: String) -> Failure {
        let Some(log) = &mut self.log else { return Failure::Retry(text) };
        if log.in_doubt_since.get_or_insert_with(Instant::now).elapsed() < DOUBT {
            return Failure::Retry(text);
        }
        LogEnd::Replaced(text.into()).into()
    }

    /// Delivers a message if it is the next, and compares it with what was read if it is not new.
    pub(super) fn take(&mut self, message: Message) -> Result<Taken, Failure> {
        let Some(log) = &mut self.log else { return Ok(Taken::Later(message)) };
        match log.position.place(&message) {
            Place::Later => return Ok(Taken::Later(message)),
            Place::Known => return Ok(Taken::Known),
            Place::Old => return Ok(Taken::Old),
            Place::Differs => {
                let text = format!("message {} is another one than was read", message.sequence.0);
                return Err(LogEnd::Replaced(text.into()).into());
            }
            Place::Next => {}
        }
        log.position.advance(&message);
        {
            let mut health = self.health.lock();
            health.read = message.sequence;
            health.read_time = message.time;
            health.last = health.last.max(message.sequence);
            health.problem = None;
        }
        self.reader.message(message);
        self.report_catch_up();
        Ok(Taken::Delivered)
    }

    fn report_catch_up(&mut self) {
        let Some(log) = &mut self.log else { return };
        if log.catch_up_to.is_some_and(|last| last < log.position.next()) {
            log.catch_up_to = None;
            self.health.lock().is_caught_up = true;
            self.reader.caught_up();
        }
    }

    /// Reports a message that the log has not stored.
    pub(super) fn not_stored(&mut self, number: SendNumber, reason: NotStored) {
        self.health.lock().not_stored += 1;
        self.reader.not_stored(number, reason);
    }

    /// Delivers a broadcast, if it is not too large.
    pub(super) fn broadcast(&mut self, content: Bytes) {
        if content.len() <= MAX_BROADCAST {
            self.reader.broadcast(content);
        }
    }

    /// Reports that the connection was given up.
    pub(super) fn disconnected(&self, failure: &Failure) {
        let mut health = self.health.lock();
        health.server = None;
        let text: Box<str> = failure.to_string().into();
        if health.problem.as_ref() != Some(&text) {
            tracing::warn!(problem = %text, "the shared log is not connected");
            health.problem = Some(text);
        }
    }

    /// Reports the end of the log.
    pub(super) fn ended(&mut self, end: LogEnd) {
        tracing::error!(reason = %end, "the shared log has ended");
        let mut health = self.health.lock();
        health.server = None;
        health.problem = Some(end.to_string().into());
        drop(health);
        self.reader.ended(end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::LogTime;

    struct Ignore;

    impl LogReader for Ignore {
        fn opened(&mut self, _: LogInfo) {}
        fn message(&mut self, _: Message) {}
        fn caught_up(&mut self) {}
        fn not_stored(&mut self, _: SendNumber, _: NotStored) {}
        fn broadcast(&mut self, _: Bytes) {}
        fn ended(&mut self, _: LogEnd) {}
    }

    fn state(first: u64, last: u64) -> StreamState {
        let (first, last) = (Sequence(first), Sequence(last));
        StreamState { epoch: "e".into(), lease: Duration::from_secs(5), first, last }
    }

    fn reading_of(last: u64) -> Reading {
        let mut reading = Reading::new(Box::new(Ignore), None, Arc::default());
        reading.attach(&state(1, 0), 1 << 20, "n1").expect("a new log");
        for sequence in 1..=last {
            let content = "x".into();
            let message = Message { sequence: Sequence(sequence), time: LogTime(0), content };
            assert_eq!(reading.take(message).expect("the next"), Taken::Delivered);
        }
        reading
    }

    #[tokio::test(start_paused = true)]
    async fn a_log_that_is_too_short_is_doubted_before_it_is_another_one() {
        let mut reading = reading_of(10);
        for _ in 0..3 {
            let failure = reading.compare(&state(1, 9), Sequence(11));
            assert!(matches!(failure, Err(Failure::Retry(_))), "{failure:?}");
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        let failure = reading.compare(&state(1, 9), Sequence(11));
        assert!(matches!(failure, Err(Failure::Ended(LogEnd::Replaced(_)))), "{failure:?}");
        // Doubts are forgotten when the log is as long as it was.
        reading.compare(&state(1, 10), Sequence(11)).expect("the log that was read");
        let failure = reading.compare(&state(1, 9), Sequence(11));
        assert!(matches!(failure, Err(Failure::Retry(_))), "{failure:?}");
    }

    #[test]
    fn messages_that_were_read_since_the_log_was_asked_are_not_missing_from_it() {
        let mut reading = reading_of(10);
        reading.compare(&state(1, 7), Sequence(8)).expect("an older answer");
        let gone = reading.compare(&state(13, 20), Sequence(8));
        let expected = LogEnd::Deleted { from: Sequence(11), to: Sequence(12) };
        assert!(matches!(gone, Err(Failure::Ended(end)) if end == expected));
    }

    #[test]
    fn a_log_that_is_trimmed_before_anything_was_read_begins_later() {
        let mut reading = Reading::new(Box::new(Ignore), None, Arc::default());
        reading.attach(&state(1, 10), 1 << 20, "n1").expect("a new log");
        reading.compare(&state(5, 12), Sequence(1)).expect("nothing was lost");
        assert_eq!(reading.next(), Sequence(5));
        reading.compare(&state(11, 12), Sequence(1)).expect("nothing was lost");
        assert!(!reading.health().lock().is_caught_up);
        // All that the log had is gone, and it has no other message.
        reading.compare(&state(13, 12), Sequence(5)).expect("nothing was lost");
        assert_eq!(reading.next(), Sequence(13));
        assert!(reading.health().lock().is_caught_up);
        assert_eq!(reading.health().lock().lag(), 0);
    }

    #[test]
    fn a_reader_that_has_read_nothing_may_begin_later() {
        for (from, next) in [(None, 3), (Some(2), 3), (Some(7), 7), (Some(11), 11), (Some(12), 3)] {
            let from = from.map(Sequence);
            let mut reading = Reading::new(Box::new(Ignore), from, Arc::default());
            reading.attach(&state(3, 10), 1 << 20, "n1").expect("a new log");
            assert_eq!(reading.next(), Sequence(next));
            assert_eq!(reading.health().lock().is_caught_up, next == 11);
        }
        assert!(!reading_of(10).begin_at(Sequence(13)));
    }

    #[test]
    fn a_log_with_another_lease_is_another_one() {
        let mut reading = reading_of(10);
        let edited = StreamState { lease: Duration::from_secs(10), ..state(1, 10) };
        let failure = reading.compare(&edited, Sequence(11));
        assert!(matches!(failure, Err(Failure::Ended(LogEnd::Replaced(_)))), "{failure:?}");
    }

    #[test]
    fn a_server_that_takes_smaller_messages_than_the_first_is_refused() {
        let mut reading = reading_of(10);
        let smaller = reading.attach(&state(1, 10), (1 << 20) - 1, "n2");
        assert!(matches!(smaller, Err(Failure::Refused(_))), "{smaller:?}");
        assert_eq!(reading.health().lock().connections, 1);
        reading.attach(&state(1, 10), 1 << 20, "n3").expect("as large");
    }

    #[test]
    fn a_problem_ends_with_the_next_message() {
        let mut reading = reading_of(10);
        reading.health().lock().problem = Some("a permission is missing".into());
        let message = Message { sequence: Sequence(11), time: LogTime(0), content: "x".into() };
        assert_eq!(reading.take(message).expect("the next"), Taken::Delivered);
        assert_eq!(reading.health().lock().problem, None);
    }
}
