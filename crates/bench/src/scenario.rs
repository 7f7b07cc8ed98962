//! The scenarios: when subscribers connect, what is published, and which interval is measured.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::thread::JoinHandle;

use anyhow::{Context as _, bail};

use super::clock::{self, MILLISECOND, SECOND};
use super::plan::{Plan, Scenario};
use super::probe;
use super::process::{self, Usage};
use super::progress::BenchProgress;
use super::publishers::{self, Mode, Press, PublishersOutcome};
use super::report::{Connections, ProcessFigures, Report, ServerFigures};
use super::schedule::Schedule;
use super::stats::Stats;
use super::subscribers::{self, Fleet};
use super::template::From;

/// The time without a delivery after which the missing ones count as lost.
const DELIVERY_PATIENCE: u64 = 3 * SECOND;

/// The time limit for the response to a connection attempt.
const OPENING_PATIENCE: u64 = 10 * SECOND;

/// The delay between the last response and the first event, for servers that respond first and
/// subscribe then.
const SETTLING: u64 = 100 * MILLISECOND;

/// The minimum time that an overloaded server gets to process its backlog.
const DRAINING: u64 = 10 * SECOND;

/// The time limit for publishing a history.
const HISTORY_PATIENCE: u64 = 300 * SECOND;

/// Events of each channel before the connections of a storm are cut, so that there is an id to
/// resume from.
const BEFORE_STORM: u32 = 10;

/// Runs the plan.
pub(crate) fn run(plan: &Plan) -> anyhow::Result<Report> {
    let mut stage = ScenarioStage::new(plan)?;
    match plan.scenario {
        Scenario::Fanout => stage.fanout()?,
        Scenario::Idle | Scenario::Connect => stage.idle()?,
        Scenario::Replay => stage.replay()?,
        Scenario::Storm => stage.storm()?,
        Scenario::Ingest => stage.ingest()?,
    }
    stage.finish()
}

/// The counters at one instant.
#[derive(Clone, Debug)]
struct StatsSnapshot {
    at: u64,
    delivered: u64,
    published: u64,
    server: Option<Vec<Usage>>,
    own_cpu_seconds: f64,
}

/// A running publisher thread.
#[derive(Debug)]
struct Publishing {
    progress: Arc<publishers::PublishProgress>,
    schedule: Schedule,
    thread: JoinHandle<io::Result<PublishersOutcome>>,
}

impl Publishing {
    fn join(self) -> anyhow::Result<PublishersOutcome> {
        let joined = self.thread.join().map_err(|_| anyhow::anyhow!("the publisher died"))?;
        joined.context("the publishers' loop failed")
    }
}

/// The state of one run.
#[derive(Debug)]
struct ScenarioStage<'a> {
    plan: &'a Plan,
    report: Report,
    progress: BenchProgress,
    before: Option<Vec<Usage>>,
}

impl<'a> ScenarioStage<'a> {
    fn new(plan: &'a Plan) -> anyhow::Result<Self> {
        let before = process::usages(&plan.processes);
        probe::create(&plan.template, &plan.channels)?;
        let report = Report {
            scenario: plan.scenario.name(),
            template: plan.template_name.clone(),
            channels: plan.channels.len() as u64,
            subscribers: plan.subscribers as u64,
            rate: plan.rate,
            size: plan.size as u64,
            publish: if plan.mode == Mode::Post { "post" } else { "stream" }.into(),
            duration_s: seconds(plan.duration),
            warmup_s: seconds(plan.warmup),
            ..Report::default()
        };
        Ok(Self { plan, report, progress: BenchProgress::new(plan.quiet), before })
    }

    /// Publishes paced events to subscribers that are all connected.
    fn fanout(&mut self) -> anyhow::Result<()> {
        let fleet = self.assemble(self.fleet_spec(&From::Now))?;
        let rate = self.plan.rate.unwrap_or(1.0);
        let total = (seconds(self.plan.warmup + self.plan.duration) * rate).round() as u64;
        let start = clock::now() + SETTLING;
        let channels = self.channels();
        let lanes = self.lanes();
        let schedule = Schedule::paced(start, rate, total, channels, lanes);
        self.measure(Some(fleet), schedule)
    }

