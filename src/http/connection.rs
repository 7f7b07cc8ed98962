//! One connection, from its first byte to its last: HTTP/1.1, or HTTP/2 by prior knowledge; over
//! TLS the protocol that both sides agreed on.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use http::{HeaderValue, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::app::{App, Request, Response, ResponseFuture};
use super::body::{Body, RequestBody};
use super::client_info::ClientInfo;
use super::config::Config;
use super::cors::Cors;
use super::http2;
use super::peek::{ROOM, peek};
use super::progress_io::{ProgressIo, Transport};
use super::proxy::{Origin, Proxies};
use super::requests::RequestReader;
use super::socket_takeover::Handoff;
use super::tls::{self, Tls};
use crate::egress::{Egress, Link};
use crate::shutdown::Shutdown;

/// The first bytes of HTTP/2 (RFC 9113, section 3.4); no HTTP/1 request begins with them.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The setting that limits the time until a request has arrived.
const HEADER_TIMEOUT: &str = "server.header_timeout";

/// The smallest buffer that hyper accepts.
const MIN_BUFFER: usize = 8 * 1024;

/// Header lines up to which a whole head is awaited: more than browsers and proxies send.
const LOOKED_AT_HEADERS: usize = 128;

/// The parts that serve the connections of a listener: cheap handles.
#[derive(Clone)]
pub struct Serving {
    /// The application, which answers requests.
    pub app: App,
    /// The listener's settings.
    pub config: Arc<Config>,
    /// Signals that the hub drains or stops.
    pub shutdown: Shutdown,
    /// Serves streams, and takes sockets over.
    pub egress: Egress,
    /// The listener's TLS, if it speaks it.
    pub tls: Option<Tls>,
    /// The proxies that are trusted to forward the client's address.
    pub proxies: Proxies,
    /// The pages that may read responses.
    pub cors: Cors,
}

/// The end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectionOutcome {
    /// It ended by itself, or because the hub stops.
    Over,
    /// It exceeded the limit of this setting.
    Limit(&'static str),
    /// It is still open: a shard has taken over its socket.
    TakenOver,
}

/// Serves a connection until it ends, is cut or taken over, or the hub stops.
pub(super) async fn serve(tcp: TcpStream, peer: SocketAddr, serving: Serving) -> ConnectionOutcome {
    accept(tcp, peer, serving).await.unwrap_or_else(|early| early)
}

/// Does all that comes before the first request, with one deadline. An error is an early end.
async fn accept(
    mut tcp: TcpStream,
    peer: SocketAddr,
    serving: Serving,
) -> Result<ConnectionOutcome, ConnectionOutcome> {
    // Spread upwards, so that clients that connected together are not cut together.
    let spread = 1.0 + 0.2 * fastrand::f64();
    let deadline = Instant::now() + serving.config.header_timeout.mul_f64(spread);
    let peer = with_deadline(deadline, serving.proxies.read_peer(&mut tcp, peer)).await?;
    let Some(tls) = serving.tls.clone() else {
        let http2 = with_deadline(deadline, is_http2(&tcp)).await?;
        let mut socket = ProgressIo::new(tcp);
        let origin = Origin { peer, secure: false };
        let link = serving.egress.link();
        socket.track(link.clone());
        // Boxed: a connection that has not sent anything yet needs no room for it.
        let context = ConnectionContext { origin, link, serving, deadline };
        return Ok(Box::pin(serve_connection(socket, context, http2)).await);
    };
    // Boxed: connections without TLS need no room for it.
    Box::pin(async move {
        let mut stream = with_deadline(deadline, tls.accept(ProgressIo::new(tcp))).await?;
        let http2 = tls::is_http2(&stream);
        let origin = Origin { peer, secure: true };
        let link = serving.egress.link();
        stream.get_mut().0.track(link.clone());
        Ok(serve_connection(stream, ConnectionContext { origin, link, serving, deadline }, http2)
            .await)
    })
    .await
}

async fn with_deadline<T>(
    deadline: Instant,
    step: impl Future<Output = io::Result<T>>,
) -> Result<T, ConnectionOutcome> {
    match timeout_at(deadline, step).await {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(_)) => Err(ConnectionOutcome::Over),
        Err(_) => Err(ConnectionOutcome::Limit(HEADER_TIMEOUT)),
    }
}

