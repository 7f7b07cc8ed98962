//! The shared log on NATS: its settings with the secrets read, and the thread that follows it.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use fanfare_cluster::batch::Codec;
use fanfare_cluster::log::LogEnd;
use fanfare_cluster::nats::{self, Health, NatsLog};
use fanfare_cluster::sender::Limits;
use parking_lot::Mutex;
use tokio::time::{Instant, interval};

use super::config::Config;
use super::phase::{BackplaneEnd, name_of};
use crate::auth::{Environment, Secret, SecretError, SecretSource};
use crate::hub::cluster::{Phase, Replica, ReplicaConfig};
use crate::hub::{self, Hub};

/// Minimum bytes of the secret of a cluster: shorter ones can be guessed.
const MIN_SECRET_BYTES: usize = 16;

/// How often what later hubs must know is sent again while the log keeps a message.
const RENEWALS: u32 = 4;

/// The interval at which the thread of the log is checked.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// The interval of the log lines about a hub that reads the log for the first time.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(5);

/// Time after which a hub without a session gives up: it begins another one by itself within a
/// fraction of this, unless the log refuses it.
const FENCED_TIMEOUT: Duration = Duration::from_secs(30);

/// A setting of the cluster that names something which cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// A secret cannot be read.
    #[error("{key}: {source}")]
    Secret {
        /// The setting.
        key: &'static str,
        /// The cause.
        source: SecretError,
    },
    /// A secret that must be text is none.
    #[error("{0}: the secret is not text")]
    NotText(&'static str),
    /// A file cannot be read.
    #[error("{key}: cannot read `{path}`: {source}")]
    File {
        /// The setting.
        key: &'static str,
        /// The file.
        path: String,
        /// The cause.
        source: std::io::Error,
    },
}

/// The settings of a hub in a cluster, with the secrets that they name.
pub struct Prepared {
    log: nats::Config,
    replica: ReplicaConfig,
}

impl Prepared {
    /// Reads the secrets that the settings name, and checks that its files can be read; nothing if
    /// the hub is in no cluster.
    ///
    /// # Errors
    /// A secret or a file cannot be read.
    pub fn new(
        config: &Config,
        channels: &hub::Config,
        environment: Environment<'_>,
    ) -> Result<Option<Self>, PrepareError> {
        if !config.is_on() {
            return Ok(None);
        }
        check_files(config)?;
        let read = |key, source: &Option<SecretSource>, least| {
            let secret = source.as_ref().map(|source| source.read(environment, least));
            secret.transpose().map_err(|source| PrepareError::Secret { key, source })
        };
        let password = read("cluster.password", &config.password, 1)?;
        let password = password.map(text).transpose()?;
        let secret = read("cluster.secret", &config.secret, MIN_SECRET_BYTES)?;
        let codec = Codec::new(secret.as_ref().map(Secret::expose));
        let fingerprint = codec.fingerprint();
        let in_flight = usize::try_from(config.in_flight).unwrap_or(usize::MAX);
        let max_message = usize::try_from(config.max_batch.as_u64()).unwrap_or(usize::MAX);
        let replica = ReplicaConfig {
            node: config.node_name().into(),
            codec,
            rules: rules(channels),
            max_retention: config.max_retention(),
            limits: Limits { in_flight, max_message, ..Limits::default() },
            publish_timeout: config.publish_timeout,
            stale_after: config.stale_after,
            renew_after: config.max_age / RENEWALS,
            renew_after_bytes: config.max_bytes.as_u64() / u64::from(RENEWALS),
        };
        Ok(Some(Self { log: config.to_nats(password, fingerprint), replica }))
    }

    /// Returns the settings of the hub's side of the log.
    #[must_use]
    pub fn replica(&self) -> ReplicaConfig {
        self.replica.clone()
    }

    /// Returns the name of the cluster.
    pub(super) fn name(&self) -> &str {
        &self.log.name
    }

    /// Returns the name of this hub.
    pub(super) fn node(&self) -> &str {
        &self.log.node
    }

    /// Returns the number of servers that store each message.
    pub(super) fn replicas(&self) -> u8 {
        self.log.stream.replicas
    }
}

/// Checks that the files can be read which the log reads again for each connection.
fn check_files(config: &Config) -> Result<(), PrepareError> {
    let of = |source: &'_ Option<SecretSource>| match source {
        Some(SecretSource::File(path)) => Some(path.clone()),
        Some(SecretSource::Env(_)) | None => None,
    };
    for (key, path) in [
        ("cluster.credentials", of(&config.credentials).as_deref()),
        ("cluster.nkey", of(&config.nkey).as_deref()),
        ("cluster.tls_ca", Some(&*config.tls_ca)),
        ("cluster.tls_cert", Some(&*config.tls_cert)),
        ("cluster.tls_key", Some(&*config.tls_key)),
    ] {
        let Some(path) = path.filter(|path| !path.as_os_str().is_empty()) else { continue };
        std::fs::File::open(path).map_err(|source| {
            let path = path.display().to_string();
            PrepareError::File { key, path, source }
        })?;
    }
    Ok(())
}

fn text(password: Secret) -> Result<String, PrepareError> {
    let text = String::from_utf8(password.expose().to_vec());
    text.map_err(|_| PrepareError::NotText("cluster.password"))
}

/// Returns a digest of the settings by which a hub treats channels, but for those that bound the
/// hub as a whole.
pub(super) fn rules(channels: &hub::Config) -> u64 {
    let hub::Config { memory_budget, max_channels, .. } = hub::Config::default();
    let shared = hub::Config { memory_budget, max_channels, ..channels.clone() };
    let text = serde_json::to_vec(&shared).unwrap_or_default();
    let digest = digest(&SHA256, &text);
    u64::from_be_bytes(digest.as_ref().first_chunk().copied().unwrap_or_default())
}

