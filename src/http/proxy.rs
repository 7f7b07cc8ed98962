//! The client's address, as forwarded by trusted proxies.
//!
//! A load balancer sends it once per connection, before everything else (the PROXY protocol,
//! versions 1 and 2). An HTTP proxy sends it with each request, in a header.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, header};
use proxy_header::{Error as HeaderError, ParseConfig, Protocol, ProxyHeader};
use serde::{Deserialize, Serialize};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use super::networks::Networks;
use super::peek::peek;
use crate::telemetry::Metrics;

/// Bytes of a PROXY header, with its extensions. No known one is nearly as long.
const MAX_PROXY_HEADER: usize = 4 * 1024;

/// Bytes of a header of version 1, which is a line of text.
const MAX_PROXY_LINE: usize = 107;

/// The header in which HTTP proxies forward the client's address. The other one is not read: it
/// may come from the client, through a proxy that does not know it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedHeader {
    /// `X-Forwarded-For` and `X-Forwarded-Proto`, which most proxies write.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// The proxies that are trusted, and how they forward the client. A clone is a cheap handle.
#[derive(Clone)]
pub struct Proxies {
    trusted: Arc<Networks>,
    /// Connections begin with a PROXY header.
    protocol: bool,
    header: ForwardedHeader,
    metrics: Arc<Metrics>,
}

/// The client that a connection or request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// The client's address. The port is zero if a header did not have it.
    pub(super) peer: SocketAddr,
    /// The client speaks TLS, with the hub or with a proxy that said so.
    pub(super) secure: bool,
}

impl Proxies {
    /// Trusts these networks, in this header or in the PROXY header of each connection.
    #[must_use]
    pub fn new(
        trusted: Networks,
        protocol: bool,
        header: ForwardedHeader,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { trusted: Arc::new(trusted), protocol, header, metrics }
    }

    /// Trusts no proxy.
    #[must_use]
    pub fn none(metrics: Arc<Metrics>) -> Self {
        Self::new(Networks::default(), false, ForwardedHeader::default(), metrics)
    }

    /// Returns whether a connection from this address may be a proxy's.
    pub(super) fn trust(&self, address: IpAddr) -> bool {
        self.trusted.contain(address)
    }

    /// Returns the client that opened the connection. Reads the PROXY header, if there must be one.
    /// The caller limits the time.
    ///
    /// # Errors
    /// The PROXY header is missing or invalid, or the peer is not trusted.
    pub(super) async fn read_peer(
        &self,
        tcp: &mut TcpStream,
        peer: SocketAddr,
    ) -> io::Result<SocketAddr> {
        if !self.protocol {
            return Ok(peer);
        }
        if !self.trusted.contain(peer.ip()) {
            self.metrics.transport_error("untrusted_proxy");
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let read = read_header(tcp).await.inspect_err(|error| {
            if error.kind() == io::ErrorKind::InvalidData {
                self.metrics.transport_error("proxy_header");
            }
        });
        Ok(read?.unwrap_or(peer))
    }

    /// Returns the client that sent a request with these headers, over this connection.
    pub(super) fn origin(&self, connection: Origin, headers: &HeaderMap) -> Origin {
        if self.trusted.is_empty() || !self.trusted.contain(connection.peer.ip()) {
            return connection;
        }
        let mut found = connection;
        if self.header == ForwardedHeader::XForwardedFor
            && let Some(secure) = scheme(last(headers, &X_FORWARDED_PROTO))
        {
            found.secure = secure;
        }
        // Each proxy appends its peer's address. So the list is read from the right, for as long as
        // the addresses are trusted: what is left of them may be forged by the client.
        for element in elements(headers, self.header.name()) {
            let Ok(hop) = Hop::parse(self.header, element) else {
                self.metrics.transport_error("forwarded");
                break;
            };
            found.secure = hop.secure.unwrap_or(found.secure);
            let Some(address) = hop.address else { break };
            found.peer = address;
            if !self.trusted.contain(address.ip()) {
                break;
            }
        }
        found
    }
}

/// The header for the scheme, next to `X-Forwarded-For`.
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The header that most proxies write.
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

impl ForwardedHeader {
    fn name(self) -> HeaderName {
        match self {
            Self::XForwardedFor => X_FORWARDED_FOR,
            Self::Forwarded => header::FORWARDED,
        }
    }
}

/// Reads exactly the header: the next byte is the client's.
async fn read_header(tcp: &mut TcpStream) -> io::Result<Option<SocketAddr>> {
    let (source, length) = peek(tcp, parse_header).await?;
    tcp.read_exact(&mut vec![0; length]).await?;
    Ok(source)
}

/// Returns the client that the header names, if any, and the length of the header; nothing while
/// the header is incomplete.
fn parse_header(bytes: &[u8]) -> io::Result<Option<(Option<SocketAddr>, usize)>> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let (header, length) = match ProxyHeader::parse(bytes, ParseConfig::default()) {
        Ok(parsed) => parsed,
        Err(HeaderError::BufferTooShort) if bytes.len() < MAX_PROXY_HEADER => return Ok(None),
        Err(_) => return Err(invalid()),
    };
    if bytes[0] == b'P' && (length > MAX_PROXY_LINE || bytes[5] != b' ') {
        return Err(invalid());
    }
    match header.proxied_address() {
        Some(proxied) if proxied.protocol != Protocol::Stream => Err(invalid()),
        Some(proxied) => Ok(Some((Some(canonical(proxied.source)), length))),
        // The proxy's own health check, or a client without an Internet address.
        None => Ok(Some((None, length))),
    }
}

