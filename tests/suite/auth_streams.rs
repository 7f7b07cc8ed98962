//! A stream lasts as long as its credential: how each kind ends, and resumes.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::keys::{Client, Keys, all_on};
use crate::support::{
    Piece, Publisher, SseClient, SseEvent, TestHub, Wire, assert_problem, eventually, page_ids,
    page_texts, within,
};

const SSE: &str = "text/event-stream";
const NDJSON: &str = "application/x-ndjson";

/// Makes tokens end on the second.
const NO_LEEWAY: &str = "auth.leeway = \"0s\"\n";

/// Seconds: long enough for the start of a test, even where many run at once.
const SHORT: u64 = 4;

/// The grants of a viewer and a producer of `team/…`.
const TEAM: &str = "{ publish = [\"team/**\"], subscribe = [\"team/**\"], signal = [\"team/**\"] }";

#[track_caller]
fn assert_over(event: &SseEvent, reason: &str) {
    assert_eq!(event.event.as_deref(), Some("fanfare.unauthenticated"), "{event:?}");
    assert_eq!(event.id, None, "the last id stays what it was: {event:?}");
    assert_eq!(event.json(), json!({ "reason": reason }));
}

/// Reads the remaining events of a stream, the last of which must have this reason.
async fn until_over(stream: &mut SseClient, reason: &str) -> Vec<SseEvent> {
    let mut events = stream.rest().await;
    stream.assert_eof().await;
    assert_eq!(stream.retry(), Some(60_000), "a client that reconnects unchanged has to wait");
    let last = events.pop().expect("last words");
    assert_over(&last, reason);
    events
}

async fn assert_lines_over(mut wire: Wire, reason: &str) {
    let body = wire.response().await.ok().text();
    let last: Value = serde_json::from_str(body.trim_end().lines().last().unwrap()).unwrap();
    let data = json!({ "reason": reason }).to_string();
    assert_eq!((&last["event"], &last["data"]), (&json!("fanfare.unauthenticated"), &json!(data)));
    assert_eq!(last["id"], Value::Null, "the last id stays what it was: {body}");
}

async fn assert_broken_off(mut wire: Wire) {
    assert_eq!(wire.head().await.status, 200);
    loop {
        match within("the end", wire.piece()).await {
            Piece::Data(bytes) => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                assert!(!text.contains("unauthenticated"), "not of the stream: {text}");
            }
            Piece::End => panic!("a bare stream that is cut looks as if it were whole"),
            Piece::Broken => return,
        }
    }
}

/// Begins to publish as this client, with a body that stays open.
async fn begin(hub: &TestHub, client: &Client<'_>, to: &str, kind: &str) -> Publisher {
    Publisher::begin(hub, to, kind, &client.headers(&[])).await
}

/// All kinds of streams of one client on `team/a`.
struct Streams {
    one: SseClient,
    many: SseClient,
    feed: SseClient,
    lines: [Wire; 2],
    bare: [Wire; 2],
    poll: Wire,
    body: Publisher,
    scattered: Publisher,
}

impl Streams {
    async fn open(hub: &TestHub, client: &Client<'_>) -> Self {
        let to = "/v1/channels/team/a";
        let many = "/v1/events?channel=team/*";
        let begun = hub.metric("fanfare_subscriptions_started_total").await;
        let events = hub.metric("fanfare_events_published_total").await;
        let mut body = begin(hub, client, "/v1/channels/team/body", SSE).await;
        body.send("data: 1\n\ndata: 2\n\n").await;
        let mut scattered = begin(hub, client, "/v1/publish", NDJSON).await;
        scattered.send("{\"channel\":\"team/lines\",\"data\":\"3\"}\n").await;
        hub.until_metric("fanfare_events_published_total", events + 3.0).await;
        let close = ("Connection", "close");
        let streams = Self {
            one: client.subscribe("team/a").await,
            many: client.stream(many, &[]).await.settled().await,
            feed: client.stream("/v1/signals/team/a", &[]).await,
            lines: [
                client.open(to, &[("Accept", NDJSON), close]).await,
                client.open(many, &[("Accept", NDJSON), close]).await,
            ],
            bare: [
                client.open(&format!("{to}?bare"), &[close]).await,
                client.open(&format!("{to}?bare=lines"), &[close]).await,
            ],
            poll: client
                .open(&format!("{to}?wait=60s"), &[("Accept", "application/json"), close])
                .await,
            body,
            scattered,
        };
        // All streams are open: a refused one would not be counted.
        hub.until_metric("fanfare_subscriptions_started_total", begun + 7.0).await;
        streams
    }

