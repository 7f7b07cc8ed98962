//! A small HTTP/1.1 client with one connection per request and readable errors.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header, request};
use http_body_util::{BodyExt as _, Full, Limited, combinators::UnsyncBoxBody};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{CertificateError, Error as TlsError};

use crate::outbound::{trusting, trusting_file};

/// The default address of a hub.
pub(super) const DEFAULT_URL: &str = "http://127.0.0.1:4100";

/// Long enough for a TCP handshake that lost two packets.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The time limit for the TCP acknowledgement of sent data.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

/// Limit of a response that is a document: receipts and problems are far smaller.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// Pieces of a streamed body that wait for the socket: few, so that a piece is sent soon after it
/// was queued.
const BODY_PIECES: usize = 16;

/// The hint for a 404: an endpoint of the public listener does not answer 404 there.
const WRONG_DOOR: &str = "does --url name the hub's public listener?";

/// The hint for a missing or refused credential.
const WHO_ARE_YOU: &str = "--token or the variable FANFARE_TOKEN says who you are";

/// Characters that stay unescaped in a path segment (RFC 3986, "unreserved").
const SEGMENT: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');

/// The base address of a hub: `http://host:port` or `https://host:port`, optionally with a path
/// before `/v1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HubUrl {
    tls: bool,
    /// In the form for the resolver: an IPv6 address without its brackets.
    host: String,
    port: u16,
    /// In the form for the `Host` header.
    authority: String,
    /// Without a trailing slash.
    prefix: String,
}

impl FromStr for HubUrl {
    type Err = InvalidHubUrl;

    fn from_str(text: &str) -> Result<Self, InvalidHubUrl> {
        let full = if text.contains("://") { text.into() } else { format!("http://{text}") };
        let uri: Uri = full.parse().map_err(|_| InvalidHubUrl::Malformed)?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(InvalidHubUrl::Scheme),
        };
        let authority = uri.authority().ok_or(InvalidHubUrl::Malformed)?;
        if authority.host().is_empty() || authority.as_str().contains('@') {
            return Err(InvalidHubUrl::Malformed);
        }
        if uri.query().is_some() || text.contains('#') {
            return Err(InvalidHubUrl::Query);
        }
        Ok(Self {
            tls,
            host: authority.host().trim_matches(['[', ']']).into(),
            port: authority.port_u16().unwrap_or(if tls { 443 } else { 80 }),
            authority: authority.as_str().into(),
            prefix: uri.path().trim_end_matches('/').into(),
        })
    }
}

impl fmt::Display for HubUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority, self.prefix)
    }
}

impl From<std::net::SocketAddr> for HubUrl {
    fn from(addr: std::net::SocketAddr) -> Self {
        Self {
            tls: false,
            host: addr.ip().to_string(),
            port: addr.port(),
            authority: addr.to_string(),
            prefix: String::new(),
        }
    }
}

/// The hub and the credential for it.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct HubAddress {
    /// The hub
    #[arg(long, value_name = "URL", env = "FANFARE_URL", default_value = DEFAULT_URL)]
    pub(super) url: HubUrl,
    /// A token or an API key, for a hub that asks who you are
    #[arg(long, value_name = "TOKEN", env = "FANFARE_TOKEN", hide_env_values = true)]
    pub(super) token: Option<String>,
    #[command(flatten)]
    pub(super) trust: Trust,
}

/// The trusted certificates.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Trust {
    /// For https: trust the certificates of this file, in PEM, and not those of this machine
    #[arg(long, value_name = "FILE")]
    cacert: Option<PathBuf>,
}

/// An error in the address of a hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidHubUrl {
    #[error("not a URL: give the hub's address, such as {DEFAULT_URL}")]
    Malformed,
    #[error("only http:// and https:// addresses are understood, such as {DEFAULT_URL}")]
    Scheme,
    #[error("give the hub's base address only, without `?` or `#`: such as {DEFAULT_URL}")]
    Query,
}

