//! Idempotency keys in a cluster: the hubs share a log in memory.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::sleep;

use crate::event::ChannelState;
use crate::generation::Format;
use crate::hub::tests::cluster::{Cluster, local, seen, subscribe_one};
use crate::hub::tests::support::name;
use crate::hub::{Hub, SubmitError};
use crate::ingest::{
    Begun, BodyKind, Closing, Config, Ingest, MultiPublish, MultiReceipt, Publish, PublishError,
    PublishOptions, Receipt, Sender,
};
use crate::position::StartFrom;
use crate::sse;

/// Two hubs, and the publishing at each.
async fn two_hubs() -> (Cluster, [Hub; 2], [Ingest; 2]) {
    let cluster = Cluster::start(2).await;
    let hubs = [0, 1].map(|number| cluster.hub(number));
    let ingests = hubs.clone().map(|hub| Ingest::new(hub, Config::default()));
    (cluster, hubs, ingests)
}

fn with_key(close: Option<Closing>) -> PublishOptions {
    let idempotency_key = Some("key".parse().unwrap());
    PublishOptions { idempotency_key, close, ..PublishOptions::default() }
}

async fn begin(ingest: &Ingest, kind: BodyKind, close: Option<Closing>) -> Box<Publish> {
    match ingest.publish(name("x"), kind, with_key(close)).await {
        Ok(Begun::Publish(publish)) => publish,
        Ok(Begun::Replay(receipt)) => panic!("it is done: {receipt:?}"),
        Err(error) => panic!("{error}"),
    }
}

async fn replay(ingest: &Ingest, kind: BodyKind, close: Option<Closing>) -> Receipt {
    match ingest.publish(name("x"), kind, with_key(close)).await {
        Ok(Begun::Replay(receipt)) => receipt,
        Ok(Begun::Publish(_)) => panic!("it is not done"),
        Err(error) => panic!("{error}"),
    }
}

/// Time in which all hubs have applied what was sent.
async fn applied() {
    sleep(Duration::from_millis(50)).await;
}

async fn events(hub: &Hub) -> usize {
    seen(&mut subscribe_one(hub, "x", &StartFrom::Earliest).await).len()
}

local!(a_retry_at_another_hub_publishes_what_is_missing, async {
    let (_cluster, hubs, [a, b]) = two_hubs().await;
    let mut first = begin(&a, BodyKind::Ndjson, None).await;
    first.feed(&Bytes::from("1\n2\n")).await.unwrap();
    let running = b.publish(name("x"), BodyKind::Ndjson, with_key(None)).await.map(drop);
    assert_eq!(running, Err(PublishError::StillRunning));
    let kept = first.break_off("it was cut").await;
    assert_eq!(kept.events, 2);
    applied().await;
    let mut second = begin(&b, BodyKind::Ndjson, None).await;
    second.feed(&Bytes::from("1\n")).await.unwrap();
    second.feed(&Bytes::from("2\n3")).await.unwrap();
    let receipt = second.finish().await.unwrap();
    assert_eq!((receipt.events, &receipt.first_id), (3, &kept.first_id));
    applied().await;
    for ingest in [&a, &b] {
        let again = replay(ingest, BodyKind::Ndjson, None).await;
        assert_eq!((again.events, again.last_id), (3, receipt.last_id.clone()));
    }
    for hub in &hubs {
        assert_eq!(events(hub).await, 3);
    }
});

local!(a_retry_that_does_not_know_what_is_published_publishes_nothing_twice, async {
    let (_cluster, hubs, [a, _]) = two_hubs().await;
    let mut first = begin(&a, BodyKind::Ndjson, None).await;
    first.feed(&Bytes::from("1\n2\n")).await.unwrap();
    // Its end is not applied when the next one begins, which knows less than the log does.
    drop(first);
    let other = Ingest::new(hubs[0].clone(), Config::default());
    let mut second = begin(&other, BodyKind::Ndjson, None).await;
    second.feed(&Bytes::from("1\n2\n3\n")).await.unwrap();
    assert_eq!(second.finish().await.unwrap().events, 3);
    assert_eq!(events(&hubs[0]).await, 3);
});