/// Follows the log until the hub must leave the cluster. `log` is where the log is put that
/// is followed at present.
pub(super) async fn follow(
    prepared: &Prepared,
    hub: &Hub,
    log: &Mutex<Option<Arc<NatsLog>>>,
) -> BackplaneEnd {
    let Some(replica) = hub.replica() else { return std::future::pending().await };
    let mut from = None;
    loop {
        let Some(reader) = hub.log_reader() else { return std::future::pending().await };
        let started = match NatsLog::start(prepared.log.clone(), from, Box::new(reader)) {
            Ok(started) => Arc::new(started),
            Err(error) => return BackplaneEnd::NotStarted(error),
        };
        *log.lock() = Some(started.clone());
        replica.attach(started.clone());
        let end = watch(replica, &started).await;
        match end {
            // Retention was faster than this hub, which has shown nothing of the log to clients.
            BackplaneEnd::Log(LogEnd::Deleted { to, .. }) if !started.health().is_caught_up => {
                tracing::warn!(%end, "reading the shared log from a later message on");
                from = Some(to.next());
            }
            end => return end,
        }
    }
}

/// Watches the log and the hub's side of it until they have ended.
async fn watch(replica: &Replica, log: &NatsLog) -> BackplaneEnd {
    let mut phases = replica.phase();
    let mut ticks = interval(CHECK_INTERVAL);
    let mut journal = Journal::default();
    loop {
        let phase = phases.borrow_and_update().clone();
        let health = log.health();
        journal.note(&phase, &health, replica);
        match phase {
            Phase::Ended(end) => return BackplaneEnd::Log(end),
            Phase::Diverged => return BackplaneEnd::Diverged,
            Phase::Fenced if journal.phase_lasts() > FENCED_TIMEOUT => {
                return BackplaneEnd::Fenced;
            }
            _ if health.has_panicked => return BackplaneEnd::Panicked,
            _ => {}
        }
        tokio::select! {
            changed = phases.changed() => if changed.is_err() {
                return std::future::pending().await;
            },
            _ = ticks.tick() => {}
        }
    }
}

/// Logs how the phase of the hub changes, and its progress.
struct Journal {
    /// The name of the phase, and when it began.
    phase: (&'static str, Instant),
    /// When progress was last logged.
    logged: Instant,
}

impl Default for Journal {
    fn default() -> Self {
        let now = Instant::now();
        Self { phase: ("", now), logged: now }
    }
}

impl Journal {
    /// Returns how long the phase has lasted.
    fn phase_lasts(&self) -> Duration {
        self.phase.1.elapsed()
    }

    fn note(&mut self, phase: &Phase, health: &Health, replica: &Replica) {
        let name = name_of(phase);
        let is_new = name != self.phase.0;
        if is_new {
            self.phase = (name, Instant::now());
        }
        match phase {
            Phase::CatchingUp { applied }
                if is_new || self.logged.elapsed() > PROGRESS_INTERVAL =>
            {
                self.logged = Instant::now();
                tracing::info!(applied, of = health.last.0, "catching up with the cluster");
            }
            Phase::Live if is_new => {
                let nodes = replica.nodes();
                let names: Vec<_> = nodes.iter().map(|node| &*node.name).collect();
                tracing::info!(nodes = %names.join(", "), "this hub is live in its cluster");
            }
            Phase::Stale | Phase::Fenced if is_new => {
                tracing::warn!(phase = name, "this hub does not follow its cluster at present");
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(text: &str) -> Result<Option<Prepared>, PrepareError> {
        let server = "backplane = \"nats\"\nservers = [\"nats://a:4222\"]\n";
        let config: Config = toml::from_str(&format!("{server}{text}")).unwrap();
        let environment = |name: &str| match name {
            "GOOD" => Some("sixteen bytes...".to_owned()),
            "SHORT" => Some("short".to_owned()),
            _ => None,
        };
        Prepared::new(&config, &hub::Config::default(), &environment)
    }

    #[test]
    fn secrets_and_files_are_read_at_the_start() {
        for (text, error) in [
            ("secret = \"env:NONE\"", "cluster.secret: the environment variable `NONE` is not set"),
            ("secret = \"env:SHORT\"", "cluster.secret: the secret has 5 bytes, and 16 are"),
            ("user = \"a\"\npassword = \"file:/no/file\"", "cluster.password: cannot read `/no/fi"),
            ("nkey = \"file:/no/file\"", "cluster.nkey: cannot read `/no/file`: No such file"),
            ("tls_ca = \"/no/file\"", "cluster.tls_ca: cannot read `/no/file`: No such file"),
        ] {
            let found = prepared(text).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(found.starts_with(error), "{text}: {found}");
        }
    }

    #[test]
    fn settings_reach_the_log_and_the_hub() {
        let text = "secret = \"env:GOOD\"\nuser = \"a\"\npassword = \"env:GOOD\"\nin_flight = 3";
        let Prepared { log, replica } = prepared(text).unwrap().unwrap();
        assert!(log.secret.is_some() && log.secret == replica.codec.fingerprint());
        assert!(matches!(log.credentials, nats::Credentials::Password { .. }));
        assert_eq!((replica.limits.in_flight, replica.limits.max_message), (3, 256 << 10));
        assert!(
            Prepared::new(&Config::default(), &hub::Config::default(), &|_| None)
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn hubs_agree_if_they_treat_channels_alike() {
        let default = hub::Config::default();
        let larger = hub::Config { max_channels: 7, ..default.clone() };
        assert_eq!(rules(&default), rules(&larger), "a bound of the hub");
        let shorter = hub::Config { max_events: 7, ..default.clone() };
        assert_ne!(rules(&default), rules(&shorter));
    }
}
