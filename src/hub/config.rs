//! Settings of the section `channels`.

use std::time::Duration;

use bytesize::ByteSize;
use serde::de::{Error as _, Unexpected};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::coalesce::Coalesce;
use crate::channel::{ChannelName, ChannelPattern};
use crate::clock::Clock;
use crate::store::Retention;
use crate::store::disk::Durability;

/// Retention and limits of channels.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Events that a channel keeps for replay.
    pub max_events: u64,
    /// Bytes that a channel keeps for replay.
    pub max_bytes: ByteSize,
    /// Age up to which a channel keeps events for replay.
    #[serde(serialize_with = "humantime_serde::serialize", deserialize_with = "above_zero")]
    pub max_age: Duration,
    /// Time without subscribers and publishes after which an open channel is evicted.
    #[serde(serialize_with = "humantime_serde::serialize", deserialize_with = "above_zero")]
    pub idle_timeout: Duration,
    /// Time for which a generation waits for a producer that left without an end; then it is
    /// abandoned.
    #[serde(serialize_with = "humantime_serde::serialize", deserialize_with = "up_to_a_day")]
    pub producer_grace: Duration,
    /// Merging of events for subscribers that do not choose one.
    pub coalesce: Coalesce,
    /// Action for a generation without viewers; none by default.
    pub when_unwatched: Option<WhenUnwatched>,
    /// Memory of all channels together; past it, the oldest events of the hub are evicted.
    pub memory_budget: ByteSize,
    /// Channels in memory; past it, new names are refused.
    pub max_channels: usize,
    /// Overrides by channel pattern: the first that matches applies.
    pub rules: Vec<Rule>,
    /// Reconnect delay that each end event carries: `subscribers.end_reconnect_delay`. Zero omits
    /// it.
    #[serde(skip)]
    pub end_reconnect_delay: Duration,
    /// Clock of the hub's times and ages.
    #[serde(skip)]
    pub clock: Clock,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_events: 10_000,
            max_bytes: ByteSize::mib(16),
            max_age: Duration::from_secs(3600),
            idle_timeout: Duration::from_secs(3600),
            producer_grace: Duration::from_secs(10),
            coalesce: Coalesce::Off,
            when_unwatched: None,
            memory_budget: ByteSize::mib(512),
            max_channels: 200_000,
            rules: Vec::new(),
            end_reconnect_delay: Duration::ZERO,
            clock: Clock::default(),
        }
    }
}

/// Settings for the channels that a pattern selects.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(from = "RuleTable")]
pub struct Rule {
    /// The channels that the rule applies to.
    pub pattern: ChannelPattern,
    /// Their durability; `store.durability` if `None`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub durability: Option<Durability>,
    /// The settings that replace the general ones.
    #[serde(flatten)]
    pub options: ChannelOptions,
}

/// A rule as it is written. Flattened options would be read without their names, and an error could
/// not name the wrong one.
#[derive(Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a table such as { pattern = \"logs/**\", max_age = \"10m\" }"
)]
struct RuleTable {
    pattern: ChannelPattern,
    durability: Option<Durability>,
    #[serde(default, deserialize_with = "at_least_one")]
    max_events: Option<u64>,
    max_bytes: Option<ByteSize>,
    #[serde(default, deserialize_with = "perhaps_above_zero")]
    max_age: Option<Duration>,
    #[serde(default, deserialize_with = "perhaps_above_zero")]
    idle_timeout: Option<Duration>,
    #[serde(default, deserialize_with = "perhaps_up_to_a_day")]
    producer_grace: Option<Duration>,
    coalesce: Option<Coalesce>,
    when_unwatched: Option<WhenUnwatched>,
}

impl From<RuleTable> for Rule {
    fn from(table: RuleTable) -> Self {
        Self {
            pattern: table.pattern,
            durability: table.durability,
            options: ChannelOptions {
                max_events: table.max_events,
                max_bytes: table.max_bytes,
                max_age: table.max_age,
                idle_timeout: table.idle_timeout,
                producer_grace: table.producer_grace,
                coalesce: table.coalesce,
                when_unwatched: table.when_unwatched,
            },
        }
    }
}

