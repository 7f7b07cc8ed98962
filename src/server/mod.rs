//! The wiring: builds a running hub from a configuration, and shuts it down.

mod auth_setup;
mod sockets;

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{Access, access};
use rustix::io::Errno;
use rustix::process::geteuid;
use tokio::task::JoinSet;
use tokio::time::Instant;

pub use auth_setup::Reloader;

use crate::admin::Admin;
use crate::auth::{Exposed, InvalidAuth};
use crate::backplane::{Backplane, BackplaneEnd, PrepareError, Prepared};
use crate::config::{Config, InheritError, Inherited, InvalidSetting, variable};
use crate::egress::Egress;
use crate::embed;
use crate::hooks::{HookError, Hooks, Ready};
use crate::http::{
    App, AuthFilter, ConnectionLimit, Cors, Listener, Proxies, Route, Router, Serving, Tls,
    TlsError, Workers,
};
use crate::hub::{Hub, ThreadCompletions};
use crate::ingest::Ingest;
use crate::protocol::native::Native;
use crate::quota::Quotas;
use crate::shutdown::Shutdown;
use crate::store::disk::{Disk, OpenError, OpenOptions, Recovered, files_in};
use crate::telemetry::Metrics;

/// Time for connections to close after the drain.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Interval of the check whether a drain has finished.
const DRAIN_CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// A hub whose listeners are bound.
pub struct Server {
    config: Arc<Config>,
    hub: Hub,
    ingest: Ingest,
    egress: Egress,
    hooks: Hooks,
    auth_filter: AuthFilter,
    cors: Cors,
    quotas: Arc<Quotas>,
    shutdown: Shutdown,
    store: Option<Disk>,
    backplane: Option<Backplane>,
    tls: Option<Tls>,
    workers: Workers,
    public: Listener,
    admin: Listener,
    addr: SocketAddr,
    admin_addr: SocketAddr,
}

/// The reason for which a hub could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address} (`{key}`): {source}")]
    Bind {
        /// The setting.
        key: &'static str,
        /// Its value.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The inherited sockets cannot be used.
    #[error(transparent)]
    Inherited(#[from] InheritError),
    /// The shard threads cannot be started.
    #[error("cannot start the shards (`subscribers.shards`): {0}")]
    Shards(io::Error),
    /// The certificate cannot be used.
    #[error("cannot serve TLS: {0}")]
    Tls(TlsError),
    /// The worker threads cannot be started.
    #[error("cannot start the workers (`server.workers`): {0}")]
    Workers(io::Error),
    /// A hook cannot be called or signed.
    #[error(transparent)]
    Hooks(#[from] HookError),
    /// The trusted issuers and keys cannot be read.
    #[error("{}", auth_setup::lines(.0))]
    Auth(Vec<InvalidAuth>),
    /// The hub would be open to the world without credentials.
    #[error("{listener}: {source}")]
    Exposed {
        /// The setting, or the socket in its place.
        listener: String,
        /// The fault.
        source: Exposed,
    },
    /// The directory of the store, or a file in it, cannot be written.
    #[error(
        "store.path: {} cannot be written by user {user}: {why}; {}", path.display(), advice(why)
    )]
    StorePath {
        /// The directory, or the nearest one above it that exists; or the file.
        path: PathBuf,
        /// The user id of the process.
        user: u32,
        /// The cause.
        why: io::Error,
    },
    /// The store cannot be opened.
    #[error("cannot open the store (`store.path`): {0}")]
    Store(OpenError),
    /// What the settings of the cluster name cannot be used.
    #[error(transparent)]
    Cluster(#[from] PrepareError),
    /// Settings are not valid.
    #[error("{}", auth_setup::lines(.0))]
    Settings(Vec<InvalidSetting>),
    /// Two routes collide: a defect, which a test would show.
    #[error("routes collide: {0}")]
    Routes(String),
}

/// The reason for which a hub that was started does not run any more.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// Connections cannot be accepted.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The hub cannot be one of its cluster any more: it must start again.
    #[error("this hub leaves its cluster, and must start again: {0}")]
    Cluster(#[from] BackplaneEnd),
}

/// Checks what a start needs in addition to the settings: keys and secrets can be read.
///
/// # Errors
/// The start would fail.
pub fn check(config: &Config) -> Result<(), StartError> {
    auth_setup::check_exposure(config)?;
    auth_setup::authenticator(config)?;
    Ready::new(&config.hooks, &variable)?;
    prepared(config)?;
    tls(config, &Arc::new(Metrics::new())).map(drop)
}

/// Checks, without changing anything, that the user of this process can read and write the
/// directory of the store and its files, or create it.
///
/// # Errors
/// The directory or a file cannot be accessed, or not be created.
pub fn check_store(config: &Config) -> Result<(), StartError> {
    if !config.store.is_on() {
        return Ok(());
    }
    let read = Access::READ_OK;
    let write = Access::WRITE_OK;
    let enter = Access::EXEC_OK;
    let path = config.store.path.as_path();
    let there = nearest_existing(path);
    if !there.is_dir() {
        return Err(not_writable(there, Errno::NOTDIR.into()));
    }
    access(there, write | enter).map_err(|why| not_writable(there, why.into()))?;
    if there != path {
        return Ok(());
    }
    // Files may belong to another user: of a hub that was run as root, or because they were copied.
    for file in files_in(path).map_err(|why| not_writable(path, why))? {
        access(&file, read | write).map_err(|why| not_writable(&file, why.into()))?;
    }
    Ok(())
}

/// Returns the path, or the nearest directory above it that exists.
fn nearest_existing(mut path: &Path) -> &Path {
    while !path.exists()
        && let Some(parent) = path.parent()
    {
        path = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    }
    path
}

fn not_writable(path: &Path, why: io::Error) -> StartError {
    StartError::StorePath { path: path.to_owned(), user: geteuid().as_raw(), why }
}

/// Returns advice on a store that cannot be written.
fn advice(why: &io::Error) -> &'static str {
    match why.kind() {
        io::ErrorKind::NotADirectory => "the store needs a directory",
        io::ErrorKind::ReadOnlyFilesystem => {
            "mount a volume there that can be written (under systemd: `StateDirectory=`)"
        }
        _ => {
            "make it a directory of the hub's user, with all files in it (`chown -R`; under \
             systemd: `StateDirectory=`)"
        }
    }
}

