//! One connection to the servers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use parking_lot::Mutex;
use tokio::fs;
use tokio::sync::Notify;
use tokio::time::interval;

use super::config::{Config, Credentials};
use super::failure::Failure;
use super::health::Health;

/// Maximum time until a server has accepted the connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// The interval of pings. A server is lost when the third is due and two were not answered.
const PING_INTERVAL: Duration = Duration::from_secs(2);

/// Maximum number of messages that the client keeps for one subscription. Those that do not fit are
/// lost, and read again by their sequence.
pub(super) const SUBSCRIPTION_CAPACITY: usize = 512;

/// Maximum number of commands to the client that it has not run.
const CLIENT_CAPACITY: usize = 256;

/// The pause before the client would connect again by itself. It does not come to that: a client
/// whose connection is lost is dropped.
const NEVER: Duration = Duration::from_secs(3600);

/// The interval at which the state is checked, in case that an event was lost.
const STATE_INTERVAL: Duration = Duration::from_millis(500);

/// One connection to a server.
pub(super) struct Connection {
    pub client: Client,
    /// The index of its server.
    pub server: usize,
    lost: Arc<Notify>,
}

/// Connects to the first server that accepts, beginning with the one of this index.
pub(super) async fn connect(
    config: &Config,
    first: usize,
    health: &Arc<Mutex<Health>>,
) -> Result<Connection, Failure> {
    let servers = config.addresses().map_err(|error| Failure::Refused(error.to_string()))?;
    health.lock().broadcast_problem = None;
    let first = first % servers.len();
    let mut failure = Failure::Retry("there is no NATS server".to_owned());
    for (server, address) in servers.iter().enumerate().cycle().skip(first).take(servers.len()) {
        match connect_to(config, server, address, health).await {
            Err(Failure::Retry(text)) => failure = Failure::Retry(text),
            connected => return connected,
        }
    }
    Err(failure)
}

/// Connects to one server. Files with credentials and certificates are read here, for each
/// connection.
async fn connect_to(
    config: &Config,
    server: usize,
    address: &ServerAddr,
    health: &Arc<Mutex<Health>>,
) -> Result<Connection, Failure> {
    let broadcast_subject = config.broadcast_subject();
    let is_connected = Arc::new(AtomicBool::new(false));
    let lost = Arc::new(Notify::new());
    let mut options = credentials(config).await?;
    options = tls(config, options)
        .name(format!("fanfare {}", config.node))
        .connection_timeout(CONNECT_TIMEOUT)
        .ping_interval(PING_INTERVAL)
        // A hub does not receive its own broadcasts. All else that it receives, servers send.
        .no_echo()
        .subscription_capacity(SUBSCRIPTION_CAPACITY)
        .client_capacity(CLIENT_CAPACITY)
        .ignore_discovered_servers()
        .reconnect_delay_callback({
            let is_connected = Arc::clone(&is_connected);
            move |_| if is_connected.load(Ordering::Relaxed) { NEVER } else { Duration::ZERO }
        })
        .event_callback({
            let lost = Arc::clone(&lost);
            let health = Arc::clone(health);
            move |event| {
                observe(&event, &lost, &health, &broadcast_subject);
                std::future::ready(())
            }
        });
    let client = options
        .connect(address.clone())
        .await
        .map_err(|error| Failure::Retry(format!("no NATS server accepts a connection: {error}")))?;
    is_connected.store(true, Ordering::Relaxed);
    Ok(Connection { client, server, lost })
}

fn observe(event: &Event, lost: &Notify, health: &Mutex<Health>, broadcast_subject: &str) {
    match event {
        Event::Disconnected | Event::Closed => lost.notify_one(),
        // Above all a permission that the hub needs and does not have.
        Event::ServerError(error) => {
            let mut health = health.lock();
            let text: Box<str> = format!("the NATS server reports: {error}").into();
            let is_of_broadcast = text.contains(&format!("\"{broadcast_subject}\""));
            let problem =
                if is_of_broadcast { &mut health.broadcast_problem } else { &mut health.problem };
            // Each broadcast is an error.
            if !is_of_broadcast || problem.is_none() {
                tracing::warn!(%error, "the NATS server reports an error");
            }
            *problem = Some(text);
        }
        _ => {}
    }
}

async fn credentials(config: &Config) -> Result<ConnectOptions, Failure> {
    let options = ConnectOptions::new();
    match &config.credentials {
        Credentials::None => Ok(options),
        Credentials::Password { user, password } => {
            Ok(options.user_and_password(user.clone(), password.clone()))
        }
        Credentials::NkeyFile(path) => match fs::read_to_string(path).await {
            Ok(seed) => Ok(options.nkey(seed.trim().to_owned())),
            Err(error) => Err(unreadable(path, &error)),
        },
        Credentials::CredsFile(path) => {
            options.credentials_file(path).await.map_err(|error| unreadable(path, &error))
        }
    }
}

fn unreadable(path: &std::path::Path, error: &std::io::Error) -> Failure {
    Failure::Retry(format!("the credentials in `{}` cannot be read: {error}", path.display()))
}

fn tls(config: &Config, options: ConnectOptions) -> ConnectOptions {
    let mut options = options.require_tls(config.tls.required);
    if let Some(ca) = &config.tls.ca {
        options = options.add_root_certificates(ca.clone());
    }
    if let Some((certificate, key)) = &config.tls.identity {
        options = options.add_client_certificate(certificate.clone(), key.clone());
    }
    options
}

impl Connection {
    /// Waits until the connection is lost.
    pub(super) async fn lost(&self) -> Failure {
        let mut ticks = interval(STATE_INTERVAL);
        while self.client.connection_state() == State::Connected {
            tokio::select! {
                () = self.lost.notified() => break,
                _ = ticks.tick() => {}
            }
        }
        Failure::Retry("the connection to the NATS server was lost".to_owned())
    }
}
