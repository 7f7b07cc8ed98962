//! Tests of the state machine: the rules, one by one, and replicas that began elsewhere.

use bytes::BytesMut;

use super::*;
use crate::batch::write_command;
use crate::command::{
    Close, Configure, Delete, Due, EndState, KeyUse, Lapse, Lines, NewEvent, Options, Produce,
    Release, ReleaseKey, Renew, Stop,
};

const LEASE: Duration = Duration::from_secs(5);

/// A log that is written as it is applied.
struct Log {
    state: StateMachine,
    messages: Vec<Message>,
    milliseconds: u64,
    numbers: Vec<(SessionId, u64)>,
    nonce: u64,
}

impl Log {
    fn new() -> Self {
        Self {
            state: replica(),
            messages: Vec::new(),
            milliseconds: 1_000_000,
            numbers: Vec::new(),
            nonce: 0,
        }
    }

    fn send(&mut self, header: Header, commands: &[Command]) -> Applied {
        let mut body = BytesMut::new();
        for command in commands {
            write_command(command, &mut body);
        }
        self.send_body(header, &body)
    }

    fn send_body(&mut self, header: Header, body: &[u8]) -> Applied {
        let content = Codec::default().encode(header, body);
        let sequence = self.state.last().unwrap_or_default().next();
        let time = LogTime(self.milliseconds * 1_000_000);
        self.messages.push(Message { sequence, time, content });
        self.state.apply(self.messages.last().unwrap()).unwrap()
    }

    fn hello(&mut self, replaces: Option<SessionId>) -> SessionId {
        self.nonce += 1;
        let hello = Hello { level: 1, nonce: self.nonce, replaces, ..Hello::default() };
        let applied = self.send(Header::default(), &[Command::Hello(hello)]);
        assert_eq!(applied.verdict, Verdict::Began { nonce: self.nonce });
        let session = SessionId(applied.sequence);
        self.numbers.push((session, 1));
        session
    }

    fn numbered(&mut self, session: SessionId, commands: &[Command]) -> Applied {
        let (_, number) = self.numbers.iter_mut().find(|(id, _)| *id == session).unwrap();
        let header = Header { session, number: *number, ..Header::default() };
        *number += 1;
        self.send(header, commands)
    }

    fn ask(&mut self, session: SessionId, command: Command) -> Outcome {
        match self.numbered(session, &[command]).verdict {
            Verdict::Applied(outcomes) => outcomes[0],
            verdict => panic!("{verdict:?}"),
        }
    }

    /// Lets time pass, in which these sessions are heard of each second.
    fn wait(&mut self, seconds: u64, sessions: &[SessionId]) {
        for _ in 0..seconds {
            self.milliseconds += 1000;
            for session in sessions {
                self.numbered(*session, &[]);
            }
        }
    }
}

fn replica() -> StateMachine {
    StateMachine::new(Codec::default(), "epoch".into(), LEASE)
}

fn append(channel: &str, count: usize) -> Append {
    let event = |number| NewEvent { event_type: None, data: format!("event {number}").into() };
    Append { channel: channel.into(), events: (0..count).map(event).collect(), ..Append::default() }
}

fn close() -> Option<Close> {
    Some(Close { state: EndState::Complete, reason: None, kept: 60_000 })
}

fn of_life(life: Offset, append: Append) -> Command {
    Command::Append(Append { life: Some(life), ..append })
}

fn configure(channel: &str, options: Options) -> Command {
    Command::Configure(Configure { channel: channel.into(), options })
}

fn delete(channel: &str) -> Command {
    Command::Delete(Delete { channel: channel.into() })
}

fn produce(channel: &str) -> Command {
    Command::Produce(Produce { channel: channel.into(), format: None })
}

fn stop(channel: &str) -> Command {
    let channel = channel.into();
    Command::Stop(Stop { channel, kept: 60_000, kept_early: 10_000, ..Stop::default() })
}

fn lapse(channel: &str, due: Due, since: Offset) -> Command {
    Command::Lapse(Lapse { channel: channel.into(), due, since, reason: None, kept: 60_000 })
}

fn hold_of(outcome: Outcome) -> Offset {
    match outcome {
        Outcome::Produces { hold, .. } => hold,
        outcome => panic!("{outcome:?}"),
    }
}

fn appended(outcome: Outcome) -> Appended {
    match outcome {
        Outcome::Appended(appended) => appended,
        outcome => panic!("{outcome:?}"),
    }
}

fn offset(sequence: u64, index: u16) -> Offset {
    Offset::new(Sequence(sequence), index)
}

fn away_since(applied: &Applied) -> Option<Offset> {
    applied.effects.iter().find_map(|effect| match effect {
        Effect::Channel { change: Change::Away { since, .. }, .. } => Some(*since),
        _ => None,
    })
}

#[test]
fn a_batch_is_applied_once_and_in_order() {
    let mut log = Log::new();
    let session = log.hello(None);
    let commands = [Command::Append(append("a", 2)), Command::Append(append("b", 1))];
    let header = |number| Header { session, number, ..Header::default() };
    let first = log.send(header(1), &commands);
    let Verdict::Applied(outcomes) = &first.verdict else { panic!("{first:?}") };
    assert_eq!(appended(outcomes[0]).offsets, Some((offset(2, 0), offset(2, 1))));
    assert_eq!(appended(outcomes[1]).offsets, Some((offset(2, 2), offset(2, 2))));
    assert_eq!(log.send(header(1), &commands).verdict, Verdict::Rejected(Rejection::Repeated));
    assert_eq!(log.send(header(3), &commands).verdict, Verdict::Rejected(Rejection::Early));
    assert!(matches!(log.send(header(2), &commands).verdict, Verdict::Applied(_)));
    let other = Header { session: SessionId(Sequence(2)), number: 1, ..Header::default() };
    assert_eq!(log.send(other, &[]).verdict, Verdict::Rejected(Rejection::NoSession));
}