/// The reason for which a reload was rejected, and the hub keeps its settings.
#[derive(Debug, thiserror::Error)]
pub enum Reload {
    /// A hub could not start with the configuration.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The trusted issuers and keys cannot be read.
    #[error("{}", auth_setup::lines(.0))]
    Auth(Vec<InvalidAuth>),
    /// The certificate cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Turns credentials, or TLS, on or off.
    #[error("whether the hub asks for credentials, and whether it speaks TLS, needs a restart")]
    Restart,
}

impl StartError {
    /// Returns whether the fault is in the configuration.
    #[must_use]
    pub fn is_of_configuration(&self) -> bool {
        match self {
            Self::Settings(_)
            | Self::Auth(_)
            | Self::Exposed { .. }
            | Self::Inherited(_)
            | Self::Cluster(_)
            | Self::StorePath { .. } => true,
            Self::Hooks(error) => matches!(error, HookError::Secret { .. }),
            _ => false,
        }
    }
}

impl Server {
    /// Builds a hub and binds its listeners.
    ///
    /// # Errors
    /// A setting is not valid, or an address cannot be listened on.
    pub async fn bind(config: Config) -> Result<Self, StartError> {
        let invalid = config.validate();
        if !invalid.is_empty() {
            return Err(StartError::Settings(invalid));
        }
        Self::with_sockets(config, Inherited::default()).await
    }

