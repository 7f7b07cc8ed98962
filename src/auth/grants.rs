//! Grants: the operations of a principal, and the channels on which it may do them.

use std::fmt;

use serde::de::{self, Deserializer};
use serde::ser::{SerializeMap, Serializer};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::pattern;
use crate::channel::{ChannelName, ChannelPattern};
use crate::limits::MAX_GRANTED_PATTERNS;
use crate::word_enum::words;

words! {
    /// An operation that can be granted.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    pub enum Operation {
        /// Append events, and close.
        Publish = "publish",
        /// Read events, live or replayed, and the state of a channel.
        Subscribe = "subscribe",
        /// Stop a generation, and receive signals.
        Signal = "signal",
        /// Create, change, delete and list channels; it includes `Metrics`.
        Admin = "admin",
        /// Read the metrics of the hub. It has no channels: it is granted as a whole, or not.
        Metrics = "metrics",
    }
}

impl Operation {
    /// The operations on channels.
    pub const ON_CHANNELS: [Self; 4] = [Self::Publish, Self::Subscribe, Self::Signal, Self::Admin];
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The channels on which each operation is granted. Empty by default.
///
/// As JSON: `{"publish":["chat/*"],"subscribe":["chat/**"],"signal":[…],"admin":true}`, where
/// `true` is short for `["**"]`. `metrics` is only ever `true`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Grants {
    patterns: [Vec<ChannelPattern>; Operation::ALL.len()],
}

/// The reason for which grants are invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidGrants {
    /// Not a table of lists.
    #[error("grants are a table such as {{ publish = [\"chat/*\"], admin = true }}")]
    Shape,
    /// A text that is not a pattern.
    #[error("`{0}` has an entry that is no channel pattern: {1}")]
    Pattern(Operation, crate::channel::InvalidChannelName),
    /// Too many patterns.
    #[error("`{0}` has more than {MAX_GRANTED_PATTERNS} patterns")]
    TooMany(Operation),
    /// An unknown operation.
    #[error(
        "grants are for `publish`, `subscribe`, `signal`, `admin` and `metrics`, and for nothing \
         else"
    )]
    Operation,
    /// Metrics of some channels only.
    #[error("`metrics` is `true`: it is about the hub, and not about channels")]
    Metrics,
}

/// A request for more than is granted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{operation}` on `{pattern}` is not covered by the grants of the caller")]
pub struct NotCovered {
    /// The requested operation.
    pub operation: Operation,
    /// The requested channels.
    pub pattern: ChannelPattern,
}

impl Grants {
    /// Returns grants for every operation on every channel.
    #[must_use]
    pub fn everything() -> Self {
        let mut grants = Self::default();
        if let Ok(all) = "**".parse::<ChannelPattern>() {
            for operation in Operation::ALL {
                grants.add(operation, all.clone());
            }
        }
        grants
    }

    /// Grants an operation on what a pattern selects.
    pub fn add(&mut self, operation: Operation, pattern: ChannelPattern) {
        self.patterns[operation as usize].push(pattern);
    }

    /// Grants the hub's metrics.
    pub fn add_metrics(&mut self) {
        if let Ok(all) = "**".parse() {
            self.add(Operation::Metrics, all);
        }
    }

    /// Returns the patterns of an operation.
    #[must_use]
    pub fn patterns(&self, operation: Operation) -> &[ChannelPattern] {
        &self.patterns[operation as usize]
    }

