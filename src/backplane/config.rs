//! Settings of the section `cluster`.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use fanfare_cluster::nats::{self, Credentials, InvalidConfig, StreamSettings, Tls};
use serde::{Deserialize, Serialize};

use crate::auth::{SecretSource, optional_source};
use crate::limits::MAX_NODE_NAME_BYTES;

/// The sizes of a batch that are accepted: room for some hundred events, and so small that other
/// hubs do not wait for one.
const BATCHES: RangeInclusive<u64> = 16 << 10..=1 << 20;

/// The numbers of batches in flight that are accepted: more than two only help where servers are
/// far away.
const IN_FLIGHT: RangeInclusive<u64> = 1..=16;

/// The shortest time after which a hub counts as stale: that of two heartbeats.
const MIN_STALE: Duration = Duration::from_secs(2);

/// The longest time that a setting may have here.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Settings of the section `cluster`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// What connects the hubs.
    pub backplane: Kind,
    /// The name of the cluster.
    pub name: String,
    /// The name of this hub; empty for that of the machine.
    pub node: String,
    /// The addresses of the servers.
    pub servers: Vec<String>,
    /// The file with the credentials of this hub; empty for none.
    #[serde(with = "optional_source")]
    pub credentials: Option<SecretSource>,
    /// The file with the seed of its nkey; empty for none.
    #[serde(with = "optional_source")]
    pub nkey: Option<SecretSource>,
    /// The name with which it logs in; empty for none.
    pub user: String,
    /// The source of the password; empty for none.
    #[serde(with = "optional_source")]
    pub password: Option<SecretSource>,
    /// The certificates of the authorities that are trusted; empty for those of the machine.
    pub tls_ca: PathBuf,
    /// The certificate of this hub; empty for none.
    pub tls_cert: PathBuf,
    /// The private key of this certificate.
    pub tls_key: PathBuf,
    /// The JetStream domain; empty for that of the servers.
    pub domain: String,
    /// Whether to create the stream if it does not exist.
    pub create: bool,
    /// The number of servers that store each message.
    pub replicas: u8,
    /// The medium on which they store it.
    pub storage: Storage,
    /// Maximum size of the stream.
    pub max_bytes: ByteSize,
    /// Maximum age of a message.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
    /// Whether the servers sync a message before they acknowledge it.
    pub synced: bool,
    /// Maximum number of batches that are sent and not applied.
    pub in_flight: u64,
    /// Maximum size of a batch.
    pub max_batch: ByteSize,
    /// Time after which a publish that was not applied is answered.
    #[serde(with = "humantime_serde")]
    pub publish_timeout: Duration,
    /// Time of silence after which the session of a hub ends.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// Time without the own heartbeat after which a hub is not ready.
    #[serde(with = "humantime_serde")]
    pub stale_after: Duration,
    /// The way in which messages are read.
    pub feed: Feed,
    /// The source of the secret with which batches are signed; empty for none.
    #[serde(with = "optional_source")]
    pub secret: Option<SecretSource>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            backplane: Kind::None,
            name: "main".to_owned(),
            node: String::new(),
            servers: Vec::new(),
            credentials: None,
            nkey: None,
            user: String::new(),
            password: None,
            tls_ca: PathBuf::new(),
            tls_cert: PathBuf::new(),
            tls_key: PathBuf::new(),
            domain: String::new(),
            create: true,
            replicas: 3,
            storage: Storage::File,
            max_bytes: ByteSize::gib(10),
            max_age: DAY,
            synced: false,
            in_flight: 2,
            max_batch: ByteSize::kib(256),
            publish_timeout: Duration::from_secs(10),
            lease: Duration::from_secs(5),
            stale_after: Duration::from_secs(5),
            feed: Feed::Tail,
            secret: None,
        }
    }
}

/// What connects the hubs of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", try_from = "String")]
pub enum Kind {
    /// Nothing: the hub is alone.
    None,
    /// A stream of NATS JetStream.
    Nats,
}

