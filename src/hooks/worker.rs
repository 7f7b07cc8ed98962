//! The worker of a hook: a queue, a few concurrent calls, and retries.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::Full;
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::config::Hook;
use super::message::HookMessage;
use super::secret::HookSecret;
use crate::channel::ChannelName;
use crate::clock::now;
use crate::limits::{MAX_HOOK_CALLS, MAX_HOOK_QUEUE_BYTES, MAX_QUEUED_HOOKS};
use crate::outbound::{CallError, Client, read_away};
use crate::shutdown::Shutdown;
use crate::telemetry::Metrics;

/// The pause before the second attempt; each further one is twice as long, up to `LONGEST_PAUSE`.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause: a receiver that has recovered should be called soon.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Random spread of pauses, so that calls that failed together are not retried together.
const JITTER: f64 = 0.25;

/// Unit in which the memory of a queue is counted, in bytes.
const ROOM_UNIT: usize = 1024;

const USER_AGENT: &str = concat!("fanfare/", env!("CARGO_PKG_VERSION"));

/// Delivers the messages of one hook.
pub(super) struct Worker {
    hook: Hook,
    secret: Option<HookSecret>,
    client: Client,
    metrics: Arc<Metrics>,
    shutdown: Shutdown,
    queue: mpsc::Sender<Job>,
    /// Memory permits for messages that are not delivered yet.
    room: Arc<Semaphore>,
    /// Notified when the hook is removed: no more messages follow.
    retired: Notify,
}

/// A message for one hook, with its memory permit.
struct Job {
    message: Arc<HookMessage>,
    _room: OwnedSemaphorePermit,
}

impl Worker {
    /// Starts a worker on this runtime, which runs until the hub stops or the hook is removed.
    pub(super) fn start(
        hook: (Hook, Option<HookSecret>),
        client: Client,
        metrics: Arc<Metrics>,
        shutdown: Shutdown,
        runtime: &Handle,
    ) -> Arc<Self> {
        let (worker, jobs) = Self::new(hook, client, metrics, shutdown);
        worker.shutdown.spawn_on(worker.clone().run(jobs), runtime);
        worker
    }

    fn new(
        (hook, secret): (Hook, Option<HookSecret>),
        client: Client,
        metrics: Arc<Metrics>,
        shutdown: Shutdown,
    ) -> (Arc<Self>, mpsc::Receiver<Job>) {
        let (queue, jobs) = mpsc::channel(MAX_QUEUED_HOOKS);
        let room = Arc::new(Semaphore::new(MAX_HOOK_QUEUE_BYTES / ROOM_UNIT));
        let retired = Notify::new();
        (Arc::new(Self { hook, secret, client, metrics, shutdown, queue, room, retired }), jobs)
    }

    /// Returns whether this is the worker of such a hook.
    pub(super) fn is_for(&self, hook: &Hook, secret: Option<&HookSecret>) -> bool {
        self.hook == *hook && self.secret.as_ref() == secret
    }

    /// Marks the hook as removed: the worker delivers what is queued, and ends.
    pub(super) fn retire(&self) {
        self.retired.notify_one();
    }

    /// Returns whether the hook is called when this channel ends.
    pub(super) fn wants(&self, channel: &ChannelName) -> bool {
        self.hook.wants(channel)
    }

    /// Returns whether no message is queued or being delivered.
    pub(super) fn is_idle(&self) -> bool {
        self.room.available_permits() == MAX_HOOK_QUEUE_BYTES / ROOM_UNIT
    }