    /// Publishes, and measures after the warm-up.
    fn measure(&mut self, fleet: Option<Fleet>, schedule: Schedule) -> anyhow::Result<()> {
        let measure_from = schedule.start + self.plan.warmup;
        let end = measure_from + self.plan.duration;
        let halt_at =
            if schedule.is_paced() { end + self.plan.duration.max(DRAINING) } else { end };
        if let Some(fleet) = &fleet {
            fleet.shared.measure_from.store(measure_from, Relaxed);
        }
        let publishing = self.publish(schedule, 0, measure_from, halt_at)?;
        self.wait(&publishing, fleet.as_ref(), measure_from);
        let first = self.snapshot(&publishing, fleet.as_ref());
        self.wait(&publishing, fleet.as_ref(), end);
        let last = self.snapshot(&publishing, fleet.as_ref());
        self.wait(&publishing, fleet.as_ref(), u64::MAX);
        let outcome = publishing.join()?;
        self.report_publishing(&outcome, schedule);
        self.report_rates(&first, &last);
        if let Some(fleet) = fleet {
            self.await_deliveries(&fleet, &outcome);
            let stats = self.dismiss(fleet)?;
            self.account(&stats, &outcome.acknowledged);
            self.report_times(&stats);
            if schedule.is_paced() {
                let completions = stats.completions.times(&schedule, measure_from);
                self.report.completion_us = completions.quantiles(1_000);
            }
        }
        Ok(())
    }

    /// Holds idle subscribers.
    fn idle(&mut self) -> anyhow::Result<()> {
        let fleet = self.assemble(self.fleet_spec(&From::Now))?;
        self.report.per_second = Some(self.report.connections.per_second);
        let mut first = self.before.clone();
        if self.plan.scenario == Scenario::Idle {
            first = self.usage();
            let end = clock::now() + self.plan.duration;
            while clock::now() < end {
                self.progress.tell(|| format!("{} subscribers, idle", fleet.settled()));
                clock::sleep_until((clock::now() + 100 * MILLISECOND).min(end));
            }
        }
        let last = self.usage();
        self.report_server(first.as_deref(), last.as_deref(), 0);
        self.dismiss(fleet)?;
        Ok(())
    }

    /// Publishes a history, then connects all subscribers at once.
    fn replay(&mut self) -> anyhow::Result<()> {
        let history = self.plan.history;
        let outcome = self.publish_all(0, history)?;
        self.before = self.usage();
        let fleet = Fleet::launch(subscribers::SubscribersSpec {
            caught_up_at: Some(history),
            ..self.fleet_spec(&From::Earliest)
        })?;
        let stats = self.catch_up(fleet, &outcome.acknowledged)?;
        self.report.catch_up_ms = stats.catch_up.quantiles(MILLISECOND);
        Ok(())
    }

    /// Cuts all connections, publishes meanwhile, and reconnects all subscribers at once.
    fn storm(&mut self) -> anyhow::Result<()> {
        let spec = subscribers::SubscribersSpec { watch_ids: true, ..self.fleet_spec(&From::Now) };
        let fleet = self.assemble(spec)?;
        let before = self.publish_all(0, BEFORE_STORM)?;
        self.await_deliveries(&fleet, &before);
        let stats = fleet.finish()?;
        let missed = self.publish_all(BEFORE_STORM, self.plan.history)?;
        let ids = stats.last_ids.into_iter().zip(&self.plan.channels);
        let requests = ids.map(|(id, channel)| {
            let id = id.with_context(|| format!("no event of {channel} had an id"))?;
            Ok(self.plan.template.subscription(channel, &From::After(id)))
        });
        let requests: anyhow::Result<Vec<_>> = requests.collect();
        self.before = self.usage();
        let fleet = Fleet::launch(subscribers::SubscribersSpec {
            requests: requests?,
            first_seq: BEFORE_STORM,
            caught_up_at: Some(BEFORE_STORM.saturating_add(self.plan.history)),
            ..self.fleet_spec(&From::Now)
        })?;
        let stats = self.catch_up(fleet, &missed.acknowledged)?;
        self.report.resumed_ms = stats.catch_up.quantiles(MILLISECOND);
        Ok(())
    }

