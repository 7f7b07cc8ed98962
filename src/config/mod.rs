//! All settings: a struct of the settings of each module, which only `server` and `cli` see as a
//! whole. It also has the sockets that the hub is started with.

mod inherited;
mod load;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use inherited::{InheritError, Inherited};
pub use load::{LoadError, Loaded, load, variable};

use crate::clock::Clock;
use crate::http::{CorsConfig, TlsConfig};
use crate::store::disk::{self, Durability};
use crate::{auth, egress, hooks, http, hub, ingest, quota, telemetry};

/// The commented default configuration: the manual of all settings.
pub const DEFAULT: &str = include_str!("../../deploy/fanfare.toml");

/// All settings.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Listeners and connections.
    pub server: http::Config,
    /// The certificate of the public listener.
    pub tls: TlsConfig,
    /// Retention and limits of channels.
    pub channels: hub::Config,
    /// The store of durable channels.
    pub store: disk::Config,
    /// Delivery to subscribers.
    pub subscribers: egress::Config,
    /// Limits of publishing.
    pub publish: ingest::Config,
    /// HTTP calls when channels end.
    pub hooks: hooks::Config,
    /// Authentication and authorization.
    pub auth: auth::Config,
    /// Rates and shares of principals and addresses.
    pub quotas: quota::Config,
    /// Web pages that may use the hub.
    pub cors: CorsConfig,
    /// Shutdown.
    pub drain: DrainConfig,
    /// Logs.
    pub log: telemetry::Config,
    /// The source of times and ages; not a setting.
    #[serde(skip)]
    pub clock: Clock,
}

/// Settings of the section `drain`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DrainConfig {
    /// Time over which subscribers are disconnected when the hub shuts down.
    #[serde(with = "humantime_serde")]
    pub window: Duration,
}

impl Default for DrainConfig {
    fn default() -> Self {
        Self { window: Duration::from_secs(10) }
    }
}

/// Returns whether a reload applies the settings of this section.
fn is_reloaded(section: &str) -> bool {
    ["auth", "channels", "cors", "hooks", "quotas", "tls"].contains(&section)
}

/// A value of the right type that is not valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidSetting {
    /// The setting.
    pub key: &'static str,
    /// The fault, and a valid value.
    pub message: String,
}