/// Returns the path of a channel, relative to the hub's address.
pub(super) fn channel_path(name: &str) -> String {
    format!("/v1/channels/{}", utf8_percent_encode(name, SEGMENT))
}

/// A request body.
pub(super) type RequestBody = UnsyncBoxBody<Bytes, Infallible>;

/// Creates a body from complete bytes.
pub(super) fn full(bytes: impl Into<Bytes>) -> RequestBody {
    Full::new(bytes.into()).boxed_unsync()
}

/// Creates a body that is written while it is sent. It ends when the sender is dropped.
pub(super) fn streamed() -> (mpsc::Sender<Bytes>, RequestBody) {
    let (sender, receiver) = mpsc::channel(BODY_PIECES);
    (sender, Streamed(receiver).boxed_unsync())
}

struct Streamed(mpsc::Receiver<Bytes>);

impl Body for Streamed {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// Sends requests to one hub, each on its own connection.
#[derive(Clone, Debug)]
pub(super) struct HttpClient {
    url: HubUrl,
    token: Option<String>,
    trust: Trust,
}

impl HttpClient {
    pub(super) fn new(url: HubUrl, trust: Trust) -> Self {
        Self { url, token: None, trust }
    }

    pub(super) fn of(hub: &HubAddress) -> Self {
        Self { url: hub.url.clone(), token: hub.token.clone(), trust: hub.trust.clone() }
    }

    pub(super) fn url(&self) -> &HubUrl {
        &self.url
    }

    /// Requests a document. A response other than 2xx is an error.
    pub(super) async fn get(&self, path: &str) -> Result<Reply, ClientError> {
        let request = Request::get(path);
        self.send(request, full(Bytes::new())).await?.succeeded().await
    }

    /// Requests the head of a document. Any status is a success.
    pub(super) async fn head(&self, path: &str) -> Result<Reply, ClientError> {
        let request = Request::builder().method(Method::HEAD).uri(path);
        self.send(request, full(Bytes::new())).await
    }

    /// Sends a request on its own connection, and returns when the head of the response is there,
    /// which may be before the body has been sent. `path` is relative to the hub's address.
    pub(super) async fn send(
        &self,
        request: request::Builder,
        body: RequestBody,
    ) -> Result<Reply, ClientError> {
        let request = self.addressed(request, body)?;
        let mut connection = self.open().await?;
        let response = connection.sender.send_request(request).await?;
        Ok(Reply { response, _connection: Some(connection.task) })
    }

    /// Adds the hub's address and the credential to the request.
    fn addressed(
        &self,
        request: request::Builder,
        body: RequestBody,
    ) -> Result<Request<RequestBody>, ClientError> {
        let request = match &self.token {
            Some(token) => request.header(header::AUTHORIZATION, format!("Bearer {token}")),
            None => request,
        };
        let mut request = request
            .header(header::HOST, &self.url.authority)
            .header(header::USER_AGENT, concat!("fanfare/", env!("CARGO_PKG_VERSION")))
            .body(body)
            .map_err(ClientError::Request)?;
        if !self.url.prefix.is_empty() {
            let full_path = format!("{}{}", self.url.prefix, request.uri());
            *request.uri_mut() = full_path
                .parse()
                .map_err(|error| ClientError::Request(http::Error::from(error)))?;
        }
        Ok(request)
    }

    async fn open(&self) -> Result<ClientConnection, ClientError> {
        let stream = self.connect().await?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // The request on this connection reports the connection's error.
        let task = tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(ClientConnection { sender, task: Task(task.abort_handle()) })
    }

