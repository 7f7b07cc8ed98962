//! Asks a hub again and again over one connection, and once more where that may help.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, header};
use tokio::time::{sleep, timeout};

use crate::cli::client::{ClientAnswer, ClientError, HttpClient, Session};
use crate::cli::terminal::notice;

/// How often a request is tried again: long enough for a hub to restart.
const RETRIES: u32 = 8;

/// Between two attempts, if the hub does not say.
const FIRST_DELAY: Duration = Duration::from_millis(250);

/// However often it has failed, and whatever the hub says.
const MAX_DELAY: Duration = Duration::from_secs(30);

/// Far more than any answer takes, also where a quota slows a publish down.
const PATIENCE: Duration = Duration::from_secs(120);

/// Bytes of an answer: a page has 1 MiB and one event more, written as JSON.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;

/// A request that can be sent again: it changes nothing, or has a key, or has the same effect
/// twice.
pub(super) struct Ask {
    pub(super) method: Method,
    /// Path and query, relative to the hub's address.
    pub(super) path: String,
    pub(super) content_type: &'static str,
    pub(super) key: Option<String>,
    pub(super) body: Bytes,
}

impl Ask {
    /// Asks for JSON.
    pub(super) fn get(path: String) -> Self {
        Self::new(Method::GET, path)
    }

    pub(super) fn new(method: Method, path: String) -> Self {
        let content_type = "application/json";
        Self { method, path, content_type, key: None, body: Bytes::new() }
    }
}

/// See the module.
pub(super) struct Asker {
    session: Session,
    /// The hub has answered before, so it is the right one.
    is_known: bool,
}

impl Asker {
    pub(super) fn new(client: HttpClient) -> Self {
        Self { session: Session::new(client), is_known: false }
    }

    /// The answer: a success, or that there is no such thing. A hub that was never there is an
    /// error at once.
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
            // The hub may close a connection that rests: that tells nothing about it.
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
