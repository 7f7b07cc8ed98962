//! A subscription that reconnects.

use std::collections::{BTreeSet, VecDeque};
use std::fmt;
use std::future::poll_fn;
use std::mem;
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use fanfare_sse::{MEDIA_TYPE, Parser};
use http::{Request, StatusCode, header};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_stream::Stream;

use crate::client::{Client, full};
use crate::error::Error;
use crate::event::Event;
use crate::reply::Reply;

/// The limit of one event: far above any hub's own limit, with room for the envelope.
const MAX_EVENT_BYTES: usize = 64 * 1024 * 1024;

/// The default reconnect delay, until the hub sends another.
const RECONNECT_DELAY: Duration = Duration::from_secs(3);

/// The maximum delay between attempts.
const MAX_BACK_OFF: Duration = Duration::from_secs(30);

/// The default idle timeout: four of the heartbeats that a hub sends by default.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// The maximum idle timeout: a clock can reach it.
const MAX_IDLE: Duration = Duration::from_secs(365 * 24 * 3600);

/// The time limit for a response head, which a live response sends at once.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// The start of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// The tail.
    Tail,
    /// The earliest retained event.
    Earliest,
    /// The last N events.
    Last(u64),
    /// Right after this event id.
    After(String),
}

impl FromStr for Start {
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

impl fmt::Display for Start {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tail => f.write_str("tail"),
            Self::Earliest => f.write_str("earliest"),
            Self::Last(n) => write!(f, "last:{n}"),
            Self::After(id) => write!(f, "after {id}"),
        }
    }
}

/// What happens to a subscription.
#[derive(Debug)]
pub enum Signal {
    /// A connection is open; it resumes after this id, if there is one.
    Connected(Option<String>),
    /// The next event, including the hub's control events.
    Event(Event),
    /// The connection is lost, for this reason; the next attempt follows after this delay.
    Lost(String, Duration),
    /// The final signal: nothing follows.
    Ended,
}

/// A subscription: reads an event stream, reconnects with `Last-Event-ID` when it breaks, obeys
/// `retry:`, and stops where an `EventSource` should: at a `204`, and after the end of all its
/// channels. It connects when it is first polled.
///
/// As a [`Stream`] it has the events, and the error after which there are no more.
/// [`signal`](Self::signal) has the state of the connection as well.
#[derive(Debug)]
#[must_use = "a subscription does nothing unless it is polled"]
pub struct Subscription {
    client: Client,
    /// Path and query, without a start.
    path: String,
    start: Start,
    ends: Ends,
    /// The time without a byte after which the connection counts as dead.
    idle_timeout: Option<Duration>,
    reconnect_delay: Duration,
    /// Attempts since the last connection that delivered anything.
    failures: u32,
    ever_connected: bool,
    /// Events that were read and not yet returned.
    pending: VecDeque<Event>,
    /// The id to resume after.
    last_id: Option<String>,
    state: State,
}

/// The ends after which a subscription is over.
#[derive(Debug)]
pub(crate) enum Ends {
    /// The end of its only channel.
    One,
    /// The ends of these channels. A channel may end again, after it was deleted and used again.
    Of(BTreeSet<String>),
    /// None: further channels may appear.
    Never,
}

impl Ends {
    /// Notes an end. Returns whether it is the last.
    fn are_complete_with(&mut self, event: &Event) -> bool {
        match self {
            Self::One => true,
            Self::Of(channels) => {
                let ended = event.end().and_then(|end| end.channel);
                ended.is_some_and(|channel| channels.remove(&channel)) && channels.is_empty()
            }
            Self::Never => false,
        }
    }
}

enum State {
    /// The next poll connects.
    Ready,
    Connecting(Pin<Box<dyn Future<Output = Result<Option<Reply>, Error>> + Send>>),
    Waiting(Pin<Box<Sleep>>),
    Open(Box<Connection>),
    /// Nothing follows the pending events but this error.
    Failed(Error),
    Done,
}

/// A response that is being read.
struct Connection {
    reply: Reply,
    parser: Parser,
    /// Fires when the connection counts as dead.
    idle: Option<(Duration, Pin<Box<Sleep>>)>,
}

impl Subscription {
    /// Creates a subscription for this path, which is over after these ends.
    pub(crate) fn new(client: Client, path: String, ends: Ends) -> Self {
        Self {
            client,
            path,
            start: Start::Tail,
            ends,
            idle_timeout: Some(IDLE_TIMEOUT),
            reconnect_delay: RECONNECT_DELAY,
            failures: 0,
            ever_connected: false,
            pending: VecDeque::new(),
            last_id: None,
            state: State::Ready,
        }
    }

