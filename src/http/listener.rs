//! Accepts connections up to the limits, distributes them among the workers, and recovers from
//! errors of `accept`.

use std::fs::File;
use std::io;
use std::net::{self, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use rustix::io::Errno;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::app::App;
use super::connection;
use super::connection::{ConnectionOutcome, Serving};
use super::connection_limit::{ConnectionLimit, ConnectionPermit};
use super::error_response::reads_stream;
use super::problem::{ErrorCode, Problem};
use super::socket_options::SocketOptions;
use super::workers::Workers;
use crate::quota::Quotas;
use crate::telemetry::Metrics;

/// Connections that may wait to be accepted: a reconnect storm must not be dropped by the kernel.
const BACKLOG: i32 = 4096;

/// Connections that are refused with a response at a time; past it they are just closed.
const MAX_REFUSALS: usize = 256;

/// Time in which a refused connection must send its request.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(2);

/// Pause before the next `accept` after an error.
const BACK_OFF: Duration = Duration::from_millis(50);

/// A socket for connections, which listens or will listen, and what serves them.
pub struct Listener {
    tcp: net::TcpListener,
    /// Whether the socket stays open without the hub.
    outlived: bool,
    acceptor: Acceptor,
}

/// Serves accepted connections, up to the limits.
struct Acceptor {
    serving: Serving,
    limit: ConnectionLimit,
    quotas: Arc<Quotas>,
    metrics: Arc<Metrics>,
    refusals: Arc<Semaphore>,
    workers: Workers,
    /// The options to be set on each accepted socket, where it does not inherit them.
    options: Option<SocketOptions>,
    /// A descriptor to close when the process has no other left, so that a client can be refused.
    reserve: Option<File>,
}

impl Listener {
    /// Creates a listener that serves the connections of this socket, which does not block, up to
    /// the limit.
    #[must_use]
    pub fn new(
        tcp: net::TcpListener,
        serving: Serving,
        workers: Workers,
        limit: ConnectionLimit,
        quotas: Arc<Quotas>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let acceptor = Acceptor {
            serving,
            limit,
            quotas,
            metrics,
            refusals: Arc::new(Semaphore::new(MAX_REFUSALS)),
            workers,
            options: None,
            reserve: reserve(),
        };
        Self { tcp, outlived: false, acceptor }
    }

    /// Stops accepting when a drain begins: another process also has this socket, and keeps new
    /// connections in its queue for the next hub. Those in the queue of the first hub have no
    /// options, so they are set on each.
    #[must_use]
    pub fn outlived(mut self, options: SocketOptions) -> Self {
        self.outlived = true;
        self.acceptor.options = Some(options);
        self
    }

    /// Listens, unless the socket does already, and accepts until the hub stops; from a socket that
    /// outlives it, until the drain begins.
    ///
    /// # Errors
    /// Another socket listens at the address, or the socket cannot be watched.
    pub async fn run(self) -> io::Result<()> {
        let Self { tcp, outlived, mut acceptor } = self;
        listen(&tcp)?;
        let tcp = TcpListener::from_std(tcp)?;
        let shutdown = acceptor.serving.shutdown.clone();
        let mut over = pin!(async move {
            if outlived { shutdown.draining().await } else { shutdown.stopping().await }
        });
        loop {
            tokio::select! {
                // In this order: a connection that can wait in the queue must not be taken from it.
                biased;
                () = &mut over => return Ok(()),
                accepted = tcp.accept() => match accepted {
                    Ok((accepted, peer)) => acceptor.admit(accepted, peer),
                    Err(error) => acceptor.recover(&tcp, &error).await,
                },
            }
        }
    }
}

/// Makes the kernel accept connections at the socket, unless it does already. Before, it refuses
/// them.
///
/// # Errors
/// Another socket listens at the address.
pub fn listen(tcp: &net::TcpListener) -> io::Result<()> {
    let socket = SockRef::from(tcp);
    if socket.is_listener()? { Ok(()) } else { socket.listen(BACKLOG) }
}

impl Acceptor {
    fn admit(&self, tcp: TcpStream, peer: SocketAddr) {
        if let Some(options) = self.options {
            options.set(&SockRef::from(&tcp));
        }
        // A trusted proxy's connections are those of many clients.
        let of_proxy = self.serving.proxies.trust(peer.ip());
        if let Err(exceeded) = self.quotas.connect(peer.ip())
            && !of_proxy
        {
            self.metrics.limit_hit(exceeded.limit);
            return self.refuse(tcp, peer, Problem::exceeded(&exceeded));
        }
        match self.limit.take() {
            Some(permit) => self.serve(tcp, peer, permit),
            None => self.refuse_over_limit(tcp, peer),
        }
    }

    fn refuse_over_limit(&self, tcp: TcpStream, peer: SocketAddr) {
        self.metrics.limit_hit("server.max_connections");
        let detail = "as many connections are open as `server.max_connections` allows";
        self.refuse(tcp, peer, Problem::new(ErrorCode::Overloaded, detail));
    }

    fn serve(&self, tcp: TcpStream, peer: SocketAddr, permit: ConnectionPermit) {
        let metrics = self.metrics.clone();
        let serving = self.serving.clone();
        self.dispatch(tcp, async move |tcp| match connection::serve(tcp, peer, serving).await {
            ConnectionOutcome::Over => {}
            ConnectionOutcome::Limit(limit) => metrics.limit_hit(limit),
            ConnectionOutcome::TakenOver => permit.transfer(),
        });
    }

    /// Gives a connection to the next worker. One that cannot be moved is closed.
    fn dispatch<F>(&self, tcp: TcpStream, serve: impl FnOnce(TcpStream) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send,
    {
        let Ok(tcp) = tcp.into_std() else { return };
        let task = async move {
            if let Ok(tcp) = TcpStream::from_std(tcp) {
                serve(tcp).await;
            }
        };
        self.serving.shutdown.spawn_on(task, self.workers.next());
    }

    fn refuse(&self, tcp: TcpStream, peer: SocketAddr, problem: Problem) {
        let Ok(permit) = self.refusals.clone().try_acquire_owned() else { return };
        let app: App = Arc::new(move |request| {
            let mut response = problem.clone().answer(reads_stream(&request));
            Box::pin(async move {
                let close = http::HeaderValue::from_static("close");
                response.headers_mut().insert(http::header::CONNECTION, close);
                response
            })
        });
        let app = self.serving.cors.wrap(app);
        let serving = Serving { app, ..self.serving.clone() };
        self.dispatch(tcp, async move |tcp| {
            let refused = connection::serve(tcp, peer, serving);
            let _ = tokio::time::timeout(REFUSAL_TIMEOUT, refused).await;
            drop(permit);
        });
    }

    /// Handles an error of `accept`: ignores a client that has left, and pauses after any other,
    /// which would return at once.
    async fn recover(&mut self, tcp: &TcpListener, error: &io::Error) {
        use io::ErrorKind as Kind;
        if matches!(error.kind(), Kind::ConnectionAborted | Kind::ConnectionReset) {
            return;
        }
        self.metrics.limit_hit("accept");
        tracing::warn!(%error, "cannot accept connections");
        if is_out_of_descriptors(error) && self.reserve.take().is_some() {
            // A refusal is better than a wait: the client can try another hub, or later.
            if let Ok(Ok((accepted, peer))) = tokio::time::timeout(BACK_OFF, tcp.accept()).await {
                self.refuse_over_limit(accepted, peer);
            }
        }
        tokio::time::sleep(BACK_OFF).await;
        self.reserve = self.reserve.take().or_else(reserve);
    }
}

fn reserve() -> Option<File> {
    File::open("/dev/null").ok()
}

fn is_out_of_descriptors(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE))
}
