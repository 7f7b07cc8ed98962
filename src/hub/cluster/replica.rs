//! The member of the cluster that this hub is: its state, its session, and its way into the log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use fanfare_cluster::batch::Codec;
use fanfare_cluster::command::{Check, Command, Hello, LEVEL, SessionId};
use fanfare_cluster::log::{LogEnd, LogInfo, LogWriter};
use fanfare_cluster::sender::{Limits, Refused, Sender, SubmitError};
use fanfare_cluster::state_machine::{Applied, Effect, Outcome, StateMachine};
use fanfare_cluster::text::Text;
use fanfare_cluster::viewers::Totals;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::renewals::Renewals;
use super::viewers::Viewers;
use crate::channel::ChannelName;
use crate::hub::error::LogError;
use crate::hub::registry::Registry;
use crate::hub::viewer_changes::ViewerChanges;
use crate::position::Offset;

/// Interval at which the phase is checked.
const PHASE_CHECK: Duration = Duration::from_millis(500);

/// The settings of a hub in a cluster.
#[derive(Clone, Debug)]
pub struct ReplicaConfig {
    /// The name of this hub.
    pub node: Box<str>,
    /// Encodes and signs batches.
    pub codec: Codec,
    /// A digest of the rules for channels: the hubs of a cluster should have the same.
    pub rules: u64,
    /// Maximum age of events that a channel may have: what the log keeps is all that hubs know.
    pub max_retention: Duration,
    /// The sizes and intervals of batches.
    pub limits: Limits,
    /// Time for which an operation waits for the log.
    pub publish_timeout: Duration,
    /// Time without an own message in the log after which the hub is stale.
    pub stale_after: Duration,
    /// Age at which what later hubs must know is sent again: a part of the age up to which the log
    /// keeps messages.
    pub renew_after: Duration,
    /// Number of bytes of later messages after which it is sent again: a part of those that the log
    /// keeps.
    pub renew_after_bytes: u64,
}

/// The phase of a hub in its cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The log is not opened.
    Connecting,
    /// The log is read from its beginning.
    CatchingUp {
        /// The last message that was applied.
        applied: u64,
    },
    /// The hub has read the log, and its session has not begun.
    Joining,
    /// The hub is a member of the cluster.
    Live,
    /// Nothing of this hub has come back from the log for some time.
    Stale,
    /// The session of this hub has ended, and another one has not begun.
    Fenced,
    /// Two other hubs have another state than this one.
    Diverged,
    /// The log cannot be read on: the hub must start again.
    Ended(LogEnd),
}

/// A hub of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub name: Box<str>,
    /// Its session: the sequence of the message that began it.
    pub session: u64,
    /// Whether it has the same rules for channels as this hub.
    pub agrees: bool,
    /// Whether it is this hub.
    pub is_this: bool,
}

/// What is called with the outcome of a command, on the thread that reads the log.
pub(super) type Ticket = Box<dyn FnOnce(Result<Outcome, Refused>) + Send>;

/// The hub's side of the shared log.
pub struct Replica {
    config: ReplicaConfig,
    began: Instant,
    phase: watch::Sender<Phase>,
    /// The state of the cluster; `None` until the log is opened.
    machine: Mutex<Option<StateMachine>>,
    outbox: Mutex<Outbox>,
    /// Notified when the next time to send has come nearer.
    sooner: Notify,
    members: Mutex<Members>,
    renewals: Mutex<Renewals>,
    /// The viewers of all hubs; `None` until the log is opened.
    viewers: Mutex<Option<Viewers>>,
    /// The holds of the sole producers at this hub, with their channels.
    holds: Mutex<BTreeMap<Offset, ChannelName>>,
    /// The digest of the rules in force: see [`ReplicaConfig::rules`].
    rules: AtomicU64,
    requests: AtomicU64,
}

impl std::fmt::Debug for Replica {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replica").field("node", &self.config.node).finish_non_exhaustive()
    }
}

