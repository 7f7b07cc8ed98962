//! A hub that is a process.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::process::Command;

use super::http::{post, request_blocking};
use super::ports::free_address;
use super::process::Process;
use super::usage;

/// A hub of a command, which may start the program by another, and its two addresses. They are kept
/// when it is started again.
pub struct HubProcess {
    process: Process,
    addr: SocketAddr,
    admin: SocketAddr,
}

impl HubProcess {
    /// A hub on free ports, which is not started yet.
    pub fn new(command: Command) -> Self {
        Self::at(free_address(), free_address(), command)
    }

    /// Starts a hub whose memory is to be measured, with these settings as environment variables.
    pub fn measured(program: &str, settings: &[(&str, &str)]) -> Self {
        let mut command = Command::new(program);
        command
            // Each thread caches free memory: the same number of threads on every machine.
            .envs([("TOKIO_WORKER_THREADS", "2"), ("FANFARE_SERVER__WORKERS", "2")])
            // Returns free memory to the system soon.
            .env("_RJEM_MALLOC_CONF", "dirty_decay_ms:500")
            .envs(settings.iter().copied());
        Self::new(command).started()
    }

    /// A hub that will listen at these addresses.
    pub fn at(addr: SocketAddr, admin: SocketAddr, mut command: Command) -> Self {
        for name in foreign_settings(&command) {
            command.env_remove(name);
        }
        command.args(["serve", "--listen", &addr.to_string(), "--admin-listen"]);
        command.arg(admin.to_string());
        Self { process: Process::new(command, "listening"), addr, admin }
    }

    /// Sets the address at which clients reach the hub, if it is not the one that it is given.
    pub fn reached_at(mut self, addr: SocketAddr) -> Self {
        self.addr = addr;
        self
    }

    /// Returns the hub when it listens.
    pub fn started(mut self) -> Self {
        self.process.start();
        self
    }

    /// Returns the address of the public listener.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns the address of the admin listener.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Returns the URL of the public listener.
    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Publishes one event.
    pub async fn publish(&self, channel: &str, data: &str) {
        let answer = post(self.addr, &format!("/v1/channels/{channel}"), data).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }

    /// Returns the anonymous memory of the process.
    pub fn anonymous(&self) -> u64 {
        usage::anonymous(self.id())
    }

    /// Returns one value of the metrics.
    pub fn gauge(&self, name: &str) -> u64 {
        let page = request_blocking(self.admin, "GET /metrics HTTP/1.1", "");
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.expect("the metric").parse().expect("a count")
    }
}

impl Deref for HubProcess {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl DerefMut for HubProcess {
    fn deref_mut(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// Returns the variables of this process that a hub takes for settings and that are not meant for
/// it: those that the command does not set.
fn foreign_settings(command: &Command) -> Vec<OsString> {
    let own: Vec<_> = command.get_envs().map(|(name, _)| name.to_owned()).collect();
    let all = std::env::vars_os().map(|(name, _)| name);
    let is_setting = |name: &OsString| name.to_string_lossy().starts_with("FANFARE_");
    all.filter(|name| is_setting(name) && !own.contains(name)).collect()
}
