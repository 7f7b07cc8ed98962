//! An event source: a subscription that reconnects.

use std::collections::VecDeque;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use tokio::time::{Instant, sleep_until, timeout};

use super::client::{ClientError, HttpClient, Reply, full};
use crate::event::{END, OPEN, UNAUTHENTICATED};
use crate::sse::{MEDIA_TYPE, ParsedEvent, Parser};

/// The limit of one event: far above any hub's own limit, with room for the envelope.
const MAX_EVENT_BYTES: usize = 64 * 1024 * 1024;

/// The default reconnect delay, until the hub sends another.
const RECONNECT_DELAY: Duration = Duration::from_secs(3);

/// The maximum delay between attempts.
const MAX_BACK_OFF: Duration = Duration::from_secs(30);

/// The time limit for a response head, which a live response sends at once.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// The start of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum SourceStart {
    /// The tail.
    Tail,
    /// The earliest retained event.
    Earliest,
    /// The last N events.
    Last(u64),
    /// Right after this event id.
    After(String),
}

impl FromStr for SourceStart {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, &'static str> {
        match text {
            "tail" => return Ok(Self::Tail),
            "earliest" => return Ok(Self::Earliest),
            _ => {}
        }
        let number = text.strip_prefix("last:").and_then(|number| number.parse().ok());
        number.map(Self::Last).ok_or("give tail, earliest or last:N, such as last:10")
    }
}

impl fmt::Display for SourceStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tail => f.write_str("tail"),
            Self::Earliest => f.write_str("earliest"),
            Self::Last(n) => write!(f, "last:{n}"),
            Self::After(id) => write!(f, "after {id}"),
        }
    }
}

/// An event of the source.
#[derive(Debug)]
pub(super) enum SourceSignal {
    /// A connection is open; it resumes after this id, if there is one.
    Connected(Option<String>),
    /// The next event, including the hub's control events.
    Event(ParsedEvent),
    /// The connection is lost, for this reason; the next attempt follows after this delay.
    Lost(String, Duration),
    /// The final signal: nothing follows.
    Ended,
}

/// Reads an event stream, reconnects with `Last-Event-ID` when it breaks, obeys `retry:`, and stops
/// where an `EventSource` should: at a `204`, and after the end of all its channels.
#[derive(Debug)]
pub(super) struct SseSource {
    client: HttpClient,
    /// Path and query, without a start.
    path: String,
    start: SourceStart,
    /// The number of `fanfare.end` events that are still to come; `None` when it cannot be known.
    ends_left: Option<usize>,
    /// The time without a byte after which the connection counts as dead.
    patience: Option<Duration>,
    reconnect_delay: Duration,
    /// Attempts since the last connection that delivered anything.
    failures: u32,
    ever_connected: bool,
    /// Events that were read and not yet returned.
    pending: VecDeque<ParsedEvent>,
    /// The id to resume after.
    last_id: Option<String>,
    state: SourceState,
}

#[derive(Debug)]
enum SourceState {
    Ready,
    Waiting(Instant),
    Open(Box<Reply>, Box<Parser>),
    Done,
}

impl SseSource {
    /// Creates a source for this path. `ends` is the number of its channels, if it is fixed.
    pub(super) fn new(
        client: HttpClient,
        path: String,
        start: SourceStart,
        ends: Option<usize>,
    ) -> Self {
        let last_id = if let SourceStart::After(id) = &start { Some(id.clone()) } else { None };
        Self {
            client,
            path,
            start,
            ends_left: ends,
            patience: None,
            reconnect_delay: RECONNECT_DELAY,
            failures: 0,
            ever_connected: false,
            pending: VecDeque::new(),
            last_id,
            state: SourceState::Ready,
        }
    }

    /// Sets the time without a byte, even of a heartbeat, after which the connection counts as
    /// dead.
    pub(super) fn patience(mut self, patience: Duration) -> Self {
        self.patience = (!patience.is_zero()).then_some(patience);
        self
    }

