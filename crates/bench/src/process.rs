//! Processor time and memory of a process, from `/proc`.

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// The resources used by a process, optionally with its children.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// User and system time of all its threads.
    pub(crate) cpu_seconds: f64,
    pub(crate) rss_bytes: u64,
    /// PSS: RSS with each shared page divided by the number of its users.
    pub(crate) pss_bytes: Option<u64>,
}

/// The process to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) pid: u32,
    pub(crate) with_children: bool,
}

impl Target {
    /// Returns the current usage, or `None` if there is no such process.
    pub(crate) fn usage(self) -> Option<Usage> {
        let mut sum = usage_of(self.pid)?;
        if self.with_children {
            for pid in descendants(self.pid) {
                let Some(child) = usage_of(pid) else { continue };
                sum.cpu_seconds += child.cpu_seconds;
                sum.rss_bytes += child.rss_bytes;
                sum.pss_bytes = sum.pss_bytes.zip(child.pss_bytes).map(|(a, b)| a + b);
            }
        }
        Some(sum)
    }
}

/// Returns the processor time of this process in seconds.
pub(crate) fn own_cpu_seconds() -> f64 {
    cpu_seconds(std::process::id()).unwrap_or(0.0)
}

/// Raises the soft limit of open files to the hard limit and returns the resulting limit.
pub(crate) fn raise_open_files() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let highest = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let _ = setrlimit(Resource::Nofile, highest); // the resulting limit is read below
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Returns the number of local ports of one source address.
pub(crate) fn local_ports() -> u64 {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut bounds = text.split_whitespace().filter_map(|number| number.parse::<u64>().ok());
    match (bounds.next(), bounds.next()) {
        (Some(low), Some(high)) if high >= low => high - low + 1,
        _ => 28_232,
    }
}

fn usage_of(pid: u32) -> Option<Usage> {
    let cpu_seconds = cpu_seconds(pid)?;
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let rss = kilobytes(&rollup, "Rss:");
    let pss = kilobytes(&rollup, "Pss:");
    let rss_bytes = match rss {
        Some(bytes) => bytes,
        None => {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            kilobytes(&status, "VmRSS:").unwrap_or(0)
        }
    };
    Some(Usage { cpu_seconds, rss_bytes, pss_bytes: pss })
}

fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(ticks(&stat)? as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// Sums utime and stime: the 12th and 13th field after the name, which may contain blanks.
fn ticks(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let utime: u64 = fields.next()?.parse().ok()?;
    let stime: u64 = fields.next()?.parse().ok()?;
    Some(utime + stime)
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let number: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(number * 1024)
}

fn descendants(pid: u32) -> Vec<u32> {
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid: u32| Some((pid, parent(pid)?)))
        .collect();
    let mut family = vec![pid];
    let mut at = 0;
    while at < family.len() {
        let elder = family[at];
        family.extend(parents.iter().filter(|(_, p)| *p == elder).map(|(child, _)| *child));
        at += 1;
    }
    family.split_off(1)
}

fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_found_after_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 4 0 100 1 2";
        assert_eq!(ticks(stat), Some(200));
        assert_eq!(ticks("nonsense"), None);
    }

    #[test]
    fn sizes_are_kilobytes() {
        let text = "Rss:            1234 kB\nPss:             567 kB\n";
        assert_eq!(kilobytes(text, "Pss:"), Some(567 * 1024));
        assert_eq!(kilobytes(text, "Swap:"), None);
    }

    #[test]
    fn this_process_uses_memory() {
        let own = Target { pid: std::process::id(), with_children: true };
        assert!(own.usage().unwrap().rss_bytes > 100_000);
        assert_eq!(Target { pid: u32::MAX, with_children: false }.usage(), None);
    }
}
