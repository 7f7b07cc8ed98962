//! Hooks are called at the end of each matching channel, and do not affect other clients.

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::time::Instant;

use crate::support::{
    Answer, Publisher, Receiver, TestHub, assert_time, event_stream, keys, texts, within,
};

/// Publishes two events to the channel and closes it, and returns the receipt.
async fn end(hub: &TestHub, channel: &str) -> Value {
    let to = format!("/v1/channels/{channel}?close=complete");
    hub.post(&to, "text/event-stream", event_stream(["1", "2"])).await.ok().json()
}

/// Returns the number of calls with this outcome.
async fn outcomes(hub: &TestHub, outcome: &str) -> f64 {
    hub.metric(&format!("fanfare_hooks_total{{outcome=\"{outcome}\"}}")).await
}

async fn until_outcome(hub: &TestHub, outcome: &str, least: f64) {
    hub.until_metric(&format!("fanfare_hooks_total{{outcome=\"{outcome}\"}}"), least).await;
}

async fn attempts(hub: &TestHub) -> f64 {
    hub.metric("fanfare_hook_attempts_total").await
}

#[tokio::test]
async fn the_end_of_a_channel_calls_a_hook_once() {
    let mut receiver = Receiver::start().await;
    let hub = TestHub::with(&receiver.hook("chat/*", "")).await;
    let receipt = end(&hub, "chat/42").await;
    let call = receiver.call().await;
    assert_eq!(call.request_line, "POST /ended?from=hub HTTP/1.1");
    assert_eq!(call.header("content-type"), "application/json");
    assert!(call.header("webhook-id").starts_with("msg_"));
    assert!(call.header("webhook-timestamp").parse::<u64>().unwrap() > 1_700_000_000);
    assert_eq!(call.try_header("webhook-signature"), None, "there is no secret");
    let message = call.json();
    let members = [
        "channel", "duration", "events", "first_id", "format", "last_id", "reason", "state",
        "text", "time", "type", "usage",
    ];
    assert_eq!(keys(&message), members);
    assert_eq!(
        (&message["type"], &message["channel"]),
        (&json!("channel.ended"), &json!("chat/42"))
    );
    assert_eq!((&message["state"], &message["reason"]), (&json!("complete"), &Value::Null));
    assert_eq!(message["events"], 2);
    assert_eq!(message["first_id"], receipt["first_id"]);
    assert_eq!(message["last_id"], receipt["last_id"]);
    assert!(message["duration"].as_f64().is_some_and(|seconds| seconds < 60.0), "{message}");
    assert_time(&message["time"]);
    until_outcome(&hub, "delivered", 1.0).await;
    assert_eq!(attempts(&hub).await, 1.0);
    receiver.assert_no_other();
}

#[tokio::test]
async fn every_way_to_end_calls_hooks_but_deletion_and_what_does_not_match() {
    let mut receiver = Receiver::start().await;
    let hub = TestHub::with(&receiver.hook("chat/*", "")).await;
    end(&hub, "logs/1").await;
    hub.publish("chat/0", "x").await;
    hub.request("DELETE", "/v1/channels/chat/0", &[], "").await;
    for state in ["complete", "error", "cancelled"] {
        hub.close(&format!("chat/{state}"), state).await;
        let message = receiver.call().await.json();
        assert_eq!(message["state"], state);
        assert_eq!((&message["events"], &message["duration"]), (&json!(0), &json!(0.0)));
        assert_eq!((&message["first_id"], &message["last_id"]), (&Value::Null, &Value::Null));
    }
    until_outcome(&hub, "delivered", 3.0).await;
    receiver.assert_no_other();
}

#[tokio::test]
async fn each_hook_that_matches_gets_the_same_message() {
    let mut all = Receiver::start().await;
    let mut some = Receiver::start().await;
    let hooks = format!("{}{}", all.hook("**", ""), some.hook("chat/*", ""));
    let hub = TestHub::with(&hooks).await;
    end(&hub, "logs/1").await;
    assert_eq!(all.call().await.channel(), "logs/1");
    end(&hub, "chat/1").await;
    let one = all.call().await;
    let other = some.call().await;
    assert_eq!(one.body, other.body);
    assert_eq!(one.header("webhook-id"), other.header("webhook-id"));
}