/// Waits for the first bytes of HTTP/2, or for the whole head of a first request, before hyper's
/// state for the connection is created.
async fn is_http2(tcp: &TcpStream) -> io::Result<bool> {
    peek(tcp, |seen| {
        let common = seen.len().min(PREFACE.len());
        if seen[..common] == PREFACE[..common] {
            return Ok((common == PREFACE.len()).then_some(true));
        }
        // hyper answers a head that is wrong, or too long to be peeked at.
        let mut headers = [const { MaybeUninit::uninit() }; LOOKED_AT_HEADERS];
        let parsed = httparse::Request::new(&mut []).parse_with_uninit_headers(seen, &mut headers);
        let waits = parsed.is_ok_and(|parsed| parsed.is_partial()) && seen.len() < ROOM;
        Ok((!waits).then_some(false))
    })
    .await
}

/// A connection that is ready for its first request.
struct ConnectionContext {
    origin: Origin,
    link: Arc<Link>,
    serving: Serving,
    /// The time by which the first request must have arrived.
    deadline: Instant,
}

async fn serve_connection<W: Transport>(
    transport: W,
    context: ConnectionContext,
    http2: bool,
) -> ConnectionOutcome {
    let _watch = context.serving.egress.watch_link(&context.link);
    let served = if http2 {
        serve_http2(TokioIo::new(transport), context).await
    } else {
        let requests = RequestReader::new(transport, context.link.clone(), &context.serving.config);
        serve_http1(TokioIo::new(requests), context).await
    };
    match served {
        Ok(outcome) => outcome,
        Err(error) if error.is_timeout() => ConnectionOutcome::Limit(HEADER_TIMEOUT),
        Err(error) if error.is_parse_too_large() => {
            ConnectionOutcome::Limit("server.max_header_bytes")
        }
        Err(_) => ConnectionOutcome::Over,
    }
}

