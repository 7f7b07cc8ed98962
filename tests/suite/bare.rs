//! `?bare`: the published events and nothing else, and a body whose end shows whether the channel
//! is complete.

use crate::support::{Piece, Publisher, TestHub, Wire, assert_problem, event_stream, eventually};

const TOKEN: &str = r#"{"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}"#;
const QUICK: &str = "channels.producer_grace = \"100ms\"";

/// Returns the body of a bare stream, and whether it ended properly.
async fn read(hub: &TestHub, to: &str) -> (String, bool) {
    let mut wire = hub.open(to, &[]).await;
    assert_eq!(wire.head().await.status, 200);
    let mut bytes = Vec::new();
    loop {
        match wire.piece().await {
            Piece::Data(more) => bytes.extend(more),
            Piece::End => return (String::from_utf8(bytes).unwrap(), true),
            Piece::Broken => return (String::from_utf8(bytes).unwrap(), false),
        }
    }
}

async fn until_state(hub: &TestHub, channel: &str, state: &str) {
    eventually(state, async || hub.head(channel).await.header("fanfare-state") == Some(state))
        .await;
}

#[tokio::test]
async fn a_whole_generation_is_what_was_published_and_ends_cleanly() {
    let hub = TestHub::start().await;
    let body = format!("event: x\ndata: {TOKEN}\n\ndata: {TOKEN}\n\ndata: [DONE]\n\n");
    hub.post("/v1/channels/c?close=auto", "text/event-stream", &body).await.ok();
    for query in ["bare", "bare=events", "bare&last_event_id="] {
        let seen = read(&hub, &format!("/v1/channels/c?from=earliest&{query}")).await;
        assert_eq!(seen, (body.clone(), true), "{query}");
    }
    let lines = read(&hub, "/v1/channels/c?from=earliest&bare=lines").await;
    assert_eq!(lines, (format!("{TOKEN}\n{TOKEN}\n[DONE]\n"), true));
}

#[tokio::test]
async fn the_client_gets_it_whatever_it_says_that_it_accepts() {
    let hub = TestHub::start().await;
    hub.publish("c", "x").await;
    for (query, media_type) in
        [("bare", "text/event-stream; charset=utf-8"), ("bare=lines", "application/x-ndjson")]
    {
        let mut wire = Wire::connect(hub.addr()).await;
        let to = format!("/v1/channels/c?from=earliest&{query}");
        wire.send_head("GET", &to, &[("Accept", "application/json")]).await;
        let head = wire.head().await;
        assert_eq!(head.status, 200);
        assert_eq!(head.header("content-type").as_deref(), Some(media_type));
    }
}

#[tokio::test]
async fn a_generation_without_its_end_is_broken_off_after_all_that_there_is() {
    let hub = TestHub::with(QUICK).await;
    let body = format!("data: {TOKEN}\n\n");
    hub.post("/v1/channels/left?close=auto", "text/event-stream", &body).await.ok();
    until_state(&hub, "left", "abandoned").await;
    let mut stopped = Publisher::events(&hub, "stopped").await;
    stopped.send(&body).await;
    hub.until_metric("fanfare_events_published_total", 2.0).await;
    hub.post("/v1/signals/stopped", "application/json", r#"{"signal":"stop"}"#).await.ok();
    stopped.early_reply().await;
    for channel in ["left", "stopped"] {
        let to = format!("/v1/channels/{channel}?from=earliest&bare");
        assert_eq!(read(&hub, &to).await, (body.clone(), false), "{channel}");
    }
}

#[tokio::test]
async fn an_error_that_the_provider_sent_ends_cleanly() {
    let hub = TestHub::start().await;
    let error = r#"data: {"error":{"message":"overloaded","type":"server_error"}}"#;
    let body = format!("data: {TOKEN}\n\n{error}\n\n");
    hub.post("/v1/channels/c?close=auto", "text/event-stream", &body).await.ok();
    until_state(&hub, "c", "error").await;
    assert_eq!(read(&hub, "/v1/channels/c?from=earliest&bare").await, (body, true));
}

#[tokio::test]
async fn what_would_look_whole_and_is_not_is_refused() {
    let hub = TestHub::with("channels.max_events = 3").await;
    let tokens = vec![TOKEN; 5];
    hub.post("/v1/channels/c", "text/event-stream", event_stream(&tokens)).await.ok();
    let reply = hub.get("/v1/channels/c?from=earliest&bare", &[]).await;
    assert_problem(&reply, 404, "not_found", "beginning");
    let unknown = [("Last-Event-ID", "nobody-7"), ("Connection", "close")];
    let mut wire = hub.open("/v1/channels/c?bare", &unknown).await;
    wire.head().await;
    assert!(matches!(wire.piece().await, Piece::Broken), "a gap cannot be sent");
}

#[tokio::test]
async fn wrong_values_are_refused() {
    let hub = TestHub::start().await;
    for to in [
        "/v1/channels/c?bare=yes",
        "/v1/channels/c?bare&from=snapshot",
        "/v1/events?channel=c&bare",
    ] {
        let reply = hub.get(to, &[]).await;
        assert_problem(&reply, 400, "invalid_parameter", "expected");
    }
}

#[tokio::test]
async fn an_event_of_several_lines_is_one_line_of_bare_lines() {
    let hub = TestHub::start().await;
    let body = "data: {\"model\":\"q\",\ndata: \"response\":\"Hel\"}\n\n\
                data: [\ndata:   1,\ndata:\ndata:   2\ndata: ]\n\n\
                data: two \"lines\"\ndata: of text\n\n\
                data: one\n\n\
                data: [DONE]\n\n";
    hub.post("/v1/channels/c?close=complete", "text/event-stream", body).await.ok();
    let (lines, whole) = read(&hub, "/v1/channels/c?from=earliest&bare=lines").await;
    assert!(whole);
    let expected = [
        r#"{"model":"q", "response":"Hel"}"#,
        "[   1,    2 ]",
        r#""two \"lines\"\nof text""#,
        "one",
        "[DONE]",
    ];
    let lines: Vec<_> = lines.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{lines:?}");
    for (line, expected) in lines.iter().zip(expected) {
        let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(squeezed(line), squeezed(expected));
    }
}