/// Returns an event of an event stream.
fn event(data: &str) -> Vec<u8> {
    let mut text = Vec::new();
    sse::event_text(&mut text, &sse::Text { id: None, event_type: None, data: data.as_bytes() });
    text
}

/// Returns the event of a model with this text.
fn chunk(text: &str) -> Vec<u8> {
    let choice = serde_json::json!({"index": 0, "delta": {"content": text}});
    let object = "chat.completion.chunk";
    event(&serde_json::json!({"id": "1", "object": object, "choices": [choice]}).to_string())
}

local!(a_generation_is_continued_at_another_hub, async {
    let (_cluster, hubs, [a, b]) = two_hubs().await;
    let mut first = begin(&a, BodyKind::EventStream, Some(Closing::Auto)).await;
    first.feed(&Bytes::from(chunk("one"))).await.unwrap();
    drop(first.break_off("it was cut").await);
    applied().await;
    let mut second = begin(&b, BodyKind::EventStream, Some(Closing::Auto)).await;
    let rest = [chunk("one"), chunk("two"), event("[DONE]")].concat();
    second.feed(&Bytes::from(rest)).await.unwrap();
    let receipt = second.into_receipt();
    assert_eq!((receipt.events, receipt.state), (3, ChannelState::Complete));
    applied().await;
    let again = replay(&a, BodyKind::EventStream, Some(Closing::Auto)).await;
    assert_eq!((again.events, again.state), (3, ChannelState::Complete));
    let known = hubs[0].describe(&name("x")).unwrap();
    assert_eq!((known.events, known.state), (3, ChannelState::Complete));
});

async fn publish_many(ingest: &Ingest, body: &str) -> MultiReceipt {
    let sender = Sender { name: Arc::from("me"), may: Box::new(|_| true), account: None };
    let begun = ingest.publish_many(sender, Some("key".parse().unwrap())).unwrap();
    let Begun::Publish(mut publish) = begun else { panic!("it is not done at this hub") };
    let feed = async |publish: &mut MultiPublish| publish.feed(&Bytes::from(body.to_owned())).await;
    feed(&mut publish).await.unwrap();
    publish.finish().await.unwrap()
}

local!(lines_for_many_channels_are_published_once_in_the_cluster, async {
    let (_cluster, hubs, [a, b]) = two_hubs().await;
    let body = "{\"channel\":\"x\",\"data\":1}\n{\"channel\":\"y\",\"data\":2}\n\
                {\"channel\":\"x\",\"data\":3}\n";
    let first = publish_many(&a, body).await;
    assert_eq!((first.events, first.channels), (3, 2));
    applied().await;
    let second = publish_many(&b, body).await;
    assert_eq!(second, first);
    assert_eq!(events(&hubs[1]).await, 2);
});

local!(a_retry_that_meets_the_end_of_its_first_request_gets_the_receipt, async {
    let (cluster, _hubs, [a, _]) = two_hubs().await;
    let auto =
        || PublishOptions { format: Some(Format::OpenAiChat), ..with_key(Some(Closing::Auto)) };
    let Ok(Begun::Publish(mut first)) = a.publish(name("x"), BodyKind::EventStream, auto()).await
    else {
        panic!("it begins")
    };
    first.feed(&Bytes::from(chunk("one"))).await.unwrap();
    cluster.stop_log(Duration::from_secs(15));
    let late = first.feed(&Bytes::from(event("[DONE]"))).await.unwrap_err();
    assert!(matches!(late.error, PublishError::Hub(SubmitError::Unlogged(_))), "{late:?}");
    drop(first);
    let again = a.publish(name("x"), BodyKind::EventStream, auto()).await;
    let Ok(Begun::Replay(receipt)) = again else { panic!("it is done") };
    assert_eq!((receipt.events, receipt.state), (2, ChannelState::Complete));
});