#[tokio::test]
async fn a_signature_can_be_verified_with_the_secret() {
    let key = b"a key that nobody can guess";
    let secret = format!("secret = \"whsec_{}\"", STANDARD.encode(key));
    let mut receiver = Receiver::start().await;
    let hub = TestHub::with(&receiver.hook("**", &secret)).await;
    end(&hub, "c").await;
    let call = receiver.call().await;
    let id = call.header("webhook-id");
    let timestamp = call.header("webhook-timestamp");
    let signed = [id.as_bytes(), b".", timestamp.as_bytes(), b".", &call.body].concat();
    let signature = call.header("webhook-signature").strip_prefix("v1,").expect("version 1");
    let signature = STANDARD.decode(signature).expect("base64");
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::verify(&key, &signed, &signature).expect("the signature of this call");
}

#[tokio::test]
async fn a_call_that_fails_is_made_again_with_the_same_id() {
    let mut receiver = Receiver::answering([Answer::Status(500), Answer::Status(200)]).await;
    let hub = TestHub::with(&receiver.hook("**", "")).await;
    end(&hub, "c").await;
    let first = receiver.call().await;
    let second = receiver.call().await;
    assert_eq!(first.header("webhook-id"), second.header("webhook-id"));
    assert_eq!(first.body, second.body);
    until_outcome(&hub, "delivered", 1.0).await;
    assert_eq!((attempts(&hub).await, outcomes(&hub, "failed").await), (2.0, 0.0));
    receiver.assert_no_other();
}

#[tokio::test]
async fn a_call_that_is_not_answered_in_time_is_made_again() {
    let mut receiver = Receiver::answering([Answer::Silence, Answer::Status(204)]).await;
    let hub = TestHub::with(&receiver.hook("**", "timeout = \"200ms\"")).await;
    end(&hub, "c").await;
    let first = receiver.call().await;
    let second = receiver.call().await;
    assert_eq!(first.header("webhook-id"), second.header("webhook-id"));
    until_outcome(&hub, "delivered", 1.0).await;
}

#[tokio::test]
async fn a_receiver_that_is_gone_is_not_asked_again() {
    let mut receiver = Receiver::answering([Answer::Status(410)]).await;
    let hub = TestHub::with(&receiver.hook("**", "attempts = 100")).await;
    end(&hub, "c").await;
    receiver.call().await;
    until_outcome(&hub, "failed", 1.0).await;
    assert_eq!(attempts(&hub).await, 1.0);
}

#[tokio::test]
async fn after_so_many_attempts_it_is_given_up() {
    let mut receiver = Receiver::answering([Answer::Status(503)]).await;
    let hub = TestHub::with(&receiver.hook("**", "attempts = 2")).await;
    end(&hub, "c").await;
    let began = Instant::now();
    until_outcome(&hub, "failed", 1.0).await;
    assert!(began.elapsed().as_millis() > 500, "the second attempt comes after a pause");
    assert_eq!((attempts(&hub).await, outcomes(&hub, "delivered").await), (2.0, 0.0));
    receiver.call().await;
    receiver.call().await;
    receiver.assert_no_other();
}

#[tokio::test]
async fn a_refused_connection_is_a_failure_like_any_other() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}/");
    let hook = format!("[[hooks]]\npattern = \"**\"\nurl = \"{url}\"\nattempts = 1");
    let hub = TestHub::with(&hook).await;
    end(&hub, "c").await;
    until_outcome(&hub, "failed", 1.0).await;
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let mut elsewhere = Receiver::start().await;
    let receiver = Receiver::answering([Answer::MovedTo(elsewhere.url())]).await;
    let hub = TestHub::with(&receiver.hook("**", "attempts = 1")).await;
    end(&hub, "c").await;
    until_outcome(&hub, "failed", 1.0).await;
    elsewhere.assert_no_other();
}