    /// Publishes as fast as the server accepts; has subscribers only if they were requested.
    fn ingest(&mut self) -> anyhow::Result<()> {
        let crowd = self.plan.subscribers > 0;
        let spec = self.fleet_spec(&From::Now);
        let fleet = if crowd { Some(self.assemble(spec)?) } else { None };
        let start = clock::now() + SETTLING;
        let channels = self.channels();
        let lanes = self.lanes();
        let schedule = match self.plan.rate {
            Some(rate) => {
                let total = seconds(self.plan.warmup + self.plan.duration) * rate;
                Schedule::paced(start, rate, total.round() as u64, channels, lanes)
            }
            None => Schedule::unpaced(start, u64::MAX, channels, lanes),
        };
        self.measure(fleet, schedule)
    }

    /// Checks the health of the server and measures its memory at the end.
    fn finish(mut self) -> anyhow::Result<Report> {
        if let Err(error) = probe::is_healthy(&self.plan.template, &self.plan.probe_channel) {
            self.note_error(format!("not healthy afterwards: {error:#}"));
        } else {
            self.report.healthy_after = true;
        }
        if let Some(server) = self.report.server.as_mut() {
            for (process, target) in server.processes.iter_mut().zip(&self.plan.processes) {
                process.rss_bytes_after = target.usage().unwrap_or_default().rss_bytes;
                server.rss_bytes_after += process.rss_bytes_after;
            }
        }
        if self.report.client.cpu_seconds == 0.0 {
            self.report.client.cpu_seconds = process::own_cpu_seconds(); // no interval was measured
        }
        self.report.client.cpu_seconds = round(self.report.client.cpu_seconds, 100.0);
        Ok(self.report)
    }
}

