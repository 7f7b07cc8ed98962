//! The stream that is the log: made if there is none, and compared with what is needed.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::api::{Api, ApiError};
use super::config::{Config, Feed, LEASES, Storage};
use super::failure::Failure;
use super::header::nanoseconds;
use crate::log::Sequence;

/// The format of the messages, and of the description.
const FORMAT: &str = "1";

/// Maximum time until the stream is described. A stream has no leader for some seconds after the
/// sudden death of one.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum time until one request is answered.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum time until a stream is created: its replicas elect a leader first.
const CREATE_TIMEOUT: Duration = Duration::from_secs(5);

/// The pause between two requests.
const PAUSE: Duration = Duration::from_millis(250);

/// The smallest window that servers accept. Messages have no ids that a server would remember.
const DUPLICATE_WINDOW: Duration = Duration::from_millis(100);

/// What the stream is, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct StreamState {
    /// The epoch of all event ids.
    pub epoch: Box<str>,
    /// The lease of sessions.
    pub lease: Duration,
    /// Its first message; the next one, if it has none.
    pub first: Sequence,
    /// Its last message.
    pub last: Sequence,
}

/// The reason for which the stream is not described.
#[derive(Debug)]
pub(super) enum OpenError {
    /// There is no stream, and none was to be created.
    Missing,
    /// No server has answered.
    Silent(String),
    /// It is not usable, or not known whether it is.
    Failed(Failure),
}

/// The configuration of a stream, as far as a log depends on it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
struct StreamConfig {
    name: String,
    description: String,
    subjects: Vec<String>,
    retention: String,
    discard: String,
    storage: String,
    num_replicas: u8,
    max_consumers: i64,
    max_msgs: i64,
    max_msgs_per_subject: i64,
    max_msg_size: i64,
    max_bytes: i64,
    max_age: u64,
    duplicate_window: u64,
    allow_direct: bool,
    deny_delete: bool,
    deny_purge: bool,
    sealed: bool,
    no_ack: bool,
    allow_msg_ttl: bool,
    allow_rollup_hdrs: bool,
    first_seq: u64,
    /// Empty or `default` where messages are written before they are acknowledged.
    #[serde(skip_serializing_if = "String::is_empty")]
    persist_mode: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject_transform: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    republish: Option<Republish>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mirror: Option<serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sources: Option<serde_json::Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
struct Republish {
    src: String,
    dest: String,
    headers_only: bool,
}

#[derive(Deserialize)]
struct StreamInfo {
    config: StreamConfig,
    state: Numbers,
}

#[derive(Deserialize)]
struct Numbers {
    first_seq: u64,
    last_seq: u64,
}

/// Describes the stream, and creates it first if it is missing and `may_create`. Tries again for
/// some seconds where that may help.
pub(super) async fn open(
    api: &Api,
    config: &Config,
    may_create: bool,
) -> Result<StreamState, OpenError> {
    let deadline = Instant::now() + OPEN_TIMEOUT;
    loop {
        let failure = match describe(api, config).await {
            Err(OpenError::Missing) if may_create && config.stream.create => {
                match create(api, config).await {
                    Ok(state) => return Ok(state),
                    Err(failure) => failure,
                }
            }
            Err(OpenError::Failed(failure)) => failure,
            Err(OpenError::Silent(text)) => Failure::Retry(text),
            described => return described,
        };
        if !matches!(failure, Failure::Retry(_)) || Instant::now() > deadline {
            return Err(OpenError::Failed(failure));
        }
        sleep(PAUSE).await;
    }
}

/// Describes the stream.
pub(super) async fn describe(api: &Api, config: &Config) -> Result<StreamState, OpenError> {
    let subject = api.subject("STREAM.INFO");
    match api.call::<StreamInfo>(subject, &json!({}), ANSWER_TIMEOUT).await {
        Ok(info) => check(&info, config).map_err(OpenError::Failed),
        Err(ApiError::Answer { code: 10059, .. }) => Err(OpenError::Missing),
        Err(error @ ApiError::Silent(_)) => Err(OpenError::Silent(error.to_string())),
        Err(error) => Err(OpenError::Failed(Failure::Retry(error.to_string()))),
    }
}

async fn create(api: &Api, config: &Config) -> Result<StreamState, Failure> {
    let body = serde_json::to_value(wanted(config)).map_err(|error| {
        Failure::Refused(format!("the settings of the stream cannot be sent: {error}"))
    })?;
    let subject = api.subject("STREAM.CREATE");
    match api.call::<StreamInfo>(subject, &body, CREATE_TIMEOUT).await {
        Ok(info) => {
            tracing::info!(stream = api.stream(), "created the stream of the shared log");
            check(&info, config)
        }
        Err(error) => Err(explain(&error, config)),
    }
}

/// Returns the configuration of a new stream.
fn wanted(config: &Config) -> StreamConfig {
    let settings = &config.stream;
    let epoch = text_of_epoch(fastrand::u32(..));
    let lease = settings.lease.as_millis();
    let secret = text_of_secret(config.secret.as_deref());
    StreamConfig {
        name: config.stream_name(),
        description: format!("fanfare format={FORMAT} epoch={epoch} lease={lease}ms{secret}"),
        subjects: vec![config.log_subject()],
        retention: "limits".to_owned(),
        discard: "old".to_owned(),
        storage: text_of_storage(settings.storage).to_owned(),
        num_replicas: settings.replicas,
        max_consumers: -1,
        max_msgs: -1,
        max_msgs_per_subject: -1,
        max_msg_size: -1,
        max_bytes: i64::try_from(settings.max_bytes).unwrap_or(i64::MAX),
        max_age: nanoseconds(settings.max_age).unwrap_or(0),
        duplicate_window: nanoseconds(DUPLICATE_WINDOW).unwrap_or(0),
        allow_direct: true,
        deny_delete: true,
        deny_purge: true,
        republish: Some(Republish {
            src: config.log_subject(),
            dest: config.tail_subject(),
            headers_only: false,
        }),
        ..StreamConfig::default()
    }
}

fn text_of_storage(storage: Storage) -> &'static str {
    match storage {
        Storage::File => "file",
        Storage::Memory => "memory",
    }
}

