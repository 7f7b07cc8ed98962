//! `fanfare health`: checks whether a hub is ready, for container health checks and deploy scripts.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use fanfare_client::HubUrl;

use super::hub_address::Trust;
use super::terminal;

/// The arguments of `fanfare health`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  fanfare health && echo up
  HEALTHCHECK CMD [\"fanfare\", \"health\"]           in a Dockerfile")]
pub(super) struct Args {
    /// The hub's admin listener (its public one answers as well)
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:4101")]
    url: HubUrl,

    #[command(flatten)]
    trust: Trust,

    /// Time limit for the answer
    #[arg(long, value_name = "DURATION", default_value = "5s",
          value_parser = humantime::parse_duration)]
    timeout: Duration,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let client = args.trust.client(args.url, None)?;
    let asked = async { client.get("/readyz").await?.text().await };
    let answer = tokio::time::timeout(args.timeout, asked)
        .await
        .with_context(|| format!("{} did not answer within {:?}", client.url(), args.timeout))?;
    match answer {
        Ok(text) => {
            let text = text.trim();
            terminal::print_line(if text.is_empty() { "ready" } else { text })?;
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => Err(anyhow::Error::from(error).context("not ready")),
    }
}