    /// Builds a hub on these sockets, and binds the listeners that are not among them.
    ///
    /// # Errors
    /// An address cannot be listened on, or must not be without credentials.
    pub async fn with_sockets(config: Config, inherited: Inherited) -> Result<Self, StartError> {
        auth_setup::check_exposure(&config)?;
        let metrics = Arc::new(Metrics::new());
        let quotas = Arc::new(Quotas::new(config.quotas.clone()));
        let cors = Cors::new(&config.cors);
        let auth_filter = auth_setup::auth_filter(&config, &quotas, &cors, metrics.clone())?;
        let shutdown = Shutdown::default();
        let ready = Ready::new(&config.hooks, &variable)?;
        check_store(&config)?;
        let Engine { hub, ingest, store, backplane } = engine(&config, &metrics)?;
        let limit = || ConnectionLimit::new(config.server.max_connections, metrics.clone());
        let public_limit = limit();
        let admin_limit = limit();
        let departed = public_limit.clone();
        let egress = Egress::new(config.subscribers.clone(), &hub, move || departed.release())
            .map_err(StartError::Shards)?;
        let parts = RouteParts {
            hub: &hub,
            ingest: &ingest,
            egress: &egress,
            backplane: backplane.as_ref(),
            shutdown: &shutdown,
        };
        let (public_app, admin_app) = apps(&cors, parts, &auth_filter)?;

        let tls = tls(&config, &metrics)?;
        let workers = Workers::start(config.server.workers, ThreadCompletions::serve)
            .map_err(StartError::Workers)?;
        let http = Arc::new(config.server.clone());
        let (public_socket, admin_socket) = sockets::open(&config, inherited)?;
        let addr = public_socket.addr;
        let admin_addr = admin_socket.addr;
        let listener = |tcp, app, limit, (tls, proxies, cors)| {
            let config = http.clone();
            let shutdown = shutdown.clone();
            let egress = egress.clone();
            let serving = Serving { app, config, shutdown, egress, tls, proxies, cors };
            let workers = workers.clone();
            let metrics = metrics.clone();
            let quotas = quotas.clone();
            Listener::new(tcp, serving, workers, limit, quotas, metrics)
        };
        let outside = (tls.clone(), proxies(&config, &metrics), cors.clone());
        let inside = (None, Proxies::none(metrics.clone()), Cors::default());
        let public = listener(public_socket.tcp, public_app, public_limit, outside);
        let options = sockets::options(&config);
        let public = if public_socket.inherited { public.outlived(options) } else { public };
        // Operators get responses during a drain, too, also on an inherited socket.
        let admin = listener(admin_socket.tcp, admin_app, admin_limit, inside);
        let hooks = Hooks::start(ready, &hub, &shutdown);
        Ok(Self {
            config: Arc::new(config),
            hub,
            ingest,
            egress,
            hooks,
            auth_filter,
            cors,
            quotas,
            shutdown,
            store,
            backplane,
            tls,
            workers,
            public,
            admin,
            addr,
            admin_addr,
        })
    }

    /// Returns the address for publishers and subscribers.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns the address for operators.
    #[must_use]
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin_addr
    }

    /// Returns the channels, for the program that runs the server.
    #[must_use]
    pub fn hub(&self) -> embed::Hub {
        embed::Hub::new(self.hub.clone(), self.ingest.clone())
    }

    /// Returns a handle that applies changed settings while the hub runs.
    #[must_use]
    pub fn reloader(&self) -> Reloader {
        Reloader {
            started_with: self.config.clone(),
            auth_filter: self.auth_filter.clone(),
            egress: self.egress.clone(),
            tls: self.tls.clone(),
            cors: self.cors.clone(),
            hooks: self.hooks.clone(),
            hub: self.hub.clone(),
            backplane: self.backplane.clone(),
            quotas: self.quotas.clone(),
        }
    }

    /// Serves until the future resolves, then drains. A hub of a cluster serves the public listener
    /// from when it has caught up with the cluster.
    ///
    /// # Errors
    /// The hub cannot serve any more; it has drained.
    pub async fn run(self, until: impl Future<Output = ()>) -> Result<(), RunError> {
        let reloader = self.reloader();
        let Self { config, hub, ingest, egress, hooks, shutdown, backplane, .. } = self;
        let addresses = [self.addr, self.admin_addr];
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_listener(self.admin, self.admin_addr));
        tasks.spawn(serve_public(self.public, addresses, backplane.clone()));
        tasks.spawn(endless(hub.sweep()));
        tasks.spawn(endless(egress.clone().reap()));
        tasks.spawn(endless(reloader.keep_keys()));
        if let Some(backplane) = backplane.clone() {
            tasks.spawn(async move { Err(backplane.follow().await.into()) });
        }
        let outcome = tokio::select! {
            () = until => Ok(()),
            // They end with the hub, and not before it.
            ended = tasks.join_next() => match ended {
                Some(Ok(Err(error))) => {
                    tracing::error!(%error, "the hub cannot serve any more");
                    Err(error)
                }
                ended => {
                    tracing::error!(?ended, "a task has ended early");
                    Ok(())
                }
            },
        };
        drain(&ingest, &egress, &hooks, &shutdown, config.drain.window).await;
        if let Some(backplane) = backplane.filter(|_| outcome.is_ok()) {
            backplane.leave().await;
        }
        // Waits until the listeners are closed, so that the next process finds the ports free.
        tasks.shutdown().await;
        // Connections that have not ended are closed with their threads.
        drop(self.workers);
        if let Some(store) = self.store {
            store.close();
        }
        outcome
    }
}