    async fn connect(&self) -> Result<Box<dyn ClientStream>, ClientError> {
        let stream = self.connect_plain().await?;
        if !self.url.tls {
            return Ok(Box::new(stream));
        }
        let no_tls = |why: String| ClientError::NoTls { url: self.url.to_string(), why };
        let unreachable = |cause| ClientError::Unreachable { url: self.url.to_string(), cause };
        let trusting = match &self.trust.cacert {
            Some(path) => {
                trusting_file(path).map_err(|error| no_tls(format!("--cacert: {error}")))?
            }
            None => trusting(true).map_err(|error| no_tls(error.to_string()))?,
        };
        let name = ServerName::try_from(self.url.host.clone());
        let name = name.map_err(|error| no_tls(error.to_string()))?;
        let stream = TlsConnector::from(Arc::new(trusting)).connect(name, stream);
        let late = |_| unreachable(io::ErrorKind::TimedOut.into());
        match timeout(CONNECT_TIMEOUT, stream).await.map_err(late)? {
            Ok(stream) => Ok(Box::new(stream)),
            Err(error) => match error.get_ref().and_then(|inner| inner.downcast_ref()) {
                Some(refusal) => Err(no_tls(self.without_trust(refusal))),
                None => Err(unreachable(error)),
            },
        }
    }

    /// Explains a failed TLS handshake, with a remedy.
    fn without_trust(&self, error: &TlsError) -> String {
        match error {
            TlsError::InvalidCertificate(certificate) => match certificate {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "its certificate has expired".into()
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    "its certificate is not valid yet".into()
                }
                CertificateError::NotValidForName
                | CertificateError::NotValidForNameContext { .. } => {
                    format!(
                        "its certificate is not for `{}`: use a name that it has",
                        self.url.host
                    )
                }
                // A self-signed certificate is "other"; a bad signature comes from an authority
                // with the same name as the right one.
                CertificateError::UnknownIssuer
                | CertificateError::BadSignature
                | CertificateError::Other(_) => {
                    let who = match &self.trust.cacert {
                        Some(path) => format!("by {}", path.display()),
                        None => "by this machine; --cacert FILE names certificates to trust".into(),
                    };
                    format!("its certificate is not trusted {who}")
                }
                _ => format!("its certificate cannot be used: {error}"),
            },
            TlsError::InvalidMessage(_) => {
                "what answers does not speak TLS: without it, the address begins with http://"
                    .into()
            }
            TlsError::AlertReceived(alert) => format!("it refused the handshake: {alert:?}"),
            other => other.to_string(),
        }
    }

    async fn connect_plain(&self) -> Result<TcpStream, ClientError> {
        let address = (self.url.host.as_str(), self.url.port);
        let unreachable = |cause| ClientError::Unreachable { url: self.url.to_string(), cause };
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(address))
            .await
            .map_err(|_| unreachable(std::io::ErrorKind::TimedOut.into()))?
            .map_err(unreachable)?;
        stream.set_nodelay(true).map_err(unreachable)?; // sends each token at once
        // A vanished peer is detected by unacknowledged writes: a heartbeat, at the latest.
        SockRef::from(&stream).set_tcp_user_timeout(Some(UNACKNOWLEDGED)).map_err(unreachable)?;
        Ok(stream)
    }
}

/// A plain or TLS connection.
trait ClientStream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> ClientStream for T {}

/// An HTTP connection and its driver task.
#[derive(Debug)]
struct ClientConnection {
    sender: SendRequest<RequestBody>,
    task: Task,
}

/// Sends requests to one hub over one connection, and reconnects when that has ended. For commands
/// that send thousands of requests: a connection each would use up the machine's ports.
#[derive(Debug)]
pub(super) struct Session {
    client: HttpClient,
    connection: Option<ClientConnection>,
}

impl Session {
    pub(super) fn new(client: HttpClient) -> Self {
        Self { client, connection: None }
    }

    /// Returns whether the next request reuses a connection.
    pub(super) fn is_open(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| !connection.sender.is_closed())
    }

    /// Sends a request and reads its response, of up to `most` bytes. After an error the next
    /// request has a new connection, because this one may still carry the rest of the response.
    pub(super) async fn exchange(
        &mut self,
        request: request::Builder,
        body: Bytes,
        most: usize,
    ) -> Result<ClientAnswer, ClientError> {
        let request = self.client.addressed(request, full(body))?;
        let usable = self.connection.take().filter(|it| !it.sender.is_closed());
        let mut connection = match usable {
            Some(connection) => connection,
            None => self.client.open().await?,
        };
        connection.sender.ready().await?;
        let response = connection.sender.send_request(request).await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let reply = Reply { response, _connection: None };
        // The response to a HEAD has no body to explain it.
        let text = if status == StatusCode::NOT_FOUND {
            reply.text().await?
        } else {
            reply.succeeded().await?.text_within(most).await?
        };
        self.connection = Some(connection);
        Ok(ClientAnswer { status, headers, text })
    }
}