#[test]
fn a_session_that_is_silent_for_the_lease_is_over() {
    let mut log = Log::new();
    let session = log.hello(None);
    let other = log.hello(None);
    let hold = hold_of(log.ask(session, produce("a")));
    log.wait(4, &[other]);
    assert!(log.state.is_live(session));
    let busy = log.ask(other, produce("a"));
    assert_eq!(busy, Outcome::Refused(Refusal::Busy { silent: 4_000_000_000 }));
    log.milliseconds += 1000;
    let applied = log.numbered(other, &[]);
    assert!(!log.state.is_live(session));
    assert!(applied.effects.contains(&Effect::SessionEnded { session }));
    let since = away_since(&applied).unwrap();
    // The producer comes back in another session, unless there is another producer.
    let again = log.hello(None);
    let append = Command::Append(Append { hold: Some(hold), ..append("a", 1) });
    assert!(appended(log.ask(again, append.clone())).offsets.is_some());
    let outdated = log.ask(other, lapse("a", Due::Abandoned, since));
    assert_eq!(outdated, Outcome::Refused(Refusal::Outdated));
    assert!(matches!(log.ask(other, produce("a")), Outcome::Refused(Refusal::Busy { .. })));
    log.numbered(again, &[Command::Bye]);
    let held = hold_of(log.ask(other, produce("a")));
    assert!(held > hold);
    let third = log.hello(None);
    assert_eq!(log.ask(third, append), Outcome::Refused(Refusal::HoldLost));
}

#[test]
fn time_in_which_the_log_does_not_move_is_no_absence() {
    let mut log = Log::new();
    let sessions = [log.hello(None), log.hello(None), log.hello(None)];
    log.milliseconds += 100_000;
    for session in sessions {
        log.numbered(session, &[]);
    }
    assert!(sessions.iter().all(|session| log.state.is_live(*session)));
}

#[test]
fn a_clock_that_was_ahead_does_not_stop_leases() {
    let mut log = Log::new();
    let (silent, other) = (log.hello(None), log.hello(None));
    log.milliseconds += 60_000;
    log.numbered(other, &[]);
    let ahead = log.state.time();
    log.milliseconds -= 60_000;
    log.wait(4, &[other]);
    assert!(!log.state.is_live(silent) && log.state.is_live(other));
    assert!(log.state.time() > ahead);
}

#[test]
fn a_session_that_replaces_another_has_its_holds_and_ends_it() {
    let mut log = Log::new();
    let old = log.hello(None);
    let hold = hold_of(log.ask(old, produce("a")));
    let new = log.hello(Some(old));
    let late = log.numbered(old, &[Command::Append(append("a", 1))]);
    assert_eq!(late.verdict, Verdict::Rejected(Rejection::NoSession));
    let append = Command::Append(Append { hold: Some(hold), ..append("a", 1) });
    assert!(appended(log.ask(new, append)).offsets.is_some());
    let applied = log.numbered(new, &[Command::Bye, Command::Append(super::tests::append("a", 1))]);
    assert!(away_since(&applied).is_some());
    let Verdict::Applied(outcomes) = applied.verdict else { panic!("it is applied") };
    assert_eq!(outcomes[1], Outcome::Refused(Refusal::Left));
}

#[test]
fn a_hub_replaces_its_session_also_where_no_other_can_begin() {
    let mut log = Log::new();
    let first = log.hello(None);
    for _ in 1..MAX_SESSIONS {
        log.hello(None);
    }
    let hello = Hello { nonce: u64::MAX, ..Hello::default() };
    let refused = log.send(Header::default(), &[Command::Hello(hello)]).verdict;
    assert_eq!(refused, Verdict::Rejected(Rejection::TooManySessions));
    log.hello(Some(first));
}

#[test]
fn a_channel_that_has_ended_takes_nothing_until_its_end_is_forgotten() {
    let mut log = Log::new();
    let session = log.hello(None);
    let last = Command::Append(Append { close: close(), ..append("a", 1) });
    let first = appended(log.ask(session, last));
    assert_eq!((first.life, first.state), (Some(offset(2, 0)), Some(EndState::Complete)));
    let append = Command::Append(append("a", 1));
    let refused = Outcome::Refused(Refusal::Ended(EndState::Complete));
    assert_eq!(log.ask(session, append.clone()), refused);
    assert_eq!(log.ask(session, produce("a")), refused);
    assert_eq!(log.ask(session, stop("a")), Outcome::EndedBefore(EndState::Complete));
    log.wait(59, &[session]);
    assert_eq!(log.ask(session, append.clone()), refused);
    log.wait(1, &[session]);
    let second = appended(log.ask(session, append.clone()));
    assert!(second.life > first.life && second.state.is_none());
    // What was meant for the first life is not for the second.
    let Command::Append(append) = append else { panic!("an append") };
    let late = Command::Append(Append { life: first.life, ..append });
    assert_eq!(log.ask(session, late), Outcome::Refused(Refusal::Removed));
}