/// The way of commands into the log.
#[derive(Default)]
struct Outbox {
    /// The sender; `None` until the log was read to its end.
    sender: Option<Sender<Ticket>>,
    log: Option<Arc<dyn LogWriter>>,
    /// The maximum size of a message, in bytes.
    max_message: usize,
    /// The time at which the timer polls.
    timer: Option<Duration>,
    /// When a message of this hub was last applied.
    heard: Option<Duration>,
    /// The last digest that was sent.
    check: Option<Check>,
}

/// The hubs of the cluster.
#[derive(Default)]
struct Members {
    by_session: BTreeMap<SessionId, (Box<str>, u64)>,
    /// The sessions that have reported another state.
    contradicting: Vec<SessionId>,
}

impl Replica {
    pub(in crate::hub) fn new(config: ReplicaConfig) -> Self {
        Self {
            rules: AtomicU64::new(config.rules),
            config,
            began: Instant::now(),
            phase: watch::Sender::new(Phase::Connecting),
            machine: Mutex::default(),
            outbox: Mutex::default(),
            sooner: Notify::new(),
            members: Mutex::default(),
            renewals: Mutex::default(),
            viewers: Mutex::default(),
            holds: Mutex::default(),
            requests: AtomicU64::new(0),
        }
    }

    /// Sets the log that batches are sent to.
    pub fn attach(&self, log: Arc<dyn LogWriter>) {
        self.outbox.lock().log = Some(log);
        self.poll();
    }

    /// Returns the phase, now and later.
    #[must_use]
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    /// Returns the hubs of the cluster, oldest session first.
    #[must_use]
    pub fn nodes(&self) -> Vec<Node> {
        let (own, own_rules) = (self.session(), self.rules.load(Ordering::Relaxed));
        let members = self.members.lock();
        let nodes = members.by_session.iter().map(|(session, (name, rules))| Node {
            name: name.clone(),
            session: session.0.0,
            agrees: *rules == own_rules,
            is_this: Some(*session) == own,
        });
        nodes.collect()
    }

    /// Returns the time since a message of this hub was last applied here: a live hub sends one
    /// each second.
    #[must_use]
    pub fn lag(&self) -> Duration {
        let heard = self.outbox.lock().heard.unwrap_or_default();
        self.now().saturating_sub(heard)
    }

    /// Returns the number of bytes that wait for the log.
    #[must_use]
    pub fn unsent_bytes(&self) -> usize {
        self.outbox.lock().sender.as_ref().map_or(0, Sender::unsent_bytes)
    }

    /// Leaves the cluster, when all that was submitted is applied, and waits for that, for at most
    /// this time.
    pub async fn leave(&self, at_most: Duration) {
        let (left, gone) = tokio::sync::oneshot::channel();
        let ticket: Ticket = Box::new(move |_| {
            let _ = left.send(());
        });
        if self.submit(&Command::Bye, ticket).is_ok() {
            let _ = timeout(at_most, gone).await;
        }
    }

    /// Returns the session, while it is live.
    pub(super) fn session(&self) -> Option<SessionId> {
        self.outbox.lock().sender.as_ref().and_then(Sender::session)
    }

    /// Returns whether the hub is a member of its cluster, and the log takes what it sends.
    pub(super) fn is_live(&self) -> bool {
        *self.phase.borrow() == Phase::Live
    }

    /// Returns the session whose batches may be applied: also one that has ended, until another one
    /// has begun.
    pub(super) fn latest_session(&self) -> Option<SessionId> {
        self.outbox.lock().sender.as_ref().and_then(Sender::latest_session)
    }

    /// Returns how long this hub waits longer than another to propose what all of them would: the
    /// oldest session does not wait.
    pub(super) fn rank(&self) -> u32 {
        let Some(own) = self.session() else { return 0 };
        let older = self.members.lock().by_session.range(..own).count();
        u32::try_from(older).unwrap_or(u32::MAX)
    }

