//! Servers of NATS, as processes.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::ports::free_address;
use super::process::Process;

/// The servers that `scripts/test` installs.
const CURRENT: &str = "../cluster/tests/nats/.venv/bin/nats-server";
const OLD: &str = "../cluster/tests/nats/.old/usr/sbin/nats-server";

/// A server, which is killed when it is dropped.
pub struct NatsServer {
    binary: PathBuf,
    port: u16,
    process: Process,
    /// Dropped after the process.
    _folder: TempDir,
}

/// What a server is started with.
#[derive(Clone, Default)]
pub struct Setup {
    /// Uses the oldest version that is accepted.
    pub is_old: bool,
    /// Lines that are added to the configuration.
    pub lines: String,
    /// The name of the server.
    pub name: Option<String>,
    /// The room of JetStream; no JetStream if it is empty.
    pub room: Option<&'static str>,
    /// Listens at all addresses of this machine, for clients in another network.
    pub is_open: bool,
}

/// Returns the program of the server.
#[must_use]
pub fn program() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(CURRENT)
}

impl NatsServer {
    /// Starts one server alone.
    pub fn one() -> Self {
        Self::with(&Setup::default())
    }

    /// Starts one server alone, with further lines of configuration.
    pub fn configured(lines: &str) -> Self {
        Self::with(&Setup { lines: lines.to_owned(), ..Setup::default() })
    }

    /// Starts one server alone, with this setup.
    pub fn with(setup: &Setup) -> Self {
        Self::on_port(setup, free_address().port())
    }

    fn on_port(setup: &Setup, port: u16) -> Self {
        let binary =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(if setup.is_old { OLD } else { CURRENT });
        assert!(binary.exists(), "{} is missing: `scripts/test` installs it", binary.display());
        let folder = TempDir::new().expect("a folder");
        let host = if setup.is_open { "0.0.0.0" } else { "127.0.0.1" };
        let mut text = format!("listen: \"{host}:{port}\"\n");
        let name = setup.name.as_deref().unwrap_or("n1");
        writeln!(text, "server_name: {name}").expect("a string");
        let store = folder.path().join("data");
        let room = setup.room.unwrap_or("max_memory_store: 256MB, max_file_store: 4GB");
        if !room.is_empty() {
            writeln!(text, "jetstream {{ store_dir: \"{}\", {room} }}", store.display())
                .expect("a string");
        }
        text.push_str(&setup.lines);
        let file = folder.path().join("nats.conf");
        std::fs::write(&file, text).expect("a file");
        // The server ends with the thread that has started it, also if that is killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(&binary).arg("-c").arg(file);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let process = Process::new(command, "Server is ready");
        let mut server = Self { binary, port, process, _folder: folder };
        server.start();
        server
    }

    /// Starts the process. Used again after [`NatsServer::kill`].
    pub fn start(&mut self) {
        self.process.start();
    }

    /// Returns whether the process runs, paused or not.
    pub fn is_running(&mut self) -> bool {
        self.process.is_running()
    }

    /// Returns the version as the program prints it.
    pub fn version(&self) -> String {
        let output = Command::new(&self.binary).arg("--version").output().expect("a version");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Returns the port of clients.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Returns the URL for clients on this machine.
    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Kills the process with `SIGKILL`.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Asks the server to end, and waits until it has.
    pub async fn stop(&mut self) {
        self.process.stop().await;
    }

    /// Stops the process with `SIGSTOP`: its connections stay open, and nothing is answered.
    pub fn pause(&self) {
        self.process.pause();
    }

    /// Lets a paused process continue.
    pub fn resume(&self) {
        self.process.resume();
    }
}

/// Servers that are one cluster.
pub struct NatsCluster {
    /// The servers `n1`, `n2` and `n3`.
    pub servers: Vec<NatsServer>,
}

impl NatsCluster {
    /// Starts three servers.
    pub fn three() -> Self {
        Self::with(&Setup::default())
    }

    /// Starts three servers with this setup.
    pub fn with(setup: &Setup) -> Self {
        let ports: Vec<u16> = (0..6).map(|_| free_address().port()).collect();
        let (clients, routes) = ports.split_at(3);
        let all: Vec<_> = routes.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let servers = (0..3).map(|at| {
            let (route, all) = (routes[at], all.join(", "));
            let cluster =
                format!("cluster {{ name: C, listen: 127.0.0.1:{route}, routes: [{all}] }}\n");
            let lines = cluster + &setup.lines;
            let name = Some(format!("n{}", at + 1));
            NatsServer::on_port(&Setup { lines, name, ..setup.clone() }, clients[at])
        });
        Self { servers: servers.collect() }
    }

    /// Returns the URLs of all servers.
    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(NatsServer::url).collect()
    }

    /// Returns the server of this name.
    pub fn named(&mut self, name: &str) -> &mut NatsServer {
        let at: usize = name.trim_start_matches('n').parse().expect("a name such as `n1`");
        &mut self.servers[at - 1]
    }
}