/// Serves a listener until the hub stops.
async fn serve_listener(listener: Listener, address: SocketAddr) -> Result<(), RunError> {
    listener.run().await.map_err(|source| RunError::Listen { address, source })
}

/// Serves the public listener. In a cluster, clients are refused by the kernel until the hub has
/// joined: a browser tries again then, and does not after a response without events.
async fn serve_public(
    public: Listener,
    [addr, admin_addr]: [SocketAddr; 2],
    backplane: Option<Backplane>,
) -> Result<(), RunError> {
    if let Some(backplane) = backplane {
        tracing::info!(%admin_addr, "the admin listener serves; joining the cluster");
        backplane.joined().await;
    }
    tracing::info!(%addr, %admin_addr, "listening");
    serve_listener(public, addr).await
}

/// Runs a task that ends with the hub.
async fn endless(task: impl Future<Output = ()>) -> Result<(), RunError> {
    task.await;
    Ok(())
}

/// The hub, and where its channels are beside its memory.
struct Engine {
    hub: Hub,
    ingest: Ingest,
    store: Option<Disk>,
    backplane: Option<Backplane>,
}

fn engine(config: &Config, metrics: &Arc<Metrics>) -> Result<Engine, StartError> {
    let store = store(config, metrics)?;
    let prepared = prepared(config)?;
    let hub = hub(config, metrics, store.as_ref(), prepared.as_ref());
    let backplane = prepared.and_then(|prepared| Backplane::new(prepared, &hub));
    let ingest = Ingest::new(hub.clone(), config.publish.clone());
    if let Some((_, found)) = &store {
        ingest.restore(&found.receipts);
    }
    Ok(Engine { hub, ingest, store: store.map(|(disk, _)| disk), backplane })
}

/// Opens the store, if one is configured.
fn store(config: &Config, metrics: &Arc<Metrics>) -> Result<Option<(Disk, Recovered)>, StartError> {
    if !config.store.is_on() {
        return Ok(None);
    }
    let options = OpenOptions {
        receipts_window: config.publish.idempotency_window,
        // Of publishes to one channel, and of publishes to many.
        max_receipts: config.publish.max_idempotency_keys.saturating_mul(2),
        durable_names: Some(config.channels.durable_names(config.store.durability).into()),
        clock: config.clock.clone(),
    };
    Disk::open(&config.store, options, metrics.clone()).map(Some).map_err(StartError::Store)
}

fn prepared(config: &Config) -> Result<Option<Prepared>, PrepareError> {
    Prepared::new(&config.cluster, &config.channels, &variable)
}

fn hub(
    config: &Config,
    metrics: &Arc<Metrics>,
    store: Option<&(Disk, Recovered)>,
    prepared: Option<&Prepared>,
) -> Hub {
    let mut channels = config.channels.clone();
    let metrics = metrics.clone();
    channels.end_reconnect_delay = config.subscribers.end_reconnect_delay;
    channels.clock = config.clock.clone();
    match (store, prepared) {
        (Some((disk, found)), _) => Hub::resume(channels, metrics, disk, &config.store, found),
        (None, Some(prepared)) => Hub::of_cluster(channels, prepared.replica(), metrics),
        (None, None) => Hub::new(channels, metrics),
    }
}

/// The parts that routes are made of.
#[derive(Clone, Copy)]
struct RouteParts<'a> {
    hub: &'a Hub,
    ingest: &'a Ingest,
    egress: &'a Egress,
    backplane: Option<&'a Backplane>,
    shutdown: &'a Shutdown,
}

fn tls(config: &Config, metrics: &Arc<Metrics>) -> Result<Option<Tls>, StartError> {
    let tls = config.tls.is_on().then(|| Tls::new(&config.tls, metrics.clone()));
    tls.transpose().map_err(StartError::Tls)
}

fn proxies(config: &Config, metrics: &Arc<Metrics>) -> Proxies {
    let server = &config.server;
    let trusted = server.trusted_proxies.clone();
    Proxies::new(trusted, server.proxy_protocol, server.forwarded_header, metrics.clone())
}

