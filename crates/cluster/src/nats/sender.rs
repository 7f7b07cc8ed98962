//! Sends messages to the log, and reports those that it does not store.

use std::cell::RefCell;

use async_nats::{Message, PublishErrorKind, StatusCode, Subject, Subscriber};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::api::Api;
use super::failure::Failure;
use super::reading::Reading;
use crate::log::{NotStored, SendNumber};

/// A message to be sent.
#[derive(Debug)]
pub(super) struct Outgoing {
    /// Its name in reports.
    pub number: SendNumber,
    /// Its content.
    pub content: Bytes,
}

/// Sends messages by one connection.
pub(super) struct Sender<'a> {
    api: &'a Api,
    subject: Subject,
    inbox: String,
    answers: Subscriber,
    reading: &'a RefCell<Reading>,
}

/// The answer to a message. What it says of a message that was stored is not used: the message is
/// known to be stored when it is read.
#[derive(Deserialize)]
struct Answer {
    error: Option<AnswerError>,
}

#[derive(Deserialize)]
struct AnswerError {
    code: u16,
    #[serde(default)]
    err_code: u32,
}

/// The error of a message that is larger than the stream accepts.
const TOO_LARGE: u32 = 10054;

impl<'a> Sender<'a> {
    pub(super) async fn new(
        api: &'a Api,
        subject: String,
        reading: &'a RefCell<Reading>,
    ) -> Result<Self, Failure> {
        let inbox = api.client.new_inbox();
        let answers = api.client.subscribe(format!("{inbox}.*")).await;
        let answers = answers.map_err(|error| Failure::Retry(error.to_string()))?;
        let subject = subject.into();
        Ok(Self { api, subject, inbox, answers, reading })
    }

    /// Sends what is queued, until the queue is closed.
    pub(super) async fn run(mut self, queue: &mut mpsc::Receiver<Outgoing>) -> Failure {
        loop {
            tokio::select! {
                outgoing = queue.recv() => match outgoing {
                    Some(outgoing) => self.send(outgoing).await,
                    None => return Failure::Stopped,
                },
                Some(answer) = self.answers.next() => self.take_answer(&answer),
            }
        }
    }

    async fn send(&mut self, outgoing: Outgoing) {
        let Outgoing { number, content } = outgoing;
        let reply = format!("{}.{}", self.inbox, number.0);
        let sent = self.api.client.publish_with_reply(self.subject.clone(), reply, content).await;
        if let Err(error) = sent {
            let reason = match error.kind() {
                PublishErrorKind::MaxPayloadExceeded => NotStored::Refused,
                _ => NotStored::Unavailable,
            };
            self.reading.borrow_mut().not_stored(number, reason);
        }
    }

    fn take_answer(&self, answer: &Message) {
        let number = answer.subject.rsplit('.').next().and_then(|number| number.parse().ok());
        if let (Some(number), Some(reason)) = (number, refusal(answer)) {
            self.reading.borrow_mut().not_stored(SendNumber(number), reason);
        }
    }
}

/// Returns why a message was not stored; nothing if it was.
fn refusal(answer: &Message) -> Option<NotStored> {
    if answer.status == Some(StatusCode::NO_RESPONDERS) {
        return Some(NotStored::Unavailable);
    }
    let error = serde_json::from_slice::<Answer>(&answer.payload).ok()?.error?;
    Some(match (error.code, error.err_code) {
        (_, TOO_LARGE) => NotStored::Refused,
        (429, _) => NotStored::Overloaded,
        // Also a lack of room: an administrator can make some.
        _ => NotStored::Unavailable,
    })
}

/// Reports all that is queued as not stored, until the queue is closed.
pub(super) async fn refuse(
    queue: &mut mpsc::Receiver<Outgoing>,
    reading: &RefCell<Reading>,
) -> Failure {
    while let Some(outgoing) = queue.recv().await {
        reading.borrow_mut().not_stored(outgoing.number, NotStored::Unavailable);
    }
    Failure::Stopped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_says_whether_a_message_was_refused() {
        let answer = |status: Option<u16>, payload: &'static str| Message {
            subject: "inbox.7".into(),
            reply: None,
            payload: payload.into(),
            headers: None,
            status: status.map(|status| StatusCode::from_u16(status).expect("a status")),
            description: None,
            length: 0,
        };
        let error = r#"{"error":{"code":429,"err_code":10167},"stream":"S","seq":0}"#;
        assert_eq!(refusal(&answer(None, error)), Some(NotStored::Overloaded));
        let error = r#"{"error":{"code":400,"err_code":10054},"stream":"S","seq":0}"#;
        assert_eq!(refusal(&answer(None, error)), Some(NotStored::Refused));
        // The account has no room: an administrator can make some.
        let error = r#"{"error":{"code":400,"err_code":10002},"stream":"S","seq":0}"#;
        assert_eq!(refusal(&answer(None, error)), Some(NotStored::Unavailable));
        let error = r#"{"error":{"code":503,"err_code":10077},"stream":"S","seq":0}"#;
        assert_eq!(refusal(&answer(None, error)), Some(NotStored::Unavailable));
        assert_eq!(refusal(&answer(Some(503), "")), Some(NotStored::Unavailable));
        assert_eq!(refusal(&answer(None, r#"{"stream":"S","seq":7}"#)), None);
    }
}