    async fn assert_over(mut self, root: &Client<'_>, reason: &str) {
        for stream in [&mut self.one, &mut self.many, &mut self.feed] {
            assert_eq!(stream.head.status, 200);
            until_over(stream, reason).await;
        }
        for lines in self.lines {
            assert_lines_over(lines, reason).await;
        }
        for bare in self.bare {
            assert_broken_off(bare).await;
        }
        let page = self.poll.response().await.ok().json();
        assert_eq!((&page["events"], &page["state"]), (&json!([]), &json!("open")), "{page}");
        for (body, channel, texts) in [
            (self.body, "team/body", ["1", "2"].as_slice()),
            (self.scattered, "team/lines", ["3"].as_slice()),
        ] {
            let answer = body.early_reply().await;
            let problem = assert_problem(&answer, 401, "unauthenticated", "");
            assert_eq!(problem["reason"], reason);
            assert_eq!(problem["retryable"], false);
            let page = root.page(channel, "from=earliest").await;
            let ids = page_ids(&page);
            assert_eq!((page_texts(&page).as_slice(), &page["state"]), (texts, &json!("open")));
            assert_eq!(problem["events"], texts.len(), "{problem}");
            let kept = (problem["first_id"].as_str(), problem["last_id"].as_str());
            assert_eq!(kept, (ids.first().map(String::as_str), ids.last().map(String::as_str)));
        }
    }
}

#[tokio::test]
async fn auth_every_stream_ends_with_its_token_as_its_kind_does() {
    let keys = Keys::new(&[]);
    let hub = keys.hub(NO_LEEWAY).await;
    let token = keys.token("subject", &all_on("team/**"), SHORT);
    let lasting = keys.token("subject", &all_on("team/**"), 600);
    let root = Client::key(&hub, "root");
    let lasting = Client::token(&hub, &lasting);
    let mut other = lasting.subscribe("team/a").await;
    let streams = Streams::open(&hub, &Client::token(&hub, &token)).await;
    streams.assert_over(&root, "expired").await;
    hub.until_metric("fanfare_subscriptions_ended_total{reason=\"expired\"}", 6.0).await;
    // Another token of the same subject does not end.
    root.publish("team/a", "still here").await;
    assert_eq!(other.next().await.data, "still here");
    let late = Client::token(&hub, &token).get("/v1/channels/team/a", &[]).await;
    assert_eq!(assert_problem(&late, 401, "unauthenticated", "")["reason"], "expired");
}

#[tokio::test]
async fn auth_no_stream_goes_without_last_words_however_its_moment_falls() {
    // The hubs check often and at different times: some just before the token ends.
    let often = format!("{NO_LEEWAY}subscribers.write_timeout = \"40ms\"\n");
    let keys = Keys::new(&[]);
    let mut hubs = Vec::new();
    for _ in 0..16 {
        hubs.push(keys.hub(&often).await);
    }
    let token = keys.token("subject", &all_on("a"), SHORT);
    let mut streams = Vec::new();
    for hub in &hubs {
        streams.push(Client::token(hub, &token).subscribe("a").await);
    }
    let mut silent = 0;
    for stream in &mut streams {
        let events = stream.rest().await;
        silent += usize::from(events.is_empty());
        events.iter().for_each(|event| assert_over(event, "expired"));
    }
    assert_eq!(silent, 0, "of 16 streams, ended without a word");
    for hub in &hubs {
        hub.until_metric("fanfare_subscriptions_ended_total{reason=\"expired\"}", 1.0).await;
    }
}