#[test]
fn a_stop_before_the_producer_refuses_it_for_a_short_time() {
    let mut log = Log::new();
    let session = log.hello(None);
    assert_eq!(log.ask(session, stop("a")), Outcome::Done);
    log.wait(9, &[session]);
    assert_eq!(log.ask(session, produce("a")), Outcome::Refused(Refusal::Stopped));
    log.wait(1, &[session]);
    hold_of(log.ask(session, produce("a")));
    // A stop that means an earlier generation does not stop this one.
    let Command::Stop(stop) = stop("a") else { panic!("a stop") };
    let of = |generation| Command::Stop(Stop { generation: Some(generation), ..stop.clone() });
    assert_eq!(log.ask(session, of(offset(2, 0))), Outcome::Refused(Refusal::Removed));
    let event = appended(log.ask(session, Command::Append(append("a", 1)))).offsets.unwrap().1;
    assert_eq!(log.ask(session, of(event)), Outcome::Done);
    let late = log.ask(session, Command::Append(append("a", 1)));
    assert_eq!(late, Outcome::Refused(Refusal::Stopped));
}

#[test]
fn a_lapse_counts_only_while_nothing_has_changed() {
    let mut log = Log::new();
    let session = log.hello(None);
    let hold = hold_of(log.ask(session, produce("a")));
    let release = Release { channel: "a".into(), hold, reason: None };
    let applied = log.numbered(session, &[Command::Release(release)]);
    let since = away_since(&applied).unwrap();
    let event = appended(log.ask(session, Command::Append(append("a", 1)))).offsets.unwrap().1;
    let outdated = Outcome::Refused(Refusal::Outdated);
    assert_eq!(log.ask(session, lapse("a", Due::Abandoned, since)), outdated);
    assert_eq!(log.ask(session, lapse("a", Due::Abandoned, event)), Outcome::Done);
    assert_eq!(log.ask(session, lapse("a", Due::Abandoned, event)), outdated);
    let hold = hold_of(log.ask(session, produce("b")));
    assert_eq!(log.ask(session, lapse("b", Due::Unwatched, event)), outdated);
    assert_eq!(log.ask(session, lapse("b", Due::Unwatched, hold)), Outcome::Done);
    let event = appended(log.ask(session, Command::Append(append("c", 1)))).offsets.unwrap().1;
    assert_eq!(log.ask(session, lapse("c", Due::Idle, hold)), outdated);
    assert_eq!(log.ask(session, lapse("c", Due::Idle, event)), Outcome::Done);
    let late = Command::Append(Append { life: Some(event), ..append("c", 1) });
    assert_eq!(log.ask(session, late), Outcome::Refused(Refusal::Removed));
}

#[test]
fn options_create_a_channel_and_a_deletion_frees_its_name() {
    let mut log = Log::new();
    let session = log.hello(None);
    let options = Options { max_events: Some(3), ..Options::default() };
    let configured = log.ask(session, configure("a", options));
    assert_eq!(configured, Outcome::Configured { created: true, options });
    let life = offset(2, 0);
    let append = |life| Command::Append(Append { life: Some(life), ..append("a", 1) });
    assert_eq!(appended(log.ask(session, append(life))).life, Some(life));
    let delete = || Command::Delete(Delete { channel: "a".into() });
    assert_eq!(log.ask(session, delete()), Outcome::Done);
    assert_eq!(log.ask(session, delete()), Outcome::Refused(Refusal::Removed));
    assert_eq!(log.ask(session, append(life)), Outcome::Refused(Refusal::Removed));
}

#[test]
fn options_of_two_hubs_are_merged_and_count_as_a_use() {
    let mut log = Log::new();
    let session = log.hello(None);
    let age = Options { max_age: Some(1), ..Options::default() };
    let events = Options { max_events: Some(2), ..Options::default() };
    log.ask(session, configure("a", age));
    let applied = log.numbered(session, &[configure("a", events)]);
    let both = Options { max_age: Some(1), max_events: Some(2), ..Options::default() };
    let Effect::Channel { change, .. } = &applied.effects[0] else { panic!("{applied:?}") };
    assert_eq!(*change, Change::Configured { at: offset(3, 0), options: both });
    let older_options = Renew { channel: "a".into(), life: offset(2, 0), ..Renew::default() };
    let renewed = log.numbered(session, &[Command::Renew(older_options)]);
    assert!(renewed.effects.is_empty(), "{renewed:?}");
    let event = appended(log.ask(session, Command::Append(append("a", 1)))).offsets.unwrap().1;
    log.ask(session, configure("a", age));
    let lapsed = log.ask(session, lapse("a", Due::Idle, event));
    assert_eq!(lapsed, Outcome::Refused(Refusal::Outdated));
}

/// A piece of a body: its events are those from this line on.
fn piece(request: u64, from: u64, count: usize, last: bool) -> Command {
    let lines = Lines::From(from);
    let key = Some(KeyUse { id: KeyId([1; 16]), request, lines, last, window: 60_000 });
    Command::Append(Append { key, ..append("a", count) })
}

