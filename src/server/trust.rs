//! Who is trusted: read at the start, read again on demand, and kept up to date.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Reload, StartError};
use crate::auth::{Authenticator, Exposure, Invalid};
use crate::config::{Config, variable};
use crate::egress::Egress;
use crate::http::{Gate, KeyFetcher, Tls};
use crate::quota::Quotas;
use crate::telemetry::Metrics;

/// How often it is looked whether keys at URLs are old.
const PACE: Duration = Duration::from_secs(30);

/// Builds the gate.
pub(super) fn gate(
    config: &Config,
    quotas: &Arc<Quotas>,
    metrics: Arc<Metrics>,
) -> Result<Gate, StartError> {
    let authenticator = Arc::new(authenticator(config)?);
    let hosts = config.server.hosts.clone();
    Ok(Gate::new(authenticator, quotas.clone(), &config.cors, hosts, metrics))
}

/// Reads who is trusted.
pub(super) fn authenticator(config: &Config) -> Result<Authenticator, StartError> {
    let fetcher = Arc::new(KeyFetcher::default());
    Authenticator::new(&config.auth, &variable, Some(fetcher)).map_err(StartError::Auth)
}

/// Refuses to open a hub to the world that asks nobody who they are, or says what that means.
pub(super) fn check_exposure(config: &Config) -> Result<(), StartError> {
    let server = &config.server;
    check_listener("`server.listen`", server.listen, config)?;
    check_listener("`server.admin_listen`", server.admin_listen, config)
}

/// The same for one listener.
pub(super) fn check_listener(
    listener: &str,
    address: SocketAddr,
    config: &Config,
) -> Result<(), StartError> {
    let exposure = Exposure::of(address, config.auth.has_credentials(), config.server.insecure)
        .map_err(|source| StartError::Exposed { listener: listener.to_owned(), source })?;
    if let Some(warning) = exposure.warning() {
        tracing::warn!(%address, "{listener}: {warning}");
    }
    Ok(())
}

/// Exchanges what can be while the hub is at work: a cheap handle.
#[derive(Clone)]
pub struct Reloader {
    gate: Gate,
    egress: Egress,
    tls: Option<Tls>,
}

impl Reloader {
    pub(super) fn new(gate: Gate, egress: Egress, tls: Option<Tls>) -> Self {
        Self { gate, egress, tls }
    }

    /// Goes over to the `auth` and the `tls` of this configuration, and to what is in their files
    /// by now. Streams of those who would not be let in any more end; nobody else notices.
    ///
    /// # Errors
    /// Something is wrong with it; then everything stays as it was.
    pub async fn reload(&self, config: &Config) -> Result<(), Reload> {
        let asks = self.gate.authenticator().everyone().is_none();
        if config.auth.has_credentials() != asks || config.tls.is_on() != self.tls.is_some() {
            return Err(Reload::Restart);
        }
        let (reloader, config) = (self.clone(), config.clone());
        // Files may be slow, and hang where they are on a network.
        let read = tokio::task::spawn_blocking(move || reloader.read(&config));
        read.await.unwrap_or(Ok(()))?;
        self.recheck();
        Ok(())
    }

    /// All or nothing: what would not do for a start does not come half into force.
    fn read(&self, config: &Config) -> Result<(), Reload> {
        super::check(config)?;
        if let Some(tls) = &self.tls {
            tls.reload(&config.tls)?;
        }
        self.gate.authenticator().reload(&config.auth, &variable).map_err(Reload::Auth)
    }

    fn recheck(&self) {
        self.gate.recheck();
        self.egress.recheck();
    }

    /// Fetches keys when they are old, for ever.
    pub(super) async fn keep_keys(self) {
        loop {
            self.gate.authenticator().refresh(SystemTime::now()).await;
            self.recheck();
            tokio::time::sleep(PACE).await;
        }
    }
}

/// All that is wrong, one line each.
pub(super) fn lines(wrong: &[Invalid]) -> String {
    let line = |invalid: &Invalid| format!("{}: {}", invalid.key, invalid.message);
    wrong.iter().map(line).collect::<Vec<_>>().join("\n")
}
