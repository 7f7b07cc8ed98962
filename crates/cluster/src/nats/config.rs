//! The settings of the shared log, as plain values.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

/// The leases that are accepted: long enough for a hub to leave a frozen server, and short enough
/// for producers that wait for the end of a hub that was killed.
pub(super) const LEASES: RangeInclusive<Duration> =
    Duration::from_secs(5)..=Duration::from_secs(600);

/// The settings of a log on NATS.
#[derive(Clone, Debug)]
pub struct Config {
    /// The addresses of all servers, such as `nats://nats-1:4222` or `tls://nats-1:4222`.
    pub servers: Vec<String>,
    /// The name of the cluster of hubs: of its stream, `FANFARE_<name>`, and of its subjects.
    pub name: String,
    /// The name of this hub in the servers' lists of connections.
    pub node: String,
    /// The credentials of this hub.
    pub credentials: Credentials,
    /// The certificates of connections with TLS.
    pub tls: Tls,
    /// The JetStream domain, if the servers are leaf nodes of those that have the stream.
    pub domain: Option<String>,
    /// The way in which messages are read.
    pub feed: Feed,
    /// The fingerprint of the cluster's secret, of [`Codec::fingerprint`]; nothing without one.
    ///
    /// [`Codec::fingerprint`]: crate::batch::Codec::fingerprint
    pub secret: Option<Box<str>>,
    /// The properties of the stream.
    pub stream: StreamSettings,
}

/// What a hub proves its identity with. Files are read again for each connection.
#[derive(Clone, Default)]
pub enum Credentials {
    /// Nothing, or a certificate.
    #[default]
    None,
    /// A name and a password.
    Password {
        /// The name.
        user: String,
        /// The password.
        password: String,
    },
    /// A file with the seed of an nkey.
    NkeyFile(PathBuf),
    /// A file with a JWT and the seed of its nkey.
    CredsFile(PathBuf),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Password { user, .. } => write!(f, "Password({user})"),
            Self::NkeyFile(path) => write!(f, "NkeyFile({})", path.display()),
            Self::CredsFile(path) => write!(f, "CredsFile({})", path.display()),
        }
    }
}

/// The certificates of connections with TLS. Files are read again for each connection.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// Refuses servers without TLS.
    pub required: bool,
    /// The certificates of the authorities that are trusted; those of the machine if there is none.
    pub ca: Option<PathBuf>,
    /// The certificate of this hub, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// The way in which messages are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Feed {
    /// By a subscription to the messages that the stream republishes: depends on no other server
    /// than the leader of the stream and the own one. Servers from 2.10 on.
    #[default]
    Tail,
    /// By a consumer of the stream: for accounts in which others may publish to the republished
    /// subject, and for older servers.
    Consumer,
}

/// The properties of the stream. Where it exists, it must keep at least as much.
#[derive(Clone, Debug)]
pub struct StreamSettings {
    /// Creates the stream if it does not exist.
    pub create: bool,
    /// The number of servers that store each message.
    pub replicas: u8,
    /// The medium on which messages are stored.
    pub storage: Storage,
    /// Maximum size of the stream, which the servers reserve.
    pub max_bytes: u64,
    /// Maximum age of a message.
    pub max_age: Duration,
    /// The lease of sessions; used when the stream is created.
    pub lease: Duration,
}

/// The medium on which messages are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Files.
    File,
    /// Memory.
    Memory,
}

/// A setting that is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidConfig {
    /// There is no server.
    #[error("the list of servers must not be empty")]
    NoServers,
    /// A server is not an address.
    #[error("`{0}` is not the address of a server, such as `nats://nats-1:4222`")]
    Server(String),
    /// A server has a login, which is not read there.
    #[error(
        "the address of a server must not have a name and a password: credentials are settings"
    )]
    Login,
    /// The name of the cluster is not valid.
    #[error("the name of a cluster has 1 to 32 letters, digits, `-` and `_`, and is `{0}`")]
    Name(String),
    /// The number of replicas is not valid.
    #[error("the number of replicas must be 1, 3 or 5, and is {0}")]
    Replicas(u8),
    /// The name of the hub is empty.
    #[error("the name of a hub must not be empty")]
    Node,
    /// The maximum size of the stream is zero.
    #[error("`max_bytes` of the log must not be 0")]
    MaxBytes,
    /// Messages are deleted too early.
    #[error(
        "`max_age` of the log must be at least twice the lease, and is {}",
        humantime::format_duration(*.0)
    )]
    MaxAge(Duration),
    /// The lease is too short or too long.
    #[error("the lease must be from 5s to 10m, and is {}", humantime::format_duration(*.0))]
    Lease(Duration),
}

impl Config {
    /// Returns what is not valid: one error for each setting.
    #[must_use]
    pub fn invalid(&self) -> Vec<InvalidConfig> {
        let is_part_of_subject = |c: u8| c.is_ascii_alphanumeric() || c == b'-' || c == b'_';
        let is_name =
            (1..=32).contains(&self.name.len()) && self.name.bytes().all(is_part_of_subject);
        let stream = &self.stream;
        let checks = [
            (is_name, InvalidConfig::Name(self.name.clone())),
            (!self.node.is_empty(), InvalidConfig::Node),
            ([1, 3, 5].contains(&stream.replicas), InvalidConfig::Replicas(stream.replicas)),
            (stream.max_bytes > 0, InvalidConfig::MaxBytes),
            (LEASES.contains(&stream.lease), InvalidConfig::Lease(stream.lease)),
            (stream.max_age / 2 >= stream.lease, InvalidConfig::MaxAge(stream.max_age)),
        ];
        let failed = checks.into_iter().filter(|(holds, _)| !holds).map(|(_, error)| error);
        self.addresses().err().into_iter().chain(failed).collect()
    }

    /// Returns the addresses of the servers.
    pub(super) fn addresses(&self) -> Result<Vec<async_nats::ServerAddr>, InvalidConfig> {
        if self.servers.is_empty() {
            return Err(InvalidConfig::NoServers);
        }
        let address = |text: &String| match text.parse::<async_nats::ServerAddr>() {
            // Not shown: it may be a password.
            _ if text.contains('@') => Err(InvalidConfig::Login),
            address => address.map_err(|_| InvalidConfig::Server(text.clone())),
        };
        self.servers.iter().map(address).collect()
    }

    /// Returns the name of the stream.
    pub(super) fn stream_name(&self) -> String {
        format!("FANFARE_{}", self.name)
    }

    /// Returns the subject to which messages are sent.
    pub(super) fn log_subject(&self) -> String {
        format!("fanfare.{}.log", self.name)
    }

    /// Returns the subject of broadcasts: reports of viewers.
    pub(super) fn broadcast_subject(&self) -> String {
        format!("fanfare.{}.viewers", self.name)
    }

    /// Returns the subject to which the stream republishes its messages.
    pub(super) fn tail_subject(&self) -> String {
        format!("fanfare.{}.tail", self.name)
    }
}
