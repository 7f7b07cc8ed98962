//! HTTP/2 with bounds on what one connection may open, hold and ask for.
//!
//! Each attack, and its bound: set here, or built into the library (h2 0.4.20, with the file that
//! has it). `tests/suite/h2.rs` plays them.
//!
//! - **Streams without end**: `server.max_h2_streams`. Those past it are refused, and refusals
//!   count as errors, of which [`ERROR_STREAMS`] end the connection (`proto/streams/counts.rs`).
//! - **Rapid reset**, streams that are opened and reset at once: [`RESET_STREAMS`] that have not
//!   been accepted yet end the connection (`proto/streams/recv.rs`, `recv_reset`).
//! - **Errors that make the hub reset streams**: [`ERROR_STREAMS`] again.
//! - **A head without end**, in CONTINUATION frames: more frames than `server.max_header_bytes`
//!   needs and a quarter, but at least 5, end the connection (`codec/framed_read.rs`,
//!   `calc_max_continuation_frames`).
//! - **A head that is small on the wire and large unpacked**: it is counted unpacked, and the table
//!   is 4 KiB. Too large, it is answered 431; far too large, it ends the connection
//!   (`frame/headers.rs`).
//! - **Empty DATA frames**: 100 in one connection end it, but for those that end a stream
//!   (`proto/streams/counts.rs`, `record_data_frame`).
//! - **Tiny DATA frames**: the overhead of unread ones is bounded by half the connection's window
//!   (in the same function). A publisher whose tokens are read as they arrive meets no bound.
//! - **Bodies that are not read**: [`STREAM_WINDOW`] for each, [`CONNECTION_WINDOW`] for all.
//! - **PING and SETTINGS without end**: each is answered before the next frame is read
//!   (`proto/connection.rs`, `poll_ready`). So the socket of a client that does not read the
//!   answers fills, and `subscribers.write_timeout` cuts it; reading them costs the client as much.
//! - **A client that does not read**: [`SEND_BUFFER`] for each stream, and one write.
//! - **A window of a few bytes, or none**: the stream makes no progress, meets
//!   `subscribers.write_timeout`, and is reset ([`Streams`]).
//! - **Silence**: [`KEEP_ALIVE`]; without a first request, `server.header_timeout`
//!   (`connection.rs`).
//! - **Priorities, and pushes asked for**: PRIORITY is read and forgotten, and nothing is pushed.

use std::sync::Arc;
use std::time::Duration;

use hyper::rt::Executor;
use hyper::server::conn::http2::Builder;
use hyper_util::rt::TokioTimer;
use tokio_util::sync::CancellationToken;

use super::config::Config;
use crate::egress::Link;

/// Bytes that wait in one stream for a client that does not read. The rest stays in the log, where
/// all subscribers share it.
const SEND_BUFFER: usize = 16 * 1024;

/// Unread bytes of one request's body: enough for a fast publisher at a distance of 50 ms.
const STREAM_WINDOW: u32 = 256 * 1024;

/// Unread bytes of all request bodies of a connection. Half of it bounds the overhead of unread
/// tiny frames, at 256 bytes each: some 2,000 tokens that arrive in one go.
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// Streams that were reset before the hub accepted them. Browsers reset streams when a page is
/// left, but those were open for longer than that.
const RESET_STREAMS: usize = 20;

/// Streams that the hub reset because the client broke the protocol or opened too many.
const ERROR_STREAMS: usize = 128;

/// Interval between PINGs, and the time in which each must be answered.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Returns the builder of a connection, with all bounds set.
pub(super) fn builder(config: &Config) -> Builder<Streams> {
    let max_header = u32::try_from(config.max_header_bytes.as_u64()).unwrap_or(u32::MAX);
    let mut builder = Builder::new(Streams);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.max_h2_streams)
        .max_send_buf_size(SEND_BUFFER)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_pending_accept_reset_streams(RESET_STREAMS)
        .max_local_error_reset_streams(ERROR_STREAMS)
        .max_header_list_size(max_header)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    builder
}

tokio::task_local! {
    /// Ends the stream that the current task serves.
    static CUT: CancellationToken;
}

/// Runs the streams of a connection, each as a task that can be ended alone: h2 notices nothing
/// else while a stream waits for the client's window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Streams;

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let cut = CancellationToken::new();
        tokio::spawn(CUT.scope(cut.clone(), async move {
            // Dropping the stream's future resets the stream.
            let _ = cut.run_until_cancelled(stream).await;
        }));
    }
}

/// Returns the link of the stream that the current task serves.
pub(super) fn link_of_stream(connection: &Arc<Link>) -> Arc<Link> {
    let stream = |cut: &CancellationToken| Arc::new(Link::stream_of(connection, cut.clone()));
    CUT.try_with(stream).unwrap_or_else(|_| connection.clone())
}