#[test]
fn a_retry_publishes_what_is_left_however_it_is_cut() {
    let mut log = Log::new();
    let first = log.hello(None);
    let second = log.hello(None);
    log.ask(first, piece(1, 0, 3, false));
    let running = Outcome::Refused(Refusal::KeyRunning);
    assert_eq!(log.ask(second, piece(1, 0, 2, false)), running);
    assert_eq!(log.ask(first, piece(2, 0, 2, false)), running);
    let id = KeyId([1; 16]);
    assert_eq!(log.state.key(&id), Some(KeyStatus::Running { session: first, request: 1 }));
    assert_eq!(log.state.key(&KeyId([2; 16])), None);
    log.numbered(first, &[Command::Bye]);
    let offsets = Some((offset(3, 0), offset(3, 2)));
    let totals = KeyTotals { events: 3, offsets, state: None };
    assert_eq!(log.state.key(&id), Some(KeyStatus::Partial(totals)));
    // The second piece begins within what is published.
    let none = appended(log.ask(second, piece(7, 0, 2, false)));
    assert_eq!((none.offsets, none.key.unwrap().events), (None, 3));
    let sequence = log.state.last().unwrap().next();
    let rest = appended(log.ask(second, piece(7, 2, 3, true)));
    let at = |index| Offset::new(sequence, index);
    assert_eq!(rest.offsets, Some((at(0), at(1))));
    assert_eq!(rest.key.unwrap().events, 5);
    let replayed = log.ask(second, piece(8, 0, 9, true));
    assert_eq!(replayed, Outcome::Replayed(rest.key.unwrap()));
    assert_eq!(log.state.key(&id), Some(KeyStatus::Done(rest.key.unwrap())));
    log.wait(60, &[second]);
    assert_eq!(log.state.key(&id), None);
    assert_eq!(appended(log.ask(second, piece(9, 0, 1, true))).key.unwrap().events, 1);
}

#[test]
fn a_request_that_breaks_off_leaves_its_key_to_a_retry() {
    let mut log = Log::new();
    let session = log.hello(None);
    log.ask(session, piece(1, 0, 1, false));
    let release = |request| Command::ReleaseKey(ReleaseKey { id: KeyId([1; 16]), request });
    assert_eq!(log.ask(session, release(2)), Outcome::Refused(Refusal::Outdated));
    assert_eq!(log.ask(session, release(1)), Outcome::Done);
    let rest = appended(log.ask(session, piece(2, 0, 2, true)));
    assert_eq!((rest.key.unwrap().events, rest.offsets.is_some()), (2, true));
}

#[test]
fn the_end_that_was_published_with_a_key_is_not_refused_to_its_retry() {
    let mut log = Log::new();
    let session = log.hello(None);
    let closing = |request, last| match piece(request, 0, 2, last) {
        Command::Append(append) => Command::Append(Append { close: close(), ..append }),
        command => command,
    };
    log.ask(session, closing(1, false));
    let other = log.hello(Some(session));
    log.numbered(other, &[Command::Bye]);
    let retry = log.hello(None);
    let again = appended(log.ask(retry, closing(1, true)));
    assert_eq!((again.offsets, again.key.unwrap().events), (None, 2));
    assert_eq!(again.key.unwrap().state, Some(EndState::Complete));
}

#[test]
fn lines_of_many_channels_count_for_one_key() {
    let mut log = Log::new();
    let session = log.hello(None);
    let listed = |channel: &str, lines: &[u64], request| {
        let key = KeyUse {
            id: KeyId([2; 16]),
            request,
            lines: Lines::Listed(lines.to_vec()),
            last: false,
            window: 1000,
        };
        Command::Append(Append { key: Some(key), ..append(channel, lines.len()) })
    };
    log.ask(session, listed("a", &[0, 2, 3], 1));
    let other = appended(log.ask(session, listed("b", &[1, 5], 1)));
    assert_eq!(other.key.unwrap().events, 5);
    log.numbered(session, &[Command::ReleaseKey(ReleaseKey { id: KeyId([2; 16]), request: 1 })]);
    let rest = appended(log.ask(session, listed("a", &[3, 4, 5], 2)));
    assert_eq!(rest.offsets.map(|(first, last)| last.0 - first.0), Some(0));
    assert_eq!(rest.key.unwrap().events, 6);
}

#[test]
fn a_key_does_not_remember_any_number_of_scattered_lines() {
    let mut log = Log::new();
    let session = log.hello(None);
    let piece = |lines: Vec<u64>| {
        let append = append("a", lines.len());
        let lines = Lines::Listed(lines);
        let id = KeyId([3; 16]);
        let key = Some(KeyUse { id, request: 1, lines, last: false, window: 1000 });
        Command::Append(Append { key, ..append })
    };
    let scattered = |from: u64, count: u64| (0..count).map(|line| from + 2 * line).collect();
    let refused = Outcome::Refused(Refusal::KeyScattered);
    assert_eq!(log.ask(session, piece(scattered(0, 4097))), refused);
    appended(log.ask(session, piece(scattered(0, 4096))));
    assert_eq!(log.ask(session, piece(scattered(20_000, 1))), refused);
    // Lines between those that are known join them.
    appended(log.ask(session, piece(scattered(1, 4000))));
}

#[test]
fn parts_become_one_batch_at_the_last_one() {
    let mut log = Log::new();
    let session = log.hello(None);
    let mut body = BytesMut::new();
    write_command(&Command::Append(append("a", 100)), &mut body);
    let cut = body.len() / 2;
    let header = |number, more, continues| Header { session, number, more, continues };
    let first = log.send_body(header(1, true, false), &body[..cut]);
    assert_eq!((first.verdict, first.effects.len()), (Verdict::Collected, 0));
    let other = log.hello(None);
    log.ask(other, Command::Append(append("a", 1)));
    let last = log.send_body(header(2, false, true), &body[cut..]);
    let Verdict::Applied(outcomes) = &last.verdict else { panic!("{last:?}") };
    let (first, _) = appended(outcomes[0]).offsets.unwrap();
    assert_eq!(first, Offset::new(last.sequence, 0));
    let rest = log.send_body(header(3, false, true), &body[cut..]);
    assert_eq!(rest.verdict, Verdict::Rejected(Rejection::Incomplete));
}