    /// Returns the next signal. Cancel safe.
    ///
    /// # Errors
    /// The hub refuses permanently, or was never reachable.
    pub(super) async fn next(&mut self) -> Result<SourceSignal, ClientError> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                self.hand_out(&event);
                if event.event_type.as_deref() == Some(OPEN) {
                    continue; // read only for its id
                }
                return Ok(SourceSignal::Event(event));
            }
            match &mut self.state {
                SourceState::Done => return Ok(SourceSignal::Ended),
                SourceState::Waiting(until) => {
                    sleep_until(*until).await;
                    self.state = SourceState::Ready;
                }
                SourceState::Ready => match self.connect().await {
                    Ok(true) => {
                        self.ever_connected = true;
                        return Ok(SourceSignal::Connected(self.last_id.clone()));
                    }
                    Ok(false) => self.state = SourceState::Done,
                    Err(error) => return self.lose(error),
                },
                SourceState::Open(reply, parser) => {
                    // A block that has only an id moves the cursor as well: another hub may send
                    // one.
                    if let Some(id) = parser.last_event_id()
                        && self.last_id.as_deref() != Some(id)
                    {
                        self.last_id = Some(id.into());
                    }
                    match read(reply, self.patience).await {
                        Ok(Some(piece)) => self.feed(&piece)?,
                        Ok(None) => return Ok(self.wait("the hub closed the stream".into())),
                        Err(error) => return self.lose(error),
                    }
                }
            }
        }
    }

    /// Closes the TCP connection, like a network failure. The next event is the one after the last
    /// that was returned, on another connection.
    pub(super) fn disconnect(&mut self) {
        self.pending.clear();
        self.state = SourceState::Ready;
    }

    /// Returns whether an event is available without waiting for the network.
    pub(super) fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Requests the stream; returns `false` when nothing is left to request.
    async fn connect(&mut self) -> Result<bool, ClientError> {
        let mut request = Request::get(self.path_from_start())
            .header(header::ACCEPT, MEDIA_TYPE)
            .header(header::CACHE_CONTROL, "no-store");
        if let Some(id) = &self.last_id {
            request = request.header("Last-Event-ID", id);
        }
        let reply = timeout(HEAD_TIMEOUT, self.client.send(request, full(Bytes::new())))
            .await
            .map_err(|_| ClientError::Silent(HEAD_TIMEOUT))??
            .succeeded()
            .await?;
        if reply.status() == StatusCode::NO_CONTENT {
            return Ok(false);
        }
        let media_type = reply.header(header::CONTENT_TYPE).unwrap_or_default();
        if !media_type.starts_with(MEDIA_TYPE) {
            let found = format!("HTTP {} with `{media_type}`", reply.status().as_u16());
            return Err(ClientError::Foreign(self.client.url().to_string(), found));
        }
        self.state = SourceState::Open(Box::new(reply), Box::new(Parser::new(MAX_EVENT_BYTES)));
        Ok(true)
    }

    fn path_from_start(&self) -> String {
        if self.last_id.is_some() {
            return self.path.clone(); // the id is more exact
        }
        let separator = if self.path.contains('?') { '&' } else { '?' };
        format!("{}{separator}from={}", self.path, self.start)
    }

    fn feed(&mut self, piece: &[u8]) -> Result<(), ClientError> {
        let SourceState::Open(_, parser) = &mut self.state else {
            return Ok(());
        };
        let mut events = Vec::new();
        let outcome = parser.feed(piece, &mut events);
        if let Some(delay) = parser.retry() {
            self.reconnect_delay = delay;
        }
        self.failures = 0;
        self.pending.extend(events);
        Ok(outcome?)
    }

    fn hand_out(&mut self, event: &ParsedEvent) {
        if let Some(id) = &event.id {
            self.last_id = Some(id.as_ref().into());
        }
        if event.event_type.as_deref() == Some(UNAUTHENTICATED) {
            // The delay in this event is for clients that would reconnect for ever. This client
            // reconnects once, and then knows whether its token is still valid.
            self.reconnect_delay = RECONNECT_DELAY;
        }
        if event.event_type.as_deref() == Some(END)
            && let Some(left) = &mut self.ends_left
        {
            *left = left.saturating_sub(1);
            if *left == 0 {
                self.state = SourceState::Done;
            }
        }
    }

    fn lose(&mut self, error: ClientError) -> Result<SourceSignal, ClientError> {
        if !self.ever_connected || !error.is_transient() {
            return Err(error);
        }
        if matches!(self.state, SourceState::Ready) {
            self.failures = self.failures.saturating_add(1);
        }
        let lost = self.wait(error.to_string());
        Ok(match (lost, error.retry_after()) {
            (SourceSignal::Lost(why, delay), Some(least)) if least > delay => {
                self.state = SourceState::Waiting(Instant::now() + least);
                SourceSignal::Lost(why, least)
            }
            (lost, _) => lost,
        })
    }

    fn wait(&mut self, why: String) -> SourceSignal {
        let delay = back_off(self.reconnect_delay, self.failures, fastrand::f64());
        self.state = SourceState::Waiting(Instant::now() + delay);
        SourceSignal::Lost(why, delay)
    }
}

