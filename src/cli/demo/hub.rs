//! The hub of the demo: a real one, in this process.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use fanfare_client::HubUrl;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::config::Config;
use crate::server::Server;

/// The preferred ports of the public and the admin listener.
const PORTS: (u16, u16) = (4100, 4101);

/// A hub in this process.
pub(super) struct DemoHub {
    pub(super) url: HubUrl,
    pub(super) admin: HubUrl,
    /// A preferred port was in use.
    pub(super) moved: bool,
    stop: oneshot::Sender<()>,
    running: tokio::task::JoinHandle<()>,
}

impl DemoHub {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let (public, moved) = free_port(PORTS.0);
        let (admin, admin_moved) = free_port(PORTS.1);
        let server = Server::bind(config(public, admin)).await.context("cannot start a hub")?;
        let url = format!("http://{}", server.addr()).parse()?;
        let admin = format!("http://{}", server.admin_addr()).parse()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(async move {
            let _ = server
                .run(async {
                    let _ = stopped.await;
                })
                .await;
        });
        Ok(Self { url, admin, moved: moved || admin_moved, stop, running })
    }

    /// Stops the hub. The viewers have left, so the drain is cut short.
    pub(super) async fn stop(self) {
        let _ = self.stop.send(());
        let _ = timeout(Duration::from_millis(500), self.running).await;
    }
}

/// Returns the port if it is free, and otherwise port zero (any).
fn free_port(port: u16) -> (SocketAddr, bool) {
    let addr = |port| SocketAddr::from(([127, 0, 0, 1], port));
    match std::net::TcpListener::bind(addr(port)) {
        Ok(_) => (addr(port), false),
        Err(_) => (addr(0), true),
    }
}

fn config(public: SocketAddr, admin: SocketAddr) -> Config {
    let mut config = Config::default();
    config.server.listen = public;
    config.server.admin_listen = admin;
    config.drain.window = Duration::from_millis(200);
    config
}
