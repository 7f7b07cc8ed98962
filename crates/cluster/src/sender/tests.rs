//! Tests of the sender with a state machine, without faults but those that a test makes.

use super::*;
use crate::command::{Append, NewEvent};
use crate::log::{LogTime, Message};
use crate::state_machine::StateMachine;

const NOW: Duration = Duration::from_secs(10);

struct Cluster {
    state: StateMachine,
    sender: Sender<u32>,
}

impl Cluster {
    fn new(limits: Limits) -> Self {
        let lease = Duration::from_secs(5);
        let mut cluster = Self {
            state: StateMachine::new(Codec::default(), "epoch".into(), lease),
            sender: Sender::new(Codec::default(), Hello::default(), limits),
        };
        let (_, hello) = cluster.sender.poll(NOW).unwrap();
        cluster.store(hello);
        assert!(cluster.sender.session().is_some());
        cluster
    }

    fn submit(&mut self, text: &str, ticket: u32) -> Result<(), SubmitError> {
        let events = vec![NewEvent { event_type: None, data: text.into() }];
        let append = Append { channel: "a".into(), events, ..Append::default() };
        self.sender.submit(&Command::Append(append), ticket)
    }

    fn polled(&mut self, now: Duration) -> Vec<(SendNumber, Bytes)> {
        std::iter::from_fn(|| self.sender.poll(now)).collect()
    }

    fn reports(&mut self, content: Bytes) -> Reports<u32> {
        let sequence = self.state.last().unwrap_or_default().next();
        let applied = self.state.apply(&Message { sequence, time: LogTime(1), content }).unwrap();
        self.sender.applied(&applied, NOW)
    }

    fn store(&mut self, content: Bytes) -> Vec<u32> {
        let reports = self.reports(content);
        let taken = |(ticket, outcome): (u32, Result<Outcome, Refused>)| {
            assert!(matches!(outcome, Ok(Outcome::Appended(_) | Outcome::Done)));
            ticket
        };
        reports.into_iter().map(taken).collect()
    }
}

#[test]
fn commands_collect_while_two_batches_are_under_way() {
    let mut cluster = Cluster::new(Limits::default());
    let mut sent = Vec::new();
    for ticket in 0..6 {
        cluster.submit("x", ticket).unwrap();
        sent.extend(cluster.polled(NOW));
    }
    assert_eq!(sent.len(), 2);
    let mut sent = sent.into_iter().map(|(_, content)| content);
    assert_eq!(cluster.store(sent.next().unwrap()), [0]);
    let third = cluster.polled(NOW);
    assert_eq!(third.len(), 1);
    assert_eq!(cluster.store(sent.next().unwrap()), [1]);
    assert_eq!(cluster.store(third[0].1.clone()), [2, 3, 4, 5]);
    assert!(cluster.sender.is_idle() && cluster.sender.unsent_bytes() == 0);
}

#[test]
fn a_batch_is_sent_again_until_it_is_applied() {
    let mut cluster = Cluster::new(Limits::default());
    cluster.submit("x", 0).unwrap();
    let first = cluster.polled(NOW);
    assert!(cluster.polled(NOW + Duration::from_millis(599)).is_empty());
    assert_eq!(cluster.sender.next_poll(), Some(NOW + Duration::from_millis(600)));
    let again = cluster.polled(NOW + Duration::from_millis(600));
    assert_eq!(first[0].1, again[0].1);
    cluster.sender.not_stored(again[0].0, NotStored::Overloaded, NOW);
    let third = cluster.polled(NOW + Duration::from_millis(100));
    assert_eq!(cluster.store(third[0].1.clone()), [0]);
    assert!(cluster.store(again[0].1.clone()).is_empty());
}

