//! One connection, from its first byte to its last: HTTP/1.1, or HTTP/2 by prior knowledge.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::server::conn::{http1, http2};
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::router::App;
use super::takeover::Handoff;
use super::{Config, Request, Response};
use crate::egress::{Egress, Link};
use crate::shutdown::Shutdown;

/// What HTTP/2 begins with (RFC 9113, section 3.4); no HTTP/1 method begins like it.
const PREFACE: &[u8; 4] = b"PRI ";

/// Bytes that wait in one HTTP/2 stream for a client that does not read.
const H2_SEND_BUFFER: usize = 64 * 1024;

/// An HTTP/2 client is asked for a sign of life this often, and cut off if it gives none.
const H2_KEEP_ALIVE: Duration = Duration::from_secs(20);

/// The setting that ends a connection whose request does not come.
const HEADER_TIMEOUT: &str = "server.header_timeout";

/// Who is at the other end; handlers find it among the request's extensions.
#[derive(Clone, Debug)]
pub struct Client {
    /// The address that the connection came from.
    pub peer: SocketAddr,
    /// The connection, as far as a subscription may know it.
    pub link: Arc<Link>,
    /// How long a body that is a document may take.
    pub body_timeout: Duration,
}

/// What serves the connections of a listener: cheap handles.
#[derive(Clone)]
pub struct Serving {
    /// What answers requests.
    pub app: App,
    /// The listener's settings.
    pub config: Arc<Config>,
    /// Whether the hub is going down.
    pub shutdown: Shutdown,
    /// Who may take sockets over.
    pub egress: Egress,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// By itself, or because the hub stops.
    Over,
    /// By a limit: the setting.
    Limit(&'static str),
    /// Not at all: its socket is somebody else's now.
    TakenOver,
}

/// Serves a connection until it ends, is cut or taken over, or the hub stops.
pub(super) async fn serve(tcp: TcpStream, peer: SocketAddr, serving: Serving) -> Outcome {
    // Without it, an event waits for the acknowledgement of the one before.
    let _ = tcp.set_nodelay(true);
    // A publisher whose machine has gone without a word would hold its channel for ever.
    let _ = SockRef::from(&tcp).set_tcp_keepalive(&keepalive());
    let http2 = match timeout(serving.config.header_timeout, is_http2(&tcp)).await {
        Ok(Ok(http2)) => http2,
        Ok(Err(_)) => return Outcome::Over,
        Err(_) => return Outcome::Limit(HEADER_TIMEOUT),
    };
    let link = Arc::new(Link::new(http2));
    let body_timeout = serving.config.body_timeout;
    let client = Client { peer, link: link.clone(), body_timeout };
    let _watch = serving.egress.watch_link(&link);
    let io = TokioIo::new(Tracked { tcp, link });
    let served = if http2 {
        serve_http2(io, client, serving).await
    } else {
        serve_http1(io, client, serving).await
    };
    match served {
        Ok(outcome) => outcome,
        Err(error) if error.is_timeout() => Outcome::Limit(HEADER_TIMEOUT),
        Err(error) if error.is_parse_too_large() => Outcome::Limit("server.max_header_bytes"),
        Err(_) => Outcome::Over,
    }
}

/// Some 30 seconds of silence, and three questions without an answer.
fn keepalive() -> TcpKeepalive {
    let pause = Duration::from_secs(10);
    TcpKeepalive::new().with_time(3 * pause).with_interval(pause).with_retries(3)
}

async fn is_http2(tcp: &TcpStream) -> io::Result<bool> {
    let mut start = [0; PREFACE.len()];
    loop {
        let seen = tcp.peek(&mut start).await?;
        if seen == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if seen == PREFACE.len() || start[..seen] != PREFACE[..seen] {
            return Ok(start == *PREFACE);
        }
        // A piece of the preface: peeking again would return at once with the same.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn serve_http1(
    io: TokioIo<Tracked>,
    client: Client,
    serving: Serving,
) -> hyper::Result<Outcome> {
    let Serving { app, config, shutdown, egress } = serving;
    let (link, handoff) = (client.link.clone(), Arc::new(Handoff::new(egress)));
    let max_header = usize::try_from(config.max_header_bytes.as_u64()).unwrap_or(usize::MAX);
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout)
        .max_headers(config.max_headers)
        .max_header_size(max_header)
        // Events are small: copying them into one buffer beats a vector of many parts.
        .writev(false)
        .serve_connection(io, service(client, app, Some(handoff.clone())));
    let mut told = false;
    loop {
        tokio::select! {
            served = &mut connection => return served.map(|()| Outcome::Over),
            () = handoff.taken() => {
                let tracked = connection.into_parts().io.into_inner();
                return Ok(hand_on(&handoff, tracked));
            }
            () = link.cut() => {
                reset(connection.into_parts().io.into_inner());
                return Ok(Outcome::Over);
            }
            () = shutdown.stopping(), if !told => {
                told = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
    }
}

fn hand_on(handoff: &Handoff, tracked: Tracked) -> Outcome {
    match tracked.tcp.into_std() {
        Ok(tcp) => {
            handoff.hand_on(tcp);
            Outcome::TakenOver
        }
        // The runtime could not let go of the socket, which is closed by now.
        Err(_) => Outcome::Over,
    }
}

async fn serve_http2(
    io: TokioIo<Tracked>,
    client: Client,
    serving: Serving,
) -> hyper::Result<Outcome> {
    let Serving { app, config, shutdown, .. } = serving;
    let link = client.link.clone();
    let max_header = u32::try_from(config.max_header_bytes.as_u64()).unwrap_or(u32::MAX);
    let mut connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_send_buf_size(H2_SEND_BUFFER)
        .max_header_list_size(max_header)
        .keep_alive_interval(H2_KEEP_ALIVE)
        .keep_alive_timeout(H2_KEEP_ALIVE)
        .serve_connection(io, service(client, app, None));
    let mut told = false;
    loop {
        tokio::select! {
            served = &mut connection => return served.map(|()| Outcome::Over),
            () = link.cut() => return Ok(Outcome::Over),
            () = shutdown.stopping(), if !told => {
                told = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
    }
}

type Answered = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

/// The application as hyper wants it; the client stands among each request's extensions.
fn service(
    client: Client,
    app: App,
    handoff: Option<Arc<Handoff>>,
) -> impl Service<Request, Response = Response, Error = Infallible, Future = Answered> {
    service_fn(move |mut request: Request| {
        request.extensions_mut().insert(client.clone());
        let handoff = handoff.clone().filter(|handoff| handoff.is_open_to(&request));
        let answer = app(request);
        // Boxed: the connection keeps room for this future for as long as it lives.
        Box::pin(async move {
            let response = answer.await;
            Ok(match handoff {
                Some(handoff) => handoff.offer(response).await,
                None => response,
            })
        }) as Answered
    })
}

/// Closes without waiting for what the client does not read: the kernel keeps nothing of it.
fn reset(io: Tracked) {
    let _ = io.tcp.set_zero_linger();
}

/// A socket that notes whether writing makes progress.
struct Tracked {
    tcp: TcpStream,
    link: Arc<Link>,
}

impl Tracked {
    fn note(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Pending => self.link.write_blocked(),
            Poll::Ready(_) => self.link.write_progressed(),
        }
        written
    }
}

impl AsyncRead for Tracked {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Tracked {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.tcp).poll_write(cx, bytes);
        self.note(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}
