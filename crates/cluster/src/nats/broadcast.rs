//! Broadcasts between hubs: messages that no stream stores.

use std::cell::RefCell;

use async_nats::{Client, Subject, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::sync::mpsc;

use super::config::Config;
use super::failure::Failure;
use super::reading::Reading;

/// Sends and receives broadcasts by one connection.
pub(super) struct Broadcasts<'a> {
    client: &'a Client,
    subject: Subject,
    received: Subscriber,
    reading: &'a RefCell<Reading>,
}

impl<'a> Broadcasts<'a> {
    pub(super) async fn new(
        client: &'a Client,
        config: &Config,
        reading: &'a RefCell<Reading>,
    ) -> Result<Self, Failure> {
        let subject = Subject::from(config.broadcast_subject());
        let received = client.subscribe(subject.clone()).await;
        let received = received.map_err(|error| Failure::Retry(error.to_string()))?;
        Ok(Self { client, subject, received, reading })
    }

    /// Sends what is queued, until the queue is closed, and delivers what is received.
    pub(super) async fn run(mut self, queue: &mut mpsc::Receiver<Bytes>) -> Failure {
        // What was queued without a connection is outdated.
        while queue.try_recv().is_ok() {}
        loop {
            tokio::select! {
                content = queue.recv() => match content {
                    Some(content) => self.send(content).await,
                    None => return Failure::Stopped,
                },
                Some(message) = self.received.next() => {
                    self.reading.borrow_mut().broadcast(message.payload);
                }
            }
        }
    }

    async fn send(&self, content: Bytes) {
        // An error is a lost broadcast: none is larger than a server takes.
        let _ = self.client.publish(self.subject.clone(), content).await;
    }
}