#[test]
fn a_batch_that_cannot_be_read_uses_up_its_number() {
    let mut log = Log::new();
    let session = log.hello(None);
    let header = |number| Header { session, number, ..Header::default() };
    let invalid = log.send_body(header(1), &[3, 1, 0]);
    assert_eq!(invalid.verdict, Verdict::Rejected(Rejection::Invalid));
    assert!(matches!(log.send(header(2), &[]).verdict, Verdict::Applied(_)));
    let noise = log.state.last().unwrap().next();
    let time = LogTime(log.milliseconds * 1_000_000);
    let message = Message { sequence: noise, time, content: Bytes::from_static(b"noise") };
    let applied = log.state.apply(&message).unwrap();
    assert_eq!(applied.verdict, Verdict::Rejected(Rejection::NoBatch));
}

#[test]
fn a_hub_that_is_too_old_for_a_command_stops() {
    let mut log = Log::new();
    let session = log.hello(None);
    let header = Header { session, number: 1, ..Header::default() };
    let content = Codec::default().encode(header, &[100, 0]);
    let message = Message { sequence: Sequence(2), time: LogTime(0), content };
    assert!(matches!(log.state.apply(&message), Err(ApplyError::Command(_))));
    // Where the batch is rejected, its commands are not read.
    let content = Codec::default().encode(Header { number: 7, ..header }, &[100, 0]);
    let message = Message { sequence: Sequence(3), time: LogTime(0), content };
    assert!(log.state.apply(&message).is_ok());
}

#[test]
fn a_hub_without_the_secret_stops() {
    let signed = Codec::new(Some(b"secret")).encode(Header::default(), &[]);
    let message = Message { sequence: Sequence(1), time: LogTime(0), content: signed };
    let applied = Log::new().state.apply(&message);
    assert!(matches!(applied, Err(ApplyError::NoSecret(_))), "{applied:?}");
}

#[test]
fn the_level_is_that_of_the_oldest_hub() {
    let mut log = Log::new();
    assert_eq!(log.state.level(), None);
    for (nonce, level) in [(1, 3), (2, 2), (3, 4)] {
        let hello = Hello { level, nonce, ..Hello::default() };
        log.send(Header::default(), &[Command::Hello(hello.clone())]);
        let again = log.send(Header::default(), &[Command::Hello(hello)]);
        assert_eq!(again.verdict, Verdict::Rejected(Rejection::Repeated));
    }
    assert_eq!(log.state.level(), Some(2));
}

#[test]
fn an_epoch_begins_once_and_forgets_all_channels() {
    let mut log = Log::new();
    let session = log.hello(None);
    log.ask(session, Command::Append(Append { close: close(), ..append("a", 1) }));
    let epoch =
        |old: &str, new: &str| Command::Epoch(EpochChange { old: old.into(), new: new.into() });
    assert_eq!(log.ask(session, epoch("epoch", "next")), Outcome::Done);
    assert_eq!(log.ask(session, epoch("epoch", "other")), Outcome::Refused(Refusal::Outdated));
    assert_eq!(log.state.epoch().as_str(), "next");
    assert!(appended(log.ask(session, Command::Append(append("a", 1)))).state.is_none());
    // A hub that starts later has read the new epoch from the description of the log.
    for epochs in [["next", "next"], ["next", "last"], ["last", "late"]] {
        let mut later = StateMachine::new(Codec::default(), epochs[0].into(), LEASE);
        for message in &log.messages {
            later.apply(message).unwrap();
        }
        assert!(later.is_equal(&log.state), "{epochs:?}");
        log.ask(session, epoch(epochs[0], epochs[1]));
    }
}

#[test]
fn hubs_with_other_states_find_it_out() {
    let mut log = Log::new();
    let session = log.hello(None);
    let mut other = replica();
    for number in 0..2000 {
        log.milliseconds += 1;
        log.ask(session, Command::Append(append("a", 1)));
        let mut message = log.messages.last().unwrap().clone();
        if number == 500 {
            // As if the log had lost a message and stored another one in its place.
            message.content = Bytes::from_static(b"noise");
        }
        if number == 0 {
            other.apply(&log.messages[0]).unwrap();
        }
        let _ = other.apply(&message).unwrap();
    }
    let checks = [log.state.last_check().unwrap(), other.last_check().unwrap()];
    assert_eq!(checks[0].window, checks[1].window);
    assert!(!log.state.digests.differs(checks[0]) && log.state.digests.differs(checks[1]));
    let diverged = log.numbered(session, &[Command::Check(checks[1])]);
    assert_eq!(diverged.effects, [Effect::Diverged { session, window: checks[1].window }]);
}

/// A log, and a replica that begins at its front.
struct Late {
    log: Log,
    session: SessionId,
    late: StateMachine,
}

impl Late {
    /// Returns a log with these commands before the front.
    fn new(commands: &[Command]) -> Self {
        let mut log = Log::new();
        let session = log.hello(None);
        log.numbered(session, commands);
        let mut this = Self { log, session, late: replica() };
        // Within the lease, a session of which the replica reads may be over.
        for _ in 0..4 {
            this.apply(&[]);
            this.log.milliseconds += 2000;
        }
        this
    }

    /// Returns the first offset of the next message.
    fn next(&self) -> Offset {
        Offset::new(self.log.state.last().unwrap().next(), 0)
    }

    fn apply(&mut self, commands: &[Command]) -> [Vec<Outcome>; 2] {
        let full = self.log.numbered(self.session, commands);
        let late = self.late.apply(self.log.messages.last().unwrap()).unwrap();
        [full, late].map(|applied| match applied.verdict {
            Verdict::Applied(outcomes) => outcomes,
            verdict => panic!("{verdict:?}"),
        })
    }

    /// Returns what the session must send again now.
    fn renewals(&self) -> Vec<Command> {
        let last = self.log.state.last().unwrap();
        self.log.state.renewals(self.session, &Hello::default(), last).collect()
    }

