//! The metrics of the process. Two of them are replaced, because the library's are too coarse, or
//! are missing in a sandbox.

use std::time::SystemTime;

use prometheus::core::{Collector, Desc};
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Counter, Gauge, MetricFamily};
use rustix::time::{ClockId, clock_gettime};

/// The collector of process metrics.
pub(super) struct Process {
    collector: ProcessCollector,
    /// Start time in seconds since 1970.
    began: f64,
}

impl Process {
    pub(super) fn new() -> Self {
        let began = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { collector: ProcessCollector::for_self(), began: began.as_secs_f64() }
    }
}

impl Collector for Process {
    fn desc(&self) -> Vec<&Desc> {
        self.collector.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = self.collector.collect();
        for family in &mut families {
            let name = family.name().to_owned();
            for metric in family.mut_metric().iter_mut() {
                match name.as_str() {
                    // The library counts whole seconds.
                    "process_cpu_seconds_total" => {
                        let mut counter = Counter::default();
                        counter.set_value(cpu_seconds());
                        metric.set_counter(counter);
                    }
                    // The library reads the boot time of the machine, which a sandbox may hide.
                    "process_start_time_seconds" if metric.get_gauge().get_value() == 0.0 => {
                        let mut gauge = Gauge::default();
                        gauge.set_value(self.began);
                        metric.set_gauge(gauge);
                    }
                    _ => {}
                }
            }
        }
        families
    }
}

/// Returns the CPU time of all threads of the process, in seconds.
fn cpu_seconds() -> f64 {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    used.tv_sec as f64 + used.tv_nsec as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_has_fractions_of_a_second() {
        let value = || {
            let families = Process::new().collect();
            let cpu = families.iter().find(|family| family.name().contains("cpu")).unwrap();
            cpu.get_metric()[0].get_counter().get_value()
        };
        let before = value();
        while cpu_seconds() < before + 0.02 {}
        let after = value();
        assert!(after > before && after < before + 1.0, "{before} {after}");
    }
}