#[tokio::test]
async fn auth_a_drain_lets_no_stream_outlast_its_token() {
    let keys = Keys::new(&[]);
    let mut hub = keys.hub(&format!("{NO_LEEWAY}drain.window = \"60s\"\n")).await;
    let token = keys.token("subject", &all_on("a"), SHORT);
    let mut early = Vec::new();
    let mut late = Vec::new();
    let kinds = ["/v1/channels/a", "/v1/events?channel=a"];
    for to in kinds.iter().cycle().take(12) {
        early.push(Client::token(&hub, &token).stream(to, &[]).await.settled().await);
    }
    hub.drain();
    eventually("a drain", async || hub.admin_get("/readyz").await.status() == 503).await;
    for to in kinds {
        // Its moment in the drain is long after the end of the token.
        late.push(Client::token(&hub, &token).stream(to, &[]).await.settled().await);
    }
    let mut expired = [0, 0];
    for (n, stream) in early.iter_mut().enumerate() {
        let events = stream.rest().await;
        expired[n % 2] += events.len();
        events.iter().for_each(|event| assert_over(event, "expired"));
    }
    assert!(expired.iter().all(|count| *count > 0), "{expired:?} of six each");
    for stream in &mut late {
        until_over(stream, "expired").await;
    }
}

#[tokio::test]
async fn auth_every_stream_ends_with_the_key_that_was_taken_away() {
    let mut keys = Keys::new(&[("leaver", TEAM), ("stayer", TEAM)]);
    let hub = keys.hub("").await;
    let root = Client::key(&hub, "root");
    let leaver = Client::key(&hub, "leaver");
    let stayer = Client::key(&hub, "stayer");
    let mut others = [
        stayer.subscribe("team/a").await,
        stayer.stream("/v1/events?channel=team/**", &[]).await.settled().await,
    ];
    let mut body = begin(&hub, &stayer, "/v1/channels/team/other", SSE).await;
    body.send("data: 1\n\n").await;
    let streams = Streams::open(&hub, &leaver).await;
    keys.remove("leaver");
    hub.reload(&keys.settings()).await.expect("a reload");
    streams.assert_over(&root, "revoked").await;
    hub.until_metric("fanfare_subscriptions_ended_total{reason=\"revoked\"}", 6.0).await;
    let gone = leaver.get("/v1/channels/team/a", &[]).await;
    assert_eq!(assert_problem(&gone, 401, "unauthenticated", "")["reason"], "unknown_key");
    root.publish("team/a", "still here").await;
    for other in &mut others {
        let mut event = other.next().await;
        while !event.data.contains("still here") {
            assert_eq!(event.event.as_deref(), None, "{event:?}");
            event = other.next().await;
        }
    }
    body.send("data: 2\n\n").await;
    assert_eq!(body.finish().await.ok().json()["events"], 2);
}

#[tokio::test]
async fn auth_a_stream_that_is_revoked_names_the_way_to_reconnect() {
    let mut keys = Keys::new(&[("leaver", TEAM)]);
    let hub = keys.hub("").await;
    let leaver = Client::key(&hub, "leaver");
    let mut body = begin(&hub, &leaver, "/v1/channels/team/a", SSE).await;
    body.send("data: 1\n\n").await;
    hub.until_metric("fanfare_events_published_total", 1.0).await;
    keys.remove("leaver");
    hub.reload(&keys.settings()).await.expect("a reload");
    let answer = body.early_reply().await;
    assert_eq!(answer.status(), 401);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let how = answer.header("www-authenticate").unwrap_or_default();
    assert!(how.starts_with("Bearer realm=\"fanfare\", error=\"invalid_token\""), "{how:?}");
}

