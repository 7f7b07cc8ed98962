//! Every metric of the hub, with one method per event. Labels have few values; a channel is never
//! one.

use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use prometheus::{
    Encoder, Gauge, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder,
};

use super::process::Process;
use crate::event::{ChannelState, GapReason};

/// The outcome of a successful publish or reload.
const OK: &str = "ok";

/// The outcome of a reload that was rejected.
const FAILED: &str = "failed";

/// The buckets of delivery latency, in seconds.
const LATENCIES: [f64; 16] = [
    5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0, 2.5,
    10.0,
];

/// Defines a struct with a field for each metric, and describes each once: kind, name, help; for
/// metrics with a label, the label and its first values; for histograms, the buckets.
macro_rules! families {
    (
        $(#[$about:meta])*
        struct $name:ident {
            $($field:ident: $kind:ident($metric:literal, $help:literal $(, $more:expr)*),)+
        }
    ) => {
        $(#[$about])*
        #[derive(Debug)]
        struct $name {
            $($field: family_type!($kind),)+
        }

        impl $name {
            fn new(make: &Maker<'_>) -> Self {
                Self { $($field: make.$kind($metric, $help $(, $more)*),)+ }
            }
        }
    };
}

macro_rules! family_type {
    (counter) => {
        IntCounter
    };
    (counters) => {
        IntCounterVec
    };
    (gauge) => {
        IntGauge
    };
    (gauges) => {
        IntGaugeVec
    };
    (seconds_gauge) => {
        Gauge
    };
    (histogram) => {
        Histogram
    };
}

families! {
    /// Every metric but those of the process.
    struct Families {
        publishes: counters("publishes_total", "Publish requests, by outcome.", "outcome", &[OK]),
        events_published: counter("events_published_total", "Events appended."),
        bytes_published: counter("published_bytes_total", "Bytes of event data appended."),
        events_delivered: counter(
            "events_delivered_total", "Events written, summed over subscribers."
        ),
        bytes_delivered: counter(
            "delivered_bytes_total", "Bytes of events written, summed over subscribers."
        ),
        subscriptions: gauge("subscriptions", "Subscriptions now."),
        subscriptions_started: counter("subscriptions_started_total", "Subscriptions begun."),
        subscriptions_ended: counters(
            "subscriptions_ended_total", "Subscriptions ended, by reason.", "reason", &[]
        ),
        gaps: counters(
            "gaps_total", "fanfare.gap events sent, by reason.",
            "reason", &GapReason::ALL.map(GapReason::as_str)
        ),
        replays: counter("replays_total", "Subscriptions begun with a Last-Event-ID."),
        lag_events: histogram(
            "subscription_lag_events", "Lag of subscriptions in events, sampled every 4 s.",
            &[0.0, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5]
        ),
        delivery_latency: histogram(
            "delivery_latency_seconds",
            "From append to the write of a live subscriber's batch, of its oldest event.",
            &LATENCIES
        ),
        channels: gauge("channels", "Channels in memory."),
        retained_bytes: gauge("retained_bytes", "Memory of the logs of all channels."),
        unwritten_bytes: gauge(
            "unwritten_bytes", "Bytes in HTTP bodies that subscribers do not take."
        ),
        events_evicted: counters(
            "events_evicted_total", "Events evicted, by what evicted them.",
            "reason", &["events", "bytes", "age", "memory", "idle", "store"]
        ),
        connections: gauge("connections", "Open connections."),
        auth_refused: counters("auth_refused_total", "Refused, by reason.", "reason", &[]),
        limit_hits: counters(
            "limit_hits_total", "Requests that met a limit.", "limit", &LIMITS
        ),
        transport_errors: counters(
            "transport_errors_total",
            "Connections and headers of proxies that could not be understood, by reason.",
            "reason", &TRANSPORT_ERRORS
        ),
        hooks: counters(
            "hooks_total", "Hooks to be called, by outcome.",
            "outcome", &["delivered", "failed", "dropped"]
        ),
        hook_attempts: counter("hook_attempts_total", "Calls of hooks, retries included."),
        channels_ended: counters(
            "channels_ended_total", "Channels that have ended, by the state in which they did.",
            "state", &ChannelState::ENDS.map(ChannelState::as_str)
        ),
        stops: counter("stops_total", "Channels that were stopped before they ended."),
        producers: gauge("producers", "Producers that stream a generation now."),
        ready: gauge("ready", "Whether /readyz answers 200."),
        reloads: counters(
            "reloads_total", "Times that the configuration was read again, by outcome.",
            "outcome", &[OK, FAILED]
        ),
        last_reload: gauges(
            "last_reload_timestamp_seconds",
            "When the configuration was last read again, by outcome; 0 for never.",
            "outcome", &[OK, FAILED]
        ),
        store_bytes: gauge("store_bytes", "Bytes of the store's files with events."),
        store_written: counter(
            "store_written_bytes_total", "Bytes written to the store's journals."
        ),
        store_read: counter(
            "store_read_bytes_total", "Bytes read from the store for those who replay."
        ),
        store_syncs: counter("store_syncs_total", "Syncs of the store's journals."),
        store_sync_latency: histogram(
            "store_sync_seconds", "How long a sync of the store's journal took.",
            &[1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1.0]
        ),
        store_refused: counters(
            "store_refused_total", "Records that the store has refused, by reason.",
            "reason", &["full", "failed"]
        ),
        store_corrupt_blocks: counter(
            "store_corrupt_blocks_total", "Blocks on disk that could not be read."
        ),
        cluster_lag: seconds_gauge(
            "cluster_lag_seconds",
            "Age of the last message of this hub that came back through the shared log."
        ),
        cluster_unread: gauge(
            "cluster_unread_messages", "Messages of the shared log that this hub has not read."
        ),
        cluster_unsent: gauge(
            "cluster_unsent_bytes", "Bytes of commands that the shared log does not have."
        ),
        cluster_nodes: gauges(
            "cluster_nodes", "Hubs of the cluster, by whether their settings for channels agree.",
            "agrees", &["yes", "no"]
        ),
        cluster_connections: counter(
            "cluster_connections_total", "Connections to the servers of the shared log."
        ),
        cluster_holes: counters(
            "cluster_holes_total", "Messages that were missed at first, by how they were read.",
            "filled_by", &["request", "consumer"]
        ),
        cluster_not_stored: counter(
            "cluster_not_stored_total", "Messages of this hub that the shared log has not stored."
        ),
    }
}

/// The state of a hub in its cluster. Counts are those since the start.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClusterState {
    /// Age of the last message of this hub that came back.
    pub lag: Duration,
    /// Messages that are not read.
    pub unread: u64,
    /// Bytes that wait for the log.
    pub unsent: usize,
    /// Hubs with the same settings for channels, this one included.
    pub agreeing: usize,
    /// Hubs with other settings for channels.
    pub disagreeing: usize,
    /// Connections that were made.
    pub connections: u64,
    /// Missed messages that single requests have read.
    pub filled_by_request: u64,
    /// Messages that a consumer has read.
    pub filled_by_consumer: u64,
    /// Messages that the log has not stored.
    pub not_stored: u64,
}

/// The metrics of one hub. Each hub has its own, so that several can live in one process.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    families: Families,
    /// The counter of the label `ok`, kept here because a look-up takes a lock that all threads
    /// share.
    publishes_ok: IntCounter,
    /// Registered only once there is a certificate: zero would mean one that expired in 1970.
    certificate_expiry: OnceLock<IntGauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Registers all metrics, at zero, with those of the process.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        let make = Maker(&registry);
        make.process();
        make.build_info();
        let families = Families::new(&make);
        let publishes_ok = families.publishes.with_label_values(&[OK]);
        Self { registry, families, publishes_ok, certificate_expiry: OnceLock::new() }
    }

    /// Registers the reasons for which subscriptions end, each at zero.
    pub fn declare_ends<'a>(&self, reasons: impl IntoIterator<Item = &'a str>) {
        at_zero(&self.families.subscriptions_ended, reasons);
    }

    /// Registers the reasons for which requests are refused, each at zero.
    pub fn declare_refusals<'a>(&self, reasons: impl IntoIterator<Item = &'a str>) {
        at_zero(&self.families.auth_refused, reasons);
    }

    /// Counts a request that was refused for this reason.
    pub fn refused(&self, reason: &str) {
        self.families.auth_refused.with_label_values(&[reason]).inc();
    }

    /// Counts a publish request that succeeded, or that failed with a problem of this code.
    pub fn publish_ended(&self, problem: Option<&str>) {
        match problem {
            None => self.publishes_ok.inc(),
            Some(code) => self.families.publishes.with_label_values(&[code]).inc(),
        }
    }

    /// Counts appended events, and the bytes of their data.
    pub fn published(&self, events: u64, bytes: u64) {
        self.families.events_published.inc_by(events);
        self.families.bytes_published.inc_by(bytes);
    }

    /// Counts events that were passed to one subscriber's connection.
    pub fn delivered(&self, events: u64, bytes: u64) {
        self.families.events_delivered.inc_by(events);
        self.families.bytes_delivered.inc_by(bytes);
    }

    /// Observes the time from the append of a batch's oldest event to its delivery to a live
    /// subscriber.
    pub fn delivery_took(&self, latency: Duration) {
        self.families.delivery_latency.observe(latency.as_secs_f64());
    }

    /// Counts a subscription that began, with an id to resume from or without.
    pub fn subscription_started(&self, resumed: bool) {
        self.families.subscriptions.inc();
        self.families.subscriptions_started.inc();
        if resumed {
            self.families.replays.inc();
        }
    }

    /// Counts a subscription that ended for this reason.
    pub fn subscription_ended(&self, reason: &str) {
        self.families.subscriptions.dec();
        self.families.subscriptions_ended.with_label_values(&[reason]).inc();
    }

    /// Counts a gap that was sent for this reason.
    pub fn gap(&self, reason: &str) {
        self.families.gaps.with_label_values(&[reason]).inc();
    }

    /// Observes the lag of one subscription, in events.
    pub fn lag_seen(&self, events: u64) {
        self.families.lag_events.observe(events as f64);
    }

    /// Observes that this number of subscriptions had no lag.
    pub fn no_lag_seen(&self, subscriptions: usize) {
        let seen = self.families.lag_events.local();
        for _ in 0..subscriptions {
            seen.observe(0.0);
        }
        seen.flush();
    }

    /// Counts the end of a channel; `stopped` is whether a viewer stopped it.
    pub fn channel_ended(&self, state: ChannelState, stopped: bool) {
        self.families.channels_ended.with_label_values(&[state.as_str()]).inc();
        if stopped {
            self.families.stops.inc();
        }
    }

    /// Counts a producer that began to stream a generation.
    pub fn producer_came(&self) {
        self.families.producers.inc();
    }

    /// Counts a producer that disconnected.
    pub fn producer_left(&self) {
        self.families.producers.dec();
    }

    /// Sets whether the hub accepts new work.
    pub fn ready(&self, ready: bool) {
        self.families.ready.set(ready.into());
    }

    /// Sets the state of the hub in its cluster.
    pub fn cluster(&self, state: ClusterState) {
        let families = &self.families;
        let count = |bytes: usize| i64::try_from(bytes).unwrap_or(i64::MAX);
        families.cluster_lag.set(state.lag.as_secs_f64());
        families.cluster_unread.set(i64::try_from(state.unread).unwrap_or(i64::MAX));
        families.cluster_unsent.set(count(state.unsent));
        families.cluster_nodes.with_label_values(&["yes"]).set(count(state.agreeing));
        families.cluster_nodes.with_label_values(&["no"]).set(count(state.disagreeing));
        let holes = |filled_by| families.cluster_holes.with_label_values(&[filled_by]);
        raise(&families.cluster_connections, state.connections);
        raise(&holes("request"), state.filled_by_request);
        raise(&holes("consumer"), state.filled_by_consumer);
        raise(&families.cluster_not_stored, state.not_stored);
    }

    /// Counts a reload of the configuration, successful or not.
    pub fn reloaded(&self, went_well: bool) {
        let outcome = if went_well { OK } else { FAILED };
        self.families.reloads.with_label_values(&[outcome]).inc();
        self.families.last_reload.with_label_values(&[outcome]).set(unix(SystemTime::now()));
    }

    /// Sets the expiry time of the certificate that new connections get.
    pub fn certificate_expires(&self, at: SystemTime) {
        let help = "When the certificate of the public listener expires.";
        let gauge = || Maker(&self.registry).gauge("certificate_expiry_timestamp_seconds", help);
        self.certificate_expiry.get_or_init(gauge).set(unix(at));
    }

    /// Counts a channel that was created or loaded.
    pub fn channel_created(&self) {
        self.families.channels.inc();
    }

    /// Counts a channel that was removed from memory.
    pub fn channel_removed(&self) {
        self.families.channels.dec();
    }

    /// Sets the bytes that the logs hold in memory.
    pub fn retained(&self, bytes: usize) {
        self.families.retained_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Sets the bytes in subscribers' HTTP bodies that clients have not read.
    pub fn unwritten(&self, bytes: usize) {
        self.families.unwritten_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Counts events that retention evicted for this reason.
    pub fn evicted(&self, reason: &str, events: u64) {
        self.families.events_evicted.with_label_values(&[reason]).inc_by(events);
    }

    /// Counts an accepted connection.
    pub fn connection_opened(&self) {
        self.families.connections.inc();
    }

    /// Counts a closed connection.
    pub fn connection_closed(&self) {
        self.families.connections.dec();
    }

    /// Counts a client that reached a limit; the label is one of `LIMITS`.
    pub fn limit_hit(&self, limit: &str) {
        self.families.limit_hits.with_label_values(&[limit]).inc();
    }

    /// Counts a connection or a proxy header that is invalid; the reason is one of
    /// `TRANSPORT_ERRORS`.
    pub fn transport_error(&self, reason: &str) {
        self.families.transport_errors.with_label_values(&[reason]).inc();
    }

    /// Counts an attempt to call a hook.
    pub fn hook_attempted(&self) {
        self.families.hook_attempts.inc();
    }

    /// Counts a delivered hook call.
    pub fn hook_delivered(&self) {
        self.families.hooks.with_label_values(&["delivered"]).inc();
    }

    /// Counts a hook call that was given up.
    pub fn hook_failed(&self) {
        self.families.hooks.with_label_values(&["failed"]).inc();
    }

    /// Counts a hook call that was dropped because the queue was full.
    pub fn hook_dropped(&self) {
        self.families.hooks.with_label_values(&["dropped"]).inc();
    }

    /// Sets the bytes of the store's files with events.
    pub fn store_holds(&self, bytes: u64) {
        self.families.store_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Counts bytes that were written to a journal.
    pub fn store_wrote(&self, bytes: u64) {
        self.families.store_written.inc_by(bytes);
    }

    /// Counts bytes that were read for replays.
    pub fn store_read(&self, bytes: u64) {
        self.families.store_read.inc_by(bytes);
    }

    /// Observes the duration of a sync of the journal.
    pub fn store_synced(&self, took: Duration) {
        self.families.store_syncs.inc();
        self.families.store_sync_latency.observe(took.as_secs_f64());
    }

    /// Counts a record that was not stored for this reason.
    pub fn store_refused(&self, reason: &str) {
        self.families.store_refused.with_label_values(&[reason]).inc();
    }

    /// Counts a block on disk that could not be read.
    pub fn store_block_broken(&self) {
        self.families.store_corrupt_blocks.inc();
    }
}

/// Encodes all metrics in the Prometheus text format, version 0.0.4.
#[must_use]
pub fn encode(metrics: &Metrics) -> Vec<u8> {
    let mut text = Vec::new();
    // Writing to memory cannot fail, and a family that the encoder refuses is left out.
    let _ = TextEncoder::new().encode(&metrics.registry.gather(), &mut text);
    text
}

/// The limits that are counted when a client reaches them, by the names of their settings.
const LIMITS: [&str; 31] = [
    "accept",
    "channels.max_channels",
    "heard_bytes",
    "matched_channels",
    "publish.idle_timeout",
    "publish.max_event_bytes",
    "publish.max_idempotency_keys",
    "publish.max_streams",
    "publish.max_unfinished",
    "quotas.address_bytes",
    "quotas.address_connections",
    "quotas.address_events",
    "quotas.address_publishes",
    "quotas.address_refusals",
    "quotas.bytes",
    "quotas.events",
    "quotas.max_channels",
    "quotas.max_retained",
    "quotas.max_subscriptions",
    "quotas.publishes",
    "quotas.signals",
    "quotas.tokens",
    "server.body_timeout",
    "server.header_timeout",
    "server.max_connections",
    "server.max_header_bytes",
    "subscribers.max_channels",
    "subscribers.max_lag_bytes",
    "subscribers.max_lag_events",
    "subscribers.max_unwritten",
    "subscribers.write_timeout",
];

/// Failures of connections: a TLS handshake; a PROXY header; a connection that must begin with one
/// but comes from an untrusted peer; a header with the client's address that is invalid.
const TRANSPORT_ERRORS: [&str; 4] =
    ["forwarded", "proxy_header", "tls_handshake", "untrusted_proxy"];

/// Registers the label values: a family without a child is not exported, and dashboards need it
/// before the first count.
fn at_zero<'a>(family: &IntCounterVec, values: impl IntoIterator<Item = &'a str>) {
    for value in values {
        family.with_label_values(&[value]);
    }
}

/// Raises a counter to this count.
fn raise(counter: &IntCounter, count: u64) {
    counter.inc_by(count.saturating_sub(counter.get()));
}

/// Returns seconds since 1970.
fn unix(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// Creates metrics with the hub's prefix, and registers them.
struct Maker<'a>(&'a Registry);

#[expect(
    clippy::expect_used,
    reason = "names and buckets are the constants above; a test makes them all"
)]
impl Maker<'_> {
    fn register<M: prometheus::core::Collector + Clone + 'static>(&self, metric: M) -> M {
        self.0.register(Box::new(metric.clone())).expect("each name is registered once");
        metric
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register(IntCounter::with_opts(opts(name, help)).expect("a valid name"))
    }

    fn counters(&self, name: &str, help: &str, label: &str, values: &[&str]) -> IntCounterVec {
        let family = IntCounterVec::new(opts(name, help), &[label]).expect("a valid name");
        at_zero(&family, values.iter().copied());
        self.register(family)
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register(IntGauge::with_opts(opts(name, help)).expect("a valid name"))
    }

    fn gauges(&self, name: &str, help: &str, label: &str, values: &[&str]) -> IntGaugeVec {
        let family = IntGaugeVec::new(opts(name, help), &[label]).expect("a valid name");
        for value in values {
            family.with_label_values(&[*value]);
        }
        self.register(family)
    }

    fn seconds_gauge(&self, name: &str, help: &str) -> Gauge {
        self.register(Gauge::with_opts(opts(name, help)).expect("a valid name"))
    }

    /// Registers the metric with version and platform of this binary.
    fn build_info(&self) {
        let opts = opts("build_info", "What the hub is: always 1.")
            .const_label("version", env!("CARGO_PKG_VERSION"))
            .const_label("os", std::env::consts::OS)
            .const_label("arch", std::env::consts::ARCH);
        self.register(IntGauge::with_opts(opts).expect("a valid name")).set(1);
    }

    fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let opts = HistogramOpts::from(opts(name, help)).buckets(buckets.to_vec());
        self.register(Histogram::with_opts(opts).expect("sorted buckets"))
    }

    fn process(&self) {
        self.0.register(Box::new(Process::new())).expect("registered once");
    }
}

fn opts(name: &str, help: &str) -> Opts {
    Opts::new(format!("fanfare_{name}"), help)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_can_be_made_and_encoded() {
        let metrics = Metrics::new();
        metrics.subscription_ended("closed");
        let text = String::from_utf8(encode(&metrics)).unwrap();
        assert!(text.contains("fanfare_subscriptions_ended_total{reason=\"closed\"} 1"));
        assert!(text.contains("process_open_fds"));
    }
}
