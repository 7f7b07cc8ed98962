//! Commands that are larger than a message, with the sender and the state machine of a hub.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use bytes::Bytes;
use fanfare_cluster::batch::Codec;
use fanfare_cluster::command::{Append, Command, Hello, NewEvent};
use fanfare_cluster::log::{LogEnd, LogInfo, LogReader, LogWriter, Message, NotStored, SendNumber};
use fanfare_cluster::nats::NatsLog;
use fanfare_cluster::sender::{Limits, Sender};
use fanfare_cluster::state_machine::{Outcome, StateMachine};
use tokio::time::Instant;

use crate::hub::{PATIENCE, config};
use crate::server::NatsServer;

/// What the log reports, on its way to the thread of the test.
enum Report {
    Opened(LogInfo),
    Message(Message),
    NotStored(SendNumber, NotStored),
}

struct Reader(SyncSender<Report>);

impl Reader {
    fn report(&self, report: Report) {
        // The test has ended if there is no receiver.
        let _ = self.0.send(report);
    }
}

impl LogReader for Reader {
    fn opened(&mut self, log: LogInfo) {
        self.report(Report::Opened(log));
    }

    fn message(&mut self, message: Message) {
        self.report(Report::Message(message));
    }

    fn broadcast(&mut self, _content: Bytes) {}

    fn caught_up(&mut self) {}

    fn not_stored(&mut self, number: SendNumber, reason: NotStored) {
        self.report(Report::NotStored(number, reason));
    }

    fn ended(&mut self, reason: LogEnd) {
        panic!("{reason}");
    }
}

/// A hub that sends, and applies what it reads.
struct Hub {
    log: NatsLog,
    reports: Receiver<Report>,
    state: StateMachine,
    sender: Sender<()>,
    begin: Instant,
}

impl Hub {
    fn start(server: &NatsServer) -> Self {
        let (to_test, reports) = sync_channel(1024);
        let log = NatsLog::start(config(&[server.url()]), None, Box::new(Reader(to_test)))
            .expect("valid settings");
        let Ok(Report::Opened(info)) = reports.recv_timeout(PATIENCE) else { panic!("not opened") };
        let max_message = Limits::default().max_message.min(info.max_message);
        let limits = Limits { max_message, ..Limits::default() };
        Self {
            log,
            reports,
            state: StateMachine::new(Codec::default(), (*info.epoch).into(), info.lease),
            sender: Sender::new(Codec::default(), Hello::default(), limits),
            begin: Instant::now(),
        }
    }

    /// Sends and applies until all commands are applied. Returns their outcomes.
    fn run(&mut self) -> Vec<Outcome> {
        let mut outcomes = Vec::new();
        while !self.sender.is_idle() {
            let now = self.begin.elapsed();
            assert!(now < PATIENCE, "a command is not applied: {:?}", self.log.health());
            while let Some((number, content)) = self.sender.poll(now) {
                self.log.send(number, content);
            }
            let reports = match self.reports.recv_timeout(Duration::from_millis(20)) {
                Ok(Report::Message(message)) => {
                    let applied = self.state.apply(&message).expect("a batch of this version");
                    self.sender.applied(&applied, self.begin.elapsed())
                }
                Ok(Report::NotStored(number, reason)) => {
                    self.sender.not_stored(number, reason, self.begin.elapsed());
                    Vec::new()
                }
                _ => Vec::new(),
            };
            outcomes.extend(reports.into_iter().map(|(_, outcome)| outcome.expect("applied")));
        }
        outcomes
    }
}

/// Publishes large events to a server that accepts messages of this size.
fn publish(max_payload: &str) {
    let server = NatsServer::configured(&format!("max_payload: {max_payload}\n"));
    let mut hub = Hub::start(&server);
    for megabytes in [1, 16] {
        let event = NewEvent { event_type: None, data: "x".repeat(megabytes << 20).into() };
        let append = Append { channel: "a".into(), events: vec![event], ..Append::default() };
        hub.sender.submit(&Command::Append(append), ()).expect("room");
    }
    let outcomes = hub.run();
    let is_appended = |outcome: &Outcome| match outcome {
        Outcome::Appended(appended) => appended.offsets.is_some(),
        _ => false,
    };
    assert!(outcomes.len() == 2 && outcomes.iter().all(is_appended), "{outcomes:?}");
}

#[test]
fn large_events_are_published_in_the_smallest_messages_that_are_accepted() {
    publish("64KB");
}

#[test]
fn large_events_are_published_in_messages_of_the_usual_size() {
    publish("1MB");
}
