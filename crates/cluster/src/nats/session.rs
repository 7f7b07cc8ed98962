//! The thread of the log: connects, reads and sends until the connection is lost, and connects
//! again.

use std::cell::RefCell;
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Builder;
use tokio::sync::mpsc;
use tokio::time::sleep;

use super::api::Api;
use super::broadcast::Broadcasts;
use super::config::{Config, Feed};
use super::connect::{Connection, connect};
use super::failure::Failure;
use super::reading::Reading;
use super::sender::{Outgoing, Sender, refuse};
use super::stream::{self, OpenError, StreamState};
use super::tail::Tail;
use super::version;
use crate::log::{LogEnd, MAX_BROADCAST};

/// The smallest maximum size of a message that a server may have.
const MIN_MAX_PAYLOAD: usize = MAX_BROADCAST;

/// The pause before the second attempt to connect. It doubles with each one that follows.
const FIRST_PAUSE: Duration = Duration::from_millis(50);

/// Maximum pause between two attempts to connect.
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// What is to be sent.
pub(super) struct Queues {
    /// Messages for the log.
    pub messages: mpsc::Receiver<Outgoing>,
    /// Broadcasts to other hubs.
    pub broadcasts: mpsc::Receiver<Bytes>,
}

/// Attempts to connect.
struct Attempts {
    /// The index of the server that is tried first, or that is connected: the next attempt begins
    /// with the one after it.
    server: usize,
    /// The number of attempts since the log was last open.
    failed: u32,
}

/// Runs until the log is dropped, or has ended.
pub(super) fn run(config: &Config, reading: Reading, mut queues: Queues) {
    let reading = RefCell::new(reading);
    // Hubs begin with different servers.
    let mut attempts = Attempts { server: fastrand::usize(..config.servers.len()), failed: 0 };
    loop {
        let failure = match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => {
                let connection = session(config, &mut attempts, &reading, &mut queues);
                let failure = runtime.block_on(connection);
                runtime.shutdown_background();
                failure
            }
            Err(error) => {
                thread::sleep(MAX_PAUSE);
                Failure::Retry(format!("no runtime for a connection: {error}"))
            }
        };
        let mut reading = reading.borrow_mut();
        match failure {
            Failure::Stopped => return,
            Failure::Ended(end) => return reading.ended(end),
            Failure::Refused(text) if !reading.is_opened() => {
                return reading.ended(LogEnd::Refused(text.into()));
            }
            Failure::Refused(_) | Failure::Retry(_) => reading.disconnected(&failure),
        }
        attempts.server = attempts.server.wrapping_add(1);
        attempts.failed += 1;
    }
}

/// The log, open by one connection.
struct Opened {
    connection: Connection,
    api: Api,
    state: StreamState,
    subscription: Option<async_nats::Subscriber>,
}

/// Runs one connection, from the pause before it to its loss.
async fn session(
    config: &Config,
    attempts: &mut Attempts,
    reading: &RefCell<Reading>,
    queues: &mut Queues,
) -> Failure {
    let opened = tokio::select! {
        opened = open(config, attempts, reading) => opened,
        stopped = refuse(&mut queues.messages, reading) => return stopped,
    };
    let Opened { connection, api, state, subscription } = match opened {
        Ok(opened) => opened,
        Err(failure) => return failure,
    };
    attempts.failed = 0;
    let sender = match Sender::new(&api, config.log_subject(), reading).await {
        Ok(sender) => sender,
        Err(failure) => return failure,
    };
    let broadcasts = match Broadcasts::new(&api.client, config, reading).await {
        Ok(broadcasts) => broadcasts,
        Err(failure) => return failure,
    };
    let tail = Tail::new(&api, config, reading, subscription, &state);
    tokio::select! {
        failure = tail.run(&state) => failure,
        failure = sender.run(&mut queues.messages) => failure,
        failure = broadcasts.run(&mut queues.broadcasts) => failure,
        failure = connection.lost() => failure,
    }
}

async fn open(
    config: &Config,
    attempts: &mut Attempts,
    reading: &RefCell<Reading>,
) -> Result<Opened, Failure> {
    pause(attempts.failed).await;
    let health = reading.borrow().health().clone();
    let connection = connect(config, attempts.server, &health).await?;
    attempts.server = connection.server;
    let server = connection.client.server_info();
    version::check(&server.version, config)?;
    if server.max_payload < MIN_MAX_PAYLOAD {
        return Err(Failure::Refused(format!(
            "`max_payload` of the NATS server must be at least {MIN_MAX_PAYLOAD} bytes, and is {}",
            server.max_payload
        )));
    }
    let api = Api::new(connection.client.clone(), config);
    // Before the stream is described, so that what it stores afterwards is not missed.
    let subscription = match config.feed {
        Feed::Tail => Some(connection.client.subscribe(config.tail_subject()).await),
        Feed::Consumer => None,
    };
    let subscription =
        subscription.transpose().map_err(|error| Failure::Retry(error.to_string()))?;
    let may_create = !reading.borrow().is_opened();
    let described = tokio::select! {
        described = stream::open(&api, config, may_create) => described,
        lost = connection.lost() => return Err(lost),
    };
    let mut reading = reading.borrow_mut();
    let state = described.map_err(|error| match error {
        OpenError::Failed(failure) => failure,
        OpenError::Silent(text) => Failure::Retry(text),
        OpenError::Missing if may_create => Failure::Retry(format!(
            "the stream `{}` does not exist, and the hub is not to create it",
            api.stream()
        )),
        OpenError::Missing => reading.doubt(format!("the stream `{}` was deleted", api.stream())),
    })?;
    reading.attach(&state, server.max_payload, &server.server_name)?;
    drop(reading);
    let (name, version) = (&server.server_name, &server.version);
    tracing::info!(server = name, version, "the shared log is connected");
    Ok(Opened { connection, api, state, subscription })
}

async fn pause(failed: u32) {
    if failed > 0 {
        let pause = FIRST_PAUSE.saturating_mul(1 << (failed - 1).min(10)).min(MAX_PAUSE);
        sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
    }
}