#[tokio::test]
async fn an_answer_is_read_only_so_far() {
    let mut receiver = Receiver::answering([Answer::Endless]).await;
    let hub = TestHub::with(&receiver.hook("**", "timeout = \"60s\"")).await;
    for channel in ["a", "b"] {
        end(&hub, channel).await;
        assert_eq!(receiver.call().await.channel(), channel);
    }
    until_outcome(&hub, "delivered", 2.0).await;
}

#[tokio::test]
async fn a_receiver_that_never_answers_delays_neither_viewers_nor_publishers_nor_other_hooks() {
    let mut silent = Receiver::answering([Answer::Silence]).await;
    let mut lively = Receiver::start().await;
    let timeout = "timeout = \"60s\"";
    let hooks = format!("{}{}", silent.hook("**", timeout), lively.hook("**", timeout));
    let hub = TestHub::with(&hooks).await;
    let mut channels = Vec::new();
    for number in 0..40 {
        let channel = format!("c/{number}");
        let mut viewer = hub.subscribe(&channel).await;
        end(&hub, &channel).await;
        let seen = viewer.rest().await;
        assert_eq!(texts(&seen[..2]), ["1", "2"]);
        seen[2].assert_end("complete");
        channels.push(channel);
    }
    let mut message = Vec::new();
    for _ in &channels {
        message.push(lively.call().await.channel());
    }
    message.sort();
    channels.sort();
    assert_eq!(message, channels);
    until_outcome(&hub, "delivered", 40.0).await;
    // The silent receiver has the maximum of open calls, and not one more.
    for _ in 0..16 {
        silent.call().await;
    }
    silent.assert_no_other();
}

#[tokio::test]
async fn https_is_spoken_where_the_url_says_so_and_only_to_those_who_are_trusted() {
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://127.0.0.1:{}/", tcp.local_addr().unwrap().port());
    let hook = format!("[[hooks]]\npattern = \"**\"\nurl = \"{url}\"\nattempts = 1");
    let hub = TestHub::with(&hook).await;
    end(&hub, "private-channel").await;
    let (mut stream, _) = within("a connection", tcp.accept()).await.unwrap();
    let mut hello = [0; 3];
    within("a greeting", stream.read_exact(&mut hello)).await.unwrap();
    assert_eq!(hello[..2], [22, 3], "a TLS handshake");
    drop(stream);
    until_outcome(&hub, "failed", 1.0).await;
}

#[tokio::test]
async fn who_waits_for_another_attempt_has_it_at_once_when_the_hub_drains() {
    let mut receiver = Receiver::answering([Answer::Status(500)]).await;
    let settings = format!("drain.window = \"60s\"\n{}", receiver.hook("**", "attempts = 100"));
    let mut hub = TestHub::with(&settings).await;
    end(&hub, "c").await;
    for _ in 0..2 {
        receiver.call().await;
    }
    hub.drain();
    // Long before the window has passed: after one more attempt there is nothing to wait for.
    hub.stopped().await;
    receiver.call().await;
    receiver.assert_no_other();
}

#[tokio::test]
async fn an_end_during_a_drain_calls_its_hook_before_the_exit() {
    let mut receiver = Receiver::start().await;
    let settings = format!("drain.window = \"60s\"\n{}", receiver.hook("**", ""));
    let mut hub = TestHub::with(&settings).await;
    let to = "/v1/channels/c?close=complete";
    let mut producer = Publisher::begin(&hub, to, "text/event-stream", &[]).await;
    producer.send("data: 1\n\n").await;
    hub.until_metric("fanfare_events_published_total", 1.0).await;
    hub.drain();
    producer.send("data: 2\n\n").await;
    producer.finish().await.ok();
    hub.stopped().await;
    let message = receiver.call().await.json();
    assert_eq!((&message["channel"], &message["events"]), (&json!("c"), &json!(2)));
}

