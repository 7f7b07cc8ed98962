//! Authentication of the server: read at the start and at each reload, and kept up to date.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Reload, StartError};
use crate::auth::{Authenticator, Exposure};
use crate::backplane::Backplane;
use crate::config::{Config, variable};
use crate::egress::Egress;
use crate::hooks::{Hooks, Ready};
use crate::http::{AuthFilter, Cors, KeyFetcher, Tls};
use crate::hub::Hub;
use crate::quota::Quotas;
use crate::telemetry::Metrics;

/// Interval of the check whether keys from URLs are old.
const PACE: Duration = Duration::from_secs(30);

/// Builds the auth filter.
pub(super) fn auth_filter(
    config: &Config,
    quotas: &Arc<Quotas>,
    cors: &Cors,
    metrics: Arc<Metrics>,
) -> Result<AuthFilter, StartError> {
    let authenticator = Arc::new(authenticator(config)?);
    let hosts = config.server.hosts.clone();
    Ok(AuthFilter::new(authenticator, quotas.clone(), cors.clone(), hosts, metrics))
}

/// Reads the trusted issuers and keys.
pub(super) fn authenticator(config: &Config) -> Result<Authenticator, StartError> {
    let fetcher = Arc::new(KeyFetcher::default());
    Authenticator::new(&config.auth, &variable, Some(fetcher)).map_err(StartError::Auth)
}

/// Refuses public listeners without credentials, or logs a warning if that is allowed.
pub(super) fn check_exposure(config: &Config) -> Result<(), StartError> {
    let server = &config.server;
    check_listener("`server.listen`", server.listen, config)?;
    check_listener("`server.admin_listen`", server.admin_listen, config)
}

/// Checks the exposure of one listener.
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

/// Applies the settings that can change while the hub runs: a cheap handle.
#[derive(Clone)]
pub struct Reloader {
    /// The configuration at the start.
    pub(super) started_with: Arc<Config>,
    pub(super) auth_filter: AuthFilter,
    pub(super) egress: Egress,
    pub(super) tls: Option<Tls>,
    pub(super) cors: Cors,
    pub(super) hooks: Hooks,
    pub(super) hub: Hub,
    pub(super) backplane: Option<Backplane>,
    pub(super) quotas: Arc<Quotas>,
}

impl Reloader {
    /// Counts a reload, successful or not.
    pub fn count(&self, went_well: bool) {
        self.hub.metrics().reloaded(went_well);
    }

    /// Applies the settings that can change at run time: `auth`, `tls`, `cors`, `channels`, `hooks`
    /// and `quotas`, with the current contents of their files. Streams that are no longer
    /// authorized end; others continue. Returns the settings that differ from those in force and
    /// need a restart.
    ///
    /// # Errors
    /// Something in it is invalid; then nothing changes.
    pub async fn reload(&self, config: &Config) -> Result<Vec<String>, Reload> {
        let asks = self.auth_filter.authenticator().everyone().is_none();
        if config.auth.has_credentials() != asks || config.tls.is_on() != self.tls.is_some() {
            return Err(Reload::Restart);
        }
        let beyond = self.started_with.beyond_reload(config);
        let reloader = self.clone();
        let config = config.clone();
        // Files may be slow, and may hang on a network.
        let read = tokio::task::spawn_blocking(move || reloader.exchange(&config));
        read.await.unwrap_or(Ok(()))?;
        self.recheck();
        Ok(beyond)
    }

    /// Applies all or nothing: a configuration that could not be started with is not applied in
    /// part.
    fn exchange(&self, config: &Config) -> Result<(), Reload> {
        super::check(config)?;
        let hooks = Ready::new(&config.hooks, &variable).map_err(StartError::Hooks)?;
        let tls = self.tls.as_ref().map(|tls| Ok::<_, Reload>((tls, tls.read(&config.tls)?)));
        let tls = tls.transpose()?;
        self.auth_filter.authenticator().reload(&config.auth, &variable).map_err(Reload::Auth)?;
        // From here on nothing can fail. A file that changed after `check` has been read above.
        if let Some((tls, certificate)) = tls {
            tls.exchange(certificate);
        }
        self.cors.exchange(&config.cors);
        self.quotas.exchange(config.quotas.clone());
        self.hub.reconfigure(config.channels.clone());
        if let Some(backplane) = &self.backplane {
            backplane.reconfigure(&config.channels);
        }
        self.hooks.exchange(hooks);
        Ok(())
    }

    fn recheck(&self) {
        self.auth_filter.recheck();
        self.egress.recheck();
    }

    /// Fetches keys again when they are old, without end.
    pub(super) async fn keep_keys(self) {
        loop {
            self.auth_filter.authenticator().refresh(SystemTime::now()).await;
            self.recheck();
            tokio::time::sleep(PACE).await;
        }
    }
}

/// Returns all errors, one line each.
pub(super) fn lines(wrong: &[impl ToString]) -> String {
    wrong.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}
