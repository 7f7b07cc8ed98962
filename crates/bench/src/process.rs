//! Processor time and memory of processes, from `/proc`.

use std::fs;
use std::iter::Sum;
use std::ops::Add;

use anyhow::Context as _;
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

impl Add for Usage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds + other.cpu_seconds,
            rss_bytes: self.rss_bytes + other.rss_bytes,
            pss_bytes: self.pss_bytes.zip(other.pss_bytes).map(|(a, b)| a + b),
        }
    }
}

impl Sum for Usage {
    fn sum<I: Iterator<Item = Self>>(usages: I) -> Self {
        usages.reduce(Add::add).unwrap_or_default()
    }
}

/// A process as the command line names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TargetWanted {
    name: Option<String>,
    pid: u32,
}

/// Parses `NAME=PID` or `PID`.
pub(crate) fn parse_target(text: &str) -> Result<TargetWanted, String> {
    let (name, pid) = match text.split_once('=') {
        Some((name, pid)) => (Some(name.to_owned()), pid),
        None => (None, text),
    };
    let pid = pid.parse().map_err(|_| "write [NAME=]PID, such as hub-1=4711")?;
    Ok(TargetWanted { name, pid })
}

/// A process to measure.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Its name in the report.
    pub(crate) name: String,
    pub(crate) pid: u32,
    pub(crate) with_children: bool,
}

impl Target {
    /// A running process, which by default has the name of its program.
    pub(crate) fn new(wanted: &TargetWanted, with_children: bool) -> anyhow::Result<Self> {
        let pid = wanted.pid;
        let program = fs::read_to_string(format!("/proc/{pid}/comm"))
            .with_context(|| format!("there is no process {pid}"))?;
        let name = wanted.name.clone().unwrap_or_else(|| program.trim().to_owned());
        Ok(Self { name, pid, with_children })
    }

    /// Returns the current usage, or `None` if there is no such process.
    pub(crate) fn usage(&self) -> Option<Usage> {
        let own = usage_of(self.pid)?;
        let children = if self.with_children { descendants(self.pid) } else { Vec::new() };
        Some(children.into_iter().filter_map(usage_of).fold(own, Add::add))
    }
}

/// Returns the current usage of each process, or `None` if one has ended or there are none.
pub(crate) fn usages(targets: &[Target]) -> Option<Vec<Usage>> {
    let usages: Option<Vec<_>> = targets.iter().map(Target::usage).collect();
    usages.filter(|usages| !usages.is_empty())
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
        let target = |pid| Target { name: String::new(), pid, with_children: true };
        let own = target(std::process::id());
        assert!(own.usage().unwrap().rss_bytes > 100_000);
        assert_eq!(target(u32::MAX).usage(), None);
        assert_eq!(usages(&[own.clone(), own.clone()]).unwrap().len(), 2);
        assert_eq!(usages(&[own, target(u32::MAX)]), None);
        assert_eq!(usages(&[]), None);
    }

    #[test]
    fn a_sum_has_the_parts_of_all() {
        let one = Usage { cpu_seconds: 0.5, rss_bytes: 10, pss_bytes: Some(7) };
        let sum: Usage = [one, one].into_iter().sum();
        assert_eq!(sum, Usage { cpu_seconds: 1.0, rss_bytes: 20, pss_bytes: Some(14) });
        let unknown = Usage { pss_bytes: None, ..one };
        assert_eq!([one, unknown].into_iter().sum::<Usage>().pss_bytes, None);
    }
}
