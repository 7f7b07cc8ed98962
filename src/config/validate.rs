//! Checks of settings whose values are of the right type.

use std::time::Duration;

use bytesize::ByteSize;
use fanfare_cluster::state_machine::MAX_PARTS_BYTES;

use super::Config;
use crate::auth::InvalidAuth;
use crate::backplane::{InvalidCluster, Storage};
use crate::store::disk::Durability;

const SHORTEST: Duration = Duration::from_millis(10);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Bytes of a batch of the shared log that are not the data of its event, at most.
const COMMAND_ROOM: u64 = 64 << 10;

/// A value of the right type that is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {message}")]
pub struct InvalidSetting {
    /// The setting.
    pub key: &'static str,
    /// The fault, and a valid value.
    pub message: String,
}

/// The invalid settings that were found.
#[derive(Default)]
struct Found(Vec<InvalidSetting>);

impl Found {
    fn add(&mut self, key: &'static str, message: impl ToString) {
        self.0.push(InvalidSetting { key, message: message.to_string() });
    }

    fn require(&mut self, holds: bool, key: &'static str, message: impl ToString) {
        if !holds {
            self.add(key, message);
        }
    }

    fn at_least_10ms(&mut self, key: &'static str, time: Duration) {
        self.require(time >= SHORTEST, key, "must be at least 10ms");
    }

    fn at_most_a_day(&mut self, key: &'static str, time: Duration) {
        self.require(time <= DAY, key, "must be at most 1day");
    }

    /// Requires a time that a timer can wait for: others never come, or overflow.
    fn reachable(&mut self, key: &'static str, time: Duration) {
        self.at_least_10ms(key, time);
        self.at_most_a_day(key, time);
    }
}

impl Config {
    /// Finds values of the right type that are not valid.
    #[must_use]
    pub fn validate(&self) -> Vec<InvalidSetting> {
        let mut found = Found::default();
        for (key, value) in self.not_zero() {
            found.require(value > 0, key, "must be at least 1");
        }
        self.check_server(&mut found);
        self.check_publish(&mut found);
        self.check_subscribers(&mut found);
        if self.cluster.is_on() {
            self.check_cluster(&mut found);
        } else {
            self.check_store(&mut found);
        }
        for InvalidCluster { key, message } in self.cluster.validate() {
            found.add(key, message);
        }
        found.at_most_a_day("drain.window", self.drain.window);
        for invalid in self.hooks.validate() {
            found.add("hooks", invalid);
        }
        for InvalidAuth { key, message } in self.auth.validate() {
            found.add(key, message);
        }
        if let Err(error) = self.cors.validate() {
            found.add("cors.allow_origins", error);
        }
        if let Err(error) = self.log.filter() {
            found.add("log.level", error);
        }
        found.0
    }