#[tokio::test]
async fn a_receiver_that_never_answers_does_not_keep_the_hub() {
    let mut receiver = Receiver::answering([Answer::Silence]).await;
    let hook = receiver.hook("**", "timeout = \"300s\"");
    let mut hub = TestHub::with(&format!("drain.window = \"500ms\"\n{hook}")).await;
    for number in 0..20 {
        end(&hub, &format!("c/{number}")).await;
    }
    receiver.call().await;
    hub.drain();
    hub.stopped().await;
}

#[tokio::test]
async fn a_hook_has_the_text_of_a_generation_and_its_cost() {
    let mut receiver = Receiver::start().await;
    // Retention trims most of the channel before it ends.
    let settings = format!("channels.max_events = 3\n{}", receiver.hook("chat/*", ""));
    let hub = TestHub::with(&settings).await;
    let token = |text: &str| {
        format!(
            r#"{{"object":"chat.completion.chunk","model":"m","choices":[{{"index":0,"delta":{{"content":"{text}"}}}}]}}"#
        )
    };
    let words: Vec<String> = (0..20).map(|n| format!("{n} ")).collect();
    let mut events: Vec<String> = words.iter().map(|word| token(word)).collect();
    events.push(
        r#"{"object":"chat.completion.chunk","choices":[],"usage":{"total_tokens":22}}"#.into(),
    );
    events.push("[DONE]".into());
    let body = event_stream(&events);
    hub.post("/v1/channels/chat/1?close=auto", "text/event-stream", body).await.ok();
    let message = receiver.call().await.json();
    assert_eq!(
        (&message["state"], &message["format"]),
        (&json!("complete"), &json!("openai-chat"))
    );
    assert_eq!(message["text"], words.concat());
    assert_eq!(message["usage"], json!({"total_tokens": 22}));
    assert_eq!(message["events"], 22);
}

#[tokio::test]
async fn a_text_that_leaves_content_out_is_marked_as_such() {
    let mut receiver = Receiver::start().await;
    let hub = TestHub::with(&receiver.hook("chat/*", "")).await;
    let text = r#"{"type":"response.output_text.done","output_index":0,"text":"Look:"}"#;
    let image =
        r#"{"type":"response.image_generation_call.partial_image","partial_image_b64":"AA"}"#;
    let end = r#"{"type":"response.completed","response":{"usage":{"total_tokens":7}}}"#;
    for (events, incomplete) in
        [(vec![text, end], Value::Null), (vec![text, image, end], json!(true))]
    {
        let channel = format!("chat/{}", events.len());
        let to = format!("/v1/channels/{channel}?close=auto");
        hub.post(&to, "text/event-stream", event_stream(&events)).await.ok();
        let message = receiver.call().await.json();
        assert_eq!((&message["channel"], &message["text"]), (&json!(channel), &json!("Look:")));
        assert_eq!(message["usage"], json!({"total_tokens": 7}));
        assert_eq!(message["incomplete"], incomplete, "{message}");
    }
}

#[tokio::test]
async fn stopped_and_abandoned_generations_call_hooks() {
    let mut receiver = Receiver::start().await;
    let settings = format!("channels.producer_grace = \"50ms\"\n{}", receiver.hook("chat/*", ""));
    let hub = TestHub::with(&settings).await;
    let stop = r#"{"signal":"stop","reason":"user"}"#;
    hub.publish("chat/stopped", "half a").await;
    hub.post("/v1/signals/chat/stopped", "application/json", stop).await.ok();
    let message = receiver.call().await.json();
    assert_eq!((&message["state"], &message["reason"]), (&json!("cancelled"), &json!("user")));
    assert_eq!(message["text"], "half a");
    let to = "/v1/channels/chat/left?close=auto";
    hub.post(to, "text/event-stream", event_stream(["half a"])).await.ok();
    let message = receiver.call().await.json();
    assert_eq!((&message["state"], &message["text"]), (&json!("abandoned"), &json!("half a")));
}
