//! Publishing to one channel.

use std::error::Error as StdError;

use bytes::Bytes;
use fanfare_sse::{MEDIA_TYPE, Text, event_text};
use http::{Request, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use serde::{Deserialize, Serialize};
use tokio_stream::{Stream, StreamExt as _};

use crate::client::{Client, RequestBody, full};
use crate::error::Error;

/// How a publish ends its channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Close {
    /// The channel is complete.
    Complete,
    /// The publisher failed.
    Error,
    /// The publisher was stopped.
    Cancelled,
    /// As the end mark of a provider's stream says.
    Auto,
}

impl Close {
    /// Returns the word of the API.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Error => "error",
            Self::Cancelled => "cancelled",
            Self::Auto => "auto",
        }
    }
}

/// The hub's receipt of a successful publish.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Receipt {
    /// The channel.
    pub channel: String,
    /// The number of events.
    pub events: u64,
    /// The id of the first event.
    pub first_id: Option<String>,
    /// The id of the last event.
    pub last_id: Option<String>,
    /// The number of subscribers that the channel had.
    pub subscribers: u64,
    /// The state of the channel afterwards.
    pub state: String,
    /// Further fields, of a later hub.
    #[serde(flatten)]
    pub more: serde_json::Map<String, serde_json::Value>,
}

/// A publish to one channel, before its events are known.
#[derive(Clone, Debug)]
#[must_use = "nothing is published before the events are given"]
pub struct Publish {
    client: Client,
    path: String,
    event_type: Option<String>,
    close: Option<Close>,
    format: Option<String>,
    idempotency_key: Option<String>,
}

impl Publish {
    pub(crate) fn new(client: Client, path: String) -> Self {
        Self { client, path, event_type: None, close: None, format: None, idempotency_key: None }
    }

    /// Sets the type of events that have none.
    pub fn event_type(mut self, event_type: impl Into<String>) -> Self {
        self.event_type = Some(event_type.into());
        self
    }

    /// Ends the channel after the last event.
    pub fn close(mut self, close: Close) -> Self {
        self.close = Some(close);
        self
    }

    /// Sets the format of a generation, such as `openai-chat`, instead of having it detected.
    pub fn format(mut self, format: impl Into<String>) -> Self {
        self.format = Some(format.into());
        self
    }

    /// Sets the key under which the hub keeps each event once, however often it is sent.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }

    /// Publishes one event.
    ///
    /// # Errors
    /// The hub refuses it, or cannot be reached.
    pub async fn text(self, data: impl Into<String>) -> Result<Receipt, Error> {
        self.body("text/plain; charset=utf-8", data.into()).await
    }

    /// Publishes events, each as soon as the stream has it. The publish ends with the stream. A
    /// future that is dropped breaks it off.
    ///
    /// # Errors
    /// The hub refuses an event, or the connection breaks.
    pub async fn texts<T: AsRef<str>>(
        self,
        events: impl Stream<Item = T> + Send + 'static,
    ) -> Result<Receipt, Error> {
        let encoded = events.map(|data| {
            let mut event = Vec::new();
            let data = data.as_ref().as_bytes();
            event_text(&mut event, &Text { id: None, event_type: None, data });
            Ok::<_, Error>(Bytes::from(event))
        });
        self.stream(MEDIA_TYPE, encoded).await
    }

    /// Publishes a body of one of the media types that the hub reads.
    ///
    /// # Errors
    /// The hub refuses it, or cannot be reached.
    pub async fn body(self, media_type: &str, body: impl Into<Bytes>) -> Result<Receipt, Error> {
        self.send(media_type, full(body)).await
    }

    /// Publishes a body piece by piece, such as the response of a provider. An error of the stream
    /// breaks the publish off.
    ///
    /// # Errors
    /// The hub refuses an event, or the connection breaks.
    pub async fn stream<E>(
        self,
        media_type: &str,
        pieces: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
    ) -> Result<Receipt, Error>
    where
        E: Into<Box<dyn StdError + Send + Sync>> + 'static,
    {
        let frames = pieces.map(|piece| piece.map(Frame::data).map_err(Into::into));
        self.send(media_type, StreamBody::new(frames).boxed_unsync()).await
    }

    async fn send(self, media_type: &str, body: RequestBody) -> Result<Receipt, Error> {
        let mut request = Request::post(self.uri()).header(header::CONTENT_TYPE, media_type);
        if let Some(key) = &self.idempotency_key {
            request = request.header("Idempotency-Key", key);
        }
        let text = self.client.send(request, body).await?.succeeded().await?.text().await?;
        serde_json::from_str(&text).map_err(|_| {
            let found = text.chars().take(100).collect();
            Error::Foreign(self.client.url().to_string(), found)
        })
    }

    /// Returns the path and query of the request.
    fn uri(&self) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        if let Some(event_type) = &self.event_type {
            query.append_pair("event", event_type);
        }
        if let Some(close) = self.close {
            query.append_pair("close", close.as_str());
        }
        if let Some(format) = &self.format {
            query.append_pair("format", format);
        }
        let query = query.finish();
        let mark = if query.is_empty() { "" } else { "?" };
        format!("{}{mark}{query}", self.path)
    }
}