async fn read(reply: &mut Reply, patience: Option<Duration>) -> Result<Option<Bytes>, ClientError> {
    match patience {
        None => reply.piece().await,
        Some(patience) => {
            timeout(patience, reply.piece()).await.unwrap_or(Err(ClientError::Silent(patience)))
        }
    }
}

/// Returns the hub's delay and up to a quarter more, so that the viewers of a restarted hub do not
/// return at once. Doubles with each failure, up to a limit, and then varies by up to a quarter
/// less, but never below the hub's delay.
fn back_off(delay: Duration, failures: u32, chance: f64) -> Duration {
    if failures == 0 {
        return delay.mul_f64(1.0 + chance / 4.0);
    }
    let doubled = delay.max(Duration::from_millis(250)).saturating_mul(1 << failures.min(16));
    doubled.min(MAX_BACK_OFF).mul_f64(1.0 - chance / 4.0).max(delay)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::cli::client::Trust;

    #[test]
    fn a_start_is_one_of_three_words() {
        assert_eq!("tail".parse(), Ok(SourceStart::Tail));
        assert_eq!("earliest".parse(), Ok(SourceStart::Earliest));
        assert_eq!("last:10".parse(), Ok(SourceStart::Last(10)));
        for text in ["", "last", "last:", "last:-1", "last:x", "head"] {
            assert!(text.parse::<SourceStart>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn the_delay_is_the_hubs_then_doubles_up_to_half_a_minute() {
        let seconds = |n, failures| back_off(Duration::from_secs(n), failures, 0.0).as_secs();
        assert_eq!((seconds(3, 0), seconds(3, 1), seconds(3, 2)), (3, 6, 12));
        assert_eq!((seconds(3, 4), seconds(3, 1000)), (30, 30));
        assert_eq!(seconds(60, 3), 60, "a hub that asks for more gets it");
        assert_eq!(back_off(Duration::ZERO, 0, 0.5), Duration::ZERO);
        assert!(back_off(Duration::ZERO, 1, 0.0) > Duration::ZERO);
        assert!(back_off(Duration::from_secs(4), 0, 0.9) < Duration::from_secs(5));
    }

    #[test]
    fn a_source_asks_for_its_start_until_it_has_an_id() {
        let client = HttpClient::new("hub".parse().unwrap(), Trust::default());
        let mut source =
            SseSource::new(client, "/v1/events?channel=a".into(), SourceStart::Earliest, None);
        assert_eq!(source.path_from_start(), "/v1/events?channel=a&from=earliest");
        source.hand_out(&ParsedEvent { id: Some("e-1".into()), ..ParsedEvent::default() });
        assert_eq!(source.path_from_start(), "/v1/events?channel=a");
    }

    /// A hub that sends these lines, a connection each, and returns the requests it received.
    async fn hub_that_says(
        answers: Vec<String>,
    ) -> (HttpClient, tokio::task::JoinHandle<Vec<String>>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = HttpClient::new(listener.local_addr().unwrap().into(), Trust::default());
        let heard = tokio::spawn(async move {
            let mut heard = Vec::new();
            for answer in answers {
                let (mut socket, _) = listener.accept().await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(socket.read_u8().await.unwrap());
                }
                heard.push(String::from_utf8(head).unwrap().to_lowercase());
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
            heard
        });
        (client, heard)
    }

    fn stream(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n{body}")
    }

    const NO_CONTENT: &str = "HTTP/1.1 204 No Content\r\n\r\n";

    async fn all_of(mut source: SseSource) -> Vec<String> {
        let mut told = Vec::new();
        loop {
            let (last, words) = match source.next().await {
                Ok(SourceSignal::Connected(id)) => {
                    (false, format!("connected {}", id.unwrap_or_default()))
                }
                Ok(SourceSignal::Event(event)) => (false, event.data),
                Ok(SourceSignal::Lost(..)) => (false, "lost".into()),
                Ok(SourceSignal::Ended) => (true, "ended".into()),
                Err(error) => (true, error.to_string()),
            };
            told.push(words);
            if last {
                return told;
            }
        }
    }

    #[tokio::test]
    async fn it_resumes_after_the_last_whole_event_and_stops_at_a_204() {
        let answers = vec![
            stream("retry: 0\nid: e-4\nevent: fanfare.open\ndata: {}\n\n"),
            stream("retry: 0\nid: e-5\ndata: five\n\nid: e-6\ndata: si"),
            stream("id: e-6\ndata: six\n\n"),
            NO_CONTENT.into(),
        ];
        let (client, heard) = hub_that_says(answers).await;
        let told =
            all_of(SseSource::new(client, "/v1/channels/a".into(), SourceStart::Tail, Some(1)))
                .await;
        let expected = [
            "connected ",
            "lost",
            "connected e-4",
            "five",
            "lost",
            "connected e-5",
            "six",
            "lost",
            "ended",
        ];
        assert_eq!(told, expected);
        let heard = heard.await.unwrap();
        assert!(heard[0].starts_with("get /v1/channels/a?from=tail http/1.1"), "{}", heard[0]);
        assert!(!heard[0].contains("last-event-id"), "{}", heard[0]);
        for (request, id) in heard[1..].iter().zip(["e-4", "e-5", "e-6"]) {
            assert!(request.contains(&format!("last-event-id: {id}\r\n")), "{request}");
        }
    }

    #[tokio::test]
    async fn it_stops_after_the_end_without_asking_again() {
        let end = "event: fanfare.end\nid: e-2\ndata: {\"state\":\"complete\"}\n\n";
        let (client, heard) =
            hub_that_says(vec![stream(&format!("id: e-1\ndata: x\n\n{end}"))]).await;
        let mut source = SseSource::new(client, "/".into(), SourceStart::Earliest, Some(1));
        let mut signals = Vec::new();
        for _ in 0..4 {
            signals.push(source.next().await.unwrap());
        }
        assert!(matches!(signals[3], SourceSignal::Ended), "{signals:?}");
        assert_eq!(heard.await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_viewer_that_disconnects_is_given_what_it_had_not_handed_out() {
        let both = "retry: 0\nid: e-1\ndata: one\n\nid: e-2\ndata: two\n\n";
        let answers = vec![stream(both), stream("id: e-2\ndata: two\n\n"), NO_CONTENT.into()];
        let (client, heard) = hub_that_says(answers).await;
        let mut source = SseSource::new(client, "/".into(), SourceStart::Earliest, None);
        assert!(matches!(source.next().await, Ok(SourceSignal::Connected(None))));
        assert!(
            matches!(source.next().await, Ok(SourceSignal::Event(event)) if event.data == "one")
        );
        source.disconnect();
        let rest = all_of(source).await;
        assert_eq!(rest, ["connected e-1", "two", "lost", "ended"]);
        assert_eq!(heard.await.unwrap().len(), 3);
    }

    #[tokio::test]
    async fn it_tells_at_once_when_the_hub_refuses_for_good() {
        let refusal = "HTTP/1.1 400 Bad Request\r\n\r\n{\"detail\":\"no\",\"code\":\"bad\"}";
        let (client, _heard) = hub_that_says(vec![refusal.into()]).await;
        let told = all_of(SseSource::new(client, "/".into(), SourceStart::Tail, None)).await;
        assert_eq!(told, ["the hub refused: no (bad, HTTP 400)"]);
        let page = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n<html>";
        let (client, _heard) = hub_that_says(vec![page.into()]).await;
        let told = all_of(SseSource::new(client, "/".into(), SourceStart::Tail, None)).await;
        assert!(told[0].contains("not answer like a Fanfare hub: HTTP 200 with `text/html`"));
    }

    #[tokio::test]
    async fn it_obeys_the_hubs_delay_and_gives_up_on_a_silent_connection() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = HttpClient::new(listener.local_addr().unwrap().into(), Trust::default());
        let patience = Duration::from_millis(20);
        let mut source =
            SseSource::new(client, "/".into(), SourceStart::Tail, None).patience(patience);
        let silent = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let answer = stream("retry: 10000\nid: e-1\n\n");
            socket.write_all(answer.as_bytes()).await.unwrap();
            socket // stays open
        });
        assert!(matches!(source.next().await, Ok(SourceSignal::Connected(None))));
        let lost = source.next().await;
        let Ok(SourceSignal::Lost(why, delay)) = lost else { panic!("{lost:?}") };
        assert_eq!(why, "the hub said nothing for 20ms");
        assert!(delay >= Duration::from_secs(10) && delay <= Duration::from_millis(12_500));
        drop(silent);
    }
}
