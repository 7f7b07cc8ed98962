//! How often the JSON of an event is parsed, from the body to the fold.

use std::sync::Arc;

use bytes::Bytes;

use crate::event::ChannelState;
use crate::hub::tests::support::name;
use crate::hub::{self, Hub};
use crate::ingest::{Begun, BodyKind, Closing, Config, Fed, Ingest, PublishOptions};
use crate::json::tests::PARSED;

/// Streams of which each event matters to the format, the end mark, the choices or the fold.
const STREAMS: [&[&str]; 4] = [
    &[
        r#"{"model":"m","choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}]}"#,
        r#"{"choices":[{"index":1,"delta":{"content":"b"}}]}"#,
        r#"{"choices":[{"index":1,"delta":{},"finish_reason":"stop"}]}"#,
        r#"{"choices":[{"index":0,"delta":{},"finish_reason":"error"}],"error":{"message":"no"}}"#,
    ],
    &[
        r#"{"type":"message_start","message":{"model":"m"}}"#,
        r#"{"type":"content_block_delta","delta":{"type":"text_delta","text":"a"}}"#,
        r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"}}"#,
        r#"{"type":"message_stop"}"#,
    ],
    &[
        r#"{"candidates":[{"content":{"parts":[{"text":"a"}]}}]}"#,
        r#"{"candidates":[{"finishReason":"STOP"}]}"#,
    ],
    &[
        r#"{"item":1}"#,
        r#"{"item":2,"error":"an error of an item"}"#,
        r#"{"model":"m","response":"a","done":false}"#,
        r#"{"model":"m","response":"","done":true}"#,
    ],
];

#[tokio::test]
async fn the_json_of_an_event_is_parsed_once() {
    let hub = Hub::new(hub::Config::default(), Arc::default());
    let ingest = Ingest::new(hub.clone(), Config::default());
    for (number, events) in STREAMS.iter().enumerate() {
        let channel = name(&format!("c/{number}"));
        let options = PublishOptions { close: Some(Closing::Auto), ..PublishOptions::default() };
        let begun = ingest.publish(channel.clone(), BodyKind::Ndjson, options).await;
        let Ok(Begun::Publish(mut publish)) = begun else { panic!("it does not begin") };
        let before = PARSED.get();
        let mut fed = Fed::More;
        for data in *events {
            fed = publish.feed(&Bytes::from(format!("{data}\n"))).await.unwrap();
        }
        if fed == Fed::More {
            publish.finish().await.unwrap();
        }
        assert_ne!(hub.describe(&channel).unwrap().state, ChannelState::Open);
        assert_eq!(PARSED.get() - before, events.len(), "{events:?}");
    }
}
