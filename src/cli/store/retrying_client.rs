//! Sends requests over one connection, and retries where that may help.

use std::time::Duration;

use bytes::Bytes;
use fanfare_client::{Client, Error, Problem, full};
use http::{HeaderMap, Method, Request, StatusCode, header};
use tokio::time::{sleep, timeout};

use crate::cli::terminal::notice;

/// The number of retries: enough for a hub to restart.
const RETRIES: u32 = 8;

/// The delay before the first retry, if the hub does not set one.
const FIRST_DELAY: Duration = Duration::from_millis(250);

/// The maximum delay between retries.
const MAX_DELAY: Duration = Duration::from_secs(30);

/// The time limit for a response: far more than needed, even where a quota slows a publish down.
const PATIENCE: Duration = Duration::from_secs(120);

/// The limit of a response: a page has 1 MiB and one event more, written as JSON.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// A request that can be sent again: it changes nothing, or has a key, or is idempotent.
pub(super) struct Ask {
    pub(super) method: Method,
    /// Path and query, relative to the hub's address.
    pub(super) path: String,
    pub(super) content_type: &'static str,
    pub(super) key: Option<String>,
    pub(super) body: Bytes,
}

impl Ask {
    /// Creates a GET request for JSON.
    pub(super) fn get(path: String) -> Self {
        Self::new(Method::GET, path)
    }

    pub(super) fn new(method: Method, path: String) -> Self {
        let content_type = "application/json";
        Self { method, path, content_type, key: None, body: Bytes::new() }
    }
}

/// Sends requests to one hub and retries them.
pub(super) struct Asker {
    client: Client,
    /// The hub has answered before, so its address is right.
    is_known: bool,
}

impl Asker {
    pub(super) fn new(client: Client) -> Self {
        Self { client, is_known: false }
    }

    /// Returns the response: a success or a 404. A hub that was never reachable is an error at
    /// once.
    pub(super) async fn ask(&mut self, ask: &Ask) -> Result<Answer, Error> {
        let mut failures = 0;
        loop {
            let error = match self.attempt(ask).await {
                Ok(answer) => {
                    self.is_known = true;
                    return Ok(answer);
                }
                Err(error) => error,
            };
            let is_reachable = self.is_known || matches!(error, Error::Refused(_));
            if !error.is_transient() || !is_reachable || failures >= RETRIES {
                return Err(error);
            }
            let delay = error.retry_after().unwrap_or(FIRST_DELAY * 2_u32.pow(failures));
            let delay = delay.min(MAX_DELAY);
            failures += 1;
            notice(format_args!("{error}; trying again in {:.1} s", delay.as_secs_f64()));
            sleep(delay).await;
        }
    }

    async fn attempt(&mut self, ask: &Ask) -> Result<Answer, Error> {
        let request = Request::builder()
            .method(ask.method.clone())
            .uri(&ask.path)
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, ask.content_type);
        let request = match &ask.key {
            Some(key) => request.header("Idempotency-Key", key),
            None => request,
        };
        let answer = self.exchange(request, ask.body.clone());
        timeout(PATIENCE, answer).await.unwrap_or(Err(Error::Silent(PATIENCE)))
    }

    async fn exchange(
        &self,
        request: http::request::Builder,
        body: Bytes,
    ) -> Result<Answer, Error> {
        let reply = self.client.send(request, full(body)).await?;
        let status = reply.status();
        let headers = reply.headers().clone();
        // The response to a HEAD has no body to explain it.
        let text = if status == StatusCode::NOT_FOUND {
            reply.text().await?
        } else {
            reply.succeeded().await?.text_within(MAX_ANSWER_BYTES).await?
        };
        Ok(Answer { status, headers, text })
    }
}

/// A complete response: a success or a 404.
#[derive(Debug)]
pub(super) struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    pub(super) text: String,
}

impl Answer {
    /// Returns a success, and a 404 as an error.
    pub(super) fn found(self) -> Result<Self, Error> {
        if self.is_found() {
            return Ok(self);
        }
        Err(Error::Refused(Box::new(Problem::read(self.status, &self.text))))
    }

    pub(super) fn is_found(&self) -> bool {
        self.status != StatusCode::NOT_FOUND
    }

    /// Returns a header, if it is present and is text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}
