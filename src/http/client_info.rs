//! The client of a request.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Extensions;

use crate::egress::Link;

/// The client of a request; handlers find it among the request's extensions.
#[derive(Clone, Debug)]
pub struct ClientInfo {
    /// The address that the request came from: that of the connection, or the one that a trusted
    /// proxy forwarded. The port is zero if the proxy did not send it.
    pub peer: SocketAddr,
    /// The client speaks TLS: with the hub, or with a trusted proxy that said so.
    #[cfg_attr(not(any(test, feature = "internals")), expect(dead_code))]
    // read by tests alone
    pub secure: bool,
    /// The link of the connection; in HTTP/2, of the request's stream.
    pub link: Arc<Link>,
    /// Time in which a body that is one document must arrive.
    pub body_timeout: Duration,
}

impl ClientInfo {
    /// Returns the link of a request's connection.
    #[must_use]
    pub fn link_of(extensions: &Extensions) -> Option<Arc<Link>> {
        extensions.get::<Self>().map(|client| client.link.clone())
    }
}
