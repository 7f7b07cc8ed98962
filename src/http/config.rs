//! Settings of the section `server`.

use std::net::SocketAddr;
use std::time::Duration;

use bytesize::ByteSize;
use serde::de::{Error as _, Unexpected};
use serde::{Deserialize, Deserializer, Serialize};

use super::hosts::Hosts;
use super::networks::Networks;
use super::proxy::ForwardedHeader;

/// Settings of the section `server`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The address that publishers and subscribers connect to.
    #[serde(deserialize_with = "address")]
    pub listen: SocketAddr,
    /// The address that operators connect to, for metrics and channel lists.
    #[serde(deserialize_with = "address")]
    pub admin_listen: SocketAddr,
    /// Whether the hub may listen on a public address without asking for credentials.
    pub insecure: bool,
    /// Names by which the hub may be called as long as it asks for no credentials, in addition to
    /// addresses and `localhost`.
    pub hosts: Hosts,
    /// Open connections on the public listener.
    pub max_connections: usize,
    /// Time in which the head of a request must arrive, also of the next one on a connection.
    #[serde(with = "humantime_serde")]
    pub header_timeout: Duration,
    /// Time in which a body that is one document, or one event, must arrive.
    #[serde(with = "humantime_serde")]
    pub body_timeout: Duration,
    /// Bytes in the head of a request, at least 8 KiB.
    pub max_header_bytes: ByteSize,
    /// Header lines in a request.
    pub max_headers: usize,
    /// Requests, and so subscriptions, that one HTTP/2 connection may have open.
    pub max_h2_streams: u32,
    /// Threads that serve requests; zero for one per core.
    pub workers: usize,
    /// Proxies that are trusted to forward the client's address.
    pub trusted_proxies: Networks,
    /// The header in which they forward it.
    pub forwarded_header: ForwardedHeader,
    /// Whether connections to the public listener begin with a PROXY header.
    pub proxy_protocol: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 4100)),
            admin_listen: SocketAddr::from(([127, 0, 0, 1], 4101)),
            insecure: false,
            hosts: Hosts::default(),
            max_connections: 20_000,
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            max_header_bytes: ByteSize::kib(32),
            max_headers: 100,
            max_h2_streams: 256,
            workers: 0,
            trusted_proxies: Networks::default(),
            forwarded_header: ForwardedHeader::default(),
            proxy_protocol: false,
        }
    }
}

/// Reads a listening address. Of names, only `localhost` is known: others can change their address.
fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    let port = text.strip_prefix("localhost:").and_then(|port| port.parse().ok());
    if let Some(port) = port {
        return Ok(SocketAddr::from(([127, 0, 0, 1], port)));
    }
    let expected = &"an address and a port: \"127.0.0.1:4100\" for this machine alone, \
                     \"0.0.0.0:4100\" or \"[::]:4100\" for all";
    text.parse().map_err(|_| D::Error::invalid_value(Unexpected::Str(&text), expected))
}
