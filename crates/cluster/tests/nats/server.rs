//! Servers of NATS, as processes.

use std::fmt::Write as _;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::time::Instant;

/// The servers that `scripts/test` installs.
const CURRENT: &str = "tests/nats/.venv/bin/nats-server";
const OLD: &str = "tests/nats/.old/usr/sbin/nats-server";

/// Maximum time until a server accepts connections.
const START: Duration = Duration::from_secs(20);

/// A server, which is killed when it is dropped.
pub struct NatsServer {
    binary: PathBuf,
    folder: TempDir,
    port: u16,
    process: Option<Child>,
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

    pub fn with(setup: &Setup) -> Self {
        Self::on_port(setup, free_port())
    }

    fn on_port(setup: &Setup, port: u16) -> Self {
        let binary =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(if setup.is_old { OLD } else { CURRENT });
        assert!(binary.exists(), "{} is missing: `scripts/test` installs it", binary.display());
        let folder = TempDir::new().expect("a folder");
        let mut text = format!("listen: 127.0.0.1:{port}\n");
        let name = setup.name.as_deref().unwrap_or("n1");
        writeln!(text, "server_name: {name}").expect("a string");
        let store = folder.path().join("data");
        if !setup.lines.contains("jetstream") {
            let room = "max_memory_store: 256MB, max_file_store: 4GB";
            writeln!(text, "jetstream {{ store_dir: \"{}\", {room} }}", store.display())
                .expect("a string");
        }
        text.push_str(&setup.lines);
        std::fs::write(folder.path().join("nats.conf"), text).expect("a file");
        let mut server = Self { binary, folder, port, process: None };
        server.start();
        server
    }

    /// Starts the process. Used again after [`NatsServer::kill`].
    pub fn start(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.log_file());
        // The server ends with the thread that has started it, also if that is killed.
        let process = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(&self.binary)
            .arg("-c")
            .arg(self.folder.path().join("nats.conf"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("a file"))
            .spawn();
        self.process = Some(process.expect("a server"));
        let deadline = Instant::now() + START;
        while !self.accepts() {
            let process = self.process.as_mut().expect("a process");
            let has_ended = process.try_wait().is_ok_and(|status| status.is_some());
            let is_late = Instant::now() > deadline;
            assert!(!has_ended && !is_late, "no server: {}", self.log());
            sleep(Duration::from_millis(20));
        }
    }

    fn accepts(&self) -> bool {
        let Ok(mut socket) = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)) else {
            return false;
        };
        let _ = socket.set_read_timeout(Some(Duration::from_secs(1)));
        let mut first = [0; 4];
        socket.read_exact(&mut first).is_ok() && &first == b"INFO"
    }

    pub fn version(&self) -> String {
        let output = Command::new(&self.binary).arg("--version").output().expect("a version");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Kills the process with `SIGKILL`.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Stops the process with `SIGSTOP`: its connections stay open, and nothing is answered.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let process = self.process.as_ref().expect("a process");
        kill_process(Pid::from_child(process), signal).expect("a signal");
    }

    fn log_file(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Servers that are one cluster.
pub struct NatsCluster {
    pub servers: Vec<NatsServer>,
}

impl NatsCluster {
    pub fn three() -> Self {
        let ports: Vec<u16> = (0..6).map(|_| free_port()).collect();
        let (clients, routes) = ports.split_at(3);
        let all: Vec<_> = routes.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
        let servers = (0..3).map(|at| {
            let (route, all) = (routes[at], all.join(", "));
            let lines =
                format!("cluster {{ name: C, listen: 127.0.0.1:{route}, routes: [{all}] }}\n");
            let name = Some(format!("n{}", at + 1));
            NatsServer::on_port(&Setup { lines, name, is_old: false }, clients[at])
        });
        Self { servers: servers.collect() }
    }

    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(NatsServer::url).collect()
    }

    /// Returns the server of this name.
    pub fn named(&mut self, name: &str) -> &mut NatsServer {
        let at: usize = name.trim_start_matches('n').parse().expect("a name such as `n1`");
        &mut self.servers[at - 1]
    }
}

/// Returns a port that is free at the moment.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}
