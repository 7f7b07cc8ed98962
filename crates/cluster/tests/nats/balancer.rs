//! The balancer in `deploy/cluster/haproxy.cfg`, in front of hubs that only say how they are.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use fanfare_testing::{Process, free_address};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::hub::PATIENCE;

const FILE: &str = "../../deploy/cluster/haproxy.cfg";

/// The state of a hub.
#[derive(Clone, Copy, PartialEq)]
enum State {
    Ready,
    Alive,
    Dead,
}

/// A hub that answers a request with its name.
struct FakeHub {
    port: u16,
    state: Arc<Mutex<State>>,
}

impl FakeHub {
    fn start(name: &'static str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let state = Arc::new(Mutex::new(State::Ready));
        let current = Arc::clone(&state);
        thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                // A connection that is closed early is no reason to end.
                let _ = answer(socket, name, *current.lock());
            }
        });
        Self { port, state }
    }

    fn set(&self, state: State) {
        *self.state.lock() = state;
    }
}

fn answer(socket: TcpStream, name: &str, state: State) -> std::io::Result<()> {
    let mut reader = BufReader::new(socket.try_clone()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head)? > 0 {}
    let is_good = match head.split(' ').nth(1) {
        Some("/readyz") => state == State::Ready,
        Some("/healthz") => state != State::Dead,
        _ => true,
    };
    let status = if is_good { 200 } else { 503 };
    let length = name.len();
    let head = format!("HTTP/1.1 {status} x\r\ncontent-length: {length}\r\nconnection: close");
    (&socket).write_all(format!("{head}\r\n\r\n{name}").as_bytes())
}

/// Returns the body of a response; nothing if there is none yet.
fn request(port: u16) -> Option<String> {
    let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    let request = "GET /v1/channels/c HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    socket.write_all(request.as_bytes()).ok()?;
    let mut response = String::new();
    socket.read_to_string(&mut response).ok()?;
    response.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

fn wait_for_answers_of(port: u16, wanted: &[&str]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answers: BTreeSet<_> = (0..8).filter_map(|_| request(port)).collect();
        if answers.iter().map(String::as_str).eq(wanted.iter().copied()) {
            return;
        }
        assert!(Instant::now() < deadline, "answers of {answers:?} and not of {wanted:?}");
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn requests_go_to_hubs_that_are_ready_and_without_one_to_those_that_live() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILE);
    let hubs = [FakeHub::start("hub-1"), FakeHub::start("hub-2")];
    let port = free_address().port();
    let mut text = std::fs::read_to_string(file).expect("the file");
    for (from, count, to) in [
        ("bind :8080", 1, format!("bind 127.0.0.1:{port}")),
        ("hub-1:4100", 2, format!("127.0.0.1:{}", hubs[0].port)),
        ("hub-2:4100", 2, format!("127.0.0.1:{}", hubs[1].port)),
    ] {
        assert_eq!(text.matches(from).count(), count, "{from}");
        text = text.replace(from, &to);
    }
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("haproxy.cfg");
    std::fs::write(&file, text).expect("a file");
    // Debian keeps it in a folder that is not in the path of every user.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "sh", "-c", "PATH=$PATH:/usr/sbin exec haproxy \"$@\""]);
    command.args(["haproxy", "-db", "-f"]).arg(file);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    // It does not say when it is ready.
    let mut balancer = Process::new(command, "");
    balancer.start();

    wait_for_answers_of(port, &["hub-1", "hub-2"]);
    hubs[0].set(State::Alive);
    wait_for_answers_of(port, &["hub-2"]);
    hubs[1].set(State::Alive);
    wait_for_answers_of(port, &["hub-1", "hub-2"]);
    hubs[0].set(State::Dead);
    wait_for_answers_of(port, &["hub-2"]);
    hubs[1].set(State::Ready);
    wait_for_answers_of(port, &["hub-2"]);
}
