//! The hub of the demo: a real one, in this process.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::cli::client::HubUrl;
use crate::config::Config;
use crate::server::Server;

/// Where it listens, if nobody else does: for everybody, and for the operator.
const PORTS: (u16, u16) = (4100, 4101);

/// A hub in this process.
pub(super) struct DemoHub {
    pub(super) url: HubUrl,
    pub(super) admin: HubUrl,
    /// The usual ports were somebody else's.
    pub(super) moved: bool,
    stop: oneshot::Sender<()>,
    running: tokio::task::JoinHandle<()>,
}

impl DemoHub {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let (public, moved) = free_port(PORTS.0);
        let (admin, admin_moved) = free_port(PORTS.1);
        let server = Server::bind(config(public, admin)).await.context("cannot start a hub")?;
        let (url, admin) = (server.addr().into(), server.admin_addr().into());
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

    /// Nobody is left whom a polite drain would serve.
    pub(super) async fn stop(self) {
        let _ = self.stop.send(());
        let _ = timeout(Duration::from_millis(500), self.running).await;
    }
}

/// The port, or zero (any) if somebody has it.
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
