//! Fetches the keys of issuers from their URLs.

use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use tokio::time::{Instant, timeout_at};

use crate::auth::{FetchError, FetchFuture, FetchKeys};
use crate::outbound::{Client, NoCertificates};

/// Time limit of a fetch. Requests whose key is not known yet wait for it.
const DEADLINE: Duration = Duration::from_secs(5);

/// Fetches JWK sets (RFC 7517) by GET. Redirects are not followed: keys come only from the URL in
/// the configuration.
#[derive(Default)]
pub struct KeyFetcher(OnceLock<Result<Client, NoCertificates>>);

impl FetchKeys for KeyFetcher {
    fn fetch(&self, url: &str, limit: usize) -> FetchFuture {
        // Created at the first use: without such a URL, no certificates are needed.
        let client = match self.0.get_or_init(|| Client::new(true)) {
            Ok(client) => client.clone(),
            Err(error) => {
                let error = FetchError(error.to_string());
                return Box::pin(async { Err(error) });
            }
        };
        let url = url.to_owned();
        Box::pin(async move {
            let fetched = fetch(&client, &url, limit).await;
            if let Err(error) = &fetched {
                tracing::warn!(%url, %error, "cannot fetch keys");
            }
            fetched
        })
    }
}

async fn fetch(client: &Client, url: &str, limit: usize) -> Result<Vec<u8>, FetchError> {
    let deadline = Instant::now() + DEADLINE;
    let wrong = |error: &dyn std::fmt::Display| FetchError(error.to_string());
    let request = Request::get(url).header(http::header::ACCEPT, "application/json");
    let request = request.body(Full::<Bytes>::default()).map_err(|error| wrong(&error))?;
    let response = client.send(request, deadline).await.map_err(|error| wrong(&error))?;
    if response.status() != StatusCode::OK {
        return Err(FetchError(format!("answered {}", response.status())));
    }
    let body = Limited::new(response.into_body(), limit).collect();
    let body = timeout_at(deadline, body).await;
    let body = body.map_err(|_| FetchError("it took too long".to_owned()))?;
    Ok(body.map_err(|error| wrong(&error))?.to_bytes().to_vec())
}