    /// Returns whether nothing is granted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.patterns.iter().all(Vec::is_empty)
    }

    /// Returns whether the operation is granted on this channel.
    #[must_use]
    pub fn covers(&self, operation: Operation, name: &ChannelName) -> bool {
        self.patterns(operation).iter().any(|granted| granted.matches(name))
    }

    /// Returns whether one of the operation's grants covers all that the pattern selects. Several
    /// grants that cover it only together do not count.
    #[must_use]
    pub fn covers_pattern(&self, operation: Operation, wanted: &ChannelPattern) -> bool {
        self.patterns(operation).iter().any(|granted| granted.contains(wanted))
            || (operation == Operation::Metrics && self.covers_all(Operation::Admin))
    }

    /// Returns whether the operation is granted on every channel: what a route without a channel
    /// requires.
    #[must_use]
    pub fn covers_all(&self, operation: Operation) -> bool {
        let all =
            |operation| self.patterns(operation).iter().any(|granted| granted.as_str() == "**");
        all(operation) || (operation == Operation::Metrics && all(Operation::Admin))
    }

    /// Returns the wanted grants, if these cover them.
    ///
    /// # Errors
    /// The first wanted grant that is not covered.
    pub fn narrowed_to(&self, wanted: &Self) -> Result<Self, NotCovered> {
        for operation in Operation::ALL {
            let mut patterns = wanted.patterns(operation).iter();
            if let Some(pattern) = patterns.find(|wanted| !self.covers_pattern(operation, wanted)) {
                return Err(NotCovered { operation, pattern: pattern.clone() });
            }
        }
        Ok(wanted.clone())
    }

    /// Returns the intersection of two grants.
    #[must_use]
    pub fn within(&self, most: &Self) -> Self {
        let mut common = Self::default();
        for operation in Operation::ON_CHANNELS {
            for pattern in self.patterns(operation) {
                let found = most.patterns(operation).iter();
                for pattern in found.filter_map(|most| pattern::intersection(pattern, most)) {
                    if common.patterns(operation).len() < MAX_GRANTED_PATTERNS {
                        common.add(operation, pattern);
                    }
                }
            }
        }
        // Either side may have it through `admin`.
        let both = self.covers_all(Operation::Metrics) && most.covers_all(Operation::Metrics);
        if both && !common.covers_all(Operation::Metrics) {
            common.add_metrics();
        }
        common
    }

    /// Reads the claim of a token. Unknown operations grant nothing.
    ///
    /// # Errors
    /// It is not an object of lists of patterns.
    pub fn from_claim(claim: &Value) -> Result<Self, InvalidGrants> {
        let table = claim.as_object().ok_or(InvalidGrants::Shape)?;
        let mut grants = Self::default();
        for operation in Operation::ALL {
            if let Some(value) = table.get(operation.as_str()) {
                grants.read(operation, value)?;
            }
        }
        Ok(grants)
    }

    fn read(&mut self, operation: Operation, value: &Value) -> Result<(), InvalidGrants> {
        let all = [Value::from("**")];
        let items: &[Value] = match value {
            Value::Bool(true) => &all,
            Value::Bool(false) | Value::Null => &[],
            Value::Array(items) => items,
            _ => return Err(InvalidGrants::Shape),
        };
        if items.len() > MAX_GRANTED_PATTERNS {
            return Err(InvalidGrants::TooMany(operation));
        }
        for item in items {
            let text = item.as_str().ok_or(InvalidGrants::Shape)?;
            let pattern: ChannelPattern =
                text.parse().map_err(|error| InvalidGrants::Pattern(operation, error))?;
            if operation == Operation::Metrics && pattern.as_str() != "**" {
                return Err(InvalidGrants::Metrics);
            }
            self.add(operation, pattern);
        }
        Ok(())
    }
}

/// Operations that are usually granted on all channels, and are then written as `true`.
const WHOLE: [Operation; 2] = [Operation::Admin, Operation::Metrics];

impl Serialize for Grants {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for operation in Operation::ALL {
            match self.patterns(operation) {
                [] => {}
                [all] if WHOLE.contains(&operation) && all.as_str() == "**" => {
                    map.serialize_entry(operation.as_str(), &true)?;
                }
                patterns => map.serialize_entry(operation.as_str(), patterns)?,
            }
        }
        map.end()
    }
}

/// Settings are stricter than claims: an unknown operation is an error.
impl<'de> Deserialize<'de> for Grants {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        let mut keys = value.as_object().into_iter().flat_map(|table| table.keys());
        if keys.any(|key| Operation::ALL.iter().all(|operation| operation.as_str() != key)) {
            return Err(de::Error::custom(InvalidGrants::Operation));
        }
        Self::from_claim(&value).map_err(de::Error::custom)
    }
}
