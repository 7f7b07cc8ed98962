//! The hub that a command connects to, and remedies for connections that fail.

use std::io;
use std::path::PathBuf;

use anyhow::{Context as _, anyhow};
use fanfare_client::{Client, DEFAULT_URL, Error, HubUrl};

/// The hint for a 404: an endpoint of the public listener does not answer 404 there.
const WRONG_LISTENER: &str = "does --url name the hub's public listener?";

/// The hint for a missing or refused credential.
const NO_CREDENTIAL: &str = "--token or the variable FANFARE_TOKEN says who you are";

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

impl HubAddress {
    /// Creates a client of the hub.
    ///
    /// # Errors
    /// The hub is addressed over TLS, and there is no certificate to trust.
    pub(super) fn client(&self) -> anyhow::Result<Client> {
        self.trust.client(self.url.clone(), self.token.clone())
    }
}

impl Trust {
    /// Creates a client of the hub at an address.
    ///
    /// # Errors
    /// The hub is addressed over TLS, and there is no certificate to trust.
    pub(super) fn client(&self, url: HubUrl, token: Option<String>) -> anyhow::Result<Client> {
        let mut builder = Client::builder(url);
        if let Some(token) = token {
            builder = builder.token(token);
        }
        let Some(path) = &self.cacert else { return Ok(builder.build()?) };
        builder.ca_file(path).build().context("--cacert")
    }
}

/// Returns what to try after an error, if anything is known to help.
pub(super) fn hint(error: &Error) -> Option<&'static str> {
    match error {
        Error::Unreachable { cause, .. } if cause.kind() == io::ErrorKind::ConnectionRefused => {
            Some("`fanfare serve` starts a hub; --url names another one")
        }
        Error::Foreign(..) => Some(WRONG_LISTENER),
        Error::Refused(problem) if problem.status == 404 => Some(WRONG_LISTENER),
        Error::Refused(problem) if problem.status == 401 => Some(NO_CREDENTIAL),
        _ => None,
    }
}

/// Adds the option that helps, where only the option itself is missing in the message.
pub(super) fn explained(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref() {
        Some(Error::Untrusted { ca_file: None, .. }) => {
            anyhow!("{error:#}; --cacert FILE names certificates to trust")
        }
        _ => error,
    }
}