/// Subscribers.
impl ScenarioStage<'_> {
    fn channels(&self) -> u32 {
        u32::try_from(self.plan.channels.len()).unwrap_or(u32::MAX)
    }

    fn fleet_spec(&self, from: &From) -> subscribers::SubscribersSpec {
        let plan = self.plan;
        let channels = plan.channels.iter();
        subscribers::SubscribersSpec {
            address: plan.template.subscribe_address(),
            sources: plan.sources.clone(),
            requests: channels.map(|name| plan.template.subscription(name, from)).collect(),
            per_channel: plan.subscribers,
            threads: plan.threads,
            ramp: plan.ramp,
            slow: plan.slow_readers,
            first_seq: 0,
            caught_up_at: None,
            watch_ids: false,
        }
    }

    /// Connects all subscribers, and returns when each has a response.
    fn assemble(&mut self, spec: subscribers::SubscribersSpec) -> anyhow::Result<Fleet> {
        let fleet = Fleet::launch(spec)?;
        self.await_answers(&fleet)?;
        clock::sleep_until(clock::now() + SETTLING);
        Ok(fleet)
    }

    fn await_answers(&mut self, fleet: &Fleet) -> anyhow::Result<()> {
        let mut settled = 0;
        let mut moved = clock::now();
        while settled < fleet.total {
            clock::sleep_until(clock::now() + 2 * MILLISECOND);
            let now = clock::now();
            let before = settled;
            settled = fleet.settled();
            if settled > before {
                moved = now;
            } else if now > moved + OPENING_PATIENCE {
                break;
            }
            self.progress.tell(|| format!("{settled} of {} connected", fleet.total));
        }
        self.report_connections(fleet);
        if self.report.connections.opened == 0 {
            let why = fleet.shared.first_error.lock().clone();
            bail!("nobody could subscribe: {}", why.unwrap_or_else(|| "no answer".into()));
        }
        Ok(())
    }

    fn report_connections(&mut self, fleet: &Fleet) {
        let shared = &fleet.shared;
        let opened = shared.opened.load(Relaxed);
        let took = shared.last_opened.load(Relaxed).saturating_sub(fleet.started).max(1);
        self.report.connections = Connections {
            opened,
            failed: fleet.total - opened, // includes those without a response
            closed: shared.closed.load(Relaxed),
            per_second: round(opened as f64 / seconds(took), 1.0),
        };
        if let Some(error) = shared.first_error.lock().clone() {
            self.note_error(error);
        }
    }

    /// Waits until every acknowledged event was delivered, or deliveries stop.
    fn await_deliveries(&mut self, fleet: &Fleet, outcome: &PublishersOutcome) {
        let readers = self.report.connections.opened.saturating_sub(self.plan.slow_readers as u64);
        let expected = outcome.published() * readers / self.plan.channels.len() as u64;
        let mut delivered = 0;
        let mut moved = clock::now();
        loop {
            let now = clock::now();
            let before = delivered;
            delivered = fleet.shared.delivered.load(Relaxed);
            if delivered > before {
                moved = now;
            }
            if delivered >= expected || now > moved + DELIVERY_PATIENCE {
                return;
            }
            self.progress.tell(|| format!("{delivered} of {expected} delivered"));
            clock::sleep_until(now + 5 * MILLISECOND);
        }
    }

    /// Waits until all subscribers have caught up or make no progress, and accounts for them.
    fn catch_up(&mut self, fleet: Fleet, acknowledged: &[u64]) -> anyhow::Result<Stats> {
        let mut state = (0, 0);
        let mut moved = clock::now();
        loop {
            let now = clock::now();
            let caught_up = fleet.shared.caught_up.load(Relaxed);
            let next = (fleet.shared.delivered.load(Relaxed), fleet.settled());
            if next != state {
                (state, moved) = (next, now);
            }
            let readers = fleet.total - self.plan.slow_readers as u64;
            let answered = next.1 == fleet.total;
            let failed = fleet.shared.failed.load(Relaxed);
            let patience = if answered { DELIVERY_PATIENCE } else { OPENING_PATIENCE };
            if (answered && caught_up + failed >= readers) || now > moved + patience {
                break;
            }
            self.progress.tell(|| format!("{caught_up} of {readers} have caught up"));
            clock::sleep_until(now + MILLISECOND);
        }
        let took = moved.saturating_sub(fleet.started).max(1);
        let last = self.usage();
        self.report_connections(&fleet);
        let stats = self.dismiss(fleet)?;
        let before = self.before.clone();
        self.report_server(before.as_deref(), last.as_deref(), stats.delivered);
        self.report.deliveries_per_second =
            Some(round(stats.delivered as f64 / seconds(took), 1.0));
        self.account(&stats, acknowledged);
        Ok(stats)
    }

    fn dismiss(&mut self, fleet: Fleet) -> anyhow::Result<Stats> {
        self.report_connections(&fleet);
        let stats = fleet.finish()?;
        // Servers need a moment to process thousands of disconnects.
        clock::sleep_until(clock::now() + 3 * SETTLING);
        Ok(stats)
    }
}

