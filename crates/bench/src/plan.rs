//! The plan of a run: the command line, checked before anything is connected.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{bail, ensure};

use super::Args;
use super::clock;
use super::process::{self, Target};
use super::publishers::Mode;
use super::template::{Template, TemplateWanted};

/// Descriptors that are used neither by subscribers nor by publishers.
const OTHER_DESCRIPTORS: u64 = 64;

/// Default number of events per channel for replay and storm.
const HISTORY: u32 = 1000;

/// Default number of events per second.
const RATE: f64 = 100.0;

/// A scenario of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Scenario {
    /// Events at a steady rate, to connected subscribers
    Fanout,
    /// Subscribers without events: their cost
    Idle,
    /// Subscribers that join at once and read a history
    Replay,
    /// Subscribers that lose their connection, and all reconnect at once
    Storm,
    /// As many events as the server accepts
    Ingest,
    /// As many connections per second as the server accepts
    Connect,
}

impl Scenario {
    pub(crate) fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }
}

/// A checked run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) scenario: Scenario,
    pub(crate) template: Template,
    pub(crate) template_name: String,
    pub(crate) channels: Vec<String>,
    /// A channel that only the health probe uses.
    pub(crate) probe_channel: String,
    /// Subscribers per channel.
    pub(crate) subscribers: usize,
    pub(crate) rate: Option<f64>,
    pub(crate) size: usize,
    pub(crate) duration: u64,
    pub(crate) warmup: u64,
    pub(crate) mode: Mode,
    pub(crate) publishers: u32,
    pub(crate) slow_readers: usize,
    pub(crate) history: u32,
    pub(crate) ramp: u64,
    pub(crate) threads: usize,
    pub(crate) sources: Vec<IpAddr>,
    pub(crate) processes: Vec<Target>,
    pub(crate) quiet: bool,
}

impl Plan {
    pub(crate) fn new(args: &Args) -> anyhow::Result<Self> {
        let template = Template::new(&wanted(args))?;
        let template_name = format!("{:?}", args.template).to_lowercase();
        if args.publish == Mode::Stream && !template.can_stream() {
            bail!("the template {template_name} has no streamed publishing: use --publish post");
        }
        let subscribers =
            args.subscribers.unwrap_or(usize::from(args.scenario != Scenario::Ingest));
        let rate = args.rate.or((args.scenario == Scenario::Fanout).then_some(RATE));
        if let Some(rate) = rate {
            ensure!(rate.is_finite() && rate > 0.0, "--rate must be more than 0");
        }
        let run = format!("{:x}", clock::now());
        let plan = Self {
            scenario: args.scenario,
            template,
            template_name,
            channels: (0..args.channels).map(|n| format!("bench-{run}-{n}")).collect(),
            probe_channel: format!("bench-{run}-probe"),
            subscribers,
            rate,
            size: args.size,
            duration: nanoseconds(args.duration),
            warmup: nanoseconds(args.warmup),
            mode: args.publish,
            publishers: args.publishers,
            slow_readers: args.slow_readers,
            history: args.history.unwrap_or(HISTORY),
            ramp: args.ramp,
            threads: args.threads,
            sources: sources(args.source_addresses),
            processes: processes(args)?,
            quiet: args.quiet,
        };
        plan.check_addresses(args.allow_remote)?;
        plan.check_limits()?;
        Ok(plan)
    }

    /// Refuses addresses of other machines unless `allow_remote` is set: a load generator can
    /// overload them.
    fn check_addresses(&self, allow_remote: bool) -> anyhow::Result<()> {
        for address in [self.template.subscribe_address(), self.template.publish_address()] {
            ensure!(
                allow_remote || address.ip().is_loopback(),
                "{address} is not on this machine: if it is yours, say --allow-remote"
            );
            ensure!(
                self.sources.is_empty() || (address.is_ipv4() && address.ip().is_loopback()),
                "--source-addresses are of 127.0.0.0/8, and {address} is not"
            );
        }
        Ok(())
    }