impl TryFrom<String> for Kind {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "none" => Ok(Self::None),
            "nats" => Ok(Self::Nats),
            "upstream" => {
                Err("`upstream` is for relays of another hub, which this version cannot \
                               run: write \"nats\" or \"none\""
                    .to_owned())
            }
            _ => Err("must be \"nats\" or \"none\"".to_owned()),
        }
    }
}

/// The medium on which servers store messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Storage {
    /// Files.
    File,
    /// Memory.
    Memory,
}

/// The way in which messages are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Feed {
    /// By a subscription to the republished tail.
    Tail,
    /// By a consumer.
    Consumer,
}

/// A setting that is not valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidCluster {
    /// The setting.
    pub key: &'static str,
    /// The fault, and a valid value.
    pub message: String,
}

impl Config {
    /// Returns the maximum age of what channels retain: the log must keep its messages for a tenth
    /// longer.
    #[must_use]
    pub fn max_retention(&self) -> Duration {
        self.max_age / 11 * 10
    }

    /// Returns whether the hub is one of a cluster.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.backplane != Kind::None
    }

    /// Finds values of the right type that are not valid.
    #[must_use]
    pub fn validate(&self) -> Vec<InvalidCluster> {
        if !self.is_on() {
            let message = "needs `cluster.backplane = \"nats\"`";
            let unused = (!self.servers.is_empty()).then_some(("cluster.servers", message));
            return unused.into_iter().map(invalid).collect();
        }
        let ranges = self.out_of_range();
        let pairs = self.not_together();
        let own = ranges.into_iter().chain(pairs).filter(|(holds, ..)| !holds);
        let of_log = self.to_nats(None, None).invalid();
        let of_log = of_log.iter().map(|error| (key(error), error.to_string()));
        own.map(|(_, key, message)| invalid((key, message)))
            .chain(of_log.map(|(key, message)| InvalidCluster { key, message }))
            .collect()
    }

    /// Returns the ranges of numbers and times: whether the value is in it, its setting, the range.
    fn out_of_range(&self) -> [(bool, &'static str, &'static str); 5] {
        let stale = MIN_STALE..=DAY;
        let timeout = Duration::from_secs(1)..=Duration::from_secs(600);
        [
            (
                self.node.len() <= MAX_NODE_NAME_BYTES && !self.node.contains(char::is_control),
                "cluster.node",
                "must have at most 64 bytes, without control characters",
            ),
            (IN_FLIGHT.contains(&self.in_flight), "cluster.in_flight", "must be between 1 and 16"),
            (
                BATCHES.contains(&self.max_batch.as_u64()),
                "cluster.max_batch",
                "must be between 16KiB and 1MiB",
            ),
            (
                timeout.contains(&self.publish_timeout),
                "cluster.publish_timeout",
                "must be between 1s and 10m",
            ),
            (
                stale.contains(&self.stale_after),
                "cluster.stale_after",
                "must be between 2s, the time of two heartbeats, and 1day",
            ),
        ]
    }

    /// Returns which settings need or exclude each other: whether that holds, a setting, the rule.
    fn not_together(&self) -> [(bool, &'static str, &'static str); 5] {
        let user = !self.user.is_empty();
        let ways = [self.credentials.is_some(), self.nkey.is_some(), user];
        let is_file = |source: &Option<SecretSource>| !matches!(source, Some(SecretSource::Env(_)));
        let file = "must be \"file:/path\": the file is read again for each connection";
        let cert = !self.tls_cert.as_os_str().is_empty();
        let key = !self.tls_key.as_os_str().is_empty();
        [
            (is_file(&self.credentials), "cluster.credentials", file),
            (is_file(&self.nkey), "cluster.nkey", file),
            (
                ways.into_iter().filter(|given| *given).count() <= 1,
                if user { "cluster.user" } else { "cluster.nkey" },
                "a hub logs in by one of `cluster.credentials`, `cluster.nkey` and `cluster.user`: \
                 set one of them",
            ),
            (
                user == self.password.is_some(),
                if user { "cluster.user" } else { "cluster.password" },
                "`cluster.user` and `cluster.password` belong together: set both, or neither",
            ),
            (
                cert == key,
                if cert { "cluster.tls_cert" } else { "cluster.tls_key" },
                "`cluster.tls_cert` and `cluster.tls_key` belong together: set both, or neither",
            ),
        ]
    }

    /// Returns the name of this hub.
    #[must_use]
    pub fn node_name(&self) -> String {
        if !self.node.is_empty() {
            return self.node.clone();
        }
        let machine = rustix::system::uname();
        let name = machine.nodename().to_string_lossy();
        if name.is_empty() { "hub".to_owned() } else { name.into_owned() }
    }

    /// Returns the settings of the log, with this password and the fingerprint of the secret.
    pub(super) fn to_nats(
        &self,
        password: Option<String>,
        secret: Option<Box<str>>,
    ) -> nats::Config {
        let file = |source: &Option<SecretSource>| match source {
            Some(SecretSource::File(path)) => Some(path.clone()),
            Some(SecretSource::Env(_)) | None => None,
        };
        let credentials = match (file(&self.credentials), file(&self.nkey)) {
            (Some(path), _) => Credentials::CredsFile(path),
            (None, Some(path)) => Credentials::NkeyFile(path),
            (None, None) if self.user.is_empty() => Credentials::None,
            (None, None) => Credentials::Password {
                user: self.user.clone(),
                password: password.unwrap_or_default(),
            },
        };
        let perhaps = |path: &PathBuf| (!path.as_os_str().is_empty()).then(|| path.clone());
        let ca = perhaps(&self.tls_ca);
        let identity = perhaps(&self.tls_cert).zip(perhaps(&self.tls_key));
        nats::Config {
            servers: self.servers.clone(),
            name: self.name.clone(),
            node: self.node_name(),
            credentials,
            // Without certificates, the address decides: `tls://`.
            tls: Tls { required: ca.is_some() || identity.is_some(), ca, identity },
            domain: (!self.domain.is_empty()).then(|| self.domain.clone()),
            feed: match self.feed {
                Feed::Tail => nats::Feed::Tail,
                Feed::Consumer => nats::Feed::Consumer,
            },
            secret,
            stream: StreamSettings {
                create: self.create,
                replicas: self.replicas,
                storage: match self.storage {
                    Storage::File => nats::Storage::File,
                    Storage::Memory => nats::Storage::Memory,
                },
                max_bytes: self.max_bytes.as_u64(),
                max_age: self.max_age,
                lease: self.lease,
            },
        }
    }
}