/// Publishers.
impl ScenarioStage<'_> {
    fn lanes(&self) -> u32 {
        match self.plan.mode {
            Mode::Stream => self.channels(),
            Mode::Post => self.plan.publishers,
        }
    }

    fn publish(
        &self,
        schedule: Schedule,
        first_seq: u32,
        measure_from: u64,
        halt_at: u64,
    ) -> anyhow::Result<Publishing> {
        let template = &self.plan.template;
        let spec = publishers::PublishersSpec {
            address: template.publish_address(),
            mode: self.plan.mode,
            schedule,
            publications: self.plan.channels.iter().map(|c| template.publication(c)).collect(),
            size: self.plan.size,
            first_seq: u64::from(first_seq),
            measure_from,
            halt_at,
        };
        let progress = Arc::new(publishers::PublishProgress::default());
        let press = Press::new(spec, Arc::clone(&progress)).context("cannot publish")?;
        let thread = std::thread::Builder::new().name("publishers".into());
        let thread = thread.spawn(move || press.run()).context("cannot start a thread")?;
        Ok(Publishing { progress, schedule, thread })
    }

    /// Publishes `each` events to each channel, as fast as they are accepted.
    fn publish_all(&mut self, first_seq: u32, each: u32) -> anyhow::Result<PublishersOutcome> {
        let total = u64::from(each) * u64::from(self.channels());
        let now = clock::now();
        let schedule = Schedule::unpaced(now, total, self.channels(), self.lanes());
        let publishing = self.publish(schedule, first_seq, u64::MAX, now + HISTORY_PATIENCE)?;
        self.wait(&publishing, None, u64::MAX);
        let outcome = publishing.join()?;
        self.report_publishing(&outcome, schedule);
        if outcome.published() == 0 {
            let why = outcome.first_error.unwrap_or_else(|| "no answer".into());
            bail!("nothing could be published: {why}");
        }
        Ok(outcome)
    }

    /// Waits until that time, or until all is published, and shows the progress.
    fn wait(&mut self, publishing: &Publishing, fleet: Option<&Fleet>, until: u64) {
        let mut before = 0;
        while clock::now() < until && !publishing.thread.is_finished() {
            let delivered = fleet.map_or(0, |fleet| fleet.shared.delivered.load(Relaxed));
            if delivered > before {
                before = delivered;
                publishing.progress.last_delivery.store(clock::now(), Relaxed);
            }
            self.progress.tell(|| {
                let sent = publishing.progress.sent.load(Relaxed);
                let acknowledged = publishing.progress.acknowledged.load(Relaxed);
                let due = publishing.schedule.due(clock::now());
                let due = if due == u64::MAX { String::new() } else { format!("{due} due, ") };
                format!("{due}{sent} sent, {acknowledged} acknowledged, {delivered} delivered")
            });
            clock::sleep_until((clock::now() + 20 * MILLISECOND).min(until));
        }
        if until < u64::MAX {
            clock::sleep_until(until); // also if the last response came early
        }
    }
}

