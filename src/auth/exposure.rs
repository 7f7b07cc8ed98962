//! Closed by default: the addresses at which a hub without credentials may listen.

use std::net::SocketAddr;

/// The exposure of a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// Clients need credentials.
    Guarded,
    /// Only this machine can connect.
    Loopback,
    /// Any client may do anything, and the operator has allowed that explicitly.
    Insecure,
}

/// A public listener without credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} can be reached from other machines, and no credentials are configured: set \
     `auth.issuers`, `auth.api_keys` or `auth.signing_key`, listen on 127.0.0.1, or start with \
     --insecure if every client may publish, read and delete everything"
)]
pub struct Exposed(pub SocketAddr);

impl Exposure {
    /// Returns the warning to log at every start, if there is one.
    #[must_use]
    pub fn warning(self) -> Option<&'static str> {
        (self == Self::Insecure).then_some(
            "--insecure: this listener asks for no credentials; every client that reaches it may \
             publish, read, stop and delete everything",
        )
    }

    /// Returns the exposure of a listener at this address.
    ///
    /// # Errors
    /// The address is public, no credentials are configured, and `insecure` is not set.
    pub fn of(address: SocketAddr, credentials: bool, insecure: bool) -> Result<Self, Exposed> {
        match (credentials, address.ip().to_canonical().is_loopback(), insecure) {
            (true, _, _) => Ok(Self::Guarded),
            (false, true, _) => Ok(Self::Loopback),
            (false, false, true) => Ok(Self::Insecure),
            (false, false, false) => Err(Exposed(address)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_listener_needs_credentials_or_a_word() {
        for (address, credentials, insecure, expected) in [
            ("127.0.0.1:4100", false, false, Some(Exposure::Loopback)),
            ("[::1]:4100", false, false, Some(Exposure::Loopback)),
            ("[::ffff:127.0.0.1]:4100", false, false, Some(Exposure::Loopback)),
            ("0.0.0.0:4100", false, false, None),
            ("[::]:4100", false, false, None),
            ("10.0.0.1:4100", false, false, None),
            ("0.0.0.0:4100", false, true, Some(Exposure::Insecure)),
            ("0.0.0.0:4100", true, false, Some(Exposure::Guarded)),
            ("127.0.0.1:4100", true, true, Some(Exposure::Guarded)),
        ] {
            let address = address.parse().unwrap();
            let found = Exposure::of(address, credentials, insecure);
            assert_eq!(found.ok(), expected, "{address}");
        }
    }

    #[test]
    fn an_insecure_hub_is_reported() {
        assert!(Exposure::Insecure.warning().is_some());
        assert!(Exposure::Guarded.warning().is_none());
    }
}