fn invalid((key, message): (&'static str, &str)) -> InvalidCluster {
    InvalidCluster { key, message: message.to_owned() }
}

/// Returns the setting that the log finds not valid.
fn key(invalid: &InvalidConfig) -> &'static str {
    match invalid {
        InvalidConfig::NoServers | InvalidConfig::Server(_) | InvalidConfig::Login => {
            "cluster.servers"
        }
        InvalidConfig::Name(_) => "cluster.name",
        InvalidConfig::Replicas(_) => "cluster.replicas",
        InvalidConfig::Node => "cluster.node",
        InvalidConfig::MaxBytes => "cluster.max_bytes",
        InvalidConfig::MaxAge(_) => "cluster.max_age",
        InvalidConfig::Lease(_) => "cluster.lease",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Config {
        toml::from_str(&format!("backplane = \"nats\"\n{text}")).unwrap()
    }

    fn messages(config: &Config) -> Vec<String> {
        config.validate().iter().map(|it| format!("{}: {}", it.key, it.message)).collect()
    }

    const SERVER: &str = "servers = [\"nats://a:4222\"]\n";

    #[test]
    fn each_mistake_names_its_setting_and_what_would_be_right() {
        for (text, error) in [
            ("in_flight = 0", "cluster.in_flight: must be between 1 and 16"),
            ("max_batch = \"1KiB\"", "cluster.max_batch: must be between 16KiB and 1MiB"),
            ("publish_timeout = \"1ms\"", "cluster.publish_timeout: must be between 1s and 10m"),
            (
                "stale_after = \"1s\"",
                "cluster.stale_after: must be between 2s, the time of two heartbeats, and 1day",
            ),
            (
                "node = \"a\\u0000\"",
                "cluster.node: must have at most 64 bytes, without control characters",
            ),
            (
                "name = \"a.b\"",
                "cluster.name: the name of a cluster has 1 to 32 letters, digits, `-` and `_`, \
                 and is `a.b`",
            ),
            (
                "replicas = 2",
                "cluster.replicas: the number of replicas must be 1, 3 or 5, and is 2",
            ),
            ("max_bytes = 0", "cluster.max_bytes: `max_bytes` of the log must not be 0"),
            ("lease = \"1s\"", "cluster.lease: the lease must be from 5s to 10m, and is 1s"),
            (
                "max_age = \"6s\"",
                "cluster.max_age: `max_age` of the log must be at least twice the lease, and is 6s",
            ),
            (
                "nkey = \"env:NKEY\"",
                "cluster.nkey: must be \"file:/path\": the file is read again for each connection",
            ),
            (
                "nkey = \"file:/a\"\ncredentials = \"file:/b\"",
                "cluster.nkey: a hub logs in by one of `cluster.credentials`, `cluster.nkey` and \
                 `cluster.user`: set one of them",
            ),
            (
                "user = \"hub\"",
                "cluster.user: `cluster.user` and `cluster.password` belong together: set both, \
                 or neither",
            ),
            (
                "tls_key = \"/a\"",
                "cluster.tls_key: `cluster.tls_cert` and `cluster.tls_key` belong together: set \
                 both, or neither",
            ),
        ] {
            assert_eq!(messages(&of(&format!("{SERVER}{text}"))), [error], "{text}");
        }
        assert_eq!(messages(&of("")), ["cluster.servers: the list of servers must not be empty"]);
        let none: Config = toml::from_str(SERVER).unwrap();
        assert_eq!(messages(&none), ["cluster.servers: needs `cluster.backplane = \"nats\"`"]);
        let times = "lease = \"18446744073709551615s\"\nmax_age = \"18446744073709551615s\"";
        assert_eq!(messages(&of(&format!("{SERVER}{times}"))).len(), 2);
    }

    #[test]
    fn a_login_in_an_address_is_refused_and_not_shown() {
        let text = "backplane = \"nats\"\nservers = [\"nats://me:secret@a:4222\"]";
        let config: Config = toml::from_str(text).unwrap();
        let [invalid] = &config.validate()[..] else { panic!("one mistake") };
        assert_eq!(invalid.key, "cluster.servers");
        let right = "must not have a name and a password: credentials are settings";
        assert!(invalid.message.ends_with(right), "{}", invalid.message);
    }

    #[test]
    fn relays_are_refused_in_a_sentence() {
        let error = toml::from_str::<Config>("backplane = \"upstream\"").unwrap_err().to_string();
        assert!(error.contains("`upstream` is for relays"), "{error}");
    }

    #[test]
    fn settings_become_those_of_the_log() {
        let text = "node = \"hub-1\"\nuser = \"hub\"\npassword = \"env:P\"\ntls_ca = \"/ca\"\n\
                    feed = \"consumer\"\nstorage = \"memory\"\ndomain = \"leaf\"";
        let log = of(&format!("{SERVER}{text}")).to_nats(Some("hunter2".into()), None);
        assert_eq!(log.servers, ["nats://a:4222"]);
        assert_eq!((log.name.as_str(), log.node.as_str()), ("main", "hub-1"));
        let Credentials::Password { user, password } = log.credentials else { panic!("no user") };
        assert_eq!((user.as_str(), password.as_str()), ("hub", "hunter2"));
        assert!(log.tls.required && log.tls.identity.is_none());
        assert_eq!(log.domain.as_deref(), Some("leaf"));
        assert_eq!(log.feed, nats::Feed::Consumer);
        assert_eq!(log.stream.storage, nats::Storage::Memory);
        let file = of(&format!("{SERVER}credentials = \"file:/hub.creds\"")).to_nats(None, None);
        assert!(matches!(file.credentials, Credentials::CredsFile(_)));
        assert!(!file.tls.required, "the address decides");
    }

    #[test]
    fn a_hub_without_a_name_has_that_of_its_machine() {
        assert_eq!(of("node = \"hub-1\"").node_name(), "hub-1");
        assert!(!of("").node_name().is_empty());
    }
}