/// Numbers.
impl ScenarioStage<'_> {
    fn usage(&self) -> Option<Vec<Usage>> {
        process::usages(&self.plan.processes)
    }

    fn snapshot(&self, publishing: &Publishing, fleet: Option<&Fleet>) -> StatsSnapshot {
        StatsSnapshot {
            delivered: fleet.map_or(0, |fleet| fleet.shared.delivered.load(Relaxed)),
            published: match self.plan.mode {
                Mode::Post => publishing.progress.acknowledged.load(Relaxed),
                Mode::Stream => publishing.progress.sent.load(Relaxed),
            },
            at: clock::now(),
            server: self.usage(),
            own_cpu_seconds: process::own_cpu_seconds(),
        }
    }

    fn report_rates(&mut self, first: &StatsSnapshot, last: &StatsSnapshot) {
        let took = seconds((last.at - first.at).max(1));
        let delivered = last.delivered - first.delivered;
        if self.plan.subscribers > 0 {
            self.report.deliveries_per_second = Some(round(delivered as f64 / took, 1.0));
        }
        let published = last.published - first.published;
        self.report.events_per_second = Some(round(published as f64 / took, 1.0));
        let spent = last.own_cpu_seconds - first.own_cpu_seconds;
        self.report.client.cpu_seconds = spent;
        self.report_server(first.server.as_deref(), last.server.as_deref(), delivered);
    }

    fn report_server(&mut self, first: Option<&[Usage]>, last: Option<&[Usage]>, delivered: u64) {
        let (Some(first), Some(last)) = (first, last) else { return };
        let each_before = self.before.as_deref().unwrap_or(first);
        let targets = self.plan.processes.iter().zip(each_before).zip(first.iter().zip(last));
        let processes = targets.map(|((target, before), (first, last))| ProcessFigures {
            name: target.name.clone(),
            pid: target.pid,
            cpu_seconds: round(last.cpu_seconds - first.cpu_seconds, 100.0),
            rss_bytes_before: before.rss_bytes,
            rss_bytes: last.rss_bytes,
            rss_bytes_after: 0, // set at the end
            pss_bytes: last.pss_bytes,
        });
        let processes = processes.collect();
        let before = each_before.iter().map(|usage| usage.rss_bytes).sum();
        let first: Usage = first.iter().copied().sum();
        let last: Usage = last.iter().copied().sum();
        let spent = last.cpu_seconds - first.cpu_seconds;
        let opened = self.report.connections.opened;
        let grown = last.rss_bytes as f64 - before as f64;
        self.report.server = Some(ServerFigures {
            cpu_seconds: round(spent, 100.0),
            cpu_us_per_delivery: (delivered > 0)
                .then(|| round(spent * 1e6 / delivered as f64, 1000.0)),
            rss_bytes_before: before,
            rss_bytes: last.rss_bytes,
            rss_bytes_after: 0, // set at the end
            pss_bytes: last.pss_bytes,
            rss_per_subscriber: (opened > 0).then(|| round(grown / opened as f64, 1.0)),
            processes,
        });
    }

    fn report_publishing(&mut self, outcome: &PublishersOutcome, schedule: Schedule) {
        // An unpaced run intends exactly what it sends.
        let offered = if schedule.total == u64::MAX { outcome.sent } else { schedule.total };
        self.report.offered = offered;
        self.report.published = outcome.published();
        self.report.publish_failed = outcome.failed;
        self.report.unsent = offered.saturating_sub(outcome.sent);
        self.report.publish_us = outcome.times.quantiles(1_000);
        self.report.client.send_lag_us_p99 = outcome.lag.quantiles(1_000).map(|lag| lag.p99);
        if let Some(error) = &outcome.first_error {
            self.note_error(format!("publishing: {error}"));
        }
    }

    fn report_times(&mut self, stats: &Stats) {
        self.report.latency_us = stats.latency.quantiles(1_000);
    }

    /// Compares the deliveries with the acknowledged events times the reading subscribers.
    fn account(&mut self, stats: &Stats, acknowledged: &[u64]) {
        let report = &mut self.report;
        report.delivered = stats.delivered;
        report.duplicates = stats.duplicates;
        report.disorder = stats.disorder;
        (report.expected, report.lost) = (0, 0);
        for (channel, published) in acknowledged.iter().enumerate() {
            let expected = published * stats.readers[channel];
            report.expected += expected;
            report.lost += expected.saturating_sub(stats.received[channel]);
        }
        let bytes = stats.bytes as f64 / (stats.delivered.max(1)) as f64;
        report.bytes_per_event = (stats.delivered > 0).then(|| round(bytes, 10.0));
        report.client.loop_lag_us_p99 = stats.lag.quantiles(1_000).map(|lag| lag.p99);
    }

    fn note_error(&mut self, error: String) {
        self.report.first_error.get_or_insert(error);
    }
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / SECOND as f64
}

