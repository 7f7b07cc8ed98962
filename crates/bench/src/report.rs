//! The results of a run: one JSON object, or a table.

use std::fmt::Write as _;

use serde::Serialize;

use super::stats::Quantiles;

/// All measurements. Fields that a scenario does not use are null.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Report {
    pub(crate) scenario: String,
    pub(crate) template: String,
    pub(crate) channels: u64,
    /// Subscribers per channel.
    pub(crate) subscribers: u64,
    /// Intended events per second over all channels; null: as fast as the server accepts them.
    pub(crate) rate: Option<f64>,
    pub(crate) size: u64,
    pub(crate) publish: String,
    pub(crate) duration_s: f64,
    pub(crate) warmup_s: f64,
    /// Events that the schedule intended; like all counts, this includes the warm-up.
    pub(crate) offered: u64,
    /// Events that the server acknowledged.
    pub(crate) published: u64,
    pub(crate) publish_failed: u64,
    /// Events that were not sent because the server was too slow; they are in no latency.
    pub(crate) unsent: u64,
    pub(crate) expected: u64,
    pub(crate) delivered: u64,
    pub(crate) duplicates: u64,
    pub(crate) disorder: u64,
    pub(crate) lost: u64,
    pub(crate) connections: Connections,
    pub(crate) latency_us: Option<Quantiles>,
    pub(crate) completion_us: Option<Quantiles>,
    pub(crate) publish_us: Option<Quantiles>,
    pub(crate) server: Option<ServerFigures>,
    pub(crate) client: ClientFigures,
    pub(crate) deliveries_per_second: Option<f64>,
    pub(crate) events_per_second: Option<f64>,
    pub(crate) per_second: Option<f64>,
    pub(crate) bytes_per_event: Option<f64>,
    pub(crate) catch_up_ms: Option<Quantiles>,
    pub(crate) resumed_ms: Option<Quantiles>,
    pub(crate) healthy_after: bool,
    /// The first error, in words.
    pub(crate) first_error: Option<String>,
}

/// The subscribers' connections.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Connections {
    pub(crate) opened: u64,
    pub(crate) failed: u64,
    /// Connections that the server closed during the run.
    pub(crate) closed: u64,
    pub(crate) per_second: f64,
}

/// Resources used by the processes of the server while events were measured: the sum, and each.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct ServerFigures {
    pub(crate) cpu_seconds: f64,
    pub(crate) cpu_us_per_delivery: Option<f64>,
    /// Before the first subscriber, with all of them, and after they had left.
    pub(crate) rss_bytes_before: u64,
    pub(crate) rss_bytes: u64,
    pub(crate) rss_bytes_after: u64,
    pub(crate) pss_bytes: Option<u64>,
    pub(crate) rss_per_subscriber: Option<f64>,
    pub(crate) processes: Vec<ProcessFigures>,
}

/// Resources used by one process of the server.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct ProcessFigures {
    pub(crate) name: String,
    pub(crate) pid: u32,
    pub(crate) cpu_seconds: f64,
    pub(crate) rss_bytes_before: u64,
    pub(crate) rss_bytes: u64,
    pub(crate) rss_bytes_after: u64,
    pub(crate) pss_bytes: Option<u64>,
}

/// Resources used by the load generator.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct ClientFigures {
    pub(crate) cpu_seconds: f64,
    /// The delay between readiness and handling of a socket in the load generator: part of the
    /// latencies.
    pub(crate) loop_lag_us_p99: Option<f64>,
    /// The delay of sends that the load generator itself caused: also part of the latencies.
    pub(crate) send_lag_us_p99: Option<f64>,
}

impl Report {
    /// Returns whether every subscriber received every event once and in order, and the server is
    /// still healthy.
    pub(crate) fn is_complete(&self) -> bool {
        let wrong = self.lost + self.duplicates + self.disorder + self.connections.failed;
        wrong + self.publish_failed + self.unsent == 0 && self.healthy_after
    }