fn apps(
    cors: &Cors,
    parts: RouteParts<'_>,
    auth_filter: &AuthFilter,
) -> Result<(App, App), StartError> {
    let (public, admin) = routes(parts);
    let app = |routes: &[Route], listener, others: &[Route]| {
        let router = Router::new(routes.to_vec(), auth_filter.clone());
        let router = router.and_then(|router| router.with_other_listener(listener, others));
        router.map(Router::into_app).map_err(|error| StartError::Routes(error.to_string()))
    };
    let outside = app(&public, "the admin listener (`server.admin_listen`)", &admin)?;
    let inside = app(&admin, "the public listener (`server.listen`)", &public)?;
    Ok((cors.wrap(outside), inside))
}

/// Returns every route of the public and of the admin listener.
fn routes(parts: RouteParts<'_>) -> (Vec<Route>, Vec<Route>) {
    let RouteParts { hub, ingest, egress, backplane, shutdown } = parts;
    let hub = hub.clone();
    let ingest = ingest.clone();
    let egress = egress.clone();
    let backplane = backplane.cloned();
    let admin = Admin { hub: hub.clone(), backplane, shutdown: shutdown.clone() };
    let native = Native { hub, ingest, egress, shutdown: shutdown.clone() };
    let with_common = |mut routes: Vec<Route>| {
        routes.extend(admin.common_routes());
        routes
    };
    (with_common(native.routes()), with_common(admin.routes()))
}

/// Disconnects all clients, each at a random moment of the window, and waits for them.
async fn drain(
    ingest: &Ingest,
    egress: &Egress,
    hooks: &Hooks,
    shutdown: &Shutdown,
    window: Duration,
) {
    let ends = Instant::now() + window;
    let subscriptions = egress.active();
    let publishes = ingest.active();
    tracing::info!(subscriptions, publishes, ?window, "draining");
    // In this order: tasks that react to the drain read their moments, which must exist.
    egress.drain(window);
    shutdown.drain();
    // Hooks are checked last: the last publish may end a channel that a hook matches.
    let busy = || egress.active() > 0 || ingest.active() > 0 || !hooks.is_idle();
    while busy() && Instant::now() < ends {
        tokio::time::sleep(DRAIN_CHECK_INTERVAL).await;
    }
    shutdown.stop();
    let in_time = tokio::time::timeout(CLOSE_TIMEOUT, shutdown.all_gone()).await.is_ok();
    tracing::info!(subscriptions_left = egress.active(), in_time, "drained");
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Returns the paths and methods of the document, by its indentation:
    /// `  /path:`, then `    method:`.
    fn documented() -> BTreeSet<(String, String)> {
        let mut found = BTreeSet::new();
        let mut path = String::new();
        for line in include_str!("../../docs/openapi.yaml").lines() {
            let name = line.trim_end_matches(':').trim_start();
            match line.len() - line.trim_start().len() {
                2 if name.starts_with('/') => path = name.to_owned(),
                2 => path.clear(),
                4 if !path.is_empty() && line.ends_with(':') => {
                    found.insert((path.clone(), name.to_uppercase()));
                }
                _ => {}
            }
        }
        found.retain(|(_, name)| name != "PARAMETERS" && name != "OPTIONS");
        found
    }

    fn routed() -> BTreeSet<(String, String)> {
        let metrics = Arc::new(Metrics::new());
        let hub = Hub::new(crate::hub::Config::default(), metrics);
        let ingest = Ingest::new(hub.clone(), crate::ingest::Config::default());
        let egress = Egress::new(crate::egress::Config::default(), &hub, || {}).unwrap();
        let (public, admin) = {
            let hub = &hub;
            let ingest = &ingest;
            let egress = &egress;
            let shutdown = &Shutdown::default();
            routes(RouteParts { hub, ingest, egress, backplane: None, shutdown })
        };
        let routes = public.into_iter().chain(admin).filter(|route| !route.path.ends_with('/'));
        let methods = routes.flat_map(|route| {
            let path = route.path.replace("{*name}", "{name}");
            let document = !path.contains('{');
            let known = route.methods.into_iter().map(|(method, ..)| method.to_string());
            // Every GET route of a document also serves HEAD; only a channel's HEAD returns more.
            known
                .filter(move |method| !(document && method == "HEAD"))
                .map(move |m| (path.clone(), m))
        });
        methods.collect()
    }

    #[test]
    fn the_openapi_document_describes_every_route_and_no_other() {
        assert_eq!(documented(), routed());
        assert!(routed().len() >= 12);
    }
}
