//! Settings of the sections `[[hooks]]`.

use std::str::FromStr;
use std::time::Duration;

use http::Uri;
use serde::{Deserialize, Serialize, Serializer};

use super::secret::SecretSetting;
use crate::channel::{ChannelName, ChannelPattern};

/// Valid range of `timeout`: a response takes some time, and a slow receiver holds a call that
/// long.
const TIMEOUTS: std::ops::RangeInclusive<Duration> =
    Duration::from_millis(10)..=Duration::from_secs(300);

/// Valid range of `attempts`: a hundred span an hour and a half.
const ATTEMPTS: std::ops::RangeInclusive<u32> = 1..=100;

/// All hooks.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Config(pub Vec<Hook>);

/// One section `[[hooks]]`: a URL to call when a matching channel ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(
    deny_unknown_fields,
    expecting = "a table such as { pattern = \"chat/**\", url = \"https://app.example/ended\" }"
)]
pub struct Hook {
    /// Channels whose end is reported.
    pub pattern: ChannelPattern,
    /// The URL to call.
    pub url: HookUrl,
    /// The secret that signs calls; without it they are not signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<SecretSetting>,
    /// Timeout of one attempt.
    #[serde(default = "default_timeout", with = "humantime_serde")]
    pub timeout: Duration,
    /// Maximum number of attempts per call.
    #[serde(default = "default_attempts")]
    pub attempts: u32,
}

fn default_timeout() -> Duration {
    Duration::from_secs(5)
}

fn default_attempts() -> u32 {
    5
}

/// A hook with a value of the right type that is not valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{setting}` of the hook for `{pattern}` must be {right}")]
pub struct InvalidHook {
    pattern: String,
    setting: &'static str,
    right: &'static str,
}

impl Config {
    /// Finds values of the right type that are not valid.
    #[must_use]
    pub fn validate(&self) -> Vec<InvalidHook> {
        let mut found = Vec::new();
        for hook in &self.0 {
            let mut require = |holds: bool, setting, right| {
                if !holds {
                    found.push(InvalidHook { pattern: hook.pattern.to_string(), setting, right });
                }
            };
            require(TIMEOUTS.contains(&hook.timeout), "timeout", "between 10ms and 5min");
            require(ATTEMPTS.contains(&hook.attempts), "attempts", "between 1 and 100");
        }
        found
    }

    /// Returns whether one of the URLs is `https`.
    pub(super) fn needs_tls(&self) -> bool {
        self.0.iter().any(|hook| hook.url.is_https())
    }
}

impl Hook {
    /// Returns whether this hook is called when the channel ends.
    pub(super) fn wants(&self, channel: &ChannelName) -> bool {
        self.pattern.matches(channel)
    }
}

/// The URL of a hook: `http` or `https`, with a host, and without credentials.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct HookUrl(Uri);

impl HookUrl {
    pub(super) fn uri(&self) -> &Uri {
        &self.0
    }

    /// Returns the host, for logs: the path and query of such a URL are often secret.
    pub(super) fn host(&self) -> &str {
        self.0.host().unwrap_or_default()
    }

    fn is_https(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }
}

impl FromStr for HookUrl {
    type Err = InvalidHookUrl;

    fn from_str(text: &str) -> Result<Self, InvalidHookUrl> {
        let uri: Uri = text.parse().map_err(|_| InvalidHookUrl::NotHttp)?;
        let authority = uri.authority().ok_or(InvalidHookUrl::NotHttp)?;
        if authority.as_str().contains('@') {
            return Err(InvalidHookUrl::Credentials);
        }
        if authority.host().is_empty() || !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(InvalidHookUrl::NotHttp);
        }
        Ok(Self(uri))
    }
}

impl TryFrom<String> for HookUrl {
    type Error = InvalidHookUrl;

    fn try_from(text: String) -> Result<Self, InvalidHookUrl> {
        text.parse()
    }
}

impl Serialize for HookUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

/// The reason for which a text is not the URL of a hook. It does not contain the text, which may
/// hold a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidHookUrl {
    /// Not an HTTP URL.
    #[error(
        "`url` must begin with http:// or https:// and a host, such as https://app.example/ended"
    )]
    NotHttp,
    /// A user name or password in it, which would not be sent.
    #[error("`url` must be without credentials: calls are signed with `secret`")]
    Credentials,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hook(more: &str) -> Result<Hook, String> {
        let text = format!("pattern = \"chat/*\"\n{more}");
        toml::from_str(&text).map_err(|error: toml::de::Error| error.message().to_owned())
    }

    #[test]
    fn a_hook_is_a_pattern_and_a_url_and_the_rest_has_defaults() {
        let hook = hook("url = \"https://app.example:8443/ended?a=b\"").unwrap();
        assert_eq!(hook.url.uri(), "https://app.example:8443/ended?a=b");
        assert_eq!((hook.timeout, hook.attempts), (Duration::from_secs(5), 5));
        assert_eq!(hook.secret, None);
        assert_eq!(Config(vec![hook]).validate(), []);
    }

    #[test]
    fn a_url_is_http_or_https_with_a_host_and_without_credentials() {
        for text in ["http://localhost", "https://app.example/x", "http://[::1]:80/", "HTTP://a"] {
            assert!(text.parse::<HookUrl>().is_ok(), "{text}");
        }
        for text in ["", "app.example", "/ended", "ftp://app.example", "https://", "http:///x"] {
            assert_eq!(text.parse::<HookUrl>(), Err(InvalidHookUrl::NotHttp), "{text}");
        }
        let credentials = "https://me:word@app.example/".parse::<HookUrl>();
        assert_eq!(credentials, Err(InvalidHookUrl::Credentials));
    }

    #[test]
    fn what_is_wrong_is_said_without_repeating_what_is_secret() {
        let url = "url = \"https://app.example/\"\n";
        for (more, why) in [
            (url.replace("https", "ftp"), "`url` must begin with http:// or https://"),
            (url.replace("app", "hunter2@app"), "`url` must be without credentials"),
            (format!("{url}secret = \"hunter2\""), "`secret` is too short"),
            (format!("{url}secret = \"whsec_hunter2!\""), "`secret` is not base64"),
            (format!("{url}attempt = 5"), "unknown field `attempt`"),
        ] {
            let error = hook(&more).unwrap_err();
            assert!(error.contains(why), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn values_that_cannot_be_are_named_with_their_hook() {
        let url = "url = \"https://app.example/\"\n";
        for (more, why) in [
            ("attempts = 0", "`attempts` of the hook for `chat/*` must be between 1 and 100"),
            ("timeout = \"1ms\"", "`timeout` of the hook for `chat/*` must be between 10ms and"),
            ("timeout = \"1day\"", "`timeout` of the hook for `chat/*` must be between 10ms and"),
        ] {
            let invalid = Config(vec![hook(&format!("{url}{more}")).unwrap()]).validate();
            assert_eq!(invalid.len(), 1);
            assert!(invalid[0].to_string().starts_with(why), "{}", invalid[0]);
        }
    }

    #[test]
    fn a_secret_is_never_shown() {
        let text = "url = \"https://app.example/\"\nsecret = \"hunter2 hunter2 hunter2\"";
        let hook = hook(text).unwrap();
        assert!(!format!("{hook:?}").contains("hunter2"), "{hook:?}");
        let shown = toml::to_string(&hook).unwrap();
        assert!(shown.contains("secret = ") && !shown.contains("hunter2"), "{shown}");
    }
}
