//! The client: its connections, and the requests that it sends.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header, request};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper_rustls::{HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::net::TcpStream;
use tower::BoxError;
use tower::timeout::Timeout;
use tower::util::BoxCloneSyncService;

use crate::error::Error;
use crate::publish::Publish;
use crate::reply::Reply;
use crate::subscription::{Ends, Subscription};
use crate::tls::{trusting_file, trusting_machine, trusting_none};
use crate::url::HubUrl;

/// Long enough for a TCP handshake that lost two packets, and the TLS handshake after it.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The time limit for the TCP acknowledgement of sent data.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// Time for which an idle connection is kept: shorter than `server.header_timeout`, after which a
/// hub closes its own.
const KEPT_IDLE: Duration = Duration::from_secs(5);

/// Characters that stay unescaped in the path of a channel (RFC 3986, "unreserved").
const SEGMENT: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// The body of a request.
pub type RequestBody = UnsyncBoxBody<Bytes, BoxError>;

/// Opens connections, plain or over TLS.
type Connector = BoxCloneSyncService<Uri, MaybeHttpsStream<TokioIo<TcpStream>>, BoxError>;

/// Sends requests to one hub. A clone shares the connections.
#[derive(Clone)]
pub struct Client {
    http: legacy::Client<Connector, RequestBody>,
    hub: Arc<Hub>,
}

/// The hub of a client, and how it is authenticated.
struct Hub {
    url: HubUrl,
    token: Option<String>,
    ca_file: Option<PathBuf>,
}

/// Sets up a client.
#[derive(Clone)]
pub struct Builder {
    url: HubUrl,
    token: Option<String>,
    ca_file: Option<PathBuf>,
}

impl Builder {
    /// Sends a token or an API key with each request.
    #[must_use]
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Trusts the certificates of a PEM file instead of those that this machine trusts.
    #[must_use]
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(path.into());
        self
    }

    /// Creates the client. Connections are opened by its requests.
    ///
    /// # Errors
    /// The hub is addressed over TLS, and there is no certificate to trust.
    pub fn build(self) -> Result<Client, Error> {
        let Self { url, token, ca_file } = self;
        let trusting = match &ca_file {
            _ if !url.is_tls() => trusting_none(),
            Some(path) => trusting_file(path),
            None => trusting_machine(),
        }?;
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true); // sends each token at once
        // Detects a vanished peer while data is sent; a subscription has an idle timeout for that.
        #[cfg(target_os = "linux")]
        tcp.set_tcp_user_timeout(Some(UNACKNOWLEDGED));
        let connector = HttpsConnectorBuilder::new()
            .with_tls_config(trusting)
            .https_or_http()
            .enable_http1()
            .wrap_connector(tcp);
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(KEPT_IDLE)
            .build(BoxCloneSyncService::new(Timeout::new(connector, CONNECT_TIMEOUT)));
        Ok(Client { http, hub: Arc::new(Hub { url, token, ca_file }) })
    }
}

impl Client {
    /// Creates a client without a credential, which trusts the certificates that this machine
    /// trusts.
    ///
    /// # Errors
    /// The hub is addressed over TLS, and there is no certificate to trust.
    pub fn new(url: HubUrl) -> Result<Self, Error> {
        Self::builder(url).build()
    }

    /// Sets up a client.
    #[must_use]
    pub fn builder(url: HubUrl) -> Builder {
        Builder { url, token: None, ca_file: None }
    }

    /// Returns the hub's address.
    #[must_use]
    pub fn url(&self) -> &HubUrl {
        &self.hub.url
    }

    /// Publishes to a channel.
    pub fn publish(&self, channel: &str) -> Publish {
        Publish::new(self.clone(), channel_path(channel))
    }

    /// Subscribes to a channel, from its tail on unless the subscription is given another start.
    pub fn subscribe(&self, channel: &str) -> Subscription {
        Subscription::new(self.clone(), channel_path(channel), Ends::One)
    }