/// The settings that a single channel may have for itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChannelOptions {
    /// See [`Config::max_events`].
    #[serde(deserialize_with = "at_least_one", skip_serializing_if = "Option::is_none")]
    pub max_events: Option<u64>,
    /// See [`Config::max_bytes`].
    #[serde(serialize_with = "in_bytes", skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<ByteSize>,
    /// See [`Config::max_age`].
    #[serde(
        serialize_with = "humantime_serde::option::serialize",
        deserialize_with = "perhaps_above_zero",
        skip_serializing_if = "Option::is_none"
    )]
    pub max_age: Option<Duration>,
    /// See [`Config::idle_timeout`].
    #[serde(
        serialize_with = "humantime_serde::option::serialize",
        deserialize_with = "perhaps_above_zero",
        skip_serializing_if = "Option::is_none"
    )]
    pub idle_timeout: Option<Duration>,
    /// See [`Config::producer_grace`].
    #[serde(
        serialize_with = "humantime_serde::option::serialize",
        deserialize_with = "perhaps_up_to_a_day",
        skip_serializing_if = "Option::is_none"
    )]
    pub producer_grace: Option<Duration>,
    /// See [`Config::coalesce`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub coalesce: Option<Coalesce>,
    /// See [`Config::when_unwatched`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub when_unwatched: Option<WhenUnwatched>,
}

/// Action for a generation whose producer is connected and that has no viewer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a table: { after = \"30s\", signal = \"stop\" }")]
pub struct WhenUnwatched {
    /// Time without a viewer.
    #[serde(serialize_with = "humantime_serde::serialize", deserialize_with = "up_to_a_day")]
    pub after: Duration,
    /// The signal to the producer.
    pub signal: Signal,
}

/// A signal to a producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Signal {
    /// The rest is not needed.
    Stop,
}

/// Serializes a size as a number: with a unit it would be rounded.
fn in_bytes<S: Serializer>(size: &Option<ByteSize>, serializer: S) -> Result<S::Ok, S::Error> {
    size.map(|size| size.as_u64()).serialize(serializer)
}

/// Maximum of the times for which a channel waits for a producer or a viewer.
const DAY: Duration = Duration::from_secs(24 * 3600);

fn above_zero<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let duration: Duration = humantime_serde::deserialize(deserializer)?;
    if duration.is_zero() {
        Err(D::Error::invalid_value(Unexpected::Str("0s"), &"a duration above \"0s\""))
    } else {
        Ok(duration)
    }
}

fn perhaps_above_zero<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    #[derive(Deserialize)]
    struct AboveZero(#[serde(deserialize_with = "above_zero")] Duration);

    Ok(Option::<AboveZero>::deserialize(deserializer)?.map(|AboveZero(duration)| duration))
}

fn up_to_a_day<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let duration = humantime_serde::deserialize(deserializer)?;
    if duration > DAY {
        Err(D::Error::custom("expected a duration up to `1day`"))
    } else {
        Ok(duration)
    }
}

fn perhaps_up_to_a_day<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Duration>, D::Error> {
    #[derive(Deserialize)]
    struct UpToADay(#[serde(deserialize_with = "up_to_a_day")] Duration);

    Ok(Option::<UpToADay>::deserialize(deserializer)?.map(|UpToADay(duration)| duration))
}

/// Rejects zero: a channel that kept no event would send live subscribers nothing but gaps.
fn at_least_one<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
    match Option::deserialize(deserializer)? {
        Some(0) => Err(D::Error::invalid_value(Unexpected::Unsigned(0), &"at least 1")),
        count => Ok(count),
    }
}

/// The settings in force for one channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settings {
    /// The retention of the channel.
    pub retention: Retention,
    /// Time after which an unused channel is evicted.
    pub idle_timeout: Duration,
    /// Time for which a producer may be away.
    pub producer_grace: Duration,
    /// Merging of events for subscribers that do not choose one.
    pub coalesce: Coalesce,
    /// Action for a generation without viewers.
    pub when_unwatched: Option<WhenUnwatched>,
}