#[tokio::test]
async fn auth_grants_that_are_narrowed_end_what_they_no_longer_cover() {
    let mut keys =
        Keys::new(&[("viewer", "{ subscribe = [\"a\", \"b\"], publish = [\"a\", \"b\"] }")]);
    let hub = keys.hub("").await;
    let root = Client::key(&hub, "root");
    let viewer = Client::key(&hub, "viewer");
    let many = "/v1/events?channel=a";
    let mut kept = [viewer.subscribe("a").await, viewer.stream(many, &[]).await.settled().await];
    let mut lost = [
        viewer.subscribe("b").await,
        viewer.stream("/v1/events?channel=a&channel=b", &[]).await.settled().await,
    ];
    let mut bodies = Vec::new();
    for channel in ["a", "b"] {
        let mut body = begin(&hub, &viewer, &format!("/v1/channels/{channel}"), SSE).await;
        body.send("data: 1\n\n").await;
        bodies.push(body);
    }
    hub.until_metric("fanfare_events_published_total", 2.0).await;
    keys.grant("viewer", "{ subscribe = [\"a\"], publish = [\"a\"] }");
    hub.reload(&keys.settings()).await.expect("a reload");
    for stream in &mut lost {
        until_over(stream, "revoked").await;
    }
    let answer = bodies.pop().unwrap().early_reply().await;
    assert_eq!(assert_problem(&answer, 401, "unauthenticated", "")["reason"], "revoked");
    root.publish("a", "still here").await;
    for stream in &mut kept {
        let events = stream.take(2).await;
        assert!(events[1].data.contains("still here"), "{events:?}");
    }
    let mut body = bodies.pop().unwrap();
    body.send("data: 2\n\n").await;
    assert_eq!(body.finish().await.ok().json()["events"], 2);
    assert_eq!(hub.metric("fanfare_subscriptions_ended_total{reason=\"revoked\"}").await, 2.0);
    assert_eq!(viewer.get("/v1/channels/b", &[]).await.status(), 403);
}

#[tokio::test]
async fn auth_grants_that_cover_the_same_in_other_words_end_nothing() {
    let mut keys = Keys::new(&[("viewer", "{ subscribe = [\"a/b\"] }")]);
    let hub = keys.hub("").await;
    let root = Client::key(&hub, "root");
    let viewer = Client::key(&hub, "viewer");
    let mut streams = [
        viewer.subscribe("a/b").await,
        viewer.stream("/v1/events?channel=a/b", &[]).await.settled().await,
    ];
    keys.grant("viewer", "{ subscribe = [\"a/*\"], publish = [\"x\"] }");
    hub.reload(&keys.settings()).await.expect("a reload");
    root.publish("a/b", "still here").await;
    for stream in &mut streams {
        assert!(stream.next().await.data.contains("still here"));
    }
}

#[tokio::test]
async fn auth_a_feed_of_signals_lives_on_by_whichever_grant_is_left() {
    for left in ["publish", "signal"] {
        let mut keys = Keys::new(&[("producer", "{ publish = [\"a\"], signal = [\"a\"] }")]);
        let hub = keys.hub("").await;
        let root = Client::key(&hub, "root");
        let producer = Client::key(&hub, "producer");
        root.publish("a", "x").await;
        let mut feed = producer.stream("/v1/signals/a", &[]).await;
        feed.next().await;
        keys.grant("producer", &format!("{{ {left} = [\"a\"] }}"));
        hub.reload(&keys.settings()).await.expect("a reload");
        let stop = json!({"signal": "stop", "reason": "heard"}).to_string();
        root.post("/v1/signals/a", "application/json", stop).await.ok();
        let heard = feed.raw_until("a signal", |text| text.contains("heard")).await;
        assert!(heard.contains("heard"), "with {left} left: {heard}");
    }
}