    /// Returns the counts and sizes that must not be zero.
    fn not_zero(&self) -> [(&'static str, u64); 12] {
        [
            ("server.max_connections", self.server.max_connections as u64),
            ("server.max_headers", self.server.max_headers as u64),
            ("server.max_h2_streams", self.server.max_h2_streams.into()),
            ("channels.max_channels", self.channels.max_channels as u64),
            ("channels.max_events", self.channels.max_events),
            ("channels.max_bytes", self.channels.max_bytes.as_u64()),
            ("channels.memory_budget", self.channels.memory_budget.as_u64()),
            ("publish.max_event_bytes", self.publish.max_event_bytes.as_u64()),
            ("publish.max_streams", self.publish.max_streams as u64),
            ("subscribers.max_channels", self.subscribers.max_channels as u64),
            ("subscribers.max_lag_events", self.subscribers.max_lag_events),
            ("subscribers.max_lag_bytes", self.subscribers.max_lag_bytes.as_u64()),
        ]
    }

    fn check_server(&self, found: &mut Found) {
        let server = &self.server;
        found.require(
            (8 << 10..=1 << 20).contains(&server.max_header_bytes.as_u64()),
            "server.max_header_bytes",
            "must be between 8KiB and 1MiB",
        );
        found.require(
            !server.proxy_protocol || !server.trusted_proxies.is_empty(),
            "server.proxy_protocol",
            "needs `server.trusted_proxies`: only they may send a PROXY header",
        );
        found.reachable("server.header_timeout", server.header_timeout);
        found.reachable("server.body_timeout", server.body_timeout);
        let key = if self.tls.cert.as_os_str().is_empty() { "tls.key" } else { "tls.cert" };
        found.require(
            self.tls.is_whole(),
            key,
            "`tls.cert` and `tls.key` belong together: set both, or neither",
        );
    }

    fn check_publish(&self, found: &mut Found) {
        let publish = &self.publish;
        found.require(
            publish.max_event_bytes.as_u64() <= 64 << 20,
            "publish.max_event_bytes",
            "must be at most 64MiB: an event is held in memory whole",
        );
        found.require(
            publish.max_unfinished >= publish.max_event_bytes,
            "publish.max_unfinished",
            "must be at least `publish.max_event_bytes`",
        );
        found.reachable("publish.idle_timeout", publish.idle_timeout);
    }

    fn check_subscribers(&self, found: &mut Found) {
        let subscribers = &self.subscribers;
        found.require(
            subscribers.max_unwritten.as_u64() >= 1 << 20,
            "subscribers.max_unwritten",
            "must be at least 1MiB",
        );
        found.reachable("subscribers.heartbeat", subscribers.heartbeat);
        found.reachable("subscribers.write_timeout", subscribers.write_timeout);
        found.require(
            subscribers.max_lifetime <= 3650 * DAY,
            "subscribers.max_lifetime",
            "must be at most 3650days: `0s` is for ever",
        );
        found.at_most_a_day("subscribers.reconnect_delay", subscribers.reconnect_delay);
        found.at_most_a_day("subscribers.end_reconnect_delay", subscribers.end_reconnect_delay);
    }

    fn check_store(&self, found: &mut Found) {
        let store = &self.store;
        let is_kept = |durability| store.is_on() || durability == Durability::Memory;
        let needs_path = "needs `store.path`, the directory in which channels are kept";
        found.require(is_kept(store.durability), "store.durability", needs_path);
        let mut rules = self.channels.rules.iter().filter_map(|rule| rule.durability);
        found.require(rules.all(is_kept), "channels.rules", needs_path);
        found.require(!store.sync_interval.is_zero(), "store.sync_interval", "must be above 0s");
        found.require(
            store.max_bytes.as_u64() >= 256 << 20,
            "store.max_bytes",
            "must be at least 256MiB: files are written in pieces of 64MiB",
        );
    }

    /// Checks what a cluster requires of other settings, and they of it.
    fn check_cluster(&self, found: &mut Found) {
        let cluster = &self.cluster;
        found.require(
            !self.store.is_on(),
            "store.path",
            "must be empty in a cluster, whose hubs keep their channels in the shared log: remove \
             it, or set `cluster.backplane = \"none\"`",
        );
        let can_keep = |durability| match durability {
            Durability::Memory => true,
            Durability::Async => cluster.storage == Storage::File,
            Durability::Sync => {
                cluster.storage == Storage::File && cluster.replicas > 1 && cluster.synced
            }
        };
        let needs = "in a cluster, \"async\" needs `cluster.storage = \"file\"`, and \"sync\" also \
                     3 or 5 `cluster.replicas` and `cluster.synced = true`, for servers that sync \
                     each message";
        found.require(can_keep(self.store.durability), "store.durability", needs);
        let mut rules = self.channels.rules.iter().filter_map(|rule| rule.durability);
        found.require(rules.all(can_keep), "channels.rules", format!("`durability`: {needs}"));
        let largest = MAX_PARTS_BYTES as u64 - COMMAND_ROOM;
        found.require(
            self.publish.max_event_bytes.as_u64() <= largest,
            "publish.max_event_bytes",
            format!("must be at most {} in a cluster", ByteSize::b(largest)),
        );
        let (longest, of) = self.longest_age();
        // A hub that starts must find what it is to know before it comes to what follows from it.
        let least = longest.saturating_add(longest / 10);
        found.require(
            cluster.max_age >= least,
            "cluster.max_age",
            format!("must be at least {}, 10 % more than {of}", humantime::format_duration(least)),
        );
    }

    /// Returns the longest time for which a hub uses messages of the shared log, and its setting.
    fn longest_age(&self) -> (Duration, &'static str) {
        let rules = self.channels.rules.iter().filter_map(|rule| rule.options.max_age);
        let ages = [
            (self.publish.idempotency_window, "`publish.idempotency_window`"),
            (rules.max().unwrap_or_default(), "`max_age` of a rule of `channels.rules`"),
            (self.channels.max_age, "`channels.max_age`"),
        ];
        ages.into_iter().max_by_key(|(age, _)| *age).unwrap_or_default()
    }
}