#[test]
fn a_batch_that_the_log_refuses_does_not_block_the_next_one() {
    let mut cluster = Cluster::new(Limits::default());
    cluster.submit("x", 0).unwrap();
    let first = cluster.polled(NOW);
    cluster.submit("y", 1).unwrap();
    let second = cluster.polled(NOW);
    cluster.sender.not_stored(first[0].0, NotStored::Refused, NOW);
    let hello = cluster.polled(NOW);
    assert_eq!((hello.len(), cluster.sender.session()), (1, None));
    assert_eq!(cluster.reports(hello[0].1.clone()), [(0, Err(Refused))]);
    assert!(cluster.store(second[0].1.clone()).is_empty());
    let again = cluster.polled(NOW);
    assert_eq!(cluster.store(again[0].1.clone()), [1]);
}

#[test]
fn a_batch_before_a_refused_one_is_applied_once() {
    let mut cluster = Cluster::new(Limits::default());
    cluster.submit("x", 0).unwrap();
    let first = cluster.polled(NOW);
    cluster.submit("y", 1).unwrap();
    let second = cluster.polled(NOW);
    cluster.sender.not_stored(second[0].0, NotStored::Refused, NOW);
    let hello = cluster.polled(NOW);
    assert_eq!(cluster.store(first[0].1.clone()), [0]);
    assert_eq!(cluster.reports(hello[0].1.clone()), [(1, Err(Refused))]);
    assert!(cluster.sender.is_idle() && cluster.sender.unsent_bytes() == 0);
    assert!(cluster.polled(NOW).is_empty());
}

#[test]
fn a_refused_batch_of_which_another_copy_is_stored_is_applied() {
    let mut cluster = Cluster::new(Limits::default());
    cluster.submit("x", 0).unwrap();
    let first = cluster.polled(NOW);
    let again = cluster.polled(NOW + Duration::from_millis(600));
    cluster.sender.not_stored(again[0].0, NotStored::Refused, NOW);
    assert_eq!(cluster.store(first[0].1.clone()), [0]);
    let hello = cluster.polled(NOW);
    assert!(cluster.reports(hello[0].1.clone()).is_empty());
}

#[test]
fn a_command_that_is_larger_than_a_message_is_sent_in_parts() {
    let mut cluster = Cluster::new(Limits { max_message: 100, ..Limits::default() });
    cluster.submit(&"x".repeat(1000), 0).unwrap();
    cluster.submit("y", 1).unwrap();
    let parts = cluster.polled(NOW);
    assert!(parts.len() > 10 && parts.iter().all(|(_, content)| content.len() <= 100));
    let mut applied = Vec::new();
    for (_, content) in parts {
        applied.extend(cluster.store(content));
    }
    assert_eq!(applied, [0, 1]);
}

#[test]
fn more_than_the_limit_is_refused_and_one_command_is_always_taken() {
    let mut cluster = Cluster::new(Limits { max_unsent: 1000, ..Limits::default() });
    cluster.submit(&"x".repeat(2000), 0).unwrap();
    assert_eq!(cluster.submit("x", 1), Err(SubmitError::Overloaded));
    let sent = cluster.polled(NOW);
    assert_eq!(cluster.store(sent[0].1.clone()), [0]);
    assert_eq!(cluster.submit("x", 1), Ok(()));
}

#[test]
fn an_idle_hub_is_heard_of_until_it_leaves() {
    let mut cluster = Cluster::new(Limits::default());
    let heartbeat = cluster.polled(NOW);
    assert_eq!(heartbeat.len(), 1);
    cluster.store(heartbeat[0].1.clone());
    assert!(cluster.polled(NOW + Duration::from_millis(999)).is_empty());
    assert_eq!(cluster.polled(NOW + Duration::from_secs(1)).len(), 1);
    cluster.sender.submit(&Command::Bye, 7).unwrap();
    assert_eq!(cluster.submit("x", 8), Err(SubmitError::Leaving));
    for (_, content) in cluster.polled(NOW + Duration::from_secs(2)) {
        cluster.store(content);
    }
    assert!(cluster.sender.session().is_none() && cluster.sender.next_poll().is_none());
    assert_eq!(cluster.state.level(), None);
}
