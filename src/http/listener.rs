//! Accepts connections, as many as may be, and goes on when it cannot.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::router::App;
use super::{Config, ErrorCode, Problem, connection};
use crate::shutdown::Shutdown;
use crate::telemetry::Metrics;

/// Connections that are told that there are too many, at a time; past it they are just closed.
const MAX_REFUSALS: usize = 256;

/// How long a refused connection may take to say what it wanted.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);

/// How long accepting rests when the process has no descriptor left.
const BACK_OFF: Duration = Duration::from_millis(50);

/// A listening socket, and what answers there.
pub struct Listener {
    tcp: TcpListener,
    app: App,
    config: Arc<Config>,
    shutdown: Shutdown,
    metrics: Arc<Metrics>,
    slots: Arc<Semaphore>,
    refusals: Arc<Semaphore>,
}

impl Listener {
    /// Serves this application on this socket.
    #[must_use]
    pub fn new(
        tcp: TcpListener,
        app: App,
        config: Arc<Config>,
        shutdown: Shutdown,
        metrics: Arc<Metrics>,
    ) -> Self {
        let slots = Arc::new(Semaphore::new(config.max_connections.min(Semaphore::MAX_PERMITS)));
        let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
        Self { tcp, app, config, shutdown, metrics, slots, refusals }
    }

    /// The address that was bound.
    ///
    /// # Errors
    /// The socket has none.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Accepts until the hub stops.
    pub async fn run(self) {
        loop {
            tokio::select! {
                accepted = self.tcp.accept() => match accepted {
                    Ok((tcp, peer)) => self.welcome(tcp, peer),
                    Err(error) => self.rest(&error).await,
                },
                () = self.shutdown.stopping() => return,
            }
        }
    }

    fn welcome(&self, tcp: TcpStream, peer: SocketAddr) {
        match self.slots.clone().try_acquire_owned() {
            Ok(slot) => self.serve(tcp, peer, slot),
            Err(_) => self.refuse(tcp, peer),
        }
    }

    fn serve(&self, tcp: TcpStream, peer: SocketAddr, slot: OwnedSemaphorePermit) {
        let metrics = self.metrics.clone();
        metrics.connection_opened();
        let (config, shutdown) = (self.config.clone(), self.shutdown.clone());
        let serving = connection::serve(tcp, peer, self.app.clone(), config, shutdown);
        self.shutdown.spawn(async move {
            if let Some(limit) = serving.await {
                metrics.limit_hit(limit);
            }
            metrics.connection_closed();
            drop(slot);
        });
    }

    fn refuse(&self, tcp: TcpStream, peer: SocketAddr) {
        self.metrics.limit_hit("server.max_connections");
        let Ok(slot) = self.refusals.clone().try_acquire_owned() else { return };
        let app: App = Arc::new(|_| {
            Box::pin(async {
                let detail = "as many connections are open as `server.max_connections` allows";
                let mut response = Problem::new(ErrorCode::Overloaded, detail).into_response();
                let close = http::HeaderValue::from_static("close");
                response.headers_mut().insert(http::header::CONNECTION, close);
                response
            })
        });
        let (config, shutdown) = (self.config.clone(), self.shutdown.clone());
        let serving = connection::serve(tcp, peer, app, config, shutdown);
        self.shutdown.spawn(async move {
            let _ = tokio::time::timeout(REFUSAL_TIMEOUT, serving).await;
            drop(slot);
        });
    }

    /// A client that is gone already concerns nobody; anything else would come back at once.
    async fn rest(&self, error: &io::Error) {
        use io::ErrorKind as Kind;
        if matches!(error.kind(), Kind::ConnectionAborted | Kind::ConnectionReset) {
            return;
        }
        self.metrics.limit_hit("accept");
        tracing::warn!(%error, "cannot accept connections");
        tokio::time::sleep(BACK_OFF).await;
    }
}