    fn assert_same_channels(&self) {
        for channel in CHANNELS {
            let of = |state: &StateMachine| state.channels.shared_state(channel);
            assert_eq!(of(&self.late), of(&self.log.state), "{channel}");
        }
    }

    /// Returns whether both replicas append.
    fn append(&mut self, command: Command) -> bool {
        let outcomes = self.apply(&[command]).map(|outcomes| match outcomes[0] {
            Outcome::Appended(appended) => appended.offsets.ok_or(Refusal::Removed),
            Outcome::Refused(refusal) => Err(refusal),
            outcome => panic!("{outcome:?}"),
        });
        assert_eq!(outcomes[0], outcomes[1]);
        outcomes[0].is_ok()
    }
}

#[test]
fn each_life_that_a_replica_knows_is_the_one_that_all_mean() {
    let mut log = Late::new(&[Command::Append(append("a", 1))]);
    let life = log.next();
    assert!(log.append(Command::Append(append("a", 1))));
    // Of the replica that began at the front, and of the other one.
    for life in [life, offset(2, 0), life] {
        assert!(log.append(of_life(life, append("a", 1))));
    }
    log.apply(&[delete("a")]);
    assert!(log.append(Command::Append(append("a", 1))));
    assert!(!log.append(of_life(life, append("a", 1))));
}

#[test]
fn a_life_from_before_the_front_ends_for_all() {
    let mut log = Late::new(&[Command::Append(append("a", 1)), Command::Append(append("b", 1))]);
    assert!(log.append(Command::Append(append("a", 1))));
    log.apply(&[delete("a")]);
    assert!(!log.append(of_life(offset(2, 0), append("a", 1))));
    assert!(log.append(Command::Append(append("a", 1))));
    assert!(!log.append(of_life(offset(2, 0), append("a", 1))));
    // Also of a channel of which one replica has not read.
    log.apply(&[delete("b")]);
    assert!(!log.append(of_life(offset(2, 1), append("b", 1))));
}

#[test]
fn a_late_copy_at_the_front_does_not_end_a_life_for_good() {
    let mut log = Log::new();
    let (session, other) = (log.hello(None), log.hello(None));
    log.ask(session, Command::Append(append("a", 1)));
    log.numbered(other, &[Command::Bye]);
    let mut log = Late { log, session, late: replica() };
    log.apply(&[]);
    let header = Header { session: other, number: 1, ..Header::default() };
    let copy = [Command::Append(Append { close: close(), ..append("a", 1) })];
    let rejected = log.log.send(header, &copy).verdict;
    assert_eq!(rejected, Verdict::Rejected(Rejection::NoSession));
    log.log.wait(61, &[session]);
    catch_up(&mut log.late, &log.log);
    assert!(log.append(of_life(offset(3, 0), append("a", 1))));
}

#[test]
fn a_late_copy_at_the_front_does_not_rename_a_life_for_good() {
    let mut log = Log::new();
    let (session, other) = (log.hello(None), log.hello(None));
    log.numbered(other, &[Command::Bye]);
    let mut log = Late { log, session, late: replica() };
    let header = Header { session: other, number: 1, ..Header::default() };
    let close = Some(Close { state: EndState::Complete, reason: None, kept: 500 });
    let copy = [Command::Append(Append { close, ..append("a", 1) })];
    log.log.send(header, &copy);
    // Others have no channel: its life begins here, and later at the replica that is late.
    let life = log.next();
    log.log.ask(session, Command::Append(append("a", 1)));
    for message in &log.log.messages[3..] {
        log.late.apply(message).unwrap();
    }
    // The copy has ended the channel there, for a time.
    log.log.milliseconds += 1000;
    log.apply(&[Command::Append(append("a", 1))]);
    log.log.wait(61, &[session]);
    catch_up(&mut log.late, &log.log);
    assert!(log.append(of_life(life, append("a", 1))));
}

#[test]
fn a_refused_append_creates_no_channel() {
    let mut log = Late::new(&[configure("a", Options::default())]);
    let [produced, _] = log.apply(&[produce("a")]);
    let hold = Some(hold_of(produced[0]));
    log.apply(&[delete("a")]);
    assert!(!log.append(of_life(offset(2, 0), Append { hold, ..append("a", 1) })));
    let life = log.next();
    assert!(log.append(Command::Append(append("a", 1))));
    assert!(log.append(of_life(life, append("a", 1))));
}

#[test]
fn the_offset_of_an_event_does_not_depend_on_the_commands_before_it() {
    let mut log = Late::new(&[Command::Append(append("a", 1))]);
    let outcomes = log.apply(&[delete("a"), Command::Append(append("b", 1))]);
    let offsets = outcomes.map(|outcomes| appended(outcomes[1]).offsets);
    assert_eq!(offsets[0], offsets[1]);
}

#[test]
fn a_replica_learns_the_state_of_a_channel_from_before_the_front() {
    let age = Options { max_age: Some(1), ..Options::default() };
    let before = [configure("a", age), Command::Append(append("a", 1)), produce("a"), produce("b")];
    let mut log = Late::new(&before);
    let events = Options { max_events: Some(2), ..Options::default() };
    log.apply(&[configure("a", events)]);
    let renewals = log.renewals();
    assert_eq!(renewals.len(), 3);
    log.apply(&renewals);
    log.assert_same_channels();
    let busy = log.apply(&[produce("a")]);
    assert!(
        busy.iter().all(|outcomes| matches!(outcomes[0], Outcome::Refused(Refusal::Busy { .. })))
    );
    log.apply(&[delete("a")]);
    let refused = vec![Outcome::Refused(Refusal::Removed)];
    let late = log.apply(&renewals[1..2]);
    assert_eq!(late, [refused.clone(), refused]);
}