    fn check_limits(&self) -> anyhow::Result<()> {
        let total = (self.channels.len() * self.subscribers) as u64;
        ensure!(self.scenario == Scenario::Ingest || total > 0, "there would be no subscribers");
        ensure!(self.slow_readers as u64 <= total, "more --slow-readers than subscribers");
        let lanes = match self.mode {
            Mode::Stream => self.channels.len() as u64,
            Mode::Post => u64::from(self.publishers),
        };
        let needed = total + lanes + OTHER_DESCRIPTORS;
        let limit = process::raise_open_files();
        ensure!(
            needed <= limit,
            "{total} subscribers need {needed} open files, and this process may have {limit}: \
             raise the hard limit (ulimit -Hn), or take fewer"
        );
        let ports = process::local_ports() * self.sources.len().max(1) as u64;
        ensure!(
            total + lanes <= ports,
            "{total} subscribers need more than the {ports} local ports there are: \
             use --source-addresses {}",
            (total + lanes) / process::local_ports() + 1
        );
        Ok(())
    }
}

fn wanted(args: &Args) -> TemplateWanted {
    TemplateWanted {
        kind: args.template,
        url: args.url.clone(),
        publish_url: args.publish_url.clone(),
        subscribe_url: args.subscribe_url.clone(),
        replay_url: args.replay_url.clone(),
        publish_body: args.publish_body.clone(),
        content_type: args.content_type.clone(),
        headers: args.header.clone(),
    }
}

fn processes(args: &Args) -> anyhow::Result<Vec<Target>> {
    let mut targets: Vec<Target> = Vec::new();
    for wanted in &args.pid {
        let target = Target::new(wanted, args.pid_children)?;
        let is_new = targets.iter().all(|other| other.pid != target.pid);
        ensure!(is_new, "--pid {} is given twice: it would be counted twice", target.pid);
        targets.push(target);
    }
    Ok(targets)
}

/// Returns `count` loopback addresses from 127.0.0.2 on.
fn sources(count: u8) -> Vec<IpAddr> {
    (0..count).map(|n| Ipv4Addr::new(127, 0, 0, n.saturating_add(2)).into()).collect()
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn plan(line: &str) -> anyhow::Result<Plan> {
        Plan::new(&Line::try_parse_from(line.split_whitespace())?.args)
    }

    fn refusal(line: &str) -> String {
        plan(line).unwrap_err().to_string()
    }

    #[test]
    fn what_is_not_said_has_a_default() {
        let plan = plan("bench").unwrap();
        assert_eq!((plan.channels.len(), plan.subscribers, plan.rate), (1, 1, Some(100.0)));
        assert_eq!(plan.template.subscribe_address().port(), 4100);
    }

    #[test]
    fn what_cannot_be_done_is_said_before_anything_is_connected() {
        assert!(refusal("bench --url http://192.0.2.1:80").contains("--allow-remote"));
        assert!(plan("bench --url http://192.0.2.1:80 --allow-remote").is_ok());
        assert!(refusal("bench --subscribers 90000000").contains("open files"));
        assert!(refusal("bench --template nchan --publish stream").contains("--publish post"));
        assert!(refusal("bench --rate 0").contains("--rate"));
        assert!(refusal("bench --slow-readers 2").contains("--slow-readers"));
        assert!(refusal("bench --template plain").contains("--subscribe-url"));
        assert!(refusal("bench --pid 4294967295").contains("no process 4294967295"));
        assert!(refusal("bench --pid a=1 --pid b=1").contains("twice"));
        assert!(refusal("bench --pid a").contains("[NAME=]PID"));
    }

    #[test]
    fn source_addresses_begin_after_the_first() {
        let expected: [IpAddr; 2] = [[127, 0, 0, 2].into(), [127, 0, 0, 3].into()];
        assert_eq!(sources(2), expected);
    }

    #[test]
    fn a_process_has_the_name_that_is_given_or_that_of_its_program() {
        let own = std::process::id();
        let named = plan(&format!("bench --pid hub=1 --pid {own}")).unwrap().processes;
        assert_eq!((named[0].name.as_str(), named[0].pid), ("hub", 1));
        assert_eq!(named[1].pid, own);
        assert!(!named[1].name.is_empty());
    }
}