    /// Subscribes to many channels, of which some may be patterns such as `logs/*`. Their events
    /// arrive in [envelopes](crate::Event::envelope). The subscription ends when all of its
    /// channels have ended, and never if there is a pattern among them.
    pub fn subscribe_many<'a>(&self, channels: impl IntoIterator<Item = &'a str>) -> Subscription {
        let channels: Vec<_> = channels.into_iter().collect();
        let mut query = form_urlencoded::Serializer::new(String::new());
        for channel in &channels {
            query.append_pair("channel", channel);
        }
        let path = format!("/v1/events?{}", query.finish());
        let ends = if channels.iter().any(|channel| channel.contains('*')) {
            Ends::Never
        } else {
            Ends::Of(channels.into_iter().map(str::to_owned).collect())
        };
        Subscription::new(self.clone(), path, ends)
    }

    /// Stops the generation in a channel: its publisher is informed, and the channel ends as
    /// `cancelled`. Does nothing if the channel has ended already.
    ///
    /// # Errors
    /// The hub refuses, or cannot be reached.
    pub async fn stop(&self, channel: &str) -> Result<(), Error> {
        let path = format!("/v1/signals/{}", encoded(channel));
        let request = Request::post(path).header(header::CONTENT_TYPE, "application/json");
        self.send(request, full(r#"{"signal":"stop"}"#)).await?.succeeded().await?;
        Ok(())
    }

    /// Returns the state of a channel: `open`, or how it ended; `None` if there is no such channel.
    ///
    /// # Errors
    /// The hub refuses, or cannot be reached.
    pub async fn state(&self, channel: &str) -> Result<Option<String>, Error> {
        let request = Request::builder().method(Method::HEAD).uri(channel_path(channel));
        let reply = self.send(request, full(Bytes::new())).await?;
        if reply.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let reply = reply.succeeded().await?;
        Ok(Some(reply.header("Fanfare-State").unwrap_or("unknown").to_owned()))
    }

    /// Requests a document. A response other than 2xx is an error.
    ///
    /// # Errors
    /// The hub refuses, or cannot be reached.
    pub async fn get(&self, path: &str) -> Result<Reply, Error> {
        self.send(Request::get(path), full(Bytes::new())).await?.succeeded().await
    }

    /// Sends a request that has no method of its own, and returns when the head of the response is
    /// there, which may be before the body has been sent. The path is relative to the hub's
    /// address. Dropping the returned future closes the connection.
    ///
    /// # Errors
    /// The hub cannot be reached, or what answers is no hub. A refusal is a reply.
    pub async fn send(&self, request: request::Builder, body: RequestBody) -> Result<Reply, Error> {
        let request = self.addressed(request, body).map_err(Error::Request)?;
        match self.http.request(request).await {
            Ok(response) => Ok(Reply::new(response)),
            Err(error) => Err(Error::of_request(&error, self)),
        }
    }

    /// Adds the hub's address and the credential to the request.
    fn addressed(
        &self,
        request: request::Builder,
        body: RequestBody,
    ) -> Result<Request<RequestBody>, http::Error> {
        let request = match &self.hub.token {
            Some(token) => request.header(header::AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        };
        let mut request = request
            .header(header::USER_AGENT, concat!("fanfare/", env!("CARGO_PKG_VERSION")))
            .body(body)?;
        *request.uri_mut() = self.hub.url.join(&request.uri().to_string())?;
        Ok(request)
    }

    pub(crate) fn ca_file(&self) -> Option<&Path> {
        self.hub.ca_file.as_deref()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("url", &self.hub.url).finish_non_exhaustive()
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("url", &self.url).finish_non_exhaustive()
    }
}

/// Returns the path of a channel, relative to the hub's address.
#[must_use]
pub fn channel_path(channel: &str) -> String {
    format!("/v1/channels/{}", encoded(channel))
}

fn encoded(channel: &str) -> impl fmt::Display {
    utf8_percent_encode(channel, SEGMENT)
}

/// Creates a body from complete bytes.
pub fn full(bytes: impl Into<Bytes>) -> RequestBody {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_name_is_percent_encoded_by_segment() {
        assert_eq!(channel_path("chat/42"), "/v1/channels/chat/42");
        assert_eq!(channel_path("a b/ü?#%"), "/v1/channels/a%20b/%C3%BC%3F%23%25");
    }

    #[test]
    fn one_channel_has_a_path_of_its_own_and_more_share_one() {
        let client = Client::new("hub".parse().unwrap()).unwrap();
        let path = |events: Subscription| events.path().to_owned();
        assert_eq!(path(client.subscribe("chat/4 2")), "/v1/channels/chat/4%202");
        let many = path(client.subscribe_many(["a", "logs/*"]));
        assert_eq!(many, "/v1/events?channel=a&channel=logs%2F*");
        let all = path(client.subscribe_many(["logs/**"]));
        assert_eq!(all, "/v1/events?channel=logs%2F**");
    }

    #[test]
    fn a_credential_is_not_shown() {
        let client = Client::builder("hub".parse().unwrap()).token("secret").build().unwrap();
        assert!(!format!("{client:?}").contains("secret"));
    }
}
