//! The hub as a process, whose memory is measured separately.

mod listening;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use listening::until_listening;

pub(crate) const FANFARE: &str = env!("CARGO_BIN_EXE_fanfare");

/// The time limit of any wait.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A hub that is a process. Dropped, it is killed.
pub(crate) struct Hub {
    child: Child,
    pub(crate) addr: SocketAddr,
    admin: SocketAddr,
}

impl Hub {
    /// Starts a hub on free ports, with these settings as environment variables.
    pub(crate) fn start(settings: &[(&str, &str)]) -> Self {
        let mut child = Command::new(FANFARE)
            .args(["serve", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"])
            // Each thread caches free memory: the same number of threads on every machine.
            .envs([("TOKIO_WORKER_THREADS", "2"), ("FANFARE_SERVER__WORKERS", "2")])
            // Returns free memory to the system soon.
            .envs([("_RJEM_MALLOC_CONF", "dirty_decay_ms:500")])
            .envs(settings.iter().copied())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the hub starts");
        let line = until_listening(&mut child);
        let addr = address(&line, " addr=");
        let admin = address(&line, " admin_addr=");
        Self { child, addr, admin }
    }

    /// Returns one value of the metrics.
    pub(crate) fn gauge(&self, name: &str) -> u64 {
        let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
        let page = ask(self.admin, request.as_bytes());
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.expect("the metric").parse().expect("a count")
    }

    /// Returns the anonymous memory of the process: not the pages of the program's file, which are
    /// loaded as they are used and which the system reclaims.
    pub(crate) fn anonymous(&self) -> u64 {
        let path = format!("/proc/{}/smaps_rollup", self.child.id());
        let text = fs::read_to_string(path).expect("the hub is there");
        let line = text.lines().find_map(|line| line.strip_prefix("Anonymous:")).expect("a sum");
        line.trim().strip_suffix(" kB").expect("kilobytes").parse::<u64>().expect("a size") * 1024
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn address(line: &str, field: &str) -> SocketAddr {
    let (_, rest) = line.split_once(field).expect("the log names its addresses");
    rest.split_whitespace().next().unwrap().parse().expect("an address")
}

/// Sends this request, and returns the whole answer.
pub(crate) fn ask(to: SocketAddr, request: &[u8]) -> String {
    let mut tcp = TcpStream::connect(to).expect("a connection");
    tcp.set_read_timeout(Some(PATIENCE)).expect("a time-out");
    tcp.write_all(request).expect("a request");
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).expect("an answer");
    answer
}
