//! The backplane: connects the hub to the others of its cluster, and says how it is connected.

mod config;
mod nats;
mod phase;

use std::sync::Arc;
use std::time::Duration;

use fanfare_cluster::nats::{Health, NatsLog};
use parking_lot::Mutex;
use serde::Serialize;

pub use config::{Config, Feed, InvalidCluster, Kind, Storage};
pub use nats::{PrepareError, Prepared};
pub use phase::{BackplaneEnd, NotReady};

use crate::hub::cluster::{Phase, Replica};
use crate::hub::{self, Hub};
use crate::position::Offset;
use crate::telemetry::ClusterState;

/// Time for which a hub that leaves waits until the others know it.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);

/// The connection of a hub to its cluster: a cheap handle.
#[derive(Clone)]
pub struct Backplane(Arc<Connected>);

struct Connected {
    prepared: Prepared,
    hub: Hub,
    replica: Arc<Replica>,
    /// The log that is followed at present.
    log: Mutex<Option<Arc<NatsLog>>>,
}

/// A hub in its cluster, as operators see it.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The name of the cluster.
    pub name: String,
    /// The epoch of all event ids; nothing before the log is open.
    pub epoch: Option<String>,
    /// The name of this hub.
    pub node: String,
    /// Its phase.
    pub phase: &'static str,
    /// What failed last, until the log is read again.
    pub problem: Option<Box<str>>,
    /// The name of the server that it is connected to.
    pub server: Option<Box<str>>,
    /// The number of servers that store each message, as configured.
    pub replicas: u8,
    /// The last message that was read, and the last that the log is known to have.
    pub read: u64,
    /// See [`Self::read`].
    pub last: u64,
    /// The age of the last message of this hub that came back through the log.
    pub lag_seconds: f64,
    /// Bytes of commands that the log does not have.
    pub unsent_bytes: usize,
    /// The hubs of the cluster.
    pub nodes: Vec<NodeStatus>,
}

/// A hub of the cluster.
#[derive(Clone, Debug, Serialize)]
pub struct NodeStatus {
    /// Its name.
    pub name: Box<str>,
    /// The message that began its session.
    pub session: u64,
    /// Whether its settings for channels are those of this hub.
    pub agrees: bool,
    /// Whether it is this hub.
    pub this: bool,
}

impl Backplane {
    /// Creates the connection of this hub, which [`Self::follow`] makes.
    #[must_use]
    pub fn new(prepared: Prepared, hub: &Hub) -> Option<Self> {
        let replica = hub.replica()?.clone();
        let hub = hub.clone();
        let log = Mutex::default();
        Some(Self(Arc::new(Connected { prepared, hub, replica, log })))
    }

    /// Follows the cluster until the hub must leave it.
    pub async fn follow(&self) -> BackplaneEnd {
        nats::follow(&self.0.prepared, &self.0.hub, &self.0.log).await
    }

    /// Waits until the hub has caught up with the cluster, and its session has begun.
    pub async fn joined(&self) {
        let mut phases = self.0.replica.phase();
        if phases.wait_for(|phase| *phase == Phase::Live).await.is_err() {
            std::future::pending().await
        }
    }

    /// Reports to the other hubs how this one treats channels from now on.
    pub fn reconfigure(&self, channels: &hub::Config) {
        self.0.replica.set_rules(nats::rules(channels));
    }

    /// Leaves the cluster, so that the others need not wait for the lease.
    pub async fn leave(&self) {
        self.0.replica.leave(LEAVE_TIMEOUT).await;
    }

    /// Checks whether the hub takes part in the cluster.
    ///
    /// # Errors
    /// It does not, for this reason.
    pub fn check_ready(&self) -> Result<(), NotReady> {
        let phase = self.0.replica.phase().borrow().clone();
        phase::check_ready(&phase, self.health().as_ref())
    }

    /// Returns the state of the hub in the cluster.
    #[must_use]
    pub fn status(&self) -> Status {
        let Connected { prepared, replica, .. } = &*self.0;
        let health = self.health().unwrap_or_default();
        let nodes = replica.nodes().into_iter().map(|node| NodeStatus {
            name: node.name,
            session: node.session,
            agrees: node.agrees,
            this: node.is_this,
        });
        let phase = replica.phase().borrow().clone();
        Status {
            name: prepared.name().to_owned(),
            epoch: (phase != Phase::Connecting)
                .then(|| self.0.hub.position(Offset(0)).epoch.to_string()),
            node: prepared.node().to_owned(),
            phase: phase::name_of(&phase),
            problem: health.problem,
            server: health.server,
            replicas: prepared.replicas(),
            read: health.read.0,
            last: health.last.0,
            lag_seconds: replica.lag().as_secs_f64(),
            unsent_bytes: replica.unsent_bytes(),
            nodes: nodes.collect(),
        }
    }

    /// Sets the metrics of the cluster.
    pub fn observe(&self) {
        let replica = &self.0.replica;
        let health = self.health().unwrap_or_default();
        let nodes = replica.nodes();
        let agreeing = nodes.iter().filter(|node| node.agrees).count();
        self.0.hub.metrics().cluster(ClusterState {
            lag: replica.lag(),
            unread: health.lag(),
            unsent: replica.unsent_bytes(),
            agreeing,
            disagreeing: nodes.len() - agreeing,
            connections: health.connections,
            filled_by_request: health.filled_by_request,
            filled_by_consumer: health.read_by_consumer,
            not_stored: health.not_stored,
        });
    }

    fn health(&self) -> Option<Health> {
        self.0.log.lock().as_ref().map(|log| log.health())
    }
}
