//! Tests of the sender with a state machine, without faults but those that a test makes.

use super::transmission::MIN_RETURN;
use super::*;
use crate::command::{Append, Delete, NewEvent, ReleaseKey};
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
fn parts_that_are_stored_are_not_sent_again() {
    let mut cluster = Cluster::new(Limits { max_message: 100, ..Limits::default() });
    cluster.submit(&"x".repeat(600), 0).unwrap();
    let parts = cluster.polled(NOW);
    assert!(parts.len() > 8);
    for (_, content) in &parts[..5] {
        cluster.store(content.clone());
    }
    let again = cluster.polled(NOW + Duration::from_millis(600));
    assert_eq!((&again[0].1, again.len()), (&parts[5].1, parts.len() - 5));
    let mut applied = Vec::new();
    for (_, content) in again {
        applied.extend(cluster.store(content));
    }
    assert_eq!(applied, [0]);
}

#[test]
fn a_log_that_takes_few_messages_at_once_gets_all_parts() {
    let mut cluster = Cluster::new(Limits { max_message: 100, ..Limits::default() });
    cluster.submit(&"x".repeat(20_000), 0).unwrap();
    let mut applied = Vec::new();
    for round in 1..=200_u32 {
        let parts = cluster.polled(NOW + Duration::from_millis(600) * round);
        assert!(parts.len() <= 32, "{} messages at once", parts.len());
        for (_, content) in parts.into_iter().take(4) {
            applied.extend(cluster.store(content));
        }
    }
    assert_eq!(applied, [0]);
}

/// Returns a cluster in which a batch of many parts is sent, and its first part is lost.
fn without_first_part() -> (Cluster, Vec<Bytes>) {
    let mut cluster = Cluster::new(Limits { max_message: 100, ..Limits::default() });
    cluster.submit(&"x".repeat(600), 0).unwrap();
    let sent = cluster.polled(NOW).into_iter().skip(1).map(|(_, content)| content).collect();
    (cluster, sent)
}

#[test]
fn a_missing_part_is_sent_again_once_for_all_that_follow_it() {
    let (mut cluster, late) = without_first_part();
    cluster.store(late[0].clone());
    let soon = NOW + MIN_RETURN;
    let again = cluster.polled(soon);
    assert_eq!(again.len(), late.len() + 1);
    // Those that were sent before the part was sent again.
    for content in &late[1..] {
        cluster.store(content.clone());
    }
    assert!(cluster.polled(soon + MIN_RETURN).is_empty());
    // The part is lost once more: what follows it comes a second time.
    cluster.store(again[1].1.clone());
    assert_eq!(cluster.polled(soon + 2 * MIN_RETURN).len(), again.len());
}

#[test]
fn a_report_of_a_message_that_was_sent_again_since_sends_nothing() {
    let (mut cluster, late) = without_first_part();
    cluster.store(late[0].clone());
    cluster.polled(NOW + MIN_RETURN);
    cluster.sender.not_stored(SendNumber(3), NotStored::Overloaded, NOW + MIN_RETURN);
    assert!(cluster.polled(NOW + Duration::from_millis(200)).is_empty());
}

#[test]
fn a_silent_log_is_sent_less_and_less() {
    let mut cluster = Cluster::new(Limits::default());
    cluster.submit("x", 0).unwrap();
    let sent = |cluster: &mut Cluster, from: u64, to: u64| {
        let at = |time| cluster.polled(NOW + Duration::from_millis(time)).len();
        (from..to).step_by(100).map(at).sum::<usize>()
    };
    assert_eq!(sent(&mut cluster, 0, 700), 2);
    assert_eq!(sent(&mut cluster, 700, 1800), 0);
    assert_eq!(sent(&mut cluster, 1800, 4200), 1);
    assert_eq!(sent(&mut cluster, 4200, 9000), 2);
}

#[test]
fn a_batch_that_is_cut_after_a_refusal_is_sent_once() {
    let mut cluster = Cluster::new(Limits::default());
    cluster.submit("x", 0).unwrap();
    let first = cluster.polled(NOW);
    cluster.sender.not_stored(first[0].0, NotStored::Overloaded, NOW);
    cluster.store(first[0].1.clone());
    cluster.submit("y", 1).unwrap();
    assert_eq!(cluster.polled(NOW).len(), 1);
    assert!(cluster.polled(NOW + Duration::from_millis(200)).is_empty());
}

#[test]
fn what_ends_a_request_is_taken_also_when_there_is_no_room_for_events() {
    let mut cluster = Cluster::new(Limits { max_unsent: 1000, ..Limits::default() });
    cluster.submit(&"x".repeat(2000), 0).unwrap();
    assert_eq!(cluster.submit("x", 1), Err(SubmitError::Overloaded));
    let release = Command::ReleaseKey(ReleaseKey::default());
    let taken = (0..1_000_000).take_while(|_| cluster.sender.submit(&release, 2).is_ok()).count();
    assert!((10_000..1_000_000).contains(&taken), "{taken}");
    assert_eq!(cluster.sender.submit(&Command::Bye, 3), Ok(()));
}

#[test]
fn a_command_that_no_hub_would_accept_is_not_sent() {
    let mut cluster = Cluster::new(Limits::default());
    let delete = Command::Delete(Delete { channel: "a//b".into() });
    assert_eq!(cluster.sender.submit(&delete, 0), Err(SubmitError::Invalid));
    assert!(cluster.sender.is_idle());
}

#[test]
fn small_commands_count_with_what_asked_for_them() {
    let mut cluster = Cluster::new(Limits { max_unsent: 1000, ..Limits::default() });
    let taken = (0..1000).take_while(|_| cluster.submit("", 0).is_ok()).count();
    assert!(taken < 1000 / 32, "{taken}");
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
