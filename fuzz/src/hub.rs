//! A hub on loopback, in this process: so the fuzzer sees a panic on any of its threads, and its
//! threads count for coverage.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::LazyLock;
use std::time::Duration;

use fanfare::Config;
use fanfare::Server;
use socket2::SockRef;

/// The time limit of an answer, unless the request asks to wait.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Settings with limits and deadlines that inputs reach.
const CONFIG: &str = r#"
[server]
listen = "127.0.0.1:0"
admin_listen = "127.0.0.1:0"
workers = 1
max_header_bytes = "8KiB"
max_headers = 32
[channels]
max_events = 64
max_bytes = "64KiB"
idle_timeout = "5s"
memory_budget = "16MiB"
max_channels = 1000
producer_grace = "100ms"
[publish]
max_event_bytes = "512B"
max_idempotency_keys = 100
[subscribers]
shards = 1
max_channels = 8
[cors]
allow_origins = ["https://app.example"]
"#;

/// The addresses of the public and the admin listener.
pub(crate) struct Addresses {
    pub(crate) public: SocketAddr,
    pub(crate) admin: SocketAddr,
}

/// A hub that waits for the head of a request longer than any machine is busy.
pub(crate) static PATIENT: LazyLock<Addresses> = LazyLock::new(|| start(Duration::from_secs(60)));

/// A hub with a short time limit for the head of a request.
pub(crate) static HASTY: LazyLock<Addresses> = LazyLock::new(|| start(Duration::from_millis(300)));

fn start(header_timeout: Duration) -> Addresses {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut config = Config::from_toml(CONFIG).expect("a configuration");
        config.server.header_timeout = header_timeout;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let server = Server::bind(config).await.expect("a hub");
            let _ = sender.send(Addresses { public: server.addr(), admin: server.admin_addr() });
            server.run(std::future::pending()).await;
        });
    });
    receiver.recv().expect("the hub listens")
}

/// Opens a connection that is reset when it is dropped: a fuzzer opens more of them in a minute
/// than there are ports, which would otherwise remain in TIME_WAIT.
pub(crate) fn connect(to: SocketAddr) -> TcpStream {
    let tcp = TcpStream::connect(to).expect("a connection");
    tcp.set_nodelay(true).expect("an option");
    SockRef::from(&tcp).set_linger(Some(Duration::ZERO)).expect("an option");
    tcp
}

/// The result of one read.
pub(crate) enum Look {
    Bytes,
    End,
    Nothing,
}

/// Reads the available bytes, waiting at most this long.
pub(crate) fn read(tcp: &mut TcpStream, into: &mut Vec<u8>, wait: Duration) -> Look {
    tcp.set_read_timeout(Some(wait)).expect("an option");
    let mut piece = [0; 16 * 1024];
    // libFuzzer checks its clock by a signal, which interrupts system calls.
    let read = loop {
        match tcp.read(&mut piece) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            read => break read,
        }
    };
    match read {
        Ok(0) => Look::End,
        Ok(count) => {
            into.extend_from_slice(&piece[..count]);
            Look::Bytes
        }
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            Look::Nothing
        }
        // A reset is an end as well.
        Err(_) => Look::End,
    }
}

/// Writes the bytes. Errors are ignored: after a refusal there is an answer to read.
pub(crate) fn write(tcp: &mut TcpStream, bytes: &[u8]) {
    let _ = tcp.write_all(bytes);
}