    /// Begins at this position instead of the tail.
    pub fn from(mut self, start: Start) -> Self {
        self.last_id = if let Start::After(id) = &start { Some(id.clone()) } else { None };
        self.start = start;
        self
    }

    /// Reconnects when nothing, not even a heartbeat, arrives for this long, a minute by default;
    /// zero for never.
    pub fn idle_timeout(mut self, idle_timeout: Duration) -> Self {
        let idle_timeout = idle_timeout.min(MAX_IDLE);
        self.idle_timeout = Some(idle_timeout).filter(|timeout| !timeout.is_zero());
        self
    }

    /// Returns the id after which another subscription would continue.
    #[must_use]
    pub fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    /// Returns the next signal. Cancel safe.
    ///
    /// # Errors
    /// The hub refuses permanently, or was never reachable.
    pub async fn signal(&mut self) -> Result<Signal, Error> {
        poll_fn(|cx| self.poll_signal(cx)).await
    }

    /// Closes the TCP connection, like a network failure. The next event is the one after the last
    /// that was returned, on another connection.
    pub fn disconnect(&mut self) {
        self.pending.clear();
        self.state = State::Ready;
    }

    /// Returns whether an event is available without waiting for the network.
    #[must_use]
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    fn poll_signal(&mut self, cx: &mut Context<'_>) -> Poll<Result<Signal, Error>> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                self.note(&event);
                if event.is_open() {
                    continue; // read only for its id
                }
                return Poll::Ready(Ok(Signal::Event(event)));
            }
            match &mut self.state {
                State::Ready => self.state = State::Connecting(Box::pin(self.connect())),
                State::Connecting(connecting) => match ready!(connecting.as_mut().poll(cx)) {
                    Ok(Some(reply)) => return Poll::Ready(Ok(self.connected(reply))),
                    Ok(None) => self.state = State::Done,
                    Err(error) => return Poll::Ready(self.lose(error)),
                },
                State::Waiting(delay) => {
                    ready!(delay.as_mut().poll(cx));
                    self.state = State::Ready;
                }
                State::Open(connection) => {
                    // A block that has only an id moves the cursor as well: another hub may send
                    // one.
                    if let Some(id) = connection.parser.last_event_id()
                        && self.last_id.as_deref() != Some(id)
                    {
                        self.last_id = Some(id.into());
                    }
                    match ready!(connection.poll_piece(cx)) {
                        Ok(Some(piece)) => self.feed(&piece),
                        Ok(None) => {
                            let why = "the hub closed the stream".into();
                            return Poll::Ready(Ok(self.wait(why, Duration::ZERO)));
                        }
                        Err(error) => return Poll::Ready(self.lose(error)),
                    }
                }
                State::Failed(_) | State::Done => {
                    return Poll::Ready(match mem::replace(&mut self.state, State::Done) {
                        State::Failed(error) => Err(error),
                        _ => Ok(Signal::Ended),
                    });
                }
            }
        }
    }

    /// Requests the stream; returns `None` when nothing is left to request.
    fn connect(&self) -> impl Future<Output = Result<Option<Reply>, Error>> + use<> {
        let mut request = Request::get(self.path_from_start())
            .header(header::ACCEPT, MEDIA_TYPE)
            .header(header::CACHE_CONTROL, "no-store");
        if let Some(id) = &self.last_id {
            request = request.header("Last-Event-ID", id);
        }
        let client = self.client.clone();
        async move {
            // The body of a refusal must arrive in time, too.
            let reply = async { client.send(request, full(Bytes::new())).await?.succeeded().await };
            let reply =
                timeout(HEAD_TIMEOUT, reply).await.map_err(|_| Error::Silent(HEAD_TIMEOUT))??;
            if reply.status() == StatusCode::NO_CONTENT {
                return Ok(None);
            }
            let media_type = reply.header(header::CONTENT_TYPE).unwrap_or_default();
            if !media_type.starts_with(MEDIA_TYPE) {
                let found = format!("HTTP {} with `{media_type}`", reply.status().as_u16());
                return Err(Error::Foreign(client.url().to_string(), found));
            }
            Ok(Some(reply))
        }
    }

    fn path_from_start(&self) -> String {
        if self.last_id.is_some() {
            return self.path.clone(); // the id is more exact
        }
        let separator = if self.path.contains('?') { '&' } else { '?' };
        format!("{}{separator}from={}", self.path, self.start)
    }

    fn connected(&mut self, reply: Reply) -> Signal {
        let idle = self.idle_timeout.map(|timeout| (timeout, Box::pin(sleep(timeout))));
        let parser = Parser::new(MAX_EVENT_BYTES);
        self.state = State::Open(Box::new(Connection { reply, parser, idle }));
        self.ever_connected = true;
        Signal::Connected(self.last_id.clone())
    }

    fn feed(&mut self, piece: &[u8]) {
        let State::Open(connection) = &mut self.state else { return };
        let mut events = Vec::new();
        let outcome = connection.parser.feed(piece, &mut events);
        if let Some(delay) = connection.parser.retry() {
            self.reconnect_delay = delay;
        }
        self.failures = 0;
        self.pending.extend(events.into_iter().map(Event::from));
        if let Err(error) = outcome {
            self.state = State::Failed(error.into());
        }
    }

    /// Notes an event that is about to be returned.
    fn note(&mut self, event: &Event) {
        if let Some(id) = &event.id {
            self.last_id = Some(id.as_ref().into());
        }
        if event.is_unauthenticated() {
            // The delay in this event is for clients that would reconnect for ever. This client
            // reconnects once, and then knows whether its token is still valid.
            self.reconnect_delay = RECONNECT_DELAY;
        }
        if event.is_end() && self.ends.are_complete_with(event) {
            self.state = State::Done;
        }
    }

    fn lose(&mut self, error: Error) -> Result<Signal, Error> {
        if !self.ever_connected || !error.is_transient() {
            self.state = State::Done;
            return Err(error);
        }
        if matches!(self.state, State::Connecting(_)) {
            self.failures = self.failures.saturating_add(1);
        }
        Ok(self.wait(error.to_string(), error.retry_after().unwrap_or_default()))
    }

    /// Reconnects after the delay that is due, and not before `least`.
    fn wait(&mut self, why: String, least: Duration) -> Signal {
        let delay = back_off(self.reconnect_delay, self.failures, fastrand::f64()).max(least);
        self.state = State::Waiting(Box::pin(sleep(delay)));
        Signal::Lost(why, delay)
    }
}