/// A complete response: a success or a 404.
#[derive(Debug)]
pub(super) struct ClientAnswer {
    status: StatusCode,
    headers: HeaderMap,
    pub(super) text: String,
}

impl ClientAnswer {
    /// Returns a success, and a 404 as an error.
    pub(super) fn found(self) -> Result<Self, ClientError> {
        if self.is_found() {
            return Ok(self);
        }
        Err(ClientError::Refused(Box::new(ProblemDocument::read(self.status, &self.text))))
    }

    pub(super) fn is_found(&self) -> bool {
        self.status != StatusCode::NOT_FOUND
    }

    /// Returns a header, if it is present and is text.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// The response to a request. Dropping it closes the connection, if it has its own.
#[derive(Debug)]
pub(super) struct Reply {
    response: Response<Incoming>,
    _connection: Option<Task>,
}

impl Reply {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// Returns a header, if it is present and is text.
    pub(super) fn header(&self, name: impl header::AsHeaderName) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    /// Converts a response other than 2xx into the error that it describes.
    pub(super) async fn succeeded(self) -> Result<Self, ClientError> {
        let status = self.status();
        if status.is_success() {
            return Ok(self);
        }
        let retry_after = self.header(header::RETRY_AFTER).and_then(|text| text.parse().ok());
        let body = self.text().await.unwrap_or_default(); // the status alone is informative
        Err(ClientError::Refused(Box::new(ProblemDocument {
            retry_after: retry_after.map(Duration::from_secs),
            ..ProblemDocument::read(status, &body)
        })))
    }

    /// Reads the rest of the body as text.
    pub(super) async fn text(self) -> Result<String, ClientError> {
        self.text_within(MAX_ANSWER_BYTES).await
    }

    /// Reads the rest of the body as text, of up to `most` bytes.
    async fn text_within(self, most: usize) -> Result<String, ClientError> {
        let body = Limited::new(self.response.into_body(), most);
        match body.collect().await {
            Ok(body) => Ok(String::from_utf8_lossy(&body.to_bytes()).into_owned()),
            Err(error) => Err(ClientError::Truncated(error)),
        }
    }