    /// Formats the table.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        let mut what =
            format!("{} x {} subscribers of {}", self.channels, self.subscribers, self.template);
        if self.offered > 0 {
            let rate = self.rate.map_or("unpaced".into(), |rate| format!("{rate}/s"));
            let size = self.size;
            let way = &self.publish;
            let _ = write!(what, ", {rate}, {size} bytes by {way}, {} s", self.duration_s);
        }
        row(&mut out, &self.scenario, what);
        let c = &self.connections;
        row(
            &mut out,
            "connections",
            format_args!(
                "{} opened, {} failed, {} closed by the server, {:.0}/s",
                c.opened, c.failed, c.closed, c.per_second
            ),
        );
        if self.offered > 0 {
            row(
                &mut out,
                "events",
                format_args!(
                    "{} offered, {} published, {} failed, {} never sent",
                    self.offered, self.published, self.publish_failed, self.unsent
                ),
            );
            row(
                &mut out,
                "deliveries",
                format_args!(
                    "{} of {}: {} lost, {} duplicates, {} out of order",
                    self.delivered, self.expected, self.lost, self.duplicates, self.disorder
                ),
            );
        }
        self.push_rates(&mut out);
        for (name, unit, quantiles) in [
            ("latency", "us", self.latency_us),
            ("last subscriber", "us", self.completion_us),
            ("publish to reply", "us", self.publish_us),
            ("caught up", "ms", self.catch_up_ms),
            ("resumed", "ms", self.resumed_ms),
        ] {
            let Some(q) = quantiles else { continue };
            row(
                &mut out,
                name,
                format_args!(
                    "p50 {}  p90 {}  p99 {}  p99.9 {}  max {} {unit}",
                    q.p50, q.p90, q.p99, q.p999, q.max
                ),
            );
        }
        self.push_costs(&mut out);
        row(&mut out, "healthy after", if self.healthy_after { "yes" } else { "NO" });
        if let Some(error) = &self.first_error {
            row(&mut out, "first error", error);
        }
        out.trim_end().into()
    }

    fn push_rates(&self, out: &mut String) {
        for (value, what) in [
            (self.deliveries_per_second, "deliveries/s"),
            (self.events_per_second, "events/s"),
            (self.per_second, "connections/s"),
        ] {
            if let Some(value) = value {
                row(out, "rate", format_args!("{value:.0} {what}"));
            }
        }
        if let Some(bytes) = self.bytes_per_event {
            row(out, "wire", format_args!("{bytes:.1} bytes per event"));
        }
    }

    fn push_costs(&self, out: &mut String) {
        if let Some(server) = &self.server {
            let each = server.cpu_us_per_delivery;
            let each = each.map_or(String::new(), |us| format!(", {us:.2} us per delivery"));
            row(out, "server CPU", format_args!("{:.2} s{each}", server.cpu_seconds));
            let memory = [server.rss_bytes_before, server.rss_bytes, server.rss_bytes_after];
            let each = server.rss_per_subscriber;
            let each = each.map_or(String::new(), |b| format!(", {b:.0} bytes per subscriber"));
            row(out, "server memory", memory_text(memory) + &each);
            if server.processes.len() > 1 {
                server.processes.iter().for_each(|process| push_process(out, process));
            }
        }
        let lag = self.client.loop_lag_us_p99;
        let mut lag = lag.map_or(String::new(), |us| format!(", loop lag p99 {us} us"));
        if let Some(us) = self.client.send_lag_us_p99 {
            lag.push_str(&format!(", send lag p99 {us} us"));
        }
        row(out, "client", format_args!("{:.2} s CPU{lag}", self.client.cpu_seconds));
    }
}

fn push_process(out: &mut String, process: &ProcessFigures) {
    let memory = [process.rss_bytes_before, process.rss_bytes, process.rss_bytes_after];
    let (pid, cpu) = (process.pid, process.cpu_seconds);
    row(out, &process.name, format_args!("pid {pid}, {cpu:.2} s CPU, {}", memory_text(memory)));
}

/// Formats the memory before the first subscriber, with all of them, and after they had left.
fn memory_text(bytes: [u64; 3]) -> String {
    let [before, with, after] = bytes.map(|bytes| bytes as f64 / (1024.0 * 1024.0));
    format!("{before:.1} MiB before, {with:.1} with subscribers, {after:.1} after")
}

fn row(out: &mut String, name: &str, text: impl std::fmt::Display) {
    let _ = writeln!(out, "{name:<16} {text}"); // writing to a String cannot fail
}

#[cfg(test)]
mod tests {
    use super::*;

    fn process(name: &str, pid: u32) -> ProcessFigures {
        ProcessFigures {
            name: name.into(),
            pid,
            cpu_seconds: 0.5,
            rss_bytes_before: 1 << 20,
            ..ProcessFigures::default()
        }
    }

    #[test]
    fn the_json_has_the_names_that_the_comparison_reads() {
        let q = Quantiles { p50: 1.0, p90: 2.0, p99: 3.0, p999: 4.0, max: 5.0 };
        let report = Report {
            latency_us: Some(q),
            completion_us: Some(q),
            publish_us: Some(q),
            server: Some(ServerFigures {
                processes: vec![process("hub-1", 11), process("hub-2", 12)],
                ..ServerFigures::default()
            }),
            ..Report::default()
        };
        let json = serde_json::to_value(&report).unwrap();
        for pointer in [
            "/scenario",
            "/template",
            "/channels",
            "/subscribers",
            "/rate",
            "/size",
            "/publish",
            "/duration_s",
            "/offered",
            "/published",
            "/expected",
            "/delivered",
            "/duplicates",
            "/disorder",
            "/lost",
            "/connections/opened",
            "/connections/failed",
            "/connections/per_second",
            "/latency_us/p50",
            "/latency_us/p90",
            "/latency_us/p99",
            "/latency_us/p999",
            "/latency_us/max",
            "/completion_us/p99",
            "/publish_us/p50",
            "/server/cpu_seconds",
            "/server/cpu_us_per_delivery",
            "/server/rss_bytes_before",
            "/server/rss_bytes",
            "/server/pss_bytes",
            "/server/rss_per_subscriber",
            "/server/processes/1/name",
            "/server/processes/1/pid",
            "/server/processes/1/cpu_seconds",
            "/server/processes/1/rss_bytes_before",
            "/server/processes/1/rss_bytes",
            "/server/processes/1/rss_bytes_after",
            "/server/processes/1/pss_bytes",
            "/client/cpu_seconds",
            "/client/loop_lag_us_p99",
            "/deliveries_per_second",
            "/bytes_per_event",
            "/healthy_after",
            "/events_per_second",
            "/per_second",
            "/catch_up_ms",
            "/resumed_ms",
        ] {
            assert!(json.pointer(pointer).is_some(), "{pointer}");
        }
        let text = report.text();
        assert!(text.contains("publish to reply p50 1  p90 2"), "{text}");
        assert!(text.contains("hub-2            pid 12, 0.50 s CPU, 1.0 MiB before"), "{text}");
    }
}
