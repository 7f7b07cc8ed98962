//! Self-signed certificates, and clients that trust only them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore, SupportedProtocolVersion};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::within;

/// A certificate and its key in files, which are deleted when the value is dropped.
pub(crate) struct Identity {
    folder: tempfile::TempDir,
    certificate: CertificateDer<'static>,
}

impl Identity {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut identity = Self { folder, certificate: CertificateDer::from(Vec::new()) };
        identity.renew();
        identity
    }

    /// Replaces the certificate, in the same files.
    pub(crate) fn renew(&mut self) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
        let made = made.expect("a certificate");
        std::fs::write(self.cert(), made.cert.pem()).expect("a file");
        std::fs::write(self.key(), made.signing_key.serialize_pem()).expect("a file");
        self.certificate = made.cert.der().clone();
    }

    pub(crate) fn cert(&self) -> PathBuf {
        self.folder.path().join("cert.pem")
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.folder.path().join("key.pem")
    }

    /// Returns the settings of a hub that uses it.
    pub(crate) fn settings(&self) -> String {
        settings(&self.cert(), &self.key())
    }

    /// Returns a client that trusts only it, and speaks this protocol: `h2` or `http/1.1`.
    pub(crate) fn client(&self, protocol: &str) -> TlsClient {
        self.client_of(protocol, rustls::ALL_VERSIONS)
    }

    /// Returns a client that trusts only it, with this protocol and these versions of TLS.
    pub(crate) fn client_of(
        &self,
        protocol: &str,
        versions: &[&'static SupportedProtocolVersion],
    ) -> TlsClient {
        let mut trusted = RootCertStore::empty();
        trusted.add(self.certificate.clone()).expect("a certificate");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(trusted)
            .with_no_client_auth();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        TlsClient { protocol: protocol.to_owned(), config: Arc::new(config) }
    }
}

/// Returns the settings of a hub with these files.
pub(crate) fn settings(cert: &std::path::Path, key: &std::path::Path) -> String {
    format!("tls.cert = \"{}\"\ntls.key = \"{}\"\n", cert.display(), key.display())
}

/// A TLS client of [`Identity::client`], which caches sessions.
pub(crate) struct TlsClient {
    protocol: String,
    config: Arc<ClientConfig>,
}

impl TlsClient {
    /// Opens a connection, or returns why it failed.
    pub(crate) async fn try_connect(
        &self,
        to: SocketAddr,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        self.try_connect_after(b"", to).await
    }

    async fn try_connect_after(
        &self,
        header: &[u8],
        to: SocketAddr,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let mut tcp = within("a connection", TcpStream::connect(to)).await?;
        tcp.set_nodelay(true)?;
        tcp.write_all(header).await?;
        let name = ServerName::try_from("localhost").expect("a name");
        let connector = TlsConnector::from(self.config.clone());
        within("a handshake", connector.connect(name, tcp)).await
    }

    /// Opens a connection that speaks the protocol.
    pub(crate) async fn connect(&self, to: SocketAddr) -> TlsStream<TcpStream> {
        let stream = self.try_connect(to).await.expect("a handshake");
        let agreed = stream.get_ref().1.alpn_protocol();
        assert_eq!(agreed, Some(self.protocol.as_bytes()), "the protocol that was asked for");
        stream
    }

    /// Opens a connection for requests.
    pub(crate) async fn requests(&self, to: SocketAddr) -> Requests {
        Requests::over(self.connect(to).await, &self.protocol).await
    }

    /// Opens a connection for requests, with these bytes before the handshake.
    pub(crate) async fn requests_after(&self, header: &[u8], to: SocketAddr) -> Requests {
        let stream = self.try_connect_after(header, to).await.expect("a handshake");
        Requests::over(stream, &self.protocol).await
    }
}

/// Returns whether the handshake was abbreviated.
pub(crate) fn was_resumed(stream: &TlsStream<TcpStream>) -> bool {
    stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed)
}

/// A connection for requests.
pub(crate) enum Requests {
    One(http1::SendRequest<Full<Bytes>>),
    Two(http2::SendRequest<Full<Bytes>>),
}

impl Requests {
    async fn over(stream: TlsStream<TcpStream>, protocol: &str) -> Self {
        let io = TokioIo::new(stream);
        if protocol == "h2" {
            let (sender, connection) =
                http2::handshake(TokioExecutor::new(), io).await.expect("HTTP/2");
            tokio::spawn(connection);
            return Self::Two(sender);
        }
        let (sender, connection) = http1::handshake(io).await.expect("HTTP/1.1");
        tokio::spawn(connection);
        Self::One(sender)
    }

    /// Sends a request, and reads the head of the answer.
    pub(crate) async fn ask(
        &mut self,
        method: &str,
        to: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> hyper::Response<Incoming> {
        let mut request = hyper::Request::builder().method(method);
        request = match self {
            Self::One(_) => request.uri(to).header("Host", "localhost"),
            Self::Two(_) => request.uri(format!("https://localhost{to}")),
        };
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::from(body.to_owned())).expect("a request");
        let answer = async {
            match self {
                Self::One(sender) => sender.send_request(request).await,
                Self::Two(sender) => sender.send_request(request).await,
            }
        };
        within("an answer", answer).await.expect("an answer")
    }

    /// Publishes one event; returns its id.
    pub(crate) async fn publish(&mut self, channel: &str, data: &str) -> String {
        let to = format!("/v1/channels/{channel}");
        let answer = self.ask("POST", &to, &[("Content-Type", "text/plain")], data).await;
        assert_eq!(answer.status(), 200);
        let receipt = answer.into_body().collect().await.expect("a receipt").to_bytes();
        let receipt: serde_json::Value = serde_json::from_slice(&receipt).expect("JSON");
        receipt["last_id"].as_str().expect("an id").to_owned()
    }

    /// Subscribes, and waits until no published event is missed.
    pub(crate) async fn subscribe(&mut self, channel: &str, headers: &[(&str, &str)]) -> Stream {
        let answer = self.ask("GET", &format!("/v1/channels/{channel}"), headers, "").await;
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["content-type"], "text/event-stream; charset=utf-8");
        let mut stream = Stream { body: answer.into_body(), text: String::new() };
        stream.until("id: ").await;
        stream
    }
}

/// The body of an event stream.
pub(crate) struct Stream {
    body: Incoming,
    pub(crate) text: String,
}

impl Stream {
    /// Reads until the text so far contains this.
    pub(crate) async fn until(&mut self, wanted: &str) {
        while !self.text.contains(wanted) {
            let more = self.more().await;
            assert!(more, "the stream ended without {wanted:?}: {:?}", self.text);
        }
    }

    /// Reads to the proper end.
    pub(crate) async fn end(&mut self) {
        while self.more().await {}
    }

    async fn more(&mut self) -> bool {
        match within("more of the stream", self.body.frame()).await {
            Some(frame) => {
                let frame = frame.expect("a proper end, not a broken connection");
                let bytes = frame.into_data().unwrap_or_default();
                self.text.push_str(std::str::from_utf8(&bytes).expect("text"));
                true
            }
            None => false,
        }
    }
}