/// Returns an epoch of 31 bits as a hub writes it in event ids, in base 36.
fn text_of_epoch(random: u32) -> String {
    let mut rest = random >> 1;
    let mut digits = Vec::new();
    while rest > 0 || digits.is_empty() {
        digits.extend(char::from_digit(rest % 36, 36));
        rest /= 36;
    }
    digits.iter().rev().collect()
}

/// Compares the stream with what is needed, and returns its state.
fn check(info: &StreamInfo, config: &Config) -> Result<StreamState, Failure> {
    let name = &info.config.name;
    let differences = differences(&info.config, config);
    if !differences.is_empty() {
        return Err(Failure::Refused(format!(
            "the stream `{name}` has other settings than this hub needs: {}. Change it with \
             `nats stream edit`, or change the settings of the hub",
            differences.join(", ")
        )));
    }
    let described = parse_description(&info.config.description)
        .and_then(|described| described.check(config).map(|()| described))
        .map_err(|problem| Failure::Refused(format!("the stream `{name}` {problem}")))?;
    let last = Sequence(info.state.last_seq);
    let first = Sequence(info.state.first_seq.max(1)).min(last.next());
    let Description { epoch, lease, secret: _ } = described;
    Ok(StreamState { epoch, lease, first, last })
}

/// What the description of a stream says.
struct Description {
    epoch: Box<str>,
    lease: Duration,
    secret: Option<Box<str>>,
}

impl Description {
    /// Compares it with the settings of a hub.
    fn check(&self, config: &Config) -> Result<(), String> {
        if !LEASES.contains(&self.lease) {
            return Err(format!(
                "was created with a lease of {:?}, which must be from 5s to 10m",
                self.lease
            ));
        }
        let problem = match (&self.secret, &config.secret) {
            (found, wanted) if found == wanted => return Ok(()),
            (Some(_), Some(_)) => "with another `cluster.secret` than that of this hub",
            (Some(_), None) => "with a `cluster.secret`, and this hub has none",
            (None, _) => "without a `cluster.secret`, and this hub has one",
        };
        Err(format!("was created {problem}"))
    }
}

/// Returns the end of a description: the fingerprint of the secret.
fn text_of_secret(secret: Option<&str>) -> String {
    secret.map(|secret| format!(" secret={secret}")).unwrap_or_default()
}