/// Returns the elements of all lines of the header, from the right.
///
/// A comma always separates, also within quotes: no address has one, and a client that could open
/// a quote on the left would hide what trusted proxies write on the right.
fn elements(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(name).into_iter().rev();
    lines.flat_map(|line| line.to_str().unwrap_or("?").rsplit(','))
}

fn last<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    elements(headers, name.clone()).next()
}

fn scheme(text: Option<&str>) -> Option<bool> {
    let text = text?.trim();
    if text.eq_ignore_ascii_case("https") {
        return Some(true);
    }
    text.eq_ignore_ascii_case("http").then_some(false)
}

/// One proxy's statement about its peer.
#[derive(Debug, PartialEq, Eq)]
struct Hop {
    /// Nothing, if the proxy hides it.
    address: Option<SocketAddr>,
    secure: Option<bool>,
}

/// Error for a text that cannot be parsed.
#[derive(Debug, PartialEq, Eq)]
struct Malformed;

impl Hop {
    fn parse(header: ForwardedHeader, element: &str) -> Result<Self, Malformed> {
        match header {
            ForwardedHeader::XForwardedFor => {
                Ok(Self { address: Some(address(element.trim())?), secure: None })
            }
            ForwardedHeader::Forwarded => Self::forwarded(element),
        }
    }

    /// Parses one `forwarded-element`: pairs of a name and a token or a quoted string.
    fn forwarded(element: &str) -> Result<Self, Malformed> {
        let mut of = None;
        let mut secure = None;
        for pair in element.split(';') {
            let (name, value) = pair.trim().split_once('=').ok_or(Malformed)?;
            let value = unquoted(value)?;
            if name.eq_ignore_ascii_case("for") {
                of = if of.is_none() { Some(value) } else { return Err(Malformed) };
            } else if name.eq_ignore_ascii_case("proto") {
                secure = scheme(Some(value));
            }
        }
        let of = of.ok_or(Malformed)?;
        let hidden = of.eq_ignore_ascii_case("unknown") || of.starts_with('_');
        let address = if hidden { None } else { Some(address(of)?) };
        Ok(Self { address, secure })
    }
}

/// Returns the text without its quotes. Addresses need no escapes.
fn unquoted(text: &str) -> Result<&str, Malformed> {
    let inner = match text.strip_prefix('"') {
        Some(rest) => rest.strip_suffix('"').ok_or(Malformed)?,
        None => text,
    };
    if inner.contains(['"', '\\']) { Err(Malformed) } else { Ok(inner) }
}

/// Parses an address with or without a port: `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`,
/// `[2001:db8::1]`, `[2001:db8::1]:80`.
fn address(text: &str) -> Result<SocketAddr, Malformed> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let with_port = SocketAddr::from_str(text);
    let found = with_port.or_else(|_| IpAddr::from_str(bare).map(|ip| SocketAddr::new(ip, 0)));
    found.map(canonical).map_err(|_| Malformed)
}

