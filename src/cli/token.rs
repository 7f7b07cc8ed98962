//! `fanfare token`: creates tokens for clients, and keys for producers.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow};
use fanfare_client::{HubUrl, full};
use http::{Request, header};
use serde_json::Value;

use super::hub_address::Trust;
use super::terminal::{notice, print_line};
use crate::auth::{Grants, Minter, Operation, generate_api_key};
use crate::channel::ChannelPattern;
use crate::clock::{micros, rfc3339};
use crate::config::{load, variable};

/// The arguments of `fanfare token`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, clap::Subcommand)]
enum TokenCommand {
    /// Print a token for one or more channels, signed by the configuration's `auth.signing_key`, or
    /// by a hub with --url
    #[command(after_help = EXAMPLES)]
    Create(Box<Create>),
    /// Print a new API key, and what the configuration needs to know of it
    Key(NewKey),
}

#[derive(Debug, clap::Args)]
struct Create {
    /// May read these channels; patterns such as 'chat/*', as often as needed
    #[arg(long, value_name = "PATTERN")]
    subscribe: Vec<ChannelPattern>,
    /// May publish to them
    #[arg(long, value_name = "PATTERN")]
    publish: Vec<ChannelPattern>,
    /// May stop what is published there
    #[arg(long, value_name = "PATTERN")]
    signal: Vec<ChannelPattern>,
    /// May set and delete them
    #[arg(long, value_name = "PATTERN")]
    admin: Vec<ChannelPattern>,
    /// May read the hub's metrics
    #[arg(long)]
    metrics: bool,
    /// Lifetime of the token
    #[arg(long, value_name = "DURATION", default_value = "1h",
          value_parser = humantime::parse_duration)]
    ttl: Duration,
    /// Name of its holder in logs and limits
    #[arg(long, value_name = "NAME")]
    subject: Option<String>,
    /// Configuration file with `auth.signing_key` [default: as `fanfare serve`]
    #[arg(long, value_name = "FILE", conflicts_with = "url")]
    config: Option<PathBuf>,
    /// A hub that signs the token, for the holder of --token
    #[arg(long, value_name = "URL")]
    url: Option<HubUrl>,
    /// A token or an API key, for that hub
    #[arg(long, value_name = "TOKEN", env = "FANFARE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    #[command(flatten)]
    trust: Trust,
}

#[derive(Debug, clap::Args)]
struct NewKey {
    /// Name of its holder in logs and limits
    #[arg(long, value_name = "NAME")]
    name: String,
}

const EXAMPLES: &str = "\
Examples:
  fanfare token create --subscribe chat/42 --ttl 1h        signed here, by auth.signing_key
  fanfare token create --publish 'logs/**' --url http://127.0.0.1:4100 --token ...   by the hub";

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        TokenCommand::Create(args) => create(&args).await?,
        TokenCommand::Key(args) => new_key(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn create(args: &Create) -> anyhow::Result<()> {
    let (token, expires) = match &args.url {
        Some(url) => ask(args, url).await?,
        None => sign(args)?,
    };
    print_line(token)?;
    notice(format!("expires {expires}"));
    Ok(())
}

/// Signs the token locally, with the key that the hub has as well.
fn sign(args: &Create) -> anyhow::Result<(String, String)> {
    let auth = load(args.config.as_deref(), &[])?.config.auth;
    let source = auth.signing_key.ok_or_else(|| {
        anyhow!("the configuration has no `auth.signing_key`: set it, or ask a hub with --url")
    })?;
    let secret = source.read(&variable, Minter::LEAST_KEY_BYTES).context("`auth.signing_key`")?;
    let subject = args.subject.as_deref().unwrap_or("token");
    let minter = Minter::new(&secret, auth.max_token_ttl);
    let minted = minter.mint(&args.grants(), subject, args.ttl, SystemTime::now())?;
    Ok((minted.token, rfc3339(micros(minted.expires))))
}

async fn ask(args: &Create, url: &HubUrl) -> anyhow::Result<(String, String)> {
    let Value::Object(mut wanted) = serde_json::to_value(args.grants())? else {
        return Err(anyhow!("grants are not an object"));
    };
    wanted.insert("ttl".into(), humantime::format_duration(args.ttl).to_string().into());
    if let Some(subject) = &args.subject {
        wanted.insert("subject".into(), subject.as_str().into());
    }
    let client = args.trust.client(url.clone(), args.token.clone())?;
    let request = Request::post("/v1/tokens").header(header::CONTENT_TYPE, "application/json");
    let body = full(Value::Object(wanted).to_string());
    let reply = client.send(request, body).await?.succeeded().await?;
    let answer: Value = serde_json::from_str(&reply.text().await?)?;
    let field = |name: &str| answer[name].as_str().map(str::to_owned);
    field("token").zip(field("expires")).context("the hub's answer has no token")
}

impl Create {
    fn grants(&self) -> Grants {
        let mut grants = Grants::default();
        let lists = [&self.publish, &self.subscribe, &self.signal, &self.admin];
        for (operation, patterns) in Operation::ON_CHANNELS.into_iter().zip(lists) {
            patterns.iter().for_each(|pattern| grants.add(operation, pattern.clone()));
        }
        if self.metrics {
            grants.add_metrics();
        }
        grants
    }
}

/// The key is written to stdout, where it can be piped into a safe place; only its hash is
/// configured.
fn new_key(args: &NewKey) -> anyhow::Result<()> {
    let (key, hash) = generate_api_key().map_err(|_| anyhow!("the system has no randomness"))?;
    print_line(key)?;
    let name = toml::Value::from(args.name.as_str());
    notice(format!(
        "keep it: only its hash goes into the configuration, with what it may do\n\
         [[auth.api_keys]]\nname = {name}\nhash = \"{hash}\"\ngrants = {{ publish = [\"**\"] }}"
    ));
    Ok(())
}
