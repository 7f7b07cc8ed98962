//! The names by which a hub without credentials may be called.
//!
//! A browser lets a page call its own host, and the page's owner decides which address that name
//! resolves to: also to this machine (DNS rebinding). Such a request cannot hide the name.

use std::net::IpAddr;
use std::str::FromStr;

use http::uri::Authority;
use serde::{Deserialize, Serialize};

/// Names such as `hub.example.org` and `*.example.org`, or `*` for any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Hosts(Vec<String>);

/// Error for a text that is not a host name.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is not a host name: write `hub.example.org` without scheme and port, `*.example.org` \
     for all names below, or `*` for any"
)]
pub struct InvalidHost(String);

impl Hosts {
    /// Returns whether the hub may be called so: `authority` is a host, with or without a port.
    /// Addresses and the names of this machine always may: no name server answers for them.
    pub(super) fn allow(&self, authority: &str) -> bool {
        if let Some(host) = plain_host(authority) {
            return self.allow_host(host);
        }
        Authority::from_str(authority).is_ok_and(|authority| self.allow_host(authority.host()))
    }

    fn allow_host(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host);
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        let last_label = || host.rsplit('.').next().unwrap_or(host);
        IpAddr::from_str(address.unwrap_or(host)).is_ok()
            // RFC 6761, section 6.3.
            || last_label().eq_ignore_ascii_case("localhost")
            || self.0.iter().any(|name| covers(name, &host.to_ascii_lowercase()))
    }
}

/// Returns the host of an authority that is a name or an IPv4 address, with or without a port: most
/// are, and this needs no copy of it.
pub(super) fn plain_host(authority: &str) -> Option<&str> {
    let (host, port) = authority.split_once(':').unwrap_or((authority, ""));
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-');
    let is_authority = !authority.is_empty() && host.bytes().chain(port.bytes()).all(is_plain);
    is_authority.then_some(host)
}

fn covers(name: &str, host: &str) -> bool {
    match name.strip_prefix('*') {
        Some("") => true,
        // The parent keeps its dot, and must have a label before it.
        Some(parent) => host.len() > parent.len() && host.ends_with(parent),
        None => name == host,
    }
}

fn is_name(text: &str) -> bool {
    let name = text.strip_prefix("*.").unwrap_or(text);
    let label = |label: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        !label.is_empty() && label.bytes().all(plain)
    };
    text == "*" || name.split('.').all(label)
}

impl TryFrom<Vec<String>> for Hosts {
    type Error = InvalidHost;

    fn try_from(texts: Vec<String>) -> Result<Self, InvalidHost> {
        let host = |text: String| {
            let name = text.trim().to_ascii_lowercase();
            let name = name.strip_suffix('.').unwrap_or(&name);
            if is_name(name) { Ok(name.to_owned()) } else { Err(InvalidHost(text)) }
        };
        texts.into_iter().map(host).collect::<Result<_, _>>().map(Self)
    }
}

impl From<Hosts> for Vec<String> {
    fn from(hosts: Hosts) -> Self {
        hosts.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(texts: &[&str]) -> Result<Hosts, InvalidHost> {
        Hosts::try_from(texts.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn addresses_and_the_names_of_this_machine_are_always_allowed() {
        let hosts = Hosts::default();
        for host in [
            "127.0.0.1",
            "127.0.0.1:4100",
            "[::1]",
            "[::1]:4100",
            "192.0.2.7:80",
            "localhost",
            "LocalHost:4100",
            "localhost.",
            "app.localhost:5173",
        ] {
            assert!(hosts.allow(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:4100",
            "localhost.evil.example",
            "notlocalhost",
            "127.0.0.1.evil.example",
            "1.2.3",
            "a b",
            "hub,localhost",
            ":4100",
            "user@evil.example",
        ] {
            assert!(!hosts.allow(host), "{host}");
        }
    }

    #[test]
    fn a_host_that_is_found_without_a_copy_is_that_of_the_authority() {
        for text in ["hub", "Hub.example.org:4100", "192.0.2.7", "a-b:", ":80", "a:b", "a."] {
            let authority = Authority::from_str(text).unwrap();
            assert_eq!(plain_host(text), Some(authority.host()), "{text}");
        }
        for text in ["", "a:1:2", "[::1]", "[::1]:80", "user@hub", "a/b", "a b", "a%20b", "ä"] {
            assert_eq!(plain_host(text), None, "{text}");
        }
    }

    #[test]
    fn names_are_allowed_as_the_setting_says() {
        let hosts = of(&["Hub", "events.example.org.", "*.example.net"]).unwrap();
        for host in ["hub:4100", "EVENTS.example.org", "a.example.net", "a.b.example.net:1"] {
            assert!(hosts.allow(host), "{host}");
        }
        for host in ["hub.evil", "x.events.example.org", "example.net", "evilexample.net"] {
            assert!(!hosts.allow(host), "{host}");
        }
        assert!(of(&["*"]).unwrap().allow("evil.example"));
        for wrong in ["", "http://hub", "hub:4100", "a/b", "*hub", "a..b", "a.*.b", "**", "ä.de"] {
            assert!(of(&[wrong]).is_err(), "{wrong}");
        }
    }
}