    /// Returns the next piece of the body; `None` at its end. Cancel safe.
    pub(super) async fn piece(&mut self) -> Result<Option<Bytes>, ClientError> {
        while let Some(frame) = self.response.body_mut().frame().await {
            if let Ok(data) = frame?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

/// The driver task of a connection. Dropping it closes the socket at once, even with unsent or
/// unread data.
#[derive(Debug)]
struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A problem document of the hub (RFC 9457).
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ProblemDocument {
    status: u16,
    title: Option<String>,
    detail: Option<String>,
    /// The stable code of the problem.
    pub(super) code: Option<String>,
    retryable: Option<bool>,
    /// The number of events of a streamed publish that the hub kept.
    pub(super) events: Option<u64>,
    /// The id of the last event that the hub kept.
    pub(super) last_id: Option<String>,
    /// The line of the body that was wrong.
    pub(super) line: Option<u64>,
    /// From the `Retry-After` header.
    #[serde(skip)]
    pub(super) retry_after: Option<Duration>,
}

impl ProblemDocument {
    fn read(status: StatusCode, body: &str) -> Self {
        let mut problem: Self = serde_json::from_str(body).unwrap_or_else(|_| {
            let detail = body.trim().lines().next().unwrap_or_default().chars().take(200).collect();
            Self {
                detail: Some(detail).filter(|text: &String| !text.is_empty()),
                ..Self::default()
            }
        });
        problem.status = status.as_u16();
        problem
    }

    /// Returns whether the same request may succeed later.
    fn is_transient(&self) -> bool {
        self.retryable.unwrap_or(self.status >= 500 || self.status == 429)
    }
}

impl ProblemDocument {
    /// Returns the error alone, without the line of the body and the number of events that were
    /// kept.
    pub(super) fn sentence(&self) -> String {
        let status = StatusCode::from_u16(self.status).ok();
        let reason = status.and_then(|status| status.canonical_reason()).unwrap_or("refused");
        let sentence = self.detail.as_deref().or(self.title.as_deref()).unwrap_or(reason);
        let place = self.line.map(|line| format!("line {line}: ")).unwrap_or_default();
        let sentence = sentence.strip_prefix(&place).unwrap_or(sentence);
        match &self.code {
            Some(code) => format!("{sentence} ({code}, HTTP {})", self.status),
            None => format!("{sentence} (HTTP {})", self.status),
        }
    }
}

impl fmt::Display for ProblemDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        write!(f, "{}", self.sentence())?;
        match (self.events, &self.last_id) {
            (Some(0), _) => write!(f, "; no event was kept"),
            (Some(1), Some(id)) => write!(f, "; 1 event was kept: {id}"),
            (Some(n), Some(id)) => write!(f, "; {n} events were kept, up to {id}"),
            (Some(n), None) => write!(f, "; {n} events were kept"),
            (None, _) => Ok(()),
        }
    }
}

/// A failed request. Each message is complete: no source has to be printed as well.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClientError {
    /// The connection failed.
    #[error("cannot reach a hub at {url}: {}", plain(cause))]
    Unreachable { url: String, cause: std::io::Error },
    /// The TLS handshake failed.
    #[error("no secure connection to the hub at {url}: {why}")]
    NoTls { url: String, why: String },
    /// The response is not HTTP.
    #[error("what answers does not speak HTTP: with TLS, the address begins with https://")]
    NotHttp,
    /// The response is an error.
    #[error("the hub refused: {0}")]
    Refused(Box<ProblemDocument>),
    /// A success of the wrong media type.
    #[error("{0} does not answer like a Fanfare hub: {1}")]
    Foreign(String, String),
    /// The connection broke in the middle of the exchange.
    #[error("the connection to the hub broke: {}", what_broke(.0))]
    Broken(hyper::Error),
    /// The response ended in the middle, or exceeded its limit.
    #[error("the hub's answer is incomplete: {}", innermost(.0.as_ref()))]
    Truncated(Box<dyn std::error::Error + Send + Sync>),
    /// No data for too long.
    #[error("the hub said nothing for {}", humantime::format_duration(*.0))]
    Silent(Duration),
    /// An invalid event stream.
    #[error("the hub's event stream cannot be read: {0}")]
    Stream(crate::sse::ParseError),
    /// An invalid request.
    #[error("this request cannot be sent: {0}")]
    Request(http::Error),
}

impl From<hyper::Error> for ClientError {
    fn from(error: hyper::Error) -> Self {
        if error.is_parse() { Self::NotHttp } else { Self::Broken(error) }
    }
}

impl From<crate::sse::ParseError> for ClientError {
    fn from(error: crate::sse::ParseError) -> Self {
        Self::Stream(error)
    }
}

impl ClientError {
    /// Returns a remedy, if one is known.
    pub(super) fn hint(&self) -> Option<&'static str> {
        match self {
            Self::Unreachable { cause, .. }
                if cause.kind() == std::io::ErrorKind::ConnectionRefused =>
            {
                Some("`fanfare serve` starts a hub; --url names another one")
            }
            Self::Foreign(..) => Some(WRONG_DOOR),
            Self::Refused(problem) if problem.status == 404 => Some(WRONG_DOOR),
            Self::Refused(problem) if problem.status == 401 => Some(WHO_ARE_YOU),
            _ => None,
        }
    }

    /// Returns whether the error concerns the requested resource, and not the hub or the
    /// credential.
    pub(super) fn is_about_request(&self) -> bool {
        matches!(self, Self::Refused(problem) if !matches!(problem.status, 401 | 404))
    }

