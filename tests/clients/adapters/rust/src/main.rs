//! Rust's SSE clients: `fanfare-clients CLIENT URL` follows the URL and prints each event as a line
//! of JSON. Reconnecting and resuming, where a library lacks them, are in `follow`.

mod follow;

use anyhow::{Result, bail};
use eventsource_client::{Client as _, ClientBuilder, ReconnectOptions, SSE};
use futures_util::StreamExt as _;
use launchdarkly_sdk_transport::HyperTransport;
use reqwest_eventsource::{Event, EventSource};

use follow::{Parser, follow, note, tell};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [client, url] = arguments.as_slice() else { bail!("usage: fanfare-clients CLIENT URL") };
    match client.as_str() {
        "reqwest-eventsource" => reqwest_eventsource(url).await,
        "eventsource-client" => eventsource_client(url).await,
        "eventsource-stream" => follow(url, Parser::EventsourceStream).await,
        "sse-stream" => follow(url, Parser::SseStream).await,
        "sse-codec" => follow(url, Parser::SseCodec).await,
        _ => bail!("no such client: {client}"),
    }
}

async fn reqwest_eventsource(url: &str) -> Result<()> {
    let mut source = EventSource::get(url);
    while let Some(event) = source.next().await {
        match event {
            Ok(Event::Open) => note("open"),
            Ok(Event::Message(event)) => tell(&event.event, &event.data, Some(&event.id)),
            // Its stream ends by itself after an error that cannot be retried.
            Err(error) => note(&error.to_string()),
        }
    }
    note("closed");
    Ok(())
}

async fn eventsource_client(url: &str) -> Result<()> {
    let transport = HyperTransport::builder().build_http()?;
    let options = ReconnectOptions::reconnect(true).retry_initial(true);
    let client = ClientBuilder::for_url(url)?.reconnect(options.build());
    let client = client.build_with_transport(transport);
    let mut events = client.stream();
    while let Some(event) = events.next().await {
        match event {
            Ok(SSE::Event(event)) => tell(&event.event_type, &event.data, event.id.as_deref()),
            Ok(SSE::Connected(_)) => note("open"),
            Ok(SSE::Comment(_)) => {}
            Err(error) => note(&error.to_string()),
        }
    }
    note("closed");
    Ok(())
}