#[test]
fn a_replica_learns_no_state_that_has_changed_since_it_was_sent() {
    let mut log = Late::new(&[produce("a")]);
    let renewals = log.renewals();
    let (_, producer) = log.log.state.channels.current("a").unwrap();
    let (_, hold) = producer.unwrap();
    log.apply(&[Command::Release(Release { channel: "a".into(), hold, reason: None })]);
    log.apply(&[produce("a")]);
    log.apply(&renewals);
    log.assert_same_channels();
}

#[test]
fn a_replica_that_has_taken_a_second_producer_learns_of_the_first() {
    let mut log = Late::new(&[produce("a")]);
    log.apply(&[produce("a")]);
    let renewals = log.renewals();
    log.apply(&renewals);
    log.assert_same_channels();
}

#[test]
fn a_stop_is_early_on_all_replicas_or_on_none() {
    let mut log = Late::new(&[Command::Append(append("a", 1)), configure("b", Options::default())]);
    let renewals = log.renewals();
    log.apply(&renewals);
    log.apply(&[stop("a"), stop("b")]);
    log.assert_same_channels();
}

#[test]
fn only_the_first_session_reports_channels_and_a_bounded_number_of_them() {
    let mut log = Log::new();
    let (first, second) = (log.hello(None), log.hello(None));
    for number in 0..2 * MAX_RENEWALS {
        log.ask(first, produce(&number.to_string()));
    }
    let due = |log: &Log, session, older_than| {
        log.state.renewals(session, &Hello::default(), Sequence(older_than)).collect::<Vec<_>>()
    };
    let last = log.state.last().unwrap().0;
    assert_eq!(due(&log, first, 1), []);
    assert_eq!(due(&log, second, last).len(), 1);
    let commands = due(&log, first, last);
    assert_eq!(commands.len(), MAX_RENEWALS);
    log.numbered(first, &commands);
    assert_eq!(due(&log, first, last).len(), MAX_RENEWALS);
    log.numbered(first, &due(&log, first, last));
    assert_eq!(due(&log, first, last).len(), 0);
    assert_eq!(due(&log, first, last + 1).len(), 1);
}

#[test]
fn nothing_from_before_the_front_is_left_in_another_epoch() {
    let mut log = Late::new(&[Command::Append(append("a", 1))]);
    let epoch = EpochChange { old: "epoch".into(), new: "next".into() };
    log.apply(&[Command::Epoch(epoch)]);
    assert!(!log.append(of_life(offset(2, 0), append("a", 1))));
}

#[test]
fn a_replica_that_does_not_know_an_end_has_not_diverged() {
    let close = Some(Close { state: EndState::Complete, reason: None, kept: 3_600_000 });
    let closed = Append { close, ..append("a", 1) };
    let mut log = Late::new(&[Command::Append(closed), Command::Append(append("c", 1))]);
    for _ in 0..2500 {
        log.apply(&[Command::Append(append("a", 1))]);
    }
    let check = log.log.state.last_check().unwrap();
    log.apply(&[Command::Check(check)]);
    assert!(!log.late.digests.differs(check) && log.late.last_check().is_none());
    // Once it knows the state, it takes part, also if it has not seen a channel.
    log.late.settle();
    for number in 0..2500 {
        let channel = if number == 1500 { "c" } else { "a" };
        log.apply(&[Command::Append(append("b", 1)), delete(channel)]);
    }
    assert_eq!(log.late.last_check(), log.log.state.last_check());
    assert!(log.late.last_check().is_some());
}

#[test]
fn the_number_of_keys_is_bounded() {
    let mut keys = Keys::new(10, 1000);
    let cx = Context::new(Sequence(1), LogTime(1), Offset::default());
    let nothing = Appended { life: None, offsets: None, state: None, key: None };
    for number in 0..100 {
        let id = KeyId([number; 16]);
        let lines = Lines::From(0);
        let using = KeyUse { id, request: 0, lines, last: number % 2 == 0, window: 1000 };
        keys.note(&using, 1, nothing, false, &cx);
    }
    assert_eq!(keys.len(), 10);
}

#[test]
fn the_number_of_runs_of_all_keys_is_bounded() {
    let mut keys = Keys::new(1000, 10);
    let cx = Context::new(Sequence(1), LogTime(1), Offset::default());
    let nothing = Appended { life: None, offsets: None, state: None, key: None };
    let mut note = |number, last| {
        let (id, lines) = (KeyId([number; 16]), Lines::Listed(vec![0, 2, 4]));
        keys.note(&KeyUse { id, request: 0, lines, last, window: 1000 }, 3, nothing, false, &cx);
        keys.len()
    };
    let kept: Vec<_> = (0..6).map(|number| note(number, false)).collect();
    assert_eq!(kept, [1, 2, 3, 3, 3, 3]);
    // The last piece of a request leaves no runs.
    let kept: Vec<_> = (3..20).map(|number| note(number, true)).collect();
    assert_eq!(kept.last(), Some(&17));
}

