//! A program that a test starts, stops, pauses, kills and starts again.

use std::process::{Child, Command, ExitStatus};

use rustix::process::{Pid, Signal, kill_process};

use super::log::Log;
use super::usage;
use super::wait::{eventually, until};

/// A program under test: one process at a time, always of the same command. Dropped, it is killed,
/// and its last warnings are printed if the test fails.
pub struct Process {
    command: Command,
    ready: &'static str,
    log: Log,
    child: Option<Child>,
}

impl Process {
    /// A process that is not started yet. It is ready once it has written this text to stderr.
    pub fn new(mut command: Command, ready: &'static str) -> Self {
        let log = Log::new();
        command.stderr(log.output());
        Self { command, ready, log, child: None }
    }

    /// Returns the command, for further arguments of its next start.
    pub fn command(&mut self) -> &mut Command {
        &mut self.command
    }

    /// Appends stdout to the log, too.
    pub fn log_stdout(&mut self) {
        self.command.stdout(self.log.output());
    }

    /// Starts the process, and waits until it is ready.
    pub fn start(&mut self) {
        let before = self.log.len();
        self.spawn();
        until(self.ready, || {
            // In this order: a process may write and end between the two.
            let has_ended = !self.is_running();
            let text = self.log.text_after(before);
            let is_ready = text.contains(self.ready);
            assert!(is_ready || !has_ended, "the process ended at its start:\n{text}");
            is_ready.then_some(())
        });
    }

    /// Starts the process, and does not wait for it.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "the process runs already");
        self.child = Some(self.command.spawn().expect("the program starts"));
    }

    /// Kills the process without a warning.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("a process");
        child.kill().expect("killed");
        child.wait().expect("the end");
    }

    /// Kills the process, and starts the next.
    pub fn restart(&mut self) {
        self.kill();
        self.start();
    }

    /// Asks the process to end, and waits until it has, without an error.
    pub async fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = self.ended().await;
        assert!(status.success(), "it ended with {status}:\n{}", self.log.warnings());
    }

    /// Waits until the process has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let status = eventually("the process to end", async || {
            self.child.as_mut().expect("a process").try_wait().expect("a status")
        })
        .await;
        self.child = None;
        status
    }

    /// Returns the status of a process that has ended by itself, once.
    pub fn try_ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().expect("a status")?;
        self.child = None;
        Some(status)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(self.child());
        kill_process(pid, signal).expect("a process to signal");
    }

    /// Stops the process in the middle of its work; its sockets stay open.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        until("the process to pause", || (usage::state(self.id()) == 'T').then_some(()));
    }

    /// Lets a paused process continue.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Returns whether the process has started, and has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().expect("a status").is_none())
    }

    /// Returns the process id.
    pub fn id(&self) -> u32 {
        self.child().id()
    }

    /// Returns the output of all its lives.
    pub fn log(&self) -> String {
        self.log.text_after(0)
    }

    fn child(&self) -> &Child {
        self.child.as_ref().expect("a process")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("the last warnings of {:?}:\n{}", self.command, self.log.warnings());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Process {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Process::new(command, "ready")
    }

    #[tokio::test]
    async fn a_process_is_started_again_with_the_same_command_and_log() {
        let mut process = shell("echo $$ is ready >&2; exec sleep 60");
        process.start();
        let first = process.id();
        process.restart();
        let second = process.id();
        assert_eq!(process.log(), format!("{first} is ready\n{second} is ready\n"));
        process.signal(Signal::TERM);
        assert_eq!(process.ended().await.code(), None, "it was ended by the signal");
        assert!(!process.is_running());
    }

    #[test]
    #[should_panic(expected = "ended at its start:\nno configuration")]
    fn a_process_that_ends_at_its_start_fails_the_test_with_its_output() {
        shell("echo no configuration >&2; exit 64").start();
    }

    #[tokio::test]
    async fn a_paused_process_does_nothing_until_it_is_resumed() {
        let mut process = shell("trap 'echo asked >&2; exit 0' TERM; echo ready >&2; read line");
        process.command().stdin(std::process::Stdio::piped());
        process.start();
        process.pause();
        process.signal(Signal::TERM);
        assert_eq!(usage::state(process.id()), 'T', "it has not run for the signal");
        assert_eq!(process.log(), "ready\n");
        process.resume();
        assert!(process.ended().await.success());
        assert_eq!(process.log(), "ready\nasked\n");
    }

    #[test]
    fn a_process_is_killed_with_its_value() {
        let mut process = shell("echo ready >&2; exec sleep 60");
        process.start();
        let path = format!("/proc/{}", process.id());
        drop(process);
        assert!(!std::path::Path::new(&path).exists());
    }
}
