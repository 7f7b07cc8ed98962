//! The address of a hub.

use std::fmt;
use std::str::FromStr;

use http::Uri;
use http::uri::Authority;

/// The default address of a hub.
pub const DEFAULT_URL: &str = "http://127.0.0.1:4100";

/// The base address of a hub: `http://host:port` or `https://host:port`, optionally with a path
/// before `/v1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubUrl {
    tls: bool,
    authority: Authority,
    /// Without a trailing slash.
    prefix: String,
}

/// The reason for which a text is not the address of a hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHubUrl {
    /// Not a URL, or one with a user's name.
    #[error("not a URL: give the hub's address, such as {DEFAULT_URL}")]
    Malformed,
    /// Neither HTTP nor HTTPS.
    #[error("only http:// and https:// addresses are understood, such as {DEFAULT_URL}")]
    Scheme,
    /// A query or a fragment.
    #[error("give the hub's base address only, without `?` or `#`: such as {DEFAULT_URL}")]
    Query,
}

impl HubUrl {
    /// Returns whether the hub is addressed over TLS.
    pub(crate) fn is_tls(&self) -> bool {
        self.tls
    }

    /// Returns the name or the IP address of the hub's machine.
    pub(crate) fn host(&self) -> &str {
        self.authority.host().trim_matches(['[', ']'])
    }

    /// Returns the URI of a path and query below the hub's address.
    pub(crate) fn join(&self, path: &str) -> Result<Uri, http::Error> {
        let scheme = if self.tls { "https" } else { "http" };
        Uri::builder()
            .scheme(scheme)
            .authority(self.authority.clone())
            .path_and_query(format!("{}{path}", self.prefix))
            .build()
    }
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
            authority: authority.clone(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_host_port_and_perhaps_a_path() {
        for (text, host, uri, shown) in [
            (
                "http://127.0.0.1:4100",
                "127.0.0.1",
                "http://127.0.0.1:4100/v1",
                "http://127.0.0.1:4100",
            ),
            ("http://hub.example/", "hub.example", "http://hub.example/v1", "http://hub.example"),
            ("hub:4100", "hub", "http://hub:4100/v1", "http://hub:4100"),
            ("http://[::1]:4100", "::1", "http://[::1]:4100/v1", "http://[::1]:4100"),
            ("http://hub/sse/", "hub", "http://hub/sse/v1", "http://hub/sse"),
        ] {
            let url: HubUrl = text.parse().unwrap();
            assert_eq!((url.host(), url.join("/v1").unwrap().to_string().as_str()), (host, uri));
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
}