async fn serve_http1<W: Transport>(
    io: TokioIo<RequestReader<W>>,
    context: ConnectionContext,
) -> hyper::Result<ConnectionOutcome> {
    let link = context.link.clone();
    let shutdown = context.serving.shutdown.clone();
    let config = context.serving.config.clone();
    let cors = context.serving.cors.clone();
    // A shard can write only to a plain socket.
    let handoff = context.serving.tls.is_none().then(|| Arc::new(Handoff::new()));
    let max_header = usize::try_from(config.max_header_bytes.as_u64()).unwrap_or(usize::MAX);
    let service = http1_service(RequestService::new(context), handoff.clone());
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout)
        .max_headers(config.max_headers)
        .max_header_size(max_header)
        // The buffer for reads, and for writes that are gathered: hyper would keep as much for each
        // connection.
        .max_buf_size(max_header.max(MIN_BUFFER))
        // Events are small: copying them into one buffer beats a vector of many parts.
        .writev(false)
        .serve_connection(io, service);
    let mut is_shutting_down = false;
    loop {
        tokio::select! {
            // In this order: the connection's own poll changes what the next two look at.
            biased;
            served = &mut connection => {
                return match connection.into_parts().io.into_inner().into_refused() {
                    Some((transport, refusal)) => {
                        let limit = Box::pin(refusal.answer(transport, &cors)).await;
                        Ok(limit.map_or(ConnectionOutcome::Over, ConnectionOutcome::Limit))
                    }
                    None => served.map(|()| ConnectionOutcome::Over),
                };
            }
            handoff = if_some(|| handoff.as_deref().filter(|handoff| handoff.is_taken())) => {
                let transport = connection.into_parts().io.into_inner();
                return Ok(take_over(handoff, transport));
            }
            () = if_some(|| link.has_input_ended().then_some(())), if !is_shutting_down => {
                is_shutting_down = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
            () = link.cut() => {
                reset(&connection.into_parts().io.into_inner());
                return Ok(ConnectionOutcome::Over);
            }
            () = shutdown.stopping(), if !is_shutting_down => {
                is_shutting_down = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
    }
}

/// Resolves with a value when there is one. Looks for it at each poll and sets no waker: the task
/// itself makes the value.
fn if_some<T>(value: impl Fn() -> Option<T>) -> impl Future<Output = T> {
    poll_fn(move |_| value().map_or(Poll::Pending, Poll::Ready))
}

fn take_over(handoff: &Handoff, transport: impl Transport) -> ConnectionOutcome {
    match transport.into_plain().map(TcpStream::into_std) {
        Some(Ok(tcp)) => {
            handoff.attach(tcp);
            ConnectionOutcome::TakenOver
        }
        // tokio could not release the socket, and has closed it.
        Some(Err(_)) | None => ConnectionOutcome::Over,
    }
}

async fn serve_http2<W: Transport>(
    io: TokioIo<W>,
    context: ConnectionContext,
) -> hyper::Result<ConnectionOutcome> {
    let link = context.link.clone();
    let shutdown = context.serving.shutdown.clone();
    let deadline = context.deadline;
    let builder = http2::builder(&context.serving.config);
    let asked = Arc::new(AtomicBool::new(false));
    let service = http2_service(Arc::new(RequestService::new(context)), asked.clone());
    let mut connection = builder.serve_connection(io, service);
    let mut is_shutting_down = false;
    let mut is_checked = false;
    let mut first = pin!(sleep_until(deadline));
    loop {
        tokio::select! {
            served = &mut connection => return served.map(|()| ConnectionOutcome::Over),
            () = link.cut() => return Ok(ConnectionOutcome::Over),
            // hyper waits for a first request for ever.
            () = &mut first, if !is_checked => {
                is_checked = true;
                if !asked.load(Ordering::Relaxed) {
                    return Ok(ConnectionOutcome::Limit(HEADER_TIMEOUT));
                }
            }
            () = shutdown.stopping(), if !is_shutting_down => {
                is_shutting_down = true;
                Pin::new(&mut connection).graceful_shutdown();
            }
        }
    }
}

/// A request as hyper passes it.
type HyperRequest = http::Request<Incoming>;

type BoxedAnswer = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

/// Adds the client to the requests of a connection, and calls the application.
struct RequestService {
    app: App,
    proxies: Proxies,
    origin: Origin,
    link: Arc<Link>,
    body_timeout: Duration,
}

impl RequestService {
    fn new(context: ConnectionContext) -> Self {
        let ConnectionContext {
            origin, link, serving: Serving { app, proxies, config, .. }, ..
        } = context;
        Self { app, proxies, origin, link, body_timeout: config.body_timeout }
    }

    /// Calls the application, with the client among the request's extensions.
    fn call(&self, mut request: Request, link: Arc<Link>) -> ResponseFuture {
        let Origin { peer, secure } = self.proxies.origin(self.origin, request.headers());
        let body_timeout = self.body_timeout;
        request.extensions_mut().insert(ClientInfo { peer, secure, link, body_timeout });
        (self.app)(request)
    }
}

/// Returns the application as a hyper service for HTTP/1.1. It is called outside of the future,
/// which then holds the application's boxed future instead of the request.
fn http1_service(
    service: RequestService,
    handoff: Option<Arc<Handoff>>,
) -> impl Service<HyperRequest, Response = Response, Error = Infallible, Future = BoxedAnswer> {
    service_fn(move |request: HyperRequest| {
        let request = request.map(RequestBody::from);
        let handoff = handoff.as_ref().filter(|handoff| handoff.is_open_to(&request)).cloned();
        let answer = service.call(request, service.link.clone());
        // Boxed: the connection keeps room for this future for as long as it lives.
        Box::pin(async move {
            let response = set_nosniff(answer.await);
            let response = match handoff {
                // Boxed: most requests on a connection never get here.
                Some(handoff) => Box::pin(handoff.offer(response)).await,
                None => response,
            };
            Ok(response.map(Body::serve))
        }) as BoxedAnswer
    })
}

/// Returns the application as a hyper service for HTTP/2, called by the task of each stream. Sets
/// `asked` at the first request.
fn http2_service(
    service: Arc<RequestService>,
    asked: Arc<AtomicBool>,
) -> impl Service<HyperRequest, Response = Response, Error = Infallible, Future = BoxedAnswer> {
    service_fn(move |request: HyperRequest| {
        let request = request.map(RequestBody::from);
        asked.store(true, Ordering::Relaxed);
        let service = service.clone();
        Box::pin(async move {
            let link = http2::link_of_stream(&service.link);
            Ok(set_nosniff(service.call(request, link).await).map(Body::serve))
        }) as BoxedAnswer
    })
}

/// Forbids browsers to guess another media type than the response states.
fn set_nosniff(mut response: Response) -> Response {
    let nosniff = HeaderValue::from_static("nosniff");
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    response
}

/// Sets the socket to be reset on close: the kernel keeps none of the bytes that are not read.
fn reset(transport: &impl Transport) {
    let _ = transport.tcp().set_zero_linger();
}