/// Returns an IPv4-mapped IPv6 address as IPv4.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proxy_header::ProxiedAddress;

    use super::*;

    fn proxies(header: ForwardedHeader) -> Proxies {
        let trusted = vec!["10.0.0.0/8".to_owned(), "::1".to_owned()];
        let trusted = Networks::try_from(trusted).unwrap();
        Proxies::new(trusted, true, header, Arc::new(Metrics::new()))
    }

    fn origin(header: ForwardedHeader, from: &str, lines: &[(&'static str, &str)]) -> String {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, value.parse().unwrap());
        }
        let connection = Origin { peer: from.parse().unwrap(), secure: false };
        let found = proxies(header).origin(connection, &headers);
        format!("{}{}", found.peer, if found.secure { " secure" } else { "" })
    }

    const XFF: ForwardedHeader = ForwardedHeader::XForwardedFor;
    const RFC: ForwardedHeader = ForwardedHeader::Forwarded;
    const PROXY: &str = "10.0.0.1:5000";

    #[test]
    fn the_right_most_address_that_is_not_trusted_is_the_client() {
        for (value, client) in [
            ("192.0.2.1", "192.0.2.1:0"),
            ("192.0.2.1:77", "192.0.2.1:77"),
            ("1.1.1.1, 192.0.2.1 ,10.0.0.2", "192.0.2.1:0"),
            ("rubbish, 192.0.2.1", "192.0.2.1:0"),
            ("2001:db8::1", "[2001:db8::1]:0"),
            ("[2001:db8::1]", "[2001:db8::1]:0"),
            ("[2001:db8::1]:7", "[2001:db8::1]:7"),
            ("::ffff:192.0.2.1", "192.0.2.1:0"),
            ("10.0.0.3, 10.0.0.2", "10.0.0.3:0"),
            // An element that cannot be parsed ends the list: it is not the client.
            ("192.0.2.1, rubbish", PROXY),
            ("192.0.2.1, rubbish, 10.0.0.2", "10.0.0.2:0"),
            ("", PROXY),
            ("192.0.2.1,", PROXY),
            ("192.0.2.1:99999", PROXY),
        ] {
            assert_eq!(origin(XFF, PROXY, &[("x-forwarded-for", value)]), client, "{value:?}");
        }
    }

    #[test]
    fn forwarded_is_read_as_rfc_7239_has_it() {
        for (value, client) in [
            ("for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60:0"),
            ("For=\"[2001:db8:cafe::17]:4711\"", "[2001:db8:cafe::17]:4711"),
            ("for=192.0.2.43, for=198.51.100.17;proto=https", "198.51.100.17:0 secure"),
            ("for=192.0.2.43;proto=https, for=10.0.0.2;proto=http", "192.0.2.43:0 secure"),
            ("for=\"192.0.2.43:80\"", "192.0.2.43:80"),
            // No client is named: the last known proxy counts as the client.
            ("for=192.0.2.43, for=unknown", PROXY),
            ("for=192.0.2.43, for=\"_hidden\", for=10.0.0.2", "10.0.0.2:0"),
            // A quote that the client opened does not swallow what the proxy has written.
            ("for=\"1.1.1.1, for=192.0.2.43", "192.0.2.43:0"),
            ("for=192.0.2.43\"", PROXY),
            ("for=1.1.1.1;for=2.2.2.2", PROXY),
            ("proto=https", PROXY),
            ("192.0.2.43", PROXY),
        ] {
            assert_eq!(origin(RFC, PROXY, &[("forwarded", value)]), client, "{value:?}");
        }
    }

    #[test]
    fn only_the_header_that_is_set_is_read_and_only_from_those_who_are_trusted() {
        let both = [("forwarded", "for=1.1.1.1"), ("x-forwarded-for", "2.2.2.2")];
        assert_eq!(origin(RFC, PROXY, &both), "1.1.1.1:0");
        assert_eq!(origin(XFF, PROXY, &both), "2.2.2.2:0");
        assert_eq!(origin(XFF, "11.0.0.1:5", &both), "11.0.0.1:5");
        let lines = [("x-forwarded-for", "1.1.1.1"), ("x-forwarded-for", "2.2.2.2")];
        assert_eq!(origin(XFF, "[::1]:5", &lines), "2.2.2.2:0", "the last line is the nearest");
        let secure = [("x-forwarded-for", "2.2.2.2"), ("x-forwarded-proto", "HTTPS")];
        assert_eq!(origin(XFF, PROXY, &secure), "2.2.2.2:0 secure");
        assert_eq!(origin(XFF, "11.0.0.1:5", &secure), "11.0.0.1:5");
    }

    #[test]
    fn headers_of_the_proxy_protocol_are_read_to_their_end_and_not_further() {
        let line = b"PROXY TCP4 192.0.2.1 10.0.0.9 5100 443\r\nGET / HTTP/1.1\r\n";
        let (source, length) = parse_header(line).unwrap().unwrap();
        assert_eq!((source, length), (Some("192.0.2.1:5100".parse().unwrap()), 40));
        let (source, length) = parse_header(b"PROXY UNKNOWN\r\nGET").unwrap().unwrap();
        assert_eq!((source, length), (None, 15));
        for wrong in [
            &b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
            b"PROXYXTCP4 192.0.2.1 10.0.0.9 5100 443\r\n",
            b"PROXY TCP4 192.0.2.256 10.0.0.9 5100 443\r\n",
            b"PROXY TCP4 2001:db8::1 10.0.0.9 5100 443\r\n",
            b"PROXY TCP4 192.0.2.1 10.0.0.9 5100 70000\r\n",
            b"PROXY UDP4 192.0.2.1 10.0.0.9 5100 443\r\n",
            b"\r\n\r\n\0\r\nQUIT\n\x22\x11\0\x0c\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c",
            b"\x16\x03\x01\x02\0\x01",
        ] {
            assert!(parse_header(wrong).is_err(), "{:?}", String::from_utf8_lossy(wrong));
        }
        let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(100));
        assert!(parse_header(long.as_bytes()).is_err(), "a line of more than 107 bytes");
    }

    fn any_address() -> impl Strategy<Value = SocketAddr> {
        let v4 = any::<([u8; 4], u16)>().prop_map(|(ip, port)| SocketAddr::from((ip, port)));
        let v6 = any::<([u16; 8], u16)>().prop_map(|(ip, port)| SocketAddr::from((ip, port)));
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn what_a_proxy_writes_is_what_is_read_however_it_is_cut(
            source in any_address(), port in any::<u16>(), text in any::<bool>(),
        ) {
            let destination = SocketAddr::new(source.ip(), port);
            let header = ProxyHeader::with_address(ProxiedAddress::stream(source, destination));
            let mut bytes = Vec::new();
            if text {
                header.encode_v1(&mut bytes).unwrap();
            } else {
                header.encode_v2(&mut bytes).unwrap();
            }
            for cut in 0..bytes.len() {
                prop_assert_eq!(parse_header(&bytes[..cut]).unwrap(), None);
            }
            let length = bytes.len();
            bytes.extend_from_slice(b"\r\nthe rest");
            prop_assert_eq!(parse_header(&bytes).unwrap(), Some((Some(canonical(source)), length)));
        }

        #[test]
        fn no_bytes_make_the_proxy_protocol_panic(
            start in prop_oneof![
                Just(&b""[..]), Just(&b"PROXY "[..]), Just(&b"PROXY TCP6 "[..]),
                Just(&b"\r\n\r\n\0\r\nQUIT\n"[..]), Just(&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0"[..]),
            ],
            rest in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let bytes = [start, &rest].concat();
            if let Ok(Some((_, length))) = parse_header(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }

        #[test]
        fn no_header_makes_forwarded_panic_and_an_appended_address_is_always_found(
            text in "[ -~]{0,60}", rfc in any::<bool>(), client in any_address(),
        ) {
            prop_assume!(!proxies(RFC).trusted.contain(client.ip()));
            let (header, name) = if rfc { (RFC, "forwarded") } else { (XFF, "x-forwarded-for") };
            origin(header, PROXY, &[(name, &text)]);
            let hop = if rfc { format!("for=\"{client}\"") } else { client.to_string() };
            let found = origin(header, PROXY, &[(name, &format!("{text}, {hop}"))]);
            prop_assert_eq!(found, canonical(client).to_string());
        }
    }
}
