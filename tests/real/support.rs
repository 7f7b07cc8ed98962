//! The hub as a process, and waits with a time limit.

#[path = "../process/listening.rs"]
mod listening;

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use listening::until_listening;

/// The program under test.
pub(crate) const FANFARE: &str = env!("CARGO_BIN_EXE_fanfare");

/// A hub that is a process. Dropped, it is killed.
pub(crate) struct HubProcess {
    child: Child,
    addr: SocketAddr,
    admin: SocketAddr,
}

impl HubProcess {
    /// Starts a hub on free ports, with these settings as environment variables.
    pub(crate) fn start(settings: &[(&str, &str)]) -> Self {
        let addr = free_address();
        let admin = free_address();
        Self::start_at(addr, admin, settings)
    }

    /// Starts a hub in this folder, where it finds its `fanfare.toml`.
    pub(crate) fn start_in(folder: &Path, settings: &[(&str, &str)]) -> Self {
        let mut program = Command::new(FANFARE);
        program.envs(settings.iter().copied()).current_dir(folder);
        Self::launch(program, free_address(), free_address())
    }

    /// Starts a hub that may open this many files.
    pub(crate) fn start_limited(files: usize) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit -n {files} && exec \"$0\" \"$@\""), FANFARE]);
        Self::launch(shell, free_address(), free_address())
    }

    /// Starts a hub on these ports.
    pub(crate) fn start_at(addr: SocketAddr, admin: SocketAddr, settings: &[(&str, &str)]) -> Self {
        let mut program = Command::new(FANFARE);
        program.envs(settings.iter().copied());
        Self::launch(program, addr, admin)
    }

    /// Starts a hub by this program, which passes it a socket that listens there.
    pub(crate) fn start_by(program: Command, addr: SocketAddr) -> Self {
        let mut hub = Self::launch(program, free_address(), free_address());
        hub.addr = addr;
        hub
    }

    /// Starts a hub by this program, and sets its addresses.
    pub(crate) fn launch(mut program: Command, addr: SocketAddr, admin: SocketAddr) -> Self {
        let mut child = program
            .args(["serve", "--listen", &addr.to_string(), "--admin-listen", &admin.to_string()])
            .stderr(Stdio::piped())
            .spawn()
            .expect("the hub starts");
        until_listening(&mut child);
        Self { child, addr, admin }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Returns the process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &pid]).status().expect("kill");
        assert!(sent.success(), "signal {name} was not sent");
    }

    /// Kills the hub without a warning.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("the end");
    }

    /// Returns the exit code, when the hub has ended by itself.
    pub(crate) async fn exit_code(&mut self) -> Option<i32> {
        eventually("the hub to end", async || self.child.try_wait().expect("status")).await.code()
    }

    /// Publishes one event.
    pub(crate) async fn publish(&self, channel: &str, data: &str) {
        let answer = post(self.addr, &format!("/v1/channels/{channel}"), data).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

impl Drop for HubProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends one request; returns the whole answer, including the head.
pub(crate) async fn post(addr: SocketAddr, path: &str, body: &str) -> String {
    let length = body.len();
    request(addr, &format!("POST {path} HTTP/1.1\r\nContent-Length: {length}"), body).await
}

/// Sends one request; returns the whole answer, including the head.
pub(crate) async fn get(addr: SocketAddr, path: &str) -> String {
    request(addr, &format!("GET {path} HTTP/1.1\r\nAccept: application/json"), "").await
}

/// Returns the head of the answer.
pub(crate) async fn head(addr: SocketAddr, path: &str) -> String {
    request(addr, &format!("HEAD {path} HTTP/1.1"), "").await
}

/// Sends one request, given its head without `Host`; returns the whole answer, including the head.
pub(crate) async fn request(addr: SocketAddr, head: &str, body: &str) -> String {
    let mut tcp = TcpStream::connect(addr).await.expect("a connection");
    let request = format!("{head}\r\nHost: {addr}\r\nConnection: close\r\n\r\n{body}");
    tcp.write_all(request.as_bytes()).await.expect("a request");
    let mut answer = String::new();
    within("an answer", tcp.read_to_string(&mut answer)).await.expect("an answer");
    answer
}

/// Waits for a future, with a time limit.
pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(Duration::from_secs(60), future).await {
        Ok(output) => output,
        Err(_) => panic!("waited a minute for {what}"),
    }
}

/// Polls until there is a value.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    within(what, async {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
}

/// Returns a free address of this machine, each only once. It is outside the range that the kernel
/// uses for outgoing connections, of which there are many here before the hub binds it.
pub(crate) fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let port = 15_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 15_000;
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            return listener.local_addr().expect("its address");
        }
    }
}
