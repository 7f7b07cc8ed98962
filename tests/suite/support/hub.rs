//! A real hub on free ports, in its own runtime, stopped when the value is dropped.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use fanfare::Config;
use fanfare::Server;
use fanfare::internals::clock::Clock;
use fanfare::internals::store::disk::Durability;
use fanfare_testing::nats::{NatsServer, Setup};

use super::{Response, SseClient, Wire, within};

/// A new configuration, and the sender for the result of the reload.
type Reload = (Config, oneshot::Sender<Result<Vec<String>, String>>);

/// A running hub.
pub(crate) struct TestHub {
    addr: SocketAddr,
    admin: SocketAddr,
    drain: Option<oneshot::Sender<()>>,
    kill: Option<oneshot::Sender<()>>,
    stopped: Option<oneshot::Receiver<()>>,
    reloads: mpsc::Sender<Reload>,
    /// The API key for requests to the admin listener.
    operator: Option<String>,
}

impl TestHub {
    /// A hub with the default settings.
    pub(crate) async fn start() -> Self {
        Self::with("").await
    }

    /// A hub with these settings, as TOML with dotted keys: `channels.max_events = 3`.
    pub(crate) async fn with(settings: &str) -> Self {
        Self::with_clock(settings, Clock::default()).await
    }

    /// A hub with these settings and this clock.
    pub(crate) async fn with_clock(settings: &str, clock: Clock) -> Self {
        let mut config = Config { clock, ..read(settings) };
        // The whole suite runs once for each engine: see scripts/test.
        config.subscribers.takeover = std::env::var_os("FANFARE_TEST_NO_TAKEOVER").is_none();
        // And once with all channels on disk.
        let store = make_durable(settings, &mut config);
        // And once with each hub in a cluster, which is that hub alone.
        join_cluster(settings, &mut config);
        let (bound, is_bound) = oneshot::channel();
        let (drain, drained) = oneshot::channel::<()>();
        let (kill, killed) = oneshot::channel::<()>();
        let (stop, stopped) = oneshot::channel();
        let (reloads, mut asked) = mpsc::channel::<Reload>(1);
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let server = Server::bind(config).await.expect("two free ports");
                let _gone = bound.send((server.addr(), server.admin_addr()));
                let reloader = server.reloader();
                tokio::spawn(async move {
                    while let Some((config, done)) = asked.recv().await {
                        let how = reloader.reload(&config).await;
                        let _nobody_waits = done.send(how.map_err(|error| error.to_string()));
                    }
                });
                let drained = async {
                    if drained.await.is_err() {
                        std::future::pending::<()>().await;
                    }
                };
                tokio::select! {
                    _ = server.run(drained) => { let _nobody_waits = stop.send(()); }
                    _ = killed => {}
                }
            });
            runtime.shutdown_background();
            drop(store);
        });
        let (addr, admin) = within("the hub to listen", is_bound).await.expect("a hub");
        // In a cluster, the hub listens when it has joined.
        super::eventually("a listener", async || listens(addr)).await;
        let drain = Some(drain);
        let kill = Some(kill);
        let stopped = Some(stopped);
        Self { addr, admin, drain, kill, stopped, reloads, operator: None }
    }

    /// Sends this API key to the admin listener from now on.
    pub(crate) fn operated_by(mut self, key: &str) -> Self {
        self.operator = Some(key.to_owned());
        self
    }

    /// Reloads with these settings, as on SIGHUP. Returns those that need a restart.
    pub(crate) async fn reload(&self, settings: &str) -> Result<Vec<String>, String> {
        let (done, how) = oneshot::channel();
        assert!(self.reloads.send((read(settings), done)).await.is_ok(), "the hub has left");
        within("a reload", how).await.expect("a hub that is there")
    }

    /// Returns the address of the public listener.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns the address of the admin listener.
    pub(crate) fn admin_addr(&self) -> SocketAddr {
        self.admin
    }

    /// Starts the drain of the hub.
    pub(crate) fn drain(&mut self) {
        let sent = self.drain.take().expect("drain once").send(());
        assert!(sent.is_ok(), "the hub had left before it was asked to");
    }

    /// Waits until the hub has stopped.
    pub(crate) async fn stopped(&mut self) {
        let stopped = self.stopped.take().expect("wait once");
        within("the hub to leave", stopped).await.expect("a proper end");
    }

    /// Sends one request on its own connection.
    pub(crate) async fn request(
        &self,
        method: &str,
        to: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> Response {
        request(self.addr, method, to, headers, body.as_ref()).await
    }

    /// Sends a `GET` to the public listener.
    pub(crate) async fn get(&self, to: &str, headers: &[(&str, &str)]) -> Response {
        self.request("GET", to, headers, "").await
    }

    /// Sends a `GET` to the admin listener.
    pub(crate) async fn admin_get(&self, to: &str) -> Response {
        let key = self.operator.as_deref().map(|key| ("X-API-Key", key));
        request(self.admin, "GET", to, key.as_slice(), &[]).await
    }

    /// Sends one request to the admin listener.
    pub(crate) async fn admin_request(
        &self,
        method: &str,
        to: &str,
        headers: &[(&str, &str)],
    ) -> Response {
        request(self.admin, method, to, headers, &[]).await
    }

    /// Publishes one event and returns its id.
    pub(crate) async fn publish(&self, channel: &str, data: &str) -> String {
        let receipt = self.post(&format!("/v1/channels/{channel}"), "text/plain", data).await.ok();
        receipt.json()["last_id"].as_str().expect("an id").to_owned()
    }

    /// Publishes these events, a request each, and returns their ids.
    pub(crate) async fn publish_all(&self, channel: &str, events: &[&str]) -> Vec<String> {
        let mut ids = Vec::new();
        for data in events {
            ids.push(self.publish(channel, data).await);
        }
        ids
    }

    /// Sends a `POST` with this content type.
    pub(crate) async fn post(&self, to: &str, kind: &str, body: impl AsRef<[u8]>) -> Response {
        self.request("POST", to, &[("Content-Type", kind)], body).await
    }

    /// Creates the channel or changes its options.
    pub(crate) async fn put(&self, channel: &str, options: impl AsRef<[u8]>) -> Response {
        let headers = [("Content-Type", "application/json")];
        self.request("PUT", &format!("/v1/channels/{channel}"), &headers, options).await
    }

    /// Closes the channel: `complete`, `error` or `cancelled`.
    pub(crate) async fn close(&self, channel: &str, how: &str) -> Response {
        let to = format!("/v1/channels/{channel}?close={how}");
        self.post(&to, "text/event-stream", "").await.ok()
    }

    /// Requests a JSON page; `query` such as `from=earliest`.
    pub(crate) async fn page(&self, channel: &str, query: &str) -> Value {
        self.get_json(&format!("/v1/channels/{channel}?{query}")).await
    }

    /// Sends a `GET` for JSON.
    pub(crate) async fn get_json(&self, to: &str) -> Value {
        let response = self.get(to, &[("Accept", "application/json")]).await.ok();
        assert_eq!(response.header("content-type"), Some("application/json"));
        response.json()
    }

    /// Sends a `HEAD` for the channel.
    pub(crate) async fn head(&self, channel: &str) -> Response {
        let to = format!("/v1/channels/{channel}");
        let mut wire = Wire::connect(self.addr).await;
        wire.send_head("HEAD", &to, &[("Connection", "close")]).await;
        wire.response_to(true).await
    }

    /// Subscribes at the tail; no later event is missed.
    pub(crate) async fn subscribe(&self, channel: &str) -> SseClient {
        self.stream(&format!("/v1/channels/{channel}"), &[]).await.settled().await
    }

    /// Subscribes after the event with this id.
    pub(crate) async fn resume(&self, channel: &str, id: &str) -> SseClient {
        self.stream(&format!("/v1/channels/{channel}"), &[("Last-Event-ID", id)]).await
    }

    /// Requests an event stream.
    pub(crate) async fn stream(&self, to: &str, headers: &[(&str, &str)]) -> SseClient {
        SseClient::read(self.open(to, headers).await).await
    }

    /// Sends a `GET` without reading the reply.
    pub(crate) async fn open(&self, to: &str, headers: &[(&str, &str)]) -> Wire {
        let mut wire = Wire::connect(self.addr).await;
        wire.send_head("GET", to, headers).await;
        wire
    }

    /// Returns the value of a metric, such as `fanfare_gaps_total{reason="epoch"}`: the sum over
    /// all of its series that have the given labels. A missing series counts as zero.
    pub(crate) async fn metric(&self, metric: &str) -> f64 {
        let page = self.admin_get("/metrics").await.ok().text();
        let (name, labels) = metric.split_once('{').unwrap_or((metric, ""));
        let labels: Vec<&str> = labels.trim_end_matches('}').split(',').collect();
        page.lines()
            .filter_map(|line| line.strip_prefix(name))
            .filter(|rest| rest.starts_with([' ', '{']))
            .filter(|rest| labels.iter().all(|label| rest.contains(label)))
            .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Waits until the metric is at least this.
    pub(crate) async fn until_metric(&self, metric: &str, least: f64) {
        super::eventually(metric, async || self.metric(metric).await >= least).await;
    }
}

impl Drop for TestHub {
    fn drop(&mut self) {
        if let Some(kill) = self.kill.take() {
            let _had_left = kill.send(());
        }
    }
}

/// Puts all channels on disk if the whole run has that option, except for tests that set what
/// memory keeps.
fn make_durable(settings: &str, config: &mut Config) -> Option<tempfile::TempDir> {
    std::env::var_os("FANFARE_TEST_DURABLE").filter(|_| !settings.contains("store."))?;
    let usual = Config::default();
    if (&config.channels, &config.quotas) != (&usual.channels, &usual.quotas) {
        return None;
    }
    let folder = tempfile::tempdir().expect("a folder");
    config.store.path = folder.path().to_owned();
    config.store.durability = Durability::Sync;
    Some(folder)
}

/// Puts the hub into a cluster of its own if the whole run has that option, except for tests of
/// what a cluster does not have.
fn join_cluster(settings: &str, config: &mut Config) {
    static SERVER: OnceLock<String> = OnceLock::new();
    static CLUSTERS: AtomicUsize = AtomicUsize::new(0);
    if !in_cluster()
        || ["store.", "durability", "cluster."].iter().any(|key| settings.contains(key))
    {
        return;
    }
    let server = SERVER.get_or_init(start_nats);
    let cluster = CLUSTERS.fetch_add(1, Ordering::Relaxed);
    let text = format!(
        "backplane = \"nats\"\nname = \"suite-{cluster}\"\nservers = [\"{}\"]\nreplicas = 1\n\
         storage = \"memory\"\nmax_bytes = \"16MiB\"",
        server
    );
    config.cluster = toml::from_str(&text).expect("the settings of a cluster");
    config.cluster.max_age = config.cluster.max_age.max(2 * config.channels.max_age);
}

/// Returns whether the whole run is in clusters.
pub(crate) fn in_cluster() -> bool {
    std::env::var_os("FANFARE_TEST_CLUSTER").is_some()
}

/// Returns whether a socket listens at this address. A connection would be counted by the hub.
fn listens(addr: SocketAddr) -> bool {
    let sockets = std::fs::read_to_string("/proc/net/tcp").expect("the sockets of Linux");
    let (port, listen) = (format!(":{:04X}", addr.port()), "0A");
    sockets.lines().any(|line| {
        let mut fields = line.split_whitespace().skip(1);
        fields.next().is_some_and(|local| local.ends_with(&port)) && fields.nth(1) == Some(listen)
    })
}

/// Starts a server of NATS for all hubs. Returns its address.
fn start_nats() -> String {
    let (started, is_started) = std::sync::mpsc::channel();
    // The server ends with the thread that has started it.
    thread::spawn(move || {
        let room = "max_memory_store: 64GB, max_file_store: 4GB";
        let server = NatsServer::with(&Setup { room: Some(room), ..Setup::default() });
        started.send(server.url()).expect("a test that waits");
        loop {
            thread::park();
        }
    });
    is_started.recv().expect("a server")
}

/// Parses settings, with free ports.
fn read(settings: &str) -> Config {
    let free = "server.listen = \"127.0.0.1:0\"\nserver.admin_listen = \"127.0.0.1:0\"\n";
    // The host names that the clients of the suite use.
    let named = settings.contains("server.hosts");
    let hosts = if named { "" } else { "server.hosts = [\"hub.test\", \"hub\"]\n" };
    Config::from_toml(&format!("{free}{hosts}{settings}")).expect("the settings")
}

async fn request(
    addr: SocketAddr,
    method: &str,
    to: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Response {
    let length = body.len().to_string();
    let mut all = vec![("Connection", "close")];
    if !body.is_empty() || matches!(method, "POST" | "PUT") {
        all.push(("Content-Length", &length));
    }
    all.extend_from_slice(headers);
    let mut wire = Wire::connect(addr).await;
    wire.send_head(method, to, &all).await;
    wire.send(body).await;
    wire.response_to(method == "HEAD").await
}