    pub(super) fn holds(&self) -> MutexGuard<'_, BTreeMap<Offset, ChannelName>> {
        self.holds.lock()
    }

    pub(super) fn publish_timeout(&self) -> Duration {
        self.config.publish_timeout
    }

    /// Returns a number for a request, unique within this hub.
    pub(super) fn next_request(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Calls `look` with the state of the cluster, if the log is opened.
    pub(super) fn look<T>(&self, look: impl FnOnce(&StateMachine) -> T) -> Option<T> {
        self.machine.lock().as_ref().map(look)
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// Submits a command. The ticket is called once with its outcome, if it is taken.
    pub(super) fn submit(&self, command: &Command, ticket: Ticket) -> Result<(), LogError> {
        let mut outbox = self.outbox.lock();
        let sender = outbox.sender.as_mut().ok_or(LogError::NotJoined)?;
        sender.submit(command, ticket).map_err(|why| match why {
            SubmitError::Overloaded => LogError::Overloaded,
            SubmitError::TooLarge => LogError::TooLarge,
            SubmitError::Invalid => {
                tracing::error!("the hub has made a command that no hub accepts");
                LogError::Refused
            }
            SubmitError::Leaving => LogError::NotJoined,
        })?;
        self.poll_outbox(&mut outbox);
        Ok(())
    }

    /// Submits a command whose outcome does not matter, if the hub is a member.
    pub(super) fn propose(&self, command: &Command) {
        if let Err(why) = self.submit(command, Box::new(|_| ())) {
            tracing::debug!(%why, "a command was not sent to the cluster");
        }
    }

    fn poll(&self) {
        self.poll_outbox(&mut self.outbox.lock());
    }

    /// Sends what is due.
    fn poll_outbox(&self, outbox: &mut Outbox) {
        let now = self.now();
        let Outbox { sender: Some(sender), log: Some(log), timer, .. } = outbox else { return };
        while let Some((number, content)) = sender.poll(now) {
            log.send(number, content);
        }
        let next = sender.next_poll();
        if next.is_some_and(|next| timer.is_none_or(|timer| next < timer)) {
            self.sooner.notify_one();
        }
    }

    /// Sends what is due later, and checks the phase, for ever.
    pub(in crate::hub) async fn keep_time(&self, registry: &Registry, changes: &ViewerChanges) {
        loop {
            let next = {
                let mut outbox = self.outbox.lock();
                self.poll_outbox(&mut outbox);
                let check = self.now() + PHASE_CHECK;
                let next = outbox.sender.as_ref().and_then(Sender::next_poll);
                let next = next.map_or(check, |next| next.min(check));
                outbox.timer = Some(next);
                next
            };
            self.check_phase();
            self.renew();
            self.report_viewers(registry, changes);
            tokio::select! {
                () = sleep_until(self.began + next) => {}
                () = self.sooner.notified() => {}
            }
        }
    }

    /// Sends again what the log will delete, and later hubs must know.
    fn renew(&self) {
        let every = (self.config.renew_after, self.config.renew_after_bytes);
        let Some(session) = self.session() else { return };
        let Some((older_than, pending)) = self.renewals.lock().due(self.now(), every) else {
            return;
        };
        let hello = self.hello();
        let commands: Option<Vec<Command>> =
            self.look(|machine| machine.renewals(session, &hello, older_than).collect());
        for command in commands.unwrap_or_default() {
            let pending = pending.clone();
            if self.submit(&command, Box::new(move |_| drop(pending))).is_err() {
                return;
            }
        }
    }

    /// Sends the numbers of viewers at this hub to the other hubs.
    fn report_viewers(&self, registry: &Registry, changes: &ViewerChanges) {
        let Some(log) = self.outbox.lock().log.clone() else { return };
        let broadcasts = {
            let mut viewers = self.viewers.lock();
            let Some(viewers) = &mut *viewers else { return };
            for name in changes.take() {
                let channel = registry.get(&name);
                let count = channel.map_or(0, |channel| channel.local_subscribers());
                viewers.set(name.as_str(), count);
            }
            viewers.poll(self.now())
        };
        for broadcast in broadcasts {
            log.broadcast(broadcast);
        }
    }

    /// Notes a broadcast of another hub. Returns the numbers of viewers that have changed.
    pub(super) fn receive(&self, broadcast: &Bytes) -> Totals {
        let now = self.now();
        let machine = self.machine.lock();
        let Some(machine) = &*machine else { return Totals::new() };
        let last = machine.last().unwrap_or_default();
        // A report may come before the hello of its session.
        let is_counted = |session: SessionId| machine.is_live(session) || session.0 > last;
        let mut viewers = self.viewers.lock();
        let viewers = viewers.as_mut();
        viewers.map(|viewers| viewers.receive(broadcast, is_counted, now)).unwrap_or_default()
    }

    /// Returns the number of viewers of a channel at the other hubs.
    pub(in crate::hub) fn remote_viewers(&self, channel: &str) -> usize {
        self.viewers.lock().as_ref().map_or(0, |viewers| viewers.remote(channel))
    }

    /// Returns whether the numbers of viewers at the other hubs are recent.
    pub(super) fn knows_viewers(&self) -> bool {
        let own = self.session();
        let others: Vec<SessionId> = {
            let members = self.members.lock();
            members.by_session.keys().copied().filter(|other| Some(*other) != own).collect()
        };
        let viewers = self.viewers.lock();
        viewers.as_ref().is_some_and(|viewers| viewers.are_recent(others, self.now()))
    }

    /// Notes the sessions that a message has begun or ended. Returns the numbers of viewers that
    /// have changed.
    pub(super) fn note_sessions(&self, applied: &Applied) -> Totals {
        let own = self.session();
        let mut viewers = self.viewers.lock();
        viewers.as_mut().map(|viewers| viewers.note(applied, own)).unwrap_or_default()
    }

    fn hello(&self) -> Hello {
        Hello {
            level: LEVEL,
            nonce: fastrand::u64(..),
            replaces: None,
            node: (*self.config.node).into(),
            rules: self.rules.load(Ordering::Relaxed),
        }
    }

    /// Sets the digest of the rules for channels, and reports it to the other hubs.
    pub fn set_rules(&self, rules: u64) {
        if self.rules.swap(rules, Ordering::Relaxed) == rules {
            return;
        }
        let hello = self.hello();
        if let Some(sender) = &mut self.outbox.lock().sender {
            sender.describe(hello.node.clone(), rules);
        }
        if self.session().is_some() {
            self.propose(&Command::Hello(hello));
        }
    }

    /// Returns the maximum age of events that a channel may have.
    pub(in crate::hub) fn max_retention(&self) -> Duration {
        self.config.max_retention
    }

    /// Sets the phase of a hub that has caught up.
    fn check_phase(&self) {
        let (session, is_stale) = {
            let outbox = self.outbox.lock();
            let Some(sender) = &outbox.sender else { return };
            let silent = self.now().saturating_sub(outbox.heard.unwrap_or_default());
            (sender.session(), silent > self.config.stale_after)
        };
        let is_diverged = self.members.lock().contradicting.len() > 1;
        self.phase.send_if_modified(|phase| {
            let next = match (&*phase, session) {
                (Phase::Ended(_) | Phase::Diverged, _) => return false,
                _ if is_diverged => Phase::Diverged,
                (Phase::Joining, None) => Phase::Joining,
                _ if is_stale => Phase::Stale,
                (_, None) => Phase::Fenced,
                (_, Some(_)) => Phase::Live,
            };
            let is_new = *phase != next;
            *phase = next;
            is_new
        });
    }

    /// Forgets the log that was read.
    pub(in crate::hub) fn reset(&self) {
        *self.machine.lock() = None;
        *self.outbox.lock() = Outbox::default();
        *self.members.lock() = Members::default();
        *self.renewals.lock() = Renewals::default();
        *self.viewers.lock() = None;
        self.phase.send_replace(Phase::Connecting);
    }

    /// Begins with a log that was opened.
    pub(super) fn open(&self, log: &LogInfo) {
        let codec = &self.config.codec;
        let epoch = Text::from(&*log.epoch);
        *self.viewers.lock() = Some(Viewers::new(codec, &epoch));
        let machine = StateMachine::new(codec.clone(), epoch, log.lease);
        *self.machine.lock() = Some(machine);
        self.outbox.lock().max_message = log.max_message;
        self.phase.send_replace(Phase::CatchingUp { applied: 0 });
    }

    /// Begins a session: the log was read to its end.
    pub(super) fn join(&self) {
        if let Some(machine) = &mut *self.machine.lock() {
            machine.settle();
        }
        let hello = self.hello();
        let mut outbox = self.outbox.lock();
        let max_message = self.config.limits.max_message.min(outbox.max_message);
        let limits = Limits { max_message, ..self.config.limits };
        outbox.sender = Some(Sender::new(self.config.codec.clone(), hello, limits));
        outbox.heard = Some(self.now());
        self.phase.send_replace(Phase::Joining);
        self.poll_outbox(&mut outbox);
    }

    /// Applies a message to the state of the cluster.
    pub(super) fn apply(
        &self,
        message: fanfare_cluster::log::Message,
    ) -> Option<Result<Applied, fanfare_cluster::state_machine::ApplyError>> {
        let every = (self.config.renew_after, self.config.renew_after_bytes);
        let mut renewals = self.renewals.lock();
        renewals.note(self.now(), message.sequence, message.content.len(), every);
        drop(renewals);
        Some(self.machine.lock().as_mut()?.apply(&message))
    }

    /// Notes the members of the cluster.
    pub(super) fn note_members(&self, applied: &Applied) {
        for effect in &applied.effects {
            match effect {
                Effect::SessionBegan { session, node, rules } => {
                    let member = (node.as_str().into(), *rules);
                    self.members.lock().by_session.insert(*session, member);
                }
                Effect::SessionEnded { session } => {
                    let mut members = self.members.lock();
                    members.by_session.remove(session);
                    members.contradicting.retain(|other| other != session);
                }
                Effect::Diverged { session, window } => {
                    tracing::error!(session = session.0.0, window, "another hub has another state");
                    let mut members = self.members.lock();
                    if !members.contradicting.contains(session) {
                        members.contradicting.push(*session);
                    }
                }
                Effect::Channel { .. } | Effect::EpochBegan { .. } => {}
            }
        }
    }

    /// Reports the outcomes of own commands, when their effects are visible.
    pub(super) fn report(&self, applied: &Applied) {
        let (reports, has_begun) = {
            let mut outbox = self.outbox.lock();
            let now = self.now();
            let Some(sender) = &mut outbox.sender else { return };
            let before = sender.session();
            let reports = sender.applied(applied, now);
            let session = sender.session();
            if session == Some(applied.session) || session != before {
                outbox.heard = Some(now);
            }
            self.poll_outbox(&mut outbox);
            (reports, session.is_some() && session != before)
        };
        if has_begun {
            self.renew_holds();
        }
        for (ticket, outcome) in reports {
            ticket(outcome);
        }
        self.send_check();
        if !matches!(*self.phase.borrow(), Phase::Live) {
            self.check_phase();
        }
    }

    /// Sends the digest of a window of the log that is complete.
    fn send_check(&self) {
        let Some(Some(check)) = self.look(StateMachine::last_check) else { return };
        {
            let mut outbox = self.outbox.lock();
            let is_live = outbox.sender.as_ref().is_some_and(|sender| sender.session().is_some());
            if !is_live || outbox.check == Some(check) {
                return;
            }
            outbox.check = Some(check);
        }
        self.propose(&Command::Check(check));
    }

    pub(super) fn note_not_stored(
        &self,
        number: fanfare_cluster::log::SendNumber,
        reason: fanfare_cluster::log::NotStored,
    ) {
        let mut outbox = self.outbox.lock();
        let now = self.now();
        if let Some(sender) = &mut outbox.sender {
            sender.not_stored(number, reason, now);
        }
        self.poll_outbox(&mut outbox);
    }

    pub(super) fn note_progress(&self, applied: u64) {
        self.phase.send_if_modified(|phase| match phase {
            Phase::CatchingUp { applied: before } => {
                *before = applied;
                applied.is_multiple_of(1024)
            }
            _ => false,
        });
    }

    pub(super) fn end(&self, why: LogEnd) {
        self.phase.send_replace(Phase::Ended(why));
    }
}