fn round(value: f64, parts: f64) -> f64 {
    (value * parts).round() / parts
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use clap::Parser;

    use super::*;
    use crate::fake_server::{self, FakeFault};

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: crate::Args,
    }

    fn measured(fault: FakeFault, line: &str) -> anyhow::Result<Report> {
        measured_at([fake_server::serve(fault); 2], line)
    }

    /// Publishes to the first server, and subscribes at the second.
    fn measured_at(servers: [SocketAddr; 2], line: &str) -> anyhow::Result<Report> {
        let [publish_url, url] = servers.map(|address| format!("http://{address}"));
        let urls = ["bench", "--url", &url, "--publish-url", &publish_url];
        let common = ["--template", "nchan", "--quiet", "--warmup", "50ms"];
        let line = urls.into_iter().chain(common).chain(line.split_whitespace());
        run(&Plan::new(&Line::try_parse_from(line)?.args)?)
    }

    /// 200 events to 3 channels with 4 subscribers each.
    const CROWD: &str = "--channels 3 --subscribers 4 --rate 500 --duration 350ms --publishers 2";

    #[test]
    fn a_server_without_faults_has_none_in_the_report() {
        let pid = std::process::id();
        let pids = format!("--pid tests={pid} --pid init=1");
        let line = format!("{CROWD} --threads 2 --source-addresses 2 {pids}");
        let report = measured(FakeFault::None, &line).unwrap();
        assert!(report.is_complete(), "{report:#?}");
        assert_eq!((report.offered, report.published), (200, 200));
        assert_eq!((report.expected, report.delivered, report.connections.opened), (800, 800, 12));
        let all = report.latency_us.unwrap();
        let last = report.completion_us.unwrap();
        assert!(all.p50 <= last.p50 && last.max >= all.max, "{report:#?}");
        let server = report.server.as_ref().unwrap();
        let each: Vec<_> = server.processes.iter().map(|process| process.name.as_str()).collect();
        assert_eq!(each, ["tests", "init"]);
        assert_eq!(server.rss_bytes, server.processes.iter().map(|p| p.rss_bytes).sum::<u64>());
        assert!(server.processes.iter().all(|process| process.rss_bytes > 0), "{server:#?}");
        // The warm-up is excluded: the measured value is the pace, with tolerance for a busy
        // machine.
        assert!(report.events_per_second.unwrap() > 100.0, "{report:#?}");
    }

    #[test]
    fn one_server_may_be_published_to_and_another_subscribed_at() {
        let report = measured_at(fake_server::serve_at_two(FakeFault::None), CROWD).unwrap();
        assert!(report.is_complete(), "{report:#?}");
        assert_eq!((report.published, report.delivered), (200, 800));
        assert!(report.latency_us.is_some() && report.publish_us.is_some());
    }

    #[test]
    fn all_is_lost_if_the_other_server_receives_nothing() {
        let servers = [FakeFault::None; 2].map(fake_server::serve);
        let report = measured_at(servers, CROWD).unwrap();
        assert_eq!((report.published, report.delivered, report.lost), (200, 0, 800));
        assert!(!report.is_complete() && !report.healthy_after, "{report:#?}");
    }

    fn faults(report: &Report) -> (u64, u64, u64) {
        (report.lost, report.duplicates, report.disorder)
    }

    #[test]
    fn loss_is_counted() {
        let report = measured(FakeFault::Loses, CROWD).unwrap();
        assert_eq!(faults(&report), (3 * 6 * 4, 0, 0), "{report:#?}");
        assert!(!report.is_complete());
    }

    #[test]
    fn repetition_is_counted() {
        let report = measured(FakeFault::Repeats, CROWD).unwrap();
        assert_eq!(faults(&report), (0, 3 * 6 * 4, 0), "{report:#?}");
        assert!(!report.is_complete());
    }

    #[test]
    fn disorder_is_counted() {
        let report = measured(FakeFault::Swaps, CROWD).unwrap();
        assert_eq!(faults(&report), (0, 0, 3 * 6 * 4), "{report:#?}");
        assert!(!report.is_complete());
    }

    #[test]
    fn what_was_not_acknowledged_is_not_expected() {
        let report = measured(FakeFault::HangsUp, CROWD).unwrap();
        assert_eq!((report.published, report.publish_failed), (182, 18), "{report:#?}");
        assert_eq!((report.expected, report.lost), (182 * 4, 0));
    }

    #[test]
    fn slow_readers_are_not_expected_to_receive() {
        let report = measured(FakeFault::None, &format!("{CROWD} --slow-readers 3")).unwrap();
        assert_eq!((report.expected, report.delivered), (600, 600), "{report:#?}");
    }

    #[test]
    fn a_server_that_refuses_is_told_in_its_own_words() {
        let error = measured(FakeFault::Refuses, CROWD).unwrap_err().to_string();
        assert_eq!(error, "nobody could subscribe: HTTP 503 full");
    }

    #[test]
    fn idle_and_ingest_need_no_schedule() {
        let report = measured(FakeFault::None, "--scenario idle --subscribers 50 --duration 50ms");
        let report = report.unwrap();
        assert_eq!((report.connections.opened, report.offered), (50, 0));
        let report = measured(FakeFault::None, "--scenario ingest --duration 200ms").unwrap();
        assert!(report.published > 0 && report.published == report.offered, "{report:#?}");
        assert!(report.is_complete());
    }
}