/// A replica that began after the front of the log has the state of the others after the lease, as
/// far as it can tell: ends and keys from before the front are over, holds and lives were renewed.
#[test]
fn a_replica_of_a_trimmed_log_is_equal_after_the_lease() {
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut log = Log::new();
        let sessions = [log.hello(None), log.hello(None), log.hello(None)];
        random_commands(&mut log, &sessions, &mut random, None);
        // Ends and keys are kept for a minute at most.
        log.wait(61, &sessions);
        let front = log.messages.len() - random.usize(..3);
        renew(&mut log, &sessions, &mut random);
        log.wait(6, &sessions);
        let mut replicas = [replica(), replica(), replica()];
        let [full, later, guide] = &mut replicas;
        guide.apply(&log.messages[front]).unwrap();
        catch_up(guide, &log);
        assert_eq!(guide.sessions.is_same(&log.state.sessions), Ok(()), "seed {seed}");
        let from = log.messages.len();
        random_commands(&mut log, &sessions, &mut random, Some(guide));
        for message in &log.messages[..from] {
            full.apply(message).unwrap();
        }
        for message in &log.messages[front..from] {
            later.apply(message).unwrap();
        }
        for message in &log.messages[from..] {
            let [expected, applied] = [&mut *full, &mut *later]
                .map(|replica| without_lives(replica.apply(message).unwrap()));
            assert_eq!(applied, expected, "seed {seed}");
        }
    }
}

/// A log that keeps a quarter of its messages, and hubs that renew what they know.
#[test]
fn a_replica_that_begins_at_any_front_has_the_state_of_the_others() {
    for seed in 0..60 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut log = Log::new();
        let sessions = [log.hello(None), log.hello(None), log.hello(None)];
        let mut replicas: Vec<StateMachine> = Vec::new();
        for _ in 0..8 {
            random_commands(&mut log, &sessions, &mut random, None);
            for channel in CHANNELS {
                let options = Options { max_age: Some(random.u64(..9)), ..Options::default() };
                log.ask(sessions[random.usize(..3)], configure(channel, options));
            }
            log.wait(61, &sessions);
            let kept = log.messages.len() * 3 / 4;
            let mut late = replica();
            late.apply(&log.messages[kept]).unwrap();
            replicas.push(late);
            renew(&mut log, &sessions, &mut random);
            log.wait(6, &sessions);
        }
        for late in &mut replicas {
            catch_up(late, &log);
            assert_eq!(late.sessions.is_same(&log.state.sessions), Ok(()), "seed {seed}");
            for channel in CHANNELS {
                let of = |state: &StateMachine| state.channels.shared_state(channel);
                assert_eq!(of(late), of(&log.state), "seed {seed}, {channel}");
            }
        }
    }
}

fn catch_up(replica: &mut StateMachine, log: &Log) {
    let read = usize::try_from(replica.last().unwrap().0).unwrap();
    for message in &log.messages[read..] {
        replica.apply(message).unwrap();
    }
}

/// Replicas name the same life differently.
fn without_lives(mut applied: Applied) -> Applied {
    for effect in &mut applied.effects {
        if let Effect::Channel { life, .. } = effect {
            *life = Offset::default();
        }
    }
    if let Verdict::Applied(outcomes) = &mut applied.verdict {
        for outcome in outcomes {
            match outcome {
                Outcome::Appended(appended) => appended.life = None,
                Outcome::Produces { life, .. } => *life = Offset::default(),
                _ => {}
            }
        }
    }
    applied
}

const CHANNELS: [&str; 4] = ["a", "b", "c", "d"];

/// Sends again what hubs send within a part of the age of the log.
fn renew(log: &mut Log, sessions: &[SessionId], random: &mut fastrand::Rng) {
    for channel in CHANNELS {
        // A client publishes: the later replica has its own name for the life.
        if log.state.channels.current(channel).is_some_and(|_| random.bool()) {
            log.ask(sessions[0], Command::Append(append(channel, 1)));
        }
    }
    let last = log.state.last().unwrap();
    for session in sessions {
        let renewals = log.state.renewals(*session, &Hello::default(), last).collect::<Vec<_>>();
        log.numbered(*session, &renewals);
    }
}

/// Sends commands of all sessions on few channels. Some name a life as a later replica knows it.
fn random_commands(
    log: &mut Log,
    sessions: &[SessionId],
    random: &mut fastrand::Rng,
    mut later: Option<&mut StateMachine>,
) {
    let mut held: Vec<(SessionId, Append)> = Vec::new();
    for _ in 0..60 {
        let session = sessions[random.usize(..sessions.len())];
        let channel = CHANNELS[random.usize(..4)];
        log.milliseconds += random.u64(..300);
        let mine = held
            .iter()
            .rev()
            .find(|(of, append)| *of == session && append.channel == Text::from(channel));
        let mine = mine.map(|(_, append)| append.clone());
        let command = match (random.u32(..10), mine) {
            (0..3, Some(mine)) => Command::Append(Append { events: append("", 2).events, ..mine }),
            (3, Some(mine)) => Command::Append(Append { close: close(), ..mine }),
            (4, Some(Append { channel, hold: Some(hold), .. })) => {
                Command::Release(Release { channel, hold, reason: None })
            }
            (5, _) => stop(channel),
            (6, _) => Command::Delete(Delete { channel: channel.into() }),
            (7 | 8, _) => produce(channel),
            _ => Command::Append(append(channel, 1)),
        };
        let applied = log.numbered(session, &[command]);
        let Verdict::Applied(outcomes) = applied.verdict else { panic!("it is applied") };
        if let Outcome::Produces { hold, life } = outcomes[0] {
            let later = later.as_mut().filter(|_| random.bool()).and_then(|later| {
                catch_up(later, log);
                later.channels.current(channel)
            });
            let (hold, life) = (Some(hold), Some(later.map_or(life, |(life, _)| life)));
            held.push((session, Append { life, hold, ..append(channel, 0) }));
        }
        log.numbered(sessions[random.usize(..sessions.len())], &[]);
    }
}