/// Parses a description.
fn parse_description(text: &str) -> Result<Description, String> {
    let foreign = || format!("is not a log of Fanfare: its description is `{text}`");
    let fields = text.strip_prefix("fanfare ").ok_or_else(foreign)?;
    let field = |name: &str| {
        fields.split(' ').find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
    };
    let format = field("format").ok_or_else(foreign)?;
    if format != FORMAT {
        return Err(format!(
            "has messages of format {format}, and this hub reads format {FORMAT}: update the hub"
        ));
    }
    let epoch = field("epoch").filter(|epoch| {
        !epoch.is_empty() && epoch.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
    });
    let lease = field("lease").and_then(|lease| lease.strip_suffix("ms")?.parse().ok());
    match (epoch, lease) {
        (Some(epoch), Some(lease)) => Ok(Description {
            epoch: epoch.into(),
            lease: Duration::from_millis(lease),
            secret: field("secret").map(Into::into),
        }),
        _ => Err(foreign()),
    }
}

/// The fields that must be as in [`wanted`].
const EQUAL: &[&str] = &[
    "subjects",
    "retention",
    "discard",
    "storage",
    "max_msgs",
    "max_msgs_per_subject",
    "max_msg_size",
    "deny_delete",
    "deny_purge",
    "sealed",
    "no_ack",
    "allow_msg_ttl",
    "allow_rollup_hdrs",
    "first_seq",
    "subject_transform",
    "mirror",
    "sources",
];

/// The fields that must also be as in [`wanted`] if messages are read from the tail.
const EQUAL_FOR_TAIL: &[&str] = &["allow_direct", "republish"];

/// Lists in words where a stream is not what is needed. It may keep more than it must.
fn differences(found: &StreamConfig, config: &Config) -> Vec<String> {
    let wanted = wanted(config);
    let mut list = Vec::new();
    let json = |config| serde_json::to_value(config).unwrap_or_default();
    let (found_fields, wanted_fields) = (json(found), json(&wanted));
    let for_tail = EQUAL_FOR_TAIL.iter().filter(|_| config.feed == Feed::Tail);
    for field in EQUAL.iter().chain(for_tail) {
        let (found, wanted) = (&found_fields[field], &wanted_fields[field]);
        if found != wanted {
            list.push(format!("`{field}` is {found} and must be {wanted}"));
        }
    }
    if found.persist_mode == "async" {
        list.push("`persist_mode` is \"async\" and must be \"default\"".to_owned());
    }
    // A limit that is absent is 0 or less.
    let limit = |value: i64| u64::try_from(value).ok().filter(|limit| *limit > 0);
    let age = i64::try_from(found.max_age).unwrap_or(i64::MAX);
    for (field, found, wanted) in [
        ("num_replicas", limit(found.num_replicas.into()), wanted.num_replicas.into()),
        ("max_bytes", limit(found.max_bytes), config.stream.max_bytes),
        ("max_age", limit(age), wanted.max_age),
    ] {
        if let Some(found) = found.filter(|found| *found < wanted) {
            list.push(format!("`{field}` is {found} and must be at least {wanted}"));
        }
    }
    list
}

/// Returns in plain words why the stream was not created.
fn explain(error: &ApiError, config: &Config) -> Failure {
    let ApiError::Answer { code, description } = error else {
        return Failure::Retry(error.to_string());
    };
    let settings = &config.stream;
    let (replicas, max_bytes) = (settings.replicas, settings.max_bytes);
    match code {
        10058 => Failure::Retry("another hub has created the stream".to_owned()),
        10074 => Failure::Refused(format!(
            "a stream with `replicas = {replicas}` needs a cluster of NATS servers, and this \
             server has no other: add servers, or set `replicas = 1`"
        )),
        10065 => Failure::Refused(format!(
            "another stream stores the subject `{}`: choose another name for the cluster",
            config.log_subject()
        )),
        10002 | 10023 | 10028 | 10047 => Failure::Retry(format!(
            "the NATS servers have no room for a stream of {max_bytes} bytes ({description}): \
             raise `max_file_store` and the limits of the account, or lower `max_bytes`"
        )),
        10005 => Failure::Retry(format!(
            "fewer than {replicas} NATS servers are connected to each other and have room for \
             {max_bytes} bytes ({description}): wait for the servers, raise `max_file_store`, or \
             lower `max_bytes`"
        )),
        10039 | 10076 => Failure::Retry(format!(
            "JetStream is not enabled ({description}): enable it in the servers' configuration \
             and for the account"
        )),
        _ => Failure::Retry(format!("the stream was not created: {description} ({code})")),
    }
}
