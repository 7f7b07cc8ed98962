//! All settings: a struct of the settings of each module, which only `server` and `cli` see as a
//! whole. It also has the sockets that the hub is started with.

mod inherited;
mod load;
mod validate;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use inherited::{InheritError, Inherited};
pub use load::{LoadError, Loaded, load, variable};
pub use validate::InvalidSetting;

use crate::clock::Clock;
use crate::http::{CorsConfig, TlsConfig};
use crate::store::disk;
use crate::{auth, backplane, egress, hooks, http, hub, ingest, quota, telemetry};

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
    /// The cluster that the hub belongs to.
    pub cluster: backplane::Config,
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
    fn what_does_not_fit_a_cluster_is_named() {
        let cluster = "[cluster]\nbackplane = \"nats\"\nservers = [\"nats://a:4222\"]\n";
        let synced = "synced = true\n[store]\ndurability = \"sync\"";
        let in_memory = "storage = \"memory\"\n[store]\ndurability = \"async\"";
        let rule = "[[channels.rules]]\npattern = \"a\"\n";
        for (text, keys, says) in [
            ("", &[][..], ""),
            (synced, &[], ""),
            ("[store]\ndurability = \"async\"", &[], ""),
            ("[store]\npath = \"/a\"", &["store.path"], "must be empty in a cluster"),
            ("[store]\ndurability = \"sync\"", &["store.durability"], "`cluster.synced = true`"),
            (in_memory, &["store.durability"], "`cluster.storage = \"file\"`"),
            (
                "[publish]\nmax_event_bytes = \"64MiB\"",
                &["publish.max_event_bytes"],
                "must be at most 63.9 MiB in a cluster",
            ),
            (
                "[channels]\nmax_age = \"1day\"",
                &["cluster.max_age"],
                "must be at least 1day 2h 24m, 10 % more than `channels.max_age`",
            ),
            (
                &format!("{rule}max_age = \"18446744073709551615s\""),
                &["cluster.max_age"],
                "10 % more than `max_age` of a rule of `channels.rules`",
            ),
            (&format!("{rule}durability = \"sync\""), &["channels.rules"], "`durability`: in a"),
        ] {
            let invalid = Config::from_toml(&format!("{cluster}{text}")).unwrap().validate();
            let found: Vec<_> = invalid.iter().map(|invalid| invalid.key).collect();
            assert_eq!(found, keys, "{text}");
            assert!(invalid.iter().all(|it| it.message.contains(says)), "{text}: {invalid:?}");
        }
    }

    #[test]
    fn times_that_no_clock_can_reach_are_named() {
        let text = "[subscribers]\nmax_lifetime = \"18446744073709551615s\"\n\
                    reconnect_delay = \"2days\"\nheartbeat = \"2days\"\n\
                    write_timeout = \"18446744073709551615s\"\n\
                    [server]\nheader_timeout = \"18446744073709551615s\"\n\
                    [drain]\nwindow = \"18446744073709551615s\"";
        let invalid = Config::from_toml(text).unwrap().validate();
        let keys: Vec<_> = invalid.iter().map(|invalid| invalid.key).collect();
        assert_eq!(
            keys,
            [
                "server.header_timeout",
                "subscribers.heartbeat",
                "subscribers.write_timeout",
                "subscribers.max_lifetime",
                "subscribers.reconnect_delay",
                "drain.window"
            ]
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
