//! Requests to JetStream.

use std::time::Duration;

use async_nats::{Client, Request, RequestErrorKind};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::config::Config;
use super::header;
use crate::log::{Message, Sequence};

/// Maximum time until a message that is requested by its sequence is answered. Any replica answers,
/// also one that is frozen.
const GET_TIMEOUT: Duration = Duration::from_millis(250);

/// The pause after a request for a message that a replica does not have yet.
const MISSING_PAUSE: Duration = Duration::from_millis(20);

/// Requests to JetStream about one stream.
#[derive(Debug)]
pub(super) struct Api {
    pub client: Client,
    prefix: String,
    stream: String,
}

/// The reason for which a request has failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApiError {
    /// There was no answer in time.
    #[error("JetStream has not answered within {0:?}")]
    Silent(Duration),
    /// No server answers requests of this kind.
    #[error(
        "no server answers for JetStream: it is not enabled for this account, or the stream has \
         no leader"
    )]
    NoResponders,
    /// The answer is an error.
    #[error("JetStream answers: {description} ({code})")]
    Answer {
        /// The number of the kind of error.
        code: u32,
        /// The error in words.
        description: String,
    },
    /// The request could not be sent, or the answer is not readable.
    #[error("a request to JetStream failed: {0}")]
    Other(String),
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ErrorAnswer {
    err_code: u32,
    description: String,
}

impl Api {
    pub(super) fn new(client: Client, config: &Config) -> Self {
        let prefix = config
            .domain
            .as_ref()
            .map_or_else(|| "$JS.API".to_owned(), |domain| format!("$JS.{domain}.API"));
        Self { client, prefix, stream: config.stream_name() }
    }

    /// Returns the subject of an operation on the stream, or on a consumer of it.
    pub(super) fn subject(&self, operation: &str) -> String {
        format!("{}.{operation}.{}", self.prefix, self.stream)
    }

    /// Returns the name of the stream.
    pub(super) fn stream(&self) -> &str {
        &self.stream
    }

    /// Sends a request to a subject, and returns its answer.
    pub(super) async fn call<T: DeserializeOwned>(
        &self,
        subject: String,
        body: &Value,
        timeout: Duration,
    ) -> Result<T, ApiError> {
        let answer = self.request(subject, body, timeout).await?;
        let mut value: Value = serde_json::from_slice(&answer.payload).map_err(other)?;
        if let Some(error) = value.get_mut("error") {
            let error: ErrorAnswer = serde_json::from_value(error.take()).map_err(other)?;
            let ErrorAnswer { err_code: code, description } = error;
            return Err(ApiError::Answer { code, description });
        }
        serde_json::from_value(value).map_err(other)
    }

    /// Returns a message of the stream, or nothing if no replica has returned it in time.
    pub(super) async fn get(&self, sequence: Sequence) -> Option<Message> {
        let body = json!({ "seq": sequence.0 });
        let answer = self.request(self.subject("DIRECT.GET"), &body, GET_TIMEOUT).await;
        let found = answer.ok().and_then(header::stored);
        let found = found.filter(|message| message.sequence == sequence);
        if found.is_none() {
            sleep(MISSING_PAUSE).await;
        }
        found
    }

    async fn request(
        &self,
        subject: String,
        body: &Value,
        timeout: Duration,
    ) -> Result<async_nats::Message, ApiError> {
        let payload = Bytes::from(serde_json::to_vec(body).map_err(other)?);
        let request = Request::new().payload(payload).timeout(Some(timeout));
        self.client.send_request(subject, request).await.map_err(|error| match error.kind() {
            RequestErrorKind::TimedOut => ApiError::Silent(timeout),
            RequestErrorKind::NoResponders => ApiError::NoResponders,
            _ => other(error),
        })
    }
}

fn other(error: impl std::fmt::Display) -> ApiError {
    ApiError::Other(error.to_string())
}
