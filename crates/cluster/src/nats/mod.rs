//! The shared log on NATS JetStream: one stream, which every hub writes to and reads whole.
//!
//! A thread of its own has a runtime for each connection: what a client has queued when its
//! connection is lost is dropped with the runtime, and is never sent later. How far the log was
//! read outlives the connections.

mod api;
mod broadcast;
mod config;
mod connect;
mod consumer;
mod failure;
mod header;
mod health;
mod position;
mod reading;
mod sender;
mod session;
mod stream;
mod tail;
mod version;

use std::io;
use std::sync::Arc;
use std::thread;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;

pub use config::{Config, Credentials, Feed, InvalidConfig, Storage, StreamSettings, Tls};
pub use health::Health;

use crate::log::{LogReader, LogWriter, MAX_BROADCAST, SendNumber, Sequence};
use reading::Reading;
use sender::Outgoing;
use session::Queues;

/// Maximum number of messages between [`LogWriter::send`] and the connection. A sender has few of
/// them in flight.
const MAX_QUEUED: usize = 64;

/// Maximum number of broadcasts between [`LogWriter::broadcast`] and the connection: more than a
/// hub sends at once.
const MAX_QUEUED_BROADCASTS: usize = 64;

/// The shared log on NATS: sends messages to it, and reports its health. When it is dropped, its
/// thread ends.
#[derive(Debug)]
pub struct NatsLog {
    outgoing: mpsc::Sender<Outgoing>,
    broadcasts: mpsc::Sender<Bytes>,
    health: Arc<Mutex<Health>>,
}

/// The reason for which the log could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is not valid.
    #[error(transparent)]
    Config(#[from] InvalidConfig),
    /// The thread could not be started.
    #[error("the thread of the shared log could not be started: {0}")]
    Thread(#[from] io::Error),
}

impl NatsLog {
    /// Starts a thread that connects, and calls the reader with all messages of the log from its
    /// first on; from a later one on, if a part of the log was found [deleted](LogEnd::Deleted).
    ///
    /// # Errors
    /// If a setting is not valid, or the thread cannot be started. Servers that cannot be reached
    /// are no error: the thread tries again until it can, and [`NatsLog::health`] has the reason.
    pub fn start(
        config: Config,
        from: Option<Sequence>,
        reader: Box<dyn LogReader>,
    ) -> Result<Self, StartError> {
        if let Some(invalid) = config.invalid().into_iter().next() {
            return Err(invalid.into());
        }
        let health = Arc::default();
        let reading = Reading::new(reader, from, Arc::clone(&health));
        let (outgoing, messages) = mpsc::channel(MAX_QUEUED);
        let (broadcasts, queued_broadcasts) = mpsc::channel(MAX_QUEUED_BROADCASTS);
        let queues = Queues { messages, broadcasts: queued_broadcasts };
        let panics = ReportPanic(Arc::clone(&health));
        thread::Builder::new().name("fanfare-log".to_owned()).spawn(move || {
            let _panics = panics;
            session::run(&config, reading, queues);
        })?;
        Ok(Self { outgoing, broadcasts, health })
    }

    /// Returns the state of the connection, and how far the log was read.
    #[must_use]
    pub fn health(&self) -> Health {
        self.health.lock().clone()
    }
}

/// Reports in the health that the thread has panicked, for example in the reader. The reader is not
/// called again: what the panic has left of it is not known.
struct ReportPanic(Arc<Mutex<Health>>);

impl Drop for ReportPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            let mut health = self.0.lock();
            health.server = None;
            health.has_panicked = true;
            health.problem = Some("the thread of the shared log has panicked".into());
        }
    }
}

impl LogWriter for NatsLog {
    fn send(&self, number: SendNumber, content: Bytes) {
        // A full queue means that the connection takes nothing: the message is discarded, as one
        // that is lost on its way.
        let _ = self.outgoing.try_send(Outgoing { number, content });
    }

    fn broadcast(&self, content: Bytes) {
        if content.len() <= MAX_BROADCAST {
            let _ = self.broadcasts.try_send(content);
        }
    }
}
