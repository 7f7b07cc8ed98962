//! Closed by default: where a hub without credentials may listen.

use std::net::SocketAddr;

/// How a listener stands to the world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// Credentials are asked for.
    Guarded,
    /// Only this machine can connect.
    Loopback,
    /// Anybody who reaches it may do anything, and whoever started the hub has said so.
    Insecure,
}

/// A public listener without credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0} can be reached from other machines, and no credentials are configured: set \
     `auth.issuers`, `auth.api_keys` or `auth.signing_key`, listen on 127.0.0.1, or start with \
     --insecure if everybody may publish, read and delete everything"
)]
pub struct Exposed(pub SocketAddr);

impl Exposure {
    /// What the operator is to be told at every start, if anything.
    #[must_use]
    pub fn warning(self) -> Option<&'static str> {
        (self == Self::Insecure).then_some(
            "--insecure: this listener asks for no credentials; whoever reaches it may publish, \
             read, stop and delete everything",
        )
    }

    /// How a listener at this address would stand.
    ///
    /// # Errors
    /// It would be open to the world, and nobody has said that it should.
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
    fn insecurity_is_said_aloud() {
        assert!(Exposure::Insecure.warning().is_some());
        assert!(Exposure::Guarded.warning().is_none());
    }
}
