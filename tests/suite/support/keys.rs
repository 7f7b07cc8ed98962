//! Hubs with authentication: API keys with grants, tokens that expire, and clients with
//! credentials.

use std::io::Write;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};
use tempfile::NamedTempFile;

use fanfare::internals::auth::{ApiKeyHash, Grants, Minter, Secret};

use super::{Response, SseClient, TestHub, Wire};

/// The secret with which the hub of a test signs its tokens.
const SECRET: &[u8] = b"a secret of a test, of thirty-two bytes and some more";

/// The credentials that a hub accepts.
pub(crate) struct Keys {
    signing_key: NamedTempFile,
    keys: Vec<(String, String)>,
}

/// A client that always sends the same credential.
#[derive(Clone)]
pub(crate) struct Client<'a> {
    hub: &'a TestHub,
    headers: Vec<(String, String)>,
}

/// Returns the API key of this name.
pub(crate) fn key(name: &str) -> String {
    format!("ffk_key-of-{name}")
}

impl Keys {
    /// Creates these API keys, by name and grants in TOML, and `root`, which may do everything.
    pub(crate) fn new(keys: &[(&str, &str)]) -> Self {
        let mut signing_key = NamedTempFile::new().expect("a file");
        signing_key.write_all(SECRET).expect("a file to write to");
        let all = "{ publish = true, subscribe = true, signal = true, admin = true }";
        let keys = [("root", all)].into_iter().chain(keys.iter().copied());
        let keys = keys.map(|(name, grants)| (name.to_owned(), grants.to_owned())).collect();
        Self { signing_key, keys }
    }

    /// Removes a key.
    pub(crate) fn remove(&mut self, name: &str) {
        self.keys.retain(|(key, _)| key != name);
    }

    /// Replaces the grants of a key.
    pub(crate) fn grant(&mut self, name: &str, grants: &str) {
        self.remove(name);
        self.keys.push((name.to_owned(), grants.to_owned()));
    }

    /// Changes the signing secret, which invalidates all earlier tokens.
    pub(crate) fn sign_again(&mut self) {
        self.signing_key = NamedTempFile::new().expect("a file");
        let other = SECRET.repeat(2);
        self.signing_key.write_all(&other).expect("a file to write to");
    }

    /// Returns the settings of a hub that trusts them.
    pub(crate) fn settings(&self) -> String {
        let key = |(name, grants): &(String, String)| {
            let hash = ApiKeyHash::of(&key(name));
            format!("{{ name = \"{name}\", hash = \"{hash}\", grants = {grants} }}")
        };
        let keys: Vec<String> = self.keys.iter().map(key).collect();
        let path = self.signing_key.path().display();
        let keys = keys.join(", ");
        format!("auth.signing_key = \"file:{path}\"\nauth.api_keys = [{keys}]\n")
    }

    /// Starts a hub that trusts them, with more settings.
    pub(crate) async fn hub(&self, more: &str) -> TestHub {
        TestHub::with(&format!("{}{more}", self.settings())).await.operated_by(&key("root"))
    }

    /// Returns a token of the hub's own with these grants, as JSON, and this lifetime in seconds.
    pub(crate) fn token(&self, subject: &str, grants: &Value, seconds: u64) -> String {
        let grants = Grants::from_claim(grants).expect("grants");
        let ttl = Duration::from_secs(seconds);
        let minter = Minter::new(&Secret::from(SECRET.to_vec()), Duration::from_secs(86_400));
        minter.mint(&grants, subject, ttl, SystemTime::now()).expect("a token").token
    }
}

impl<'a> Client<'a> {
    /// A client without a credential.
    pub(crate) fn anonymous(hub: &'a TestHub) -> Self {
        Self { hub, headers: Vec::new() }
    }

    /// A client with the API key of this name.
    pub(crate) fn key(hub: &'a TestHub, name: &str) -> Self {
        Self { hub, headers: vec![("X-API-Key".to_owned(), key(name))] }
    }

    /// A client with this token.
    pub(crate) fn token(hub: &'a TestHub, token: &str) -> Self {
        Self { hub, headers: vec![("Authorization".to_owned(), format!("Bearer {token}"))] }
    }

    /// Returns the credential's headers and these.
    pub(crate) fn headers<'b>(&'b self, more: &[(&'b str, &'b str)]) -> Vec<(&'b str, &'b str)> {
        let mine = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        mine.chain(more.iter().copied()).collect()
    }

    pub(crate) async fn request(
        &self,
        method: &str,
        to: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> Response {
        self.hub.request(method, to, &self.headers(headers), body).await
    }

    pub(crate) async fn get(&self, to: &str, headers: &[(&str, &str)]) -> Response {
        self.request("GET", to, headers, "").await
    }

    pub(crate) async fn post(&self, to: &str, kind: &str, body: impl AsRef<[u8]>) -> Response {
        self.request("POST", to, &[("Content-Type", kind)], body).await
    }

    pub(crate) async fn put(&self, channel: &str, options: &Value) -> Response {
        let headers = [("Content-Type", "application/json")];
        self.request("PUT", &format!("/v1/channels/{channel}"), &headers, options.to_string()).await
    }

    pub(crate) async fn delete(&self, channel: &str) -> Response {
        self.request("DELETE", &format!("/v1/channels/{channel}"), &[], "").await
    }

    /// Publishes a text and returns the answer.
    pub(crate) async fn try_publish(&self, channel: &str, data: &str) -> Response {
        self.post(&format!("/v1/channels/{channel}"), "text/plain", data).await
    }

    /// Publishes a text and returns its id.
    pub(crate) async fn publish(&self, channel: &str, data: &str) -> String {
        let receipt = self.try_publish(channel, data).await.ok();
        receipt.json()["last_id"].as_str().expect("an id").to_owned()
    }

    /// Requests a JSON page; `query` such as `from=earliest`.
    pub(crate) async fn page(&self, channel: &str, query: &str) -> Value {
        let to = format!("/v1/channels/{channel}?{query}");
        self.get(&to, &[("Accept", "application/json")]).await.ok().json()
    }

    /// Closes the channel.
    pub(crate) async fn close(&self, channel: &str) {
        let to = format!("/v1/channels/{channel}?close=complete");
        self.post(&to, "text/event-stream", "").await.ok();
    }

    /// Sends a `GET` without reading the reply.
    pub(crate) async fn open(&self, to: &str, headers: &[(&str, &str)]) -> Wire {
        self.hub.open(to, &self.headers(headers)).await
    }

    pub(crate) async fn stream(&self, to: &str, headers: &[(&str, &str)]) -> SseClient {
        SseClient::read(self.open(to, headers).await).await
    }

    /// Subscribes at the tail; no later event is missed.
    pub(crate) async fn subscribe(&self, channel: &str) -> SseClient {
        self.stream(&format!("/v1/channels/{channel}"), &[]).await.settled().await
    }
}

/// Returns grants of all four operations on this pattern, for a token.
pub(crate) fn all_on(pattern: &str) -> Value {
    json!({"publish": [pattern], "subscribe": [pattern], "signal": [pattern], "admin": [pattern]})
}