impl Stream for Subscription {
    type Item = Result<Event, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            match ready!(this.poll_signal(cx)) {
                Ok(Signal::Event(event)) => return Poll::Ready(Some(Ok(event))),
                Ok(Signal::Connected(_) | Signal::Lost(..)) => {}
                Ok(Signal::Ended) => return Poll::Ready(None),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }
}

impl Connection {
    /// Polls for the next piece of the body; `None` at its end.
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Error>> {
        if let Poll::Ready(piece) = self.reply.poll_piece(cx) {
            if let Some((timeout, timer)) = &mut self.idle {
                timer.as_mut().reset(Instant::now() + *timeout);
            }
            return Poll::Ready(piece.transpose());
        }
        match &mut self.idle {
            Some((timeout, timer)) => {
                timer.as_mut().poll(cx).map(|()| Err(Error::Silent(*timeout)))
            }
            None => Poll::Pending,
        }
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ready => "Ready",
            Self::Connecting(_) => "Connecting",
            Self::Waiting(_) => "Waiting",
            Self::Open(_) => "Open",
            Self::Failed(_) => "Failed",
            Self::Done => "Done",
        })
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
impl Subscription {
    pub(crate) fn path(&self) -> &str {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;
    use crate::url::HubUrl;

    #[test]
    fn a_start_is_one_of_three_words() {
        assert_eq!("tail".parse(), Ok(Start::Tail));
        assert_eq!("earliest".parse(), Ok(Start::Earliest));
        assert_eq!("last:10".parse(), Ok(Start::Last(10)));
        for text in ["", "last", "last:", "last:-1", "last:x", "head"] {
            assert!(text.parse::<Start>().is_err(), "{text:?}");
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
        let client = client_of("hub".parse().unwrap());
        let mut source = Subscription::new(client, "/v1/events?channel=a".into(), Ends::Never)
            .from(Start::Earliest);
        assert_eq!(source.path_from_start(), "/v1/events?channel=a&from=earliest");
        source.note(&Event::new(Some("e-1"), None, ""));
        assert_eq!(source.path_from_start(), "/v1/events?channel=a");
    }

    fn client_of(url: HubUrl) -> Client {
        Client::new(url).unwrap()
    }

    /// A hub that sends these lines, a connection each, and returns the requests it received.
    async fn hub_that_says(answers: Vec<String>) -> (Client, tokio::task::JoinHandle<Vec<String>>) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = client_of(listener.local_addr().unwrap().to_string().parse().unwrap());
        let heard = tokio::spawn(async move {
            let mut heard = Vec::new();
            for answer in answers {
                let (mut socket, _) = listener.accept().await.unwrap();
                heard.push(head_of_request(&mut socket).await);
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
            heard
        });
        (client, heard)
    }

    async fn head_of_request(socket: &mut TcpStream) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(socket.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap().to_lowercase()
    }

    fn stream(body: &str) -> String {
        format!("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n{body}")
    }

    const NO_CONTENT: &str = "HTTP/1.1 204 No Content\r\n\r\n";

    async fn all_of(mut source: Subscription) -> Vec<String> {
        let mut told = Vec::new();
        loop {
            let (last, words) = match source.signal().await {
                Ok(Signal::Connected(id)) => {
                    (false, format!("connected {}", id.unwrap_or_default()))
                }
                Ok(Signal::Event(event)) => (false, event.data),
                Ok(Signal::Lost(..)) => (false, "lost".into()),
                Ok(Signal::Ended) => (true, "ended".into()),
                Err(error) => (true, error.to_string()),
            };
            told.push(words);
            if last {
                return told;
            }
        }
    }

    #[test]
    fn the_same_channel_may_end_twice() {
        let end = |channel: &str| {
            let data = format!("{{\"channel\":\"{channel}\",\"state\":\"complete\"}}");
            Event::new(None, Some("fanfare.end"), data)
        };
        let mut ends = Ends::Of(["a", "b"].map(str::to_owned).into());
        assert!(!ends.are_complete_with(&end("a")));
        assert!(!ends.are_complete_with(&end("a")), "it was deleted and used again");
        assert!(ends.are_complete_with(&end("b")));
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
            all_of(Subscription::new(client, "/v1/channels/a".into(), Ends::One).from(Start::Tail))
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
        let mut source = Subscription::new(client, "/".into(), Ends::One).from(Start::Earliest);
        let mut signals = Vec::new();
        for _ in 0..4 {
            signals.push(source.signal().await.unwrap());
        }
        assert!(matches!(signals[3], Signal::Ended), "{signals:?}");
        assert_eq!(heard.await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_viewer_that_disconnects_is_given_what_it_had_not_handed_out() {
        let both = "retry: 0\nid: e-1\ndata: one\n\nid: e-2\ndata: two\n\n";
        let answers = vec![stream(both), stream("id: e-2\ndata: two\n\n"), NO_CONTENT.into()];
        let (client, heard) = hub_that_says(answers).await;
        let mut source = Subscription::new(client, "/".into(), Ends::Never).from(Start::Earliest);
        assert!(matches!(source.signal().await, Ok(Signal::Connected(None))));
        assert!(matches!(source.signal().await, Ok(Signal::Event(event)) if event.data == "one"));
        source.disconnect();
        let rest = all_of(source).await;
        assert_eq!(rest, ["connected e-1", "two", "lost", "ended"]);
        assert_eq!(heard.await.unwrap().len(), 3);
    }

    #[tokio::test]
    async fn it_tells_at_once_when_the_hub_refuses_for_good() {
        let refusal = "HTTP/1.1 400 Bad Request\r\n\r\n{\"detail\":\"no\",\"code\":\"bad\"}";
        let (client, _heard) = hub_that_says(vec![refusal.into()]).await;
        let told =
            all_of(Subscription::new(client, "/".into(), Ends::Never).from(Start::Tail)).await;
        assert_eq!(told, ["the hub refused: no (bad, HTTP 400)"]);
        let page = "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\n\r\n<html>";
        let (client, _heard) = hub_that_says(vec![page.into()]).await;
        let told =
            all_of(Subscription::new(client, "/".into(), Ends::Never).from(Start::Tail)).await;
        assert!(told[0].contains("not answer like a Fanfare hub: HTTP 200 with `text/html`"));
    }

    #[tokio::test]
    async fn it_obeys_the_hubs_delay_and_gives_up_on_a_silent_connection() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = client_of(listener.local_addr().unwrap().to_string().parse().unwrap());
        let patience = Duration::from_millis(20);
        let mut source = Subscription::new(client, "/".into(), Ends::Never)
            .from(Start::Tail)
            .idle_timeout(patience);
        let silent = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            head_of_request(&mut socket).await;
            let answer = stream("retry: 10000\nid: e-1\n\n");
            socket.write_all(answer.as_bytes()).await.unwrap();
            socket // stays open
        });
        assert!(matches!(source.signal().await, Ok(Signal::Connected(None))));
        let lost = source.signal().await;
        let Ok(Signal::Lost(why, delay)) = lost else { panic!("{lost:?}") };
        assert_eq!(why, "the hub said nothing for 20ms");
        assert!(delay >= Duration::from_secs(10) && delay <= Duration::from_millis(12_500));
        drop(silent);
    }
}
