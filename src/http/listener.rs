//! Accepts connections, as many as may be, and goes on when it cannot.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::connection::{Outcome, Serving};
use super::router::App;
use super::slots::{Slot, Slots};
use super::{ErrorCode, Problem, connection};
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
    serving: Serving,
    slots: Slots,
    metrics: Arc<Metrics>,
    refusals: Arc<Semaphore>,
}

impl Listener {
    /// Serves the connections of this socket, as many as there are slots.
    #[must_use]
    pub fn new(tcp: TcpListener, serving: Serving, slots: Slots, metrics: Arc<Metrics>) -> Self {
        let refusals = Arc::new(Semaphore::new(MAX_REFUSALS));
        Self { tcp, serving, slots, metrics, refusals }
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
                () = self.serving.shutdown.stopping() => return,
            }
        }
    }

    fn welcome(&self, tcp: TcpStream, peer: SocketAddr) {
        match self.slots.take() {
            Some(slot) => self.serve(tcp, peer, slot),
            None => self.refuse(tcp, peer),
        }
    }

    fn serve(&self, tcp: TcpStream, peer: SocketAddr, slot: Slot) {
        let metrics = self.metrics.clone();
        let serving = connection::serve(tcp, peer, self.serving.clone());
        self.serving.shutdown.spawn(async move {
            match serving.await {
                Outcome::Over => {}
                Outcome::Limit(limit) => metrics.limit_hit(limit),
                Outcome::TakenOver => slot.hand_over(),
            }
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
        let serving = connection::serve(tcp, peer, Serving { app, ..self.serving.clone() });
        self.serving.shutdown.spawn(async move {
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