impl Settings {
    /// Returns the options that lead from `rule` to these settings.
    #[must_use]
    pub fn beyond(&self, rule: &Self) -> ChannelOptions {
        fn unless<T: PartialEq>(own: T, rule: &T) -> Option<T> {
            (own != *rule).then_some(own)
        }
        let own = self.retention;
        let kept = &rule.retention;
        ChannelOptions {
            max_events: unless(own.max_events, &kept.max_events),
            max_bytes: unless(own.max_bytes, &kept.max_bytes).map(ByteSize::b),
            max_age: unless(own.max_age, &kept.max_age),
            idle_timeout: unless(self.idle_timeout, &rule.idle_timeout),
            producer_grace: unless(self.producer_grace, &rule.producer_grace),
            coalesce: unless(self.coalesce, &rule.coalesce),
            when_unwatched: unless(self.when_unwatched, &rule.when_unwatched).flatten(),
        }
    }

    /// Returns these settings, with those that the options name replaced.
    #[must_use]
    pub fn with(self, options: &ChannelOptions) -> Self {
        let Self { retention, idle_timeout, producer_grace, coalesce, when_unwatched } = self;
        Self {
            retention: Retention {
                max_events: options.max_events.unwrap_or(retention.max_events),
                max_bytes: options.max_bytes.map_or(retention.max_bytes, |size| size.as_u64()),
                max_age: options.max_age.unwrap_or(retention.max_age),
            },
            idle_timeout: options.idle_timeout.unwrap_or(idle_timeout),
            producer_grace: options.producer_grace.unwrap_or(producer_grace),
            coalesce: options.coalesce.unwrap_or(coalesce),
            when_unwatched: options.when_unwatched.or(when_unwatched),
        }
    }
}

impl ChannelOptions {
    /// Returns these options, with those that the others name replaced.
    #[must_use]
    pub fn with(self, others: &Self) -> Self {
        Self {
            max_events: others.max_events.or(self.max_events),
            max_bytes: others.max_bytes.or(self.max_bytes),
            max_age: others.max_age.or(self.max_age),
            idle_timeout: others.idle_timeout.or(self.idle_timeout),
            producer_grace: others.producer_grace.or(self.producer_grace),
            coalesce: others.coalesce.or(self.coalesce),
            when_unwatched: others.when_unwatched.or(self.when_unwatched),
        }
    }
}

impl Config {
    /// Returns whether every channel that the pattern selects is known to be durable.
    pub(super) fn is_durable(&self, pattern: &ChannelPattern, otherwise: Durability) -> bool {
        for rule in self.rules.iter().filter(|rule| rule.pattern.overlaps(pattern)) {
            if rule.durability.unwrap_or(otherwise) == Durability::Memory {
                return false;
            }
            if rule.pattern.contains(pattern) {
                return true;
            }
        }
        otherwise != Durability::Memory
    }

    /// Returns a text for the set of durable names: equal texts mean equal sets.
    #[must_use]
    pub fn durable_names(&self, otherwise: Durability) -> String {
        let is_durable = |rule: &Rule| rule.durability.unwrap_or(otherwise) != Durability::Memory;
        let otherwise_too = otherwise != Durability::Memory;
        let mut rules = &self.rules[..];
        // After the last rule that makes a difference, rules are about other settings.
        while let [before @ .., last] = rules
            && is_durable(last) == otherwise_too
        {
            rules = before;
        }
        let sign = |durable| if durable { '+' } else { '-' };
        let mut text = String::new();
        for rule in rules {
            text.push(sign(is_durable(rule)));
            text.push_str(rule.pattern.as_str());
            text.push('\n');
        }
        text.push(sign(otherwise_too));
        text
    }

    /// Returns the settings for a channel of this name.
    #[must_use]
    pub fn settings_for(&self, name: &ChannelName) -> Settings {
        let general = Settings {
            retention: Retention {
                max_events: self.max_events,
                max_bytes: self.max_bytes.as_u64(),
                max_age: self.max_age,
            },
            idle_timeout: self.idle_timeout,
            producer_grace: self.producer_grace,
            coalesce: self.coalesce,
            when_unwatched: self.when_unwatched,
        };
        match self.rules.iter().find(|rule| rule.pattern.matches(name)) {
            Some(rule) => general.with(&rule.options),
            None => general,
        }
    }
}
