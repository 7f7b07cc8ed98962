//! `fanfare serve`: runs a hub until a signal.

use std::path::PathBuf;
use std::process::ExitCode;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::{Config, InheritError, Inherited, load};
use crate::server::{Reloader, RunError, Server, StartError};
use crate::telemetry;

/// The exit code for an invalid configuration (`EX_USAGE` of sysexits).
pub(super) const BAD_CONFIG: u8 = 64;

/// The exit code of a hub that has left its cluster and must start again (`EX_TEMPFAIL` of
/// sysexits).
const LEFT_CLUSTER: u8 = 75;

/// The exit code after a second signal.
const INTERRUPTED: u8 = 130;

/// The arguments of `fanfare serve`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) settings: ServeSettings,
}

/// Command-line flags that are settings.
#[derive(Debug, clap::Args)]
pub(super) struct ServeSettings {
    /// Configuration file [default: ./fanfare.toml or /etc/fanfare/fanfare.toml, if there]
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Public address, for publishers and subscribers, such as 127.0.0.1:4100
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// Admin address, for operators, such as 127.0.0.1:4101
    #[arg(long, value_name = "ADDRESS")]
    admin_listen: Option<String>,
    /// Serve any address without credentials: every client may read and do everything
    #[arg(long)]
    insecure: bool,
    /// error, warn, info, debug, trace, or directives such as info,fanfare=debug
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<String>,
    /// text or json
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
}

impl ServeSettings {
    /// Returns the given flags, by the setting that they override.
    pub(super) fn overrides(&self) -> Vec<(&'static str, String)> {
        let insecure = self.insecure.then(|| "true".to_owned());
        let flags = [
            ("server.listen", &self.listen),
            ("server.admin_listen", &self.admin_listen),
            ("server.insecure", &insecure),
            ("log.level", &self.log_level),
            ("log.format", &self.log_format),
        ];
        flags.into_iter().filter_map(|(key, value)| Some((key, value.clone()?))).collect()
    }
}

pub(super) async fn run(
    args: Args,
    inherited: Result<Inherited, InheritError>,
) -> anyhow::Result<ExitCode> {
    let loaded = match load(args.settings.config.as_deref(), &args.settings.overrides()) {
        Ok(loaded) => loaded,
        Err(error) => {
            eprintln!("{error}");
            return Ok(ExitCode::from(BAD_CONFIG));
        }
    };
    telemetry::init(&loaded.config.log)?;
    let file = loaded.file.as_ref().map_or("none".into(), |file| file.display().to_string());
    let asks = loaded.config.auth.has_credentials();
    let credentials = if asks { "asked for" } else { "not asked for" };
    tracing::info!(version = env!("CARGO_PKG_VERSION"), config = %file, credentials, "fanfare");
    let scheme = if loaded.config.tls.is_on() { "https" } else { "http" };
    raise_descriptor_limit(loaded.config.server.max_connections);
    ignore_file_size_limit()?;
    let mut signals = ProcessSignals::new()?;
    let server = match start(loaded.config, inherited).await {
        Err(error) if error.is_of_configuration() => {
            eprintln!("{error}");
            return Ok(ExitCode::from(BAD_CONFIG));
        }
        bound => bound?,
    };
    let shows = if asks { " -H \"Authorization: Bearer $TOKEN\"" } else { "" };
    tracing::info!("try: curl -N{shows} {scheme}://{}/v1/channels/hello", server.addr());
    let reloading = reload_on_hangup(args.settings, server.reloader())?;
    let (draining, drained) = tokio::sync::oneshot::channel();
    let serving = server.run(async {
        let _ = drained.await;
    });
    tokio::pin!(serving);
    let reloading = tokio::spawn(reloading);
    tokio::select! {
        ended = &mut serving => return exit_code(ended),
        () = signals.next() => {}
    }
    reloading.abort();
    let _ = draining.send(());
    tokio::select! {
        ended = serving => exit_code(ended),
        () = signals.next() => {
            tracing::warn!("second signal: leaving at once");
            Ok(ExitCode::from(INTERRUPTED))
        }
    }
}

/// Returns the exit code of a hub that has drained.
fn exit_code(ended: Result<(), RunError>) -> anyhow::Result<ExitCode> {
    match ended {
        Ok(()) => Ok(ExitCode::SUCCESS),
        // It is in the log.
        Err(RunError::Cluster(_)) => Ok(ExitCode::from(LEFT_CLUSTER)),
        Err(error) => Err(error.into()),
    }
}

async fn start(
    config: Config,
    inherited: Result<Inherited, InheritError>,
) -> Result<Server, StartError> {
    Server::with_sockets(config, inherited?).await
}

/// Reloads the configuration at each SIGHUP. An invalid one is logged and changes nothing.
fn reload_on_hangup(
    settings: ServeSettings,
    reloader: Reloader,
) -> std::io::Result<impl Future<Output = ()>> {
    let mut hangup = signal(SignalKind::hangup())?;
    Ok(async move {
        while hangup.recv().await.is_some() {
            let loaded = load(settings.config.as_deref(), &settings.overrides());
            let outcome = match loaded {
                Ok(loaded) => reloader.reload(&loaded.config).await.map_err(|e| e.to_string()),
                Err(error) => Err(error.to_string()),
            };
            reloader.count(outcome.is_ok());
            match outcome {
                Ok(beyond) => {
                    tracing::info!("the configuration was read again");
                    if !beyond.is_empty() {
                        tracing::warn!("changed, but needs a restart: {}", beyond.join(", "));
                    }
                }
                Err(error) => tracing::error!(%error, "not reloaded: what was there stays"),
            }
        }
    })
}

/// Descriptors that are not for connections: listeners, the store, hooks, threads.
const OTHER_DESCRIPTORS: u64 = 64;

/// Raises the descriptor limit as far as the system allows, and warns if the connections need more.
fn raise_descriptor_limit(max_connections: usize) {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    tracing::info!(descriptors, max_connections, "limit of open files");
    // Each of the two listeners may have that many connections.
    let needed = (max_connections as u64).saturating_mul(2).saturating_add(OTHER_DESCRIPTORS);
    if descriptors < needed {
        tracing::warn!(
            descriptors,
            needed,
            "too few files may be open for `server.max_connections` on each of the two listeners: \
             raise the limit (ulimit -n), or lower the setting"
        );
    }
}

/// Makes a write past the file size limit (`ulimit -f`) fail like one to a full disk. The
/// accompanying SIGXFSZ would end the process; with a handler, which stays installed, it has no
/// effect.
fn ignore_file_size_limit() -> std::io::Result<()> {
    signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw())).map(drop)
}

/// The signals that request a shutdown.
struct ProcessSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl ProcessSignals {
    fn new() -> std::io::Result<Self> {
        let terminate = SignalKind::terminate();
        let interrupt = SignalKind::interrupt();
        Ok(Self { terminate: signal(terminate)?, interrupt: signal(interrupt)? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
