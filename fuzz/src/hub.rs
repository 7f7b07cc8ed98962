//! A hub on loopback, in this process: so a panic on any of its threads is the fuzzer's, and what
//! its threads reach counts as covered.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::LazyLock;
use std::time::Duration;

use fanfare::config::Config;
use fanfare::server::Server;
use socket2::SockRef;

/// Longer than any answer takes that is not told to wait.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Settings that make limits and deadlines near enough to be met.
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

/// The public address, and the admin's.
pub(crate) struct Addresses {
    pub(crate) public: SocketAddr,
    pub(crate) admin: SocketAddr,
}

/// A hub that waits for the head of a request longer than any machine is busy with other things.
pub(crate) static PATIENT: LazyLock<Addresses> = LazyLock::new(|| start(Duration::from_secs(60)));

/// A hub that soon cuts off whoever does not come to the end of a head.
pub(crate) static HASTY: LazyLock<Addresses> = LazyLock::new(|| start(Duration::from_millis(300)));

fn start(header_timeout: Duration) -> Addresses {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut config = Config::from_toml(CONFIG).expect("a configuration");
        config.server.header_timeout = header_timeout;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let server = Server::bind(config).await.expect("a hub");
            let _ = tell.send(Addresses { public: server.addr(), admin: server.admin_addr() });
            server.run(std::future::pending()).await;
        });
    });
    told.recv().expect("the hub listens")
}

/// A connection that is gone without a trace when it is dropped: a fuzzer opens more of them in a
/// minute than there are ports, which would otherwise rest for a while.
pub(crate) fn connect(to: SocketAddr) -> TcpStream {
    let tcp = TcpStream::connect(to).expect("a connection");
    tcp.set_nodelay(true).expect("an option");
    SockRef::from(&tcp).set_linger(Some(Duration::ZERO)).expect("an option");
    tcp
}

/// What one look at a connection brought.
pub(crate) enum Look {
    Bytes,
    End,
    Nothing,
}

/// Reads what is there, waiting for it no longer than this.
pub(crate) fn read(tcp: &mut TcpStream, into: &mut Vec<u8>, wait: Duration) -> Look {
    tcp.set_read_timeout(Some(wait)).expect("an option");
    let mut piece = [0; 16 * 1024];
    // libFuzzer looks at its clock by a signal, which ends whatever waits.
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
        // Cut off is an end as well.
        Err(_) => Look::End,
    }
}

/// Writes; whoever is cut off meanwhile has something to read.
pub(crate) fn write(tcp: &mut TcpStream, bytes: &[u8]) {
    let _ = tcp.write_all(bytes);
}