#[tokio::test]
async fn auth_a_body_for_many_channels_lives_on_when_its_sender_may_do_more() {
    let mut keys = Keys::new(&[("producer", "{ publish = [\"a\"] }")]);
    let hub = keys.hub("").await;
    let producer = Client::key(&hub, "producer");
    let mut body = begin(&hub, &producer, "/v1/publish", NDJSON).await;
    body.send("{\"channel\":\"a\",\"data\":\"1\"}\n").await;
    hub.until_metric("fanfare_events_published_total", 1.0).await;
    keys.grant("producer", "{ publish = [\"a\", \"b\"], subscribe = [\"a\"] }");
    hub.reload(&keys.settings()).await.expect("a reload");
    body.send("{\"channel\":\"a\",\"data\":\"2\"}\n").await;
    let answer = body.finish().await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    assert_eq!(answer.json()["events"], 2);
}

#[tokio::test]
async fn auth_tokens_end_with_the_key_that_signed_them_and_by_no_mistake_of_the_operator() {
    let mut keys = Keys::new(&[]);
    let hub = keys.hub("").await;
    let token = keys.token("viewer", &all_on("a"), 600);
    let root = Client::key(&hub, "root");
    let viewer = Client::token(&hub, &token);
    let mut stream = viewer.subscribe("a").await;
    // An unreadable secret changes nothing.
    let wrong = hub.reload("auth.signing_key = \"file:/nowhere/at/all\"\n").await;
    assert!(wrong.unwrap_err().contains("signing_key"));
    // Nor does a reload of the same settings, and one without authentication is refused.
    hub.reload(&keys.settings()).await.expect("a reload");
    assert!(hub.reload("").await.is_err(), "opened by a reload");
    root.publish("a", "still here").await;
    assert_eq!(stream.next().await.data, "still here");
    keys.sign_again();
    hub.reload(&keys.settings()).await.expect("a reload");
    until_over(&mut stream, "revoked").await;
    let gone = viewer.get("/v1/channels/a", &[]).await;
    assert_eq!(assert_problem(&gone, 401, "unauthenticated", "")["reason"], "wrong_signature");
}

#[tokio::test]
async fn auth_the_anonymous_role_can_be_taken_back() {
    let keys = Keys::new(&[]);
    let role = "auth.anonymous = { subscribe = [\"public/*\", \"a\"] }\n";
    let hub = keys.hub(role).await;
    let root = Client::key(&hub, "root");
    let anonymous = Client::anonymous(&hub);
    let mut lost = anonymous.subscribe("a").await;
    let mut kept = anonymous.subscribe("public/a").await;
    let role = "auth.anonymous = { subscribe = [\"public/*\"] }\n";
    hub.reload(&format!("{}{role}", keys.settings())).await.expect("a reload");
    until_over(&mut lost, "revoked").await;
    root.publish("public/a", "still here").await;
    assert_eq!(kept.next().await.data, "still here");
    hub.reload(&keys.settings()).await.expect("a reload");
    until_over(&mut kept, "revoked").await;
    assert_eq!(anonymous.get("/v1/channels/public/a", &[]).await.status(), 401);
}

/// Reads with tokens that end, one after the other, and resumes each time.
async fn read_by_turns(hub: &TestHub, keys: &Keys, to: &str, accept: &str) -> Vec<SseEvent> {
    let mut events: Vec<SseEvent> = Vec::new();
    for turn in 0..3 {
        let token = keys.token("viewer", &all_on("team/**"), if turn < 2 { 3 } else { 600 });
        let viewer = Client::token(hub, &token);
        let last = events.last().map(|event| event.id().to_owned()).unwrap_or_default();
        let headers = [("Accept", accept), ("Last-Event-ID", last.as_str())];
        let mut stream = viewer.stream(to, &headers).await;
        assert_eq!(stream.head.status, 200);
        if turn < 2 {
            let read = until_over(&mut stream, "expired").await;
            let id = read.last().or(events.last()).expect("an event").id().to_owned();
            assert_eq!(stream.last_id(), Some(id.as_str()), "what a browser would send");
            events.extend(read);
        } else {
            events.extend(stream.take(5).await);
        }
    }
    events
}

