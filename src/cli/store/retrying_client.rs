//! Sends requests over one connection, and retries where that may help.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, header};
use tokio::time::{sleep, timeout};

use crate::cli::client::{ClientAnswer, ClientError, HttpClient, Session};
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
    session: Session,
    /// The hub has answered before, so its address is right.
    is_known: bool,
}

impl Asker {
    pub(super) fn new(client: HttpClient) -> Self {
        Self { session: Session::new(client), is_known: false }
    }

    /// Returns the response: a success or a 404. A hub that was never reachable is an error at
    /// once.
    pub(super) async fn ask(&mut self, ask: &Ask) -> Result<ClientAnswer, ClientError> {
        let mut failures = 0;
        loop {
            let was_open = self.session.is_open();
            let error = match self.attempt(ask).await {
                Ok(answer) => {
                    self.is_known = true;
                    return Ok(answer);
                }
                Err(error) => error,
            };
            // The hub may close an idle connection: that is no failure.
            if was_open && failures == 0 && matches!(error, ClientError::Broken(_)) {
                failures = 1;
                continue;
            }
            let is_reachable = self.is_known || matches!(error, ClientError::Refused(_));
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

    async fn attempt(&mut self, ask: &Ask) -> Result<ClientAnswer, ClientError> {
        let request = Request::builder()
            .method(ask.method.clone())
            .uri(&ask.path)
            .header(header::ACCEPT, "application/json")
            .header(header::CONTENT_TYPE, ask.content_type);
        let request = match &ask.key {
            Some(key) => request.header("Idempotency-Key", key),
            None => request,
        };
        let answer = self.session.exchange(request, ask.body.clone(), MAX_ANSWER_BYTES);
        timeout(PATIENCE, answer).await.unwrap_or(Err(ClientError::Silent(PATIENCE)))
    }
}