impl Config {
    /// Reads a whole configuration from TOML; a missing setting has its default.
    ///
    /// # Errors
    /// The text is not TOML, or has an unknown key or an invalid value.
    pub fn from_toml(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// Returns the settings that differ from the other configuration and need a restart.
    #[must_use]
    pub fn beyond_reload(&self, other: &Self) -> Vec<String> {
        let table = |config: &Self| toml::Table::try_from(config).unwrap_or_default();
        let before = table(self);
        let after = table(other);
        let mut found = Vec::new();
        for (section, settings) in before.iter().filter(|(name, _)| !is_reloaded(name)) {
            for (key, value) in settings.as_table().into_iter().flatten() {
                if after[section].get(key) != Some(value) {
                    found.push(format!("{section}.{key}"));
                }
            }
        }
        let names = |config: &Self| config.channels.durable_names(self.store.durability);
        if names(self) != names(other) {
            found.push("channels.rules (`durability`)".to_owned());
        }
        found
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

    /// Finds values of the right type that are not valid.
    #[must_use]
    pub fn validate(&self) -> Vec<InvalidSetting> {
        let mut found = Vec::new();
        let mut require = |holds: bool, key: &'static str, message: &str| {
            if !holds {
                found.push(InvalidSetting { key, message: message.to_owned() });
            }
        };
        for (key, value) in self.not_zero() {
            require(value > 0, key, "must be at least 1");
        }
        let header = self.server.max_header_bytes.as_u64();
        let header_bounds = "must be between 8KiB and 1MiB";
        require((8 << 10..=1 << 20).contains(&header), "server.max_header_bytes", header_bounds);
        let needs_trust = "needs `server.trusted_proxies`: only they may send a PROXY header";
        let has_trust = !self.server.proxy_protocol || !self.server.trusted_proxies.is_empty();
        require(has_trust, "server.proxy_protocol", needs_trust);
        let half = "`tls.cert` and `tls.key` belong together: set both, or neither";
        let set = if self.tls.cert.as_os_str().is_empty() { "tls.key" } else { "tls.cert" };
        require(self.tls.is_whole(), set, half);
        let event_bound = "must be at most 64MiB: an event is held in memory whole";
        let event = self.publish.max_event_bytes.as_u64();
        require(event <= 64 << 20, "publish.max_event_bytes", event_bound);
        let unfinished = self.publish.max_unfinished >= self.publish.max_event_bytes;
        let whole = "must be at least `publish.max_event_bytes`";
        require(unfinished, "publish.max_unfinished", whole);
        let somewhere = "needs `store.path`, the directory in which channels are kept";
        let kept = |durability| self.store.is_on() || durability == Durability::Memory;
        require(kept(self.store.durability), "store.durability", somewhere);
        let rules = self.channels.rules.iter().filter_map(|rule| rule.durability);
        require(rules.into_iter().all(kept), "channels.rules", somewhere);
        require(!self.store.sync_interval.is_zero(), "store.sync_interval", "must be above 0s");
        let room = "must be at least 256MiB: files are written in pieces of 64MiB";
        require(self.store.max_bytes.as_u64() >= 256 << 20, "store.max_bytes", room);
        let unwritten = self.subscribers.max_unwritten.as_u64() >= 1 << 20;
        require(unwritten, "subscribers.max_unwritten", "must be at least 1MiB");
        let short = "must be at least 10ms";
        let long_enough = |time: Duration| time >= Duration::from_millis(10);
        require(long_enough(self.subscribers.heartbeat), "subscribers.heartbeat", short);
        require(long_enough(self.subscribers.write_timeout), "subscribers.write_timeout", short);
        require(long_enough(self.server.header_timeout), "server.header_timeout", short);
        require(long_enough(self.server.body_timeout), "server.body_timeout", short);
        require(long_enough(self.publish.idle_timeout), "publish.idle_timeout", short);
        let endless = "must be at most 3650days: `0s` is for ever";
        let most = Duration::from_secs(3650 * 24 * 3600);
        require(self.subscribers.max_lifetime <= most, "subscribers.max_lifetime", endless);
        let long = "must be at most 1day";
        let a_day = Duration::from_secs(24 * 3600);
        require(self.subscribers.reconnect_delay <= a_day, "subscribers.reconnect_delay", long);
        let end_delay = self.subscribers.end_reconnect_delay;
        require(end_delay <= a_day, "subscribers.end_reconnect_delay", long);
        require(self.drain.window <= a_day, "drain.window", long);
        require(self.server.body_timeout <= a_day, "server.body_timeout", long);
        require(self.publish.idle_timeout <= a_day, "publish.idle_timeout", long);
        for invalid in self.hooks.validate() {
            found.push(InvalidSetting { key: "hooks", message: invalid.to_string() });
        }
        for auth::InvalidAuth { key, message } in self.auth.validate() {
            found.push(InvalidSetting { key, message });
        }
        if let Err(error) = self.cors.validate() {
            found.push(InvalidSetting { key: "cors.allow_origins", message: error.to_string() });
        }
        if let Err(error) = self.log.filter() {
            found.push(InvalidSetting { key: "log.level", message: error.to_string() });
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commented_default_file_is_the_defaults_and_names_every_setting() {
        assert_eq!(Config::from_toml(DEFAULT).unwrap(), Config::default());
        let named: toml::Table = toml::from_str(DEFAULT).unwrap();
        let all: toml::Table = toml::Table::try_from(Config::default()).unwrap();
        // Lists of tables are shown as comments: empty lists would collide with the examples.
        let lists = ["rules", "issuers", "api_keys"];
        for (section, settings) in all.iter().filter(|(section, _)| *section != "hooks") {
            let named = named[section].as_table().unwrap();
            for key in
                settings.as_table().unwrap().keys().filter(|key| !lists.contains(&key.as_str()))
            {
                assert!(named.contains_key(key), "{section}.{key} is not in deploy/fanfare.toml");
            }
        }
    }

    #[test]
    fn the_table_of_limits_has_all_of_them() {
        let table = include_str!("../../docs/limits.md");
        let settings = toml::Table::try_from(Config::default()).unwrap();
        let limits = |key: &String| {
            ["max_", "memory_", "address_"].iter().any(|start| key.starts_with(start))
                || ["_timeout", "_grace", "_window"].iter().any(|end| key.ends_with(end))
        };
        for (section, keys) in &settings {
            let keys = keys.as_table().into_iter().flatten().map(|(key, _)| key);
            for key in keys.filter(|key| section == "quotas" || limits(key)) {
                assert!(table.contains(&format!("`{section}.{key}`")), "{section}.{key}");
            }
        }
        let constants = include_str!("../limits.rs").lines().filter_map(|line| {
            line.strip_prefix("pub const ")?.split_once(':').map(|(name, _)| name)
        });
        for name in constants {
            assert!(table.contains(&format!("`{name}`")), "{name}");
        }
    }

    #[test]
    fn the_examples_among_the_comments_can_be_used() {
        let is_setting = |line: &str| {
            let key = line.split(" = ").next().filter(|key| key.len() < line.len());
            line.starts_with("[[")
                || key.is_some_and(|key| key.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
        };
        let uncommented = |line| match str::strip_prefix(line, "# ") {
            Some(setting) if is_setting(setting) => setting,
            _ => line,
        };
        let uncommented: Vec<_> = DEFAULT.lines().map(uncommented).collect();
        let uncommented = uncommented.join("\n");
        let config = Config::from_toml(&uncommented).unwrap();
        assert_eq!(config.validate(), []);
        let auth = &config.auth;
        assert_eq!((auth.issuers.len(), auth.api_keys.len()), (1, 1));
        assert_eq!(config.channels.rules.len(), 1);
        assert_eq!(config.channels.rules[0].options.max_events, Some(1000));
        let [hook] = &config.hooks.0[..] else { panic!("one hook: {:?}", config.hooks) };
        let minimal = "[[hooks]]\npattern = \"a\"\nurl = \"http://a\"";
        let defaults = &Config::from_toml(minimal).unwrap().hooks.0[0];
        assert_eq!((hook.timeout, hook.attempts), (defaults.timeout, defaults.attempts));
        assert!(hook.secret.is_some());
    }

    #[test]
    fn defaults_are_valid() {
        assert_eq!(Config::default().validate(), []);
    }

    #[test]
    fn what_cannot_be_is_named() {
        let text = "[subscribers]\nheartbeat = \"1ms\"\n[cors]\nallow_origins = [\"example.com\"]";
        let invalid = Config::from_toml(text).unwrap().validate();
        let keys: Vec<_> = invalid.iter().map(|invalid| invalid.key).collect();
        assert_eq!(keys, ["subscribers.heartbeat", "cors.allow_origins"]);
    }

    #[test]
    fn half_of_what_belongs_together_is_named() {
        for (text, key) in [
            ("[tls]\ncert = \"a.pem\"", "tls.cert"),
            ("[tls]\nkey = \"a.pem\"", "tls.key"),
            ("[server]\nproxy_protocol = true", "server.proxy_protocol"),
        ] {
            let invalid = Config::from_toml(text).unwrap().validate();
            let keys: Vec<_> = invalid.iter().map(|invalid| invalid.key).collect();
            assert_eq!(keys, [key], "{text}");
        }
        let whole = "[server]\nproxy_protocol = true\ntrusted_proxies = [\"10.0.0.0/8\"]\n\
                     [tls]\ncert = \"a.pem\"\nkey = \"b.pem\"";
        assert_eq!(Config::from_toml(whole).unwrap().validate(), []);
    }

    #[test]
    fn times_that_no_clock_can_reach_are_named() {
        let text = "[subscribers]\nmax_lifetime = \"18446744073709551615s\"\n\
                    reconnect_delay = \"2days\"\n[drain]\nwindow = \"18446744073709551615s\"";
        let invalid = Config::from_toml(text).unwrap().validate();
        let keys: Vec<_> = invalid.iter().map(|invalid| invalid.key).collect();
        assert_eq!(
            keys,
            ["subscribers.max_lifetime", "subscribers.reconnect_delay", "drain.window"]
        );
    }

    #[test]
    fn a_hook_that_cannot_be_is_named() {
        let text = "[[hooks]]\npattern = \"a\"\nurl = \"http://a\"\nattempts = 0";
        let invalid = Config::from_toml(text).unwrap().validate();
        assert_eq!(invalid.len(), 1);
        assert_eq!(invalid[0].key, "hooks");
    }

    #[test]
    fn a_rule_keeps_at_least_one_event() {
        let text = "[[channels.rules]]\npattern = \"a/*\"\nmax_events = 0";
        let error = Config::from_toml(text).unwrap_err().to_string();
        assert!(error.contains("expected at least 1"), "{error}");
    }

    #[test]
    fn a_rule_has_no_unknown_keys() {
        let text = "[[channels.rules]]\npattern = \"a/*\"\nmax_event = 3";
        assert!(Config::from_toml(text).is_err());
    }
}