#[tokio::test]
async fn auth_a_viewer_continues_with_the_next_token_and_has_missed_nothing() {
    let keys = Keys::new(&[]);
    let hub = keys.hub(NO_LEEWAY).await;
    let root = Client::key(&hub, "root");
    let publishing = async {
        for n in 0u64.. {
            root.publish("team/a", &n.to_string()).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let reading = async {
        tokio::join!(
            read_by_turns(&hub, &keys, "/v1/channels/team/a?from=earliest", SSE),
            read_by_turns(&hub, &keys, "/v1/events?channel=team/**&from=earliest", SSE),
        )
    };
    let (one, many) = tokio::select! {
        () = publishing => unreachable!(),
        read = reading => read,
    };
    let begins = |events: &[SseEvent], text: &dyn Fn(&SseEvent) -> String| {
        let texts: Vec<u64> = events.iter().map(|event| text(event).parse().unwrap()).collect();
        let first = texts[0];
        assert!(first < 100, "from the beginning: {first}");
        let expected: Vec<u64> = (first..first + texts.len() as u64).collect();
        assert_eq!(texts, expected);
    };
    begins(&one, &|event| event.data.clone());
    begins(&many, &|event| event.json()["data"].as_str().unwrap().to_owned());
}

#[tokio::test]
async fn auth_a_generation_waits_for_its_producer_to_come_back_with_another_token() {
    let keys = Keys::new(&[]);
    let hub = keys.hub(NO_LEEWAY).await;
    let root = Client::key(&hub, "root");
    let to = "/v1/channels/team/chat?close=auto";
    let key = ("Idempotency-Key", "the generation");
    let token = keys.token("producer", &all_on("team/**"), 3);
    let first = Client::token(&hub, &token);
    let mut body = Publisher::begin(&hub, to, SSE, &first.headers(&[key])).await;
    body.send("data: one\n\n").await;
    let answer = body.early_reply().await;
    assert_eq!(assert_problem(&answer, 401, "unauthenticated", "")["events"], 1);
    let token = keys.token("producer", &all_on("team/**"), 600);
    let whole = "data: one\n\ndata: two\n\ndata: [DONE]\n\n";
    let second = Client::token(&hub, &token);
    let headers = [("Content-Type", SSE), key];
    let receipt = second.request("POST", to, &headers, whole).await.ok().json();
    assert_eq!(
        (&receipt["state"], &receipt["events"]),
        (&json!("complete"), &json!(3)),
        "{receipt}"
    );
    let page = root.page("team/chat", "from=earliest").await;
    assert_eq!(page_texts(&page)[..2], ["one", "two"], "{page}");
}

#[tokio::test]
async fn auth_a_generation_whose_producer_is_not_admitted_again_is_abandoned() {
    let mut keys = Keys::new(&[("producer", TEAM)]);
    let hub = keys.hub("channels.producer_grace = \"1s\"\n").await;
    let root = Client::key(&hub, "root");
    let producer = Client::key(&hub, "producer");
    let mut body = begin(&hub, &producer, "/v1/channels/team/chat?close=auto", SSE).await;
    body.send("data: one\n\n").await;
    hub.until_metric("fanfare_events_published_total", 1.0).await;
    keys.remove("producer");
    hub.reload(&keys.settings()).await.expect("a reload");
    assert_eq!(body.early_reply().await.status(), 401);
    eventually("the end", async || root.page("team/chat", "").await["state"] != "open").await;
    assert_eq!(root.page("team/chat", "").await["state"], "abandoned");
}