    /// Returns whether a retry may succeed.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Broken(_) | Self::Truncated(_) | Self::Silent(_) => {
                true
            }
            Self::Refused(problem) => problem.is_transient(),
            Self::NoTls { .. }
            | Self::NotHttp
            | Self::Foreign(..)
            | Self::Stream(_)
            | Self::Request(_) => false,
        }
    }

    /// Returns the stable code of a refusal.
    pub(super) fn code(&self) -> Option<&str> {
        match self {
            Self::Refused(problem) => problem.code.as_deref(),
            _ => None,
        }
    }

    /// Returns the delay that the hub requested before a retry.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused(problem) => problem.retry_after,
            _ => None,
        }
    }
}

/// Returns the part of an I/O error that a user can act on, without the number.
fn plain(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connection refused".into(),
        std::io::ErrorKind::ConnectionReset => "it was reset".into(),
        std::io::ErrorKind::TimedOut => "no answer from that address".into(),
        std::io::ErrorKind::UnexpectedEof => "it was closed in the middle".into(),
        _ => error.to_string(),
    }
}

fn what_broke(error: &hyper::Error) -> String {
    if error.is_incomplete_message() {
        "it was closed without an answer".into()
    } else {
        innermost(error)
    }
}

/// Returns the innermost error: hyper wraps it in its own.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    match error.downcast_ref::<std::io::Error>() {
        Some(io) => plain(io),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_host_port_and_perhaps_a_path() {
        for (text, host, port, shown) in [
            ("http://127.0.0.1:4100", "127.0.0.1", 4100, "http://127.0.0.1:4100"),
            ("http://hub.example/", "hub.example", 80, "http://hub.example"),
            ("hub:4100", "hub", 4100, "http://hub:4100"),
            ("http://[::1]:4100", "::1", 4100, "http://[::1]:4100"),
            ("http://hub/sse/", "hub", 80, "http://hub/sse"),
        ] {
            let url: HubUrl = text.parse().unwrap();
            assert_eq!((url.host.as_str(), url.port), (host, port), "{text}");
            assert_eq!(url.to_string(), shown);
        }
    }

    #[test]
    fn an_address_that_is_none_is_told_why() {
        for (text, why) in [
            ("ftp://hub", InvalidHubUrl::Scheme),
            ("http://hub/?a=b", InvalidHubUrl::Query),
            ("http://hub/#a", InvalidHubUrl::Query),
            ("http://me@hub/", InvalidHubUrl::Malformed),
            ("", InvalidHubUrl::Malformed),
            ("a b", InvalidHubUrl::Malformed),
        ] {
            assert_eq!(text.parse::<HubUrl>(), Err(why), "{text:?}");
        }
    }

    #[test]
    fn a_channel_name_is_percent_encoded_by_segment() {
        assert_eq!(channel_path("chat/42"), "/v1/channels/chat/42");
        assert_eq!(channel_path("a b/ü?#%"), "/v1/channels/a%20b/%C3%BC%3F%23%25");
    }

    #[test]
    fn a_problem_reads_like_a_sentence() {
        let body = r#"{"title":"Channel closed","status":409,"detail":"`chat/42` is closed",
            "code":"channel_closed","retryable":false,"events":3,"last_id":"e-3"}"#;
        let problem = ProblemDocument::read(StatusCode::CONFLICT, body);
        assert!(!problem.is_transient());
        assert_eq!(
            problem.to_string(),
            "`chat/42` is closed (channel_closed, HTTP 409); 3 events were kept, up to e-3"
        );
    }

    #[test]
    fn an_answer_that_is_no_problem_document_is_told_as_it_is() {
        let problem = ProblemDocument::read(StatusCode::BAD_GATEWAY, "upstream is gone\nmore");
        assert_eq!(problem.to_string(), "upstream is gone (HTTP 502)");
        assert!(problem.is_transient());
        let problem = ProblemDocument::read(StatusCode::NOT_FOUND, "");
        assert_eq!(problem.to_string(), "Not Found (HTTP 404)");
        assert!(!problem.is_transient());
    }
}
