//! Three hubs of one cluster, and its servers.

use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;

use fanfare_testing::nats::{NatsCluster, NatsServer, Setup};
use fanfare_testing::wire::{Answer, Client, Request};
use fanfare_testing::{HubProcess, Signal, eventually};

use super::jetstream;
use super::network::Network;

/// The stream of the shared log.
pub(crate) const STREAM: &str = "FANFARE_chaos";

/// The exit code of a hub that must start again.
const START_AGAIN: i32 = 75;

/// Servers notice a peer that does not answer within a few seconds.
const SERVER_LINES: &str = "write_deadline: \"2s\"\nping_interval: \"2s\"\nping_max: 2\n";

/// Settings of all hubs.
const SETTINGS: &str = r#"
channels.max_events = 1000000
channels.max_bytes = "1GiB"
channels.producer_grace = "10m"
drain.window = "500ms"
cluster.backplane = "nats"
cluster.name = "chaos"
cluster.max_bytes = "256MiB"
server.insecure = true # also at addresses of other networks
# Generations whose producers leave them.
channels.rules = [{ pattern = "left/**", producer_grace = "1s" }]
"#;

/// Three hubs of one cluster, and its servers.
pub(crate) struct Cluster {
    pub(crate) hubs: Vec<Hub>,
    /// Dropped after the hubs.
    pub(crate) nats: NatsCluster,
}

impl Cluster {
    /// Starts three hubs in the network of the machine.
    pub(crate) async fn start() -> Self {
        let nats = NatsCluster::with(&Setup { lines: SERVER_LINES.to_owned(), ..Setup::default() });
        Self::over(nats, Network::Shared).await
    }

    /// Starts three hubs, the first in a network that can be cut.
    pub(crate) async fn separate() -> Self {
        let lines = SERVER_LINES.to_owned();
        let nats = NatsCluster::with(&Setup { lines, is_open: true, ..Setup::default() });
        let network = Network::separate(&nats).await;
        Self::over(nats, network).await
    }

    async fn over(nats: NatsCluster, network: Network) -> Self {
        let networks = [network, Network::Shared, Network::Shared];
        let hubs = networks.into_iter().enumerate();
        let hubs: Vec<_> = hubs.map(|(at, network)| Hub::start(at, network, &nats)).collect();
        for hub in &hubs {
            hub.ready().await;
        }
        Self { hubs, nats }
    }

    /// Returns the addresses of all hubs.
    pub(crate) fn targets(&self) -> Targets {
        Targets(self.hubs.iter().map(|hub| hub.addr).collect())
    }

    /// Returns the server that leads the stream.
    pub(crate) async fn leader(&mut self) -> &mut NatsServer {
        let name = jetstream::leader(&self.nats, STREAM).await;
        self.nats.named(&name)
    }

    /// Returns a server that does not lead the stream.
    pub(crate) async fn follower(&mut self) -> &mut NatsServer {
        let leader = jetstream::leader(&self.nats, STREAM).await;
        let name = ["n1", "n2", "n3"].into_iter().find(|name| *name != leader);
        self.nats.named(name.expect("a follower"))
    }

    /// Waits until all hubs are ready.
    pub(crate) async fn ready(&self) {
        for hub in &self.hubs {
            hub.ready().await;
        }
    }
}

/// The addresses of hubs among which clients choose.
#[derive(Clone)]
pub(crate) struct Targets(pub(crate) Arc<[SocketAddr]>);

impl Targets {
    pub(crate) fn any(&self, rng: &mut fastrand::Rng) -> SocketAddr {
        self.0[rng.usize(..self.0.len())]
    }
}

/// A hub, which is started again when it asks for it.
pub(crate) struct Hub {
    pub(crate) addr: SocketAddr,
    admin: SocketAddr,
    process: Arc<Mutex<HubProcess>>,
    supervisor: JoinHandle<()>,
    restarts: Arc<AtomicU32>,
    /// Dropped after the process, as is its folder.
    pub(crate) network: Network,
    _folder: TempDir,
}

impl Hub {
    fn start(at: usize, network: Network, nats: &NatsCluster) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (addr, admin) = (network.free_address(), network.free_address());
        let servers = network.urls(nats);
        let settings =
            format!("{SETTINGS}cluster.node = \"hub-{}\"\ncluster.servers = {servers:?}\n", at + 1);
        std::fs::write(folder.path().join("fanfare.toml"), settings).expect("a file");
        let mut command = network.command(env!("CARGO_BIN_EXE_fanfare"));
        command.current_dir(folder.path()).stdin(Stdio::null());
        let mut process = HubProcess::at(addr, admin, command);
        process.spawn();
        let process = Arc::new(Mutex::new(process));
        let restarts = Arc::<AtomicU32>::default();
        let supervisor = tokio::spawn(supervise(Arc::clone(&process), Arc::clone(&restarts)));
        Self { addr, admin, process, supervisor, restarts, network, _folder: folder }
    }

    /// Waits until the hub is ready.
    pub(crate) async fn ready(&self) {
        let request = Request::new("GET", "/readyz");
        eventually("a hub to be ready", async || {
            assert!(!self.supervisor.is_finished(), "a hub has failed: see above");
            let answer = Client::new(self.admin).send(&request).await.ok()?;
            (answer.status == 200).then_some(())
        })
        .await;
    }

    /// Sends a request to the public listener.
    pub(crate) async fn ask(&self, request: &Request) -> Answer {
        Client::new(self.addr).send(request).await.expect("an answer")
    }

    /// Returns how often it asked for a start.
    pub(crate) fn restarts(&self) -> u32 {
        self.restarts.load(Ordering::Relaxed)
    }

    /// Returns the hubs of the cluster, as this one sees them.
    pub(crate) async fn nodes(&self) -> Vec<Value> {
        let page = Client::new(self.admin).send(&Request::new("GET", "/v1/cluster")).await;
        page.expect("the cluster").json()["nodes"].as_array().expect("hubs").clone()
    }

    pub(crate) fn kill(&self) {
        self.process.lock().kill();
    }

    pub(crate) fn spawn(&self) {
        self.process.lock().spawn();
    }

    pub(crate) fn pause(&self) {
        self.process.lock().pause();
    }

    pub(crate) fn resume(&self) {
        self.process.lock().resume();
    }

    /// Asks the hub to end, and waits until it has.
    pub(crate) async fn stop(&self) {
        self.process.lock().signal(Signal::TERM);
        eventually("a hub to end", async || {
            let mut process = self.process.lock();
            match process.try_ended() {
                Some(status) => assert!(status.success(), "a hub ended with {status}"),
                None if process.is_running() => return None,
                None => {} // the supervisor has seen it
            }
            Some(())
        })
        .await;
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.supervisor.abort();
    }
}

/// Starts the hub again whenever it ends with the code that asks for it.
async fn supervise(process: Arc<Mutex<HubProcess>>, restarts: Arc<AtomicU32>) {
    loop {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let mut process = process.lock();
        let Some(status) = process.try_ended() else { continue };
        if status.code() == Some(START_AGAIN) {
            restarts.fetch_add(1, Ordering::Relaxed);
            process.spawn();
        } else {
            assert!(status.success(), "a hub ended with {status}:\n{}", process.log());
        }
    }
}