    /// Queues a message, if the memory limit allows it.
    pub(super) fn take(&self, message: Arc<HookMessage>) {
        let Some(room) = self.reserve(&message) else {
            return self.metrics.hook_dropped();
        };
        match self.queue.try_send(Job { message, _room: room }) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => self.metrics.hook_dropped(),
            Err(TrySendError::Closed(job)) => self.give_up(&job.message, 0, &CallError::Leaving),
        }
    }

    /// Takes the memory permit of a message. One that exceeds the whole limit takes all of it.
    fn reserve(&self, message: &HookMessage) -> Option<OwnedSemaphorePermit> {
        let units = (message.body.len() / ROOM_UNIT + 1).min(MAX_HOOK_QUEUE_BYTES / ROOM_UNIT);
        self.room.clone().try_acquire_many_owned(u32::try_from(units).ok()?).ok()
    }

    async fn run(self: Arc<Self>, mut jobs: mpsc::Receiver<Job>) {
        let mut calls = JoinSet::new();
        while !(jobs.is_closed() && jobs.is_empty() && calls.is_empty()) {
            tokio::select! {
                Some(job) = jobs.recv(), if calls.len() < MAX_HOOK_CALLS => {
                    calls.spawn(self.clone().deliver(job));
                }
                Some(_) = calls.join_next() => {}
                () = self.retired.notified() => jobs.close(),
                () = self.shutdown.stopping() => break,
            }
        }
        // Running calls see the shutdown, too, and end by themselves.
        while calls.join_next().await.is_some() {}
        jobs.close();
        while let Ok(job) = jobs.try_recv() {
            self.give_up(&job.message, 0, &CallError::Leaving);
        }
    }

    /// Calls the receiver until it succeeds or gives up. Once the hub drains, one last attempt is
    /// made at once. The job and its memory permit are held until then.
    async fn deliver(self: Arc<Self>, job: Job) {
        let message = &*job.message;
        for attempt in 1.. {
            let last = attempt >= self.hook.attempts || self.shutdown.is_draining();
            match self.attempt(message).await {
                Ok(()) => return self.metrics.hook_delivered(),
                Err(error) if last || is_final(&error) => {
                    return self.give_up(message, attempt, &error);
                }
                Err(error) => {
                    let host = self.hook.url.host();
                    let channel = message.channel.as_str();
                    tracing::debug!(host, channel, attempt, %error, "a hook is tried again");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause_after(attempt)) => {}
                () = self.shutdown.draining() => {}
            }
        }
    }

    async fn attempt(&self, message: &HookMessage) -> Result<(), CallError> {
        self.metrics.hook_attempted();
        let request = self.request(message)?;
        let deadline = Instant::now() + self.hook.timeout;
        let response = tokio::select! {
            response = self.client.send(request, deadline) => response?,
            () = self.shutdown.stopping() => return Err(CallError::Leaving),
        };
        let (head, body) = response.into_parts();
        tokio::select! {
            () = read_away(body, deadline) => {}
            () = self.shutdown.stopping() => {}
        }
        if head.status.is_success() { Ok(()) } else { Err(CallError::Status(head.status)) }
    }

    /// Builds a request with the current time: receivers refuse old signatures.
    fn request(&self, message: &HookMessage) -> Result<Request<Full<Bytes>>, http::Error> {
        let timestamp = (now() / 1_000_000).to_string();
        let mut request = Request::post(self.hook.url.uri())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, USER_AGENT)
            .header("webhook-id", &message.id)
            .header("webhook-timestamp", &timestamp);
        if let Some(secret) = &self.secret {
            let signature = secret.sign(&message.id, &timestamp, &message.body);
            request = request.header("webhook-signature", signature);
        }
        request.body(Full::new(message.body.clone()))
    }

    fn give_up(&self, message: &HookMessage, attempts: u32, error: &CallError) {
        let host = self.hook.url.host();
        let channel = message.channel.as_str();
        let pattern = self.hook.pattern.as_str();
        let id = message.id.as_str();
        tracing::warn!(pattern, host, channel, id, attempts, %error, "a hook was given up");
        self.metrics.hook_failed();
    }
}

/// Returns whether a retry is useless: the receiver is gone for good, or the hub is stopping.
fn is_final(error: &CallError) -> bool {
    matches!(error, CallError::Status(StatusCode::GONE) | CallError::Leaving)
}

