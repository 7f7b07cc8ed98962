//! For crates that only parse: sends a request, parses its events, and sends the next request after
//! the last id.

use std::io::Write as _;
use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};
use eventsource_stream::Eventsource as _;
use futures_util::TryStreamExt as _;
use serde_json::{Value, json};
use sse_codec::Event as Decoded;
use sse_stream::SseByteStream;

/// The crate that parses the body.
#[derive(Clone, Copy)]
pub enum Parser {
    EventsourceStream,
    SseStream,
    SseCodec,
}

/// The position to resume from, and the reconnect delay.
struct Place {
    id: String,
    retry: Duration,
}

/// Follows a URL until the hub answers 204.
pub async fn follow(url: &str, parser: Parser) -> Result<()> {
    let mut place = Place { id: String::new(), retry: Duration::from_secs(1) };
    loop {
        match connection(url, parser, &mut place).await {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => note(&format!("{error:#}")),
        }
        tokio::time::sleep(place.retry).await;
    }
    note("closed");
    Ok(())
}

/// Reads one response to its end; returns false if there is nothing to reconnect for.
async fn connection(url: &str, parser: Parser, place: &mut Place) -> Result<bool> {
    let mut request = reqwest::Client::new().get(url).header("accept", "text/event-stream");
    if !place.id.is_empty() {
        request = request.header("last-event-id", &place.id);
    }
    let response = request.send().await?;
    match response.status().as_u16() {
        200 => note("open"),
        204 => return Ok(false),
        status => bail!("status {status}"),
    }
    let body = response.bytes_stream();
    match parser {
        Parser::EventsourceStream => {
            let mut events = body.eventsource();
            while let Some(event) = events.try_next().await? {
                if let Some(retry) = event.retry {
                    place.retry = retry;
                }
                place.id.clone_from(&event.id);
                tell(&event.event, &event.data, Some(&event.id));
            }
        }
        Parser::SseStream => {
            let mut events = SseByteStream::new(body);
            while let Some(event) = events.try_next().await? {
                if let Some(retry) = event.retry {
                    place.retry = Duration::from_millis(retry);
                }
                if let Some(id) = &event.id {
                    place.id.clone_from(id);
                }
                // It returns every block; its documentation says which are events.
                if let Some(data) = &event.data {
                    tell(event.event.as_deref().unwrap_or("message"), data, event.id.as_deref());
                }
            }
        }
        Parser::SseCodec => {
            let body = body.map_err(std::io::Error::other).into_async_read();
            let mut events = sse_codec::decode_stream(body);
            while let Some(event) = events.try_next().await.map_err(|e| anyhow::anyhow!("{e}"))? {
                match event {
                    Decoded::Retry { retry } => place.retry = Duration::from_millis(retry),
                    Decoded::Message { id, event, data } => {
                        if let Some(id) = &id {
                            place.id.clone_from(id);
                        }
                        tell(&event, &data, id.as_deref());
                    }
                }
            }
        }
    }
    note("end");
    Ok(true)
}

/// Prints an event.
pub fn tell(event: &str, data: &str, id: Option<&str>) {
    print(&json!({ "event": event, "data": data, "id": id, "t": now() }));
}

/// Prints a note that is no event.
pub fn note(text: &str) {
    print(&json!({ "note": text, "t": now() }));
}

fn print(line: &Value) {
    let mut out = std::io::stdout().lock();
    // A closed stdout means that the test is over.
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

fn now() -> u128 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_millis())
}
