//! `HEAD`, `PUT` and `DELETE` on a channel: its state and its settings.

use std::sync::Arc;

use http::{HeaderValue, StatusCode, header};
use serde::Serialize;

use super::Native;
use crate::http::{
    ChannelCaller, ChannelDocument, ErrorCode, Problem, Request, Response, empty, json,
    parse_object, read_document,
};
use crate::hub::{
    ChannelOptions, Coalesce, Configured, DeleteError, Description, Producer, WhenUnwatched,
};
use crate::ingest::Share;

/// A channel with its settings, as JSON.
#[derive(Serialize)]
struct DescriptionDocument<'a> {
    #[serde(flatten)]
    channel: ChannelDocument<'a>,
    retention: RetentionDocument,
    options: OptionsDocument,
}

#[derive(Serialize)]
struct RetentionDocument {
    max_events: u64,
    max_bytes: u64,
    max_age: String,
    idle_timeout: String,
}

#[derive(Serialize)]
struct OptionsDocument {
    producer_grace: String,
    coalesce: Coalesce,
    when_unwatched: Option<WhenUnwatched>,
}

pub(super) async fn head(
    native: Arc<Native>,
    _request: Request,
    ChannelCaller { name, .. }: ChannelCaller,
) -> Result<Response, Problem> {
    let channel = native.hub.describe(&name).ok_or_else(unknown)?;
    let mut response = Response::default();
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    let mut set = |name: &'static str, value: String| {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(name, value);
        }
    };
    set("fanfare-state", channel.state.to_string());
    set("fanfare-tail", channel.tail.to_string());
    set("fanfare-events", channel.events.to_string());
    set("fanfare-subscribers", channel.subscribers.to_string());
    if let Some(format) = channel.format {
        set("fanfare-format", format.to_owned());
    }
    match channel.producer {
        Producer::None => {}
        Producer::Streaming { .. } => set("fanfare-producer", "streaming".to_owned()),
        Producer::Away { .. } => set("fanfare-producer", "away".to_owned()),
    }
    if let Some(earliest) = channel.earliest {
        set("fanfare-earliest", earliest.to_string());
    }
    Ok(response)
}

pub(super) async fn put(
    native: Arc<Native>,
    request: Request,
    ChannelCaller { caller, name }: ChannelCaller,
) -> Result<Response, Problem> {
    let document = read_document(request, Share::new(native.clone())).await?;
    let options = parse_options(&document)?;
    let account = caller.payer().account();
    let submitted = native.hub.configure(&name, &options, account)?;
    let Configured { created, channel } = submitted.wait().await?;
    let mut response = json(&DescriptionDocument::of(&channel))?;
    *response.status_mut() = if created { StatusCode::CREATED } else { StatusCode::OK };
    Ok(response)
}

pub(super) async fn delete(
    native: Arc<Native>,
    _request: Request,
    ChannelCaller { name, .. }: ChannelCaller,
) -> Result<Response, Problem> {
    let not_deleted = |error| match error {
        DeleteError::Unknown => unknown(),
        DeleteError::Unstored(why) => why.into(),
        DeleteError::Unlogged(why) => why.into(),
    };
    let submitted = native.hub.delete(&name).map_err(not_deleted)?;
    submitted.wait().await.map_err(not_deleted)?;
    Ok(empty(StatusCode::NO_CONTENT))
}

fn unknown() -> Problem {
    let detail = "nothing was published to this channel, and it was not created with PUT";
    Problem::new(ErrorCode::NotFound, detail)
}

fn parse_options(document: &[u8]) -> Result<ChannelOptions, Problem> {
    if document.trim_ascii().is_empty() {
        return Ok(ChannelOptions::default());
    }
    let right = "JSON such as {\"max_events\": 100, \"max_bytes\": \"1MiB\", \
                 \"max_age\": \"1h\", \"idle_timeout\": \"1h\", \"coalesce\": \"40ms\"}; \
                 to publish, use POST";
    parse_object(document, right)
}

impl<'a> DescriptionDocument<'a> {
    fn of(channel: &'a Description) -> Self {
        let settings = channel.settings;
        Self {
            channel: channel.into(),
            retention: RetentionDocument {
                max_events: settings.retention.max_events,
                max_bytes: settings.retention.max_bytes,
                max_age: humantime::format_duration(settings.retention.max_age).to_string(),
                idle_timeout: humantime::format_duration(settings.idle_timeout).to_string(),
            },
            options: OptionsDocument {
                producer_grace: humantime::format_duration(settings.producer_grace).to_string(),
                coalesce: settings.coalesce,
                when_unwatched: settings.when_unwatched,
            },
        }
    }
}