/// Returns the pause after this number of attempts.
fn pause_after(attempts: u32) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << attempts.saturating_sub(1).min(16));
    let spread = 1.0 - JITTER + 2.0 * JITTER * fastrand::f64();
    doubled.min(LONGEST_PAUSE).mul_f64(spread)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::ChannelState;
    use crate::hub::Ended;
    use crate::telemetry::encode;

    /// A worker that is not running, so that its queue fills up.
    fn idle_worker() -> (Arc<Worker>, mpsc::Receiver<Job>, Arc<Metrics>) {
        let hook = toml::from_str("pattern = \"**\"\nurl = \"http://127.0.0.1:9/\"").unwrap();
        let metrics = Arc::new(Metrics::new());
        let client = Client::new(false).unwrap();
        let hook = (hook, None);
        let (worker, jobs) = Worker::new(hook, client, metrics.clone(), Shutdown::default());
        (worker, jobs, metrics)
    }

    fn message(bytes: usize) -> Arc<HookMessage> {
        Arc::new(HookMessage::new(&Ended {
            channel: "c".parse().unwrap(),
            state: ChannelState::Complete,
            reason: None,
            format: None,
            text: Some("x".repeat(bytes)),
            usage: None,
            incomplete: false,
            events: 1,
            duration: Duration::ZERO,
            first_id: None,
            last_id: None,
            time: 0,
        }))
    }

    fn count(metrics: &Metrics, outcome: &str) -> usize {
        let text = String::from_utf8(encode(metrics)).unwrap();
        let metric = format!("fanfare_hooks_total{{outcome=\"{outcome}\"}} ");
        let value = text.lines().find_map(|line| line.strip_prefix(metric.as_str()));
        value.unwrap().parse().unwrap()
    }

    #[test]
    fn what_does_not_fit_into_the_queue_is_dropped_and_counted() {
        let (worker, mut jobs, metrics) = idle_worker();
        for _ in 0..MAX_QUEUED_HOOKS + 3 {
            worker.take(message(1));
        }
        assert_eq!(count(&metrics, "dropped"), 3);
        assert!(!worker.is_idle());
        while jobs.try_recv().is_ok() {}
        assert!(worker.is_idle(), "room is given back");
    }

    #[test]
    fn large_messages_fill_the_queue_sooner_and_the_largest_still_finds_room() {
        let (worker, mut jobs, metrics) = idle_worker();
        let quarter = message(MAX_HOOK_QUEUE_BYTES / 4);
        for _ in 0..4 {
            worker.take(quarter.clone());
        }
        assert_eq!(count(&metrics, "dropped"), 1, "each has a document around its text");
        while jobs.try_recv().is_ok() {}
        worker.take(message(MAX_HOOK_QUEUE_BYTES + 1));
        assert!(jobs.try_recv().is_ok());
    }

    #[tokio::test]
    async fn what_is_queued_when_the_hub_stops_is_counted_as_failed() {
        let (worker, jobs, metrics) = idle_worker();
        for _ in 0..3 {
            worker.take(message(1));
        }
        worker.shutdown.stop();
        worker.clone().run(jobs).await;
        worker.take(message(1));
        assert_eq!(count(&metrics, "failed"), 4);
        assert!(worker.is_idle());
    }

    #[test]
    fn pauses_grow_up_to_the_longest_and_are_spread() {
        for (attempts, seconds) in [(1, 1.0), (2, 2.0), (3, 4.0), (4, 8.0), (7, 60.0), (99, 60.0)] {
            for _ in 0..100 {
                let pause = pause_after(attempts).as_secs_f64();
                assert!((0.75 * seconds..=1.25 * seconds).contains(&pause), "{attempts}: {pause}");
            }
        }
        assert_ne!(pause_after(5), pause_after(5));
    }
}
