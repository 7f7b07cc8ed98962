//! A proxy before a server, which discards messages of the tail, and observes requests.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use parking_lot::Mutex;

type Filter = Box<dyn FnMut(u64) -> bool + Send>;
type Observer = Box<dyn FnMut(&str) -> bool + Send>;

/// A proxy before a server. Its threads end with its connections.
pub struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Returns whether a message of the tail is discarded, by its number from 1.
    discards: Mutex<Option<Filter>>,
    /// Returns whether a message of a client is passed on, by its subject.
    passes: Mutex<Option<Observer>>,
    sockets: Mutex<Vec<TcpStream>>,
    is_cut: Mutex<bool>,
}

impl Proxy {
    pub fn start(server: u16) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let shared: Arc<Shared> = Arc::default();
        let accepting = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if Arc::strong_count(&accepting) == 1 {
                    return;
                }
                if !*accepting.is_cut.lock()
                    && let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server))
                {
                    connect(&accepting, client, server);
                }
            }
        });
        Self { port, shared }
    }

    pub fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }

    /// Discards the messages of the tail for which this returns true.
    pub fn discard(&self, filter: impl FnMut(u64) -> bool + Send + 'static) {
        *self.shared.discards.lock() = Some(Box::new(filter));
    }

    /// Calls this with the subject of each message of a client, before it is passed on. It is
    /// discarded if this returns false.
    pub fn observe(&self, observer: impl FnMut(&str) -> bool + Send + 'static) {
        *self.shared.passes.lock() = Some(Box::new(observer));
    }

    /// Ends all connections, and accepts none.
    pub fn cut(&self) {
        *self.shared.is_cut.lock() = true;
        for socket in self.shared.sockets.lock().drain(..) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    }

    /// Accepts connections again.
    pub fn restore(&self) {
        *self.shared.is_cut.lock() = false;
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.cut();
    }
}

fn connect(shared: &Arc<Shared>, client: TcpStream, server: TcpStream) {
    let copy = |socket: &TcpStream| socket.try_clone().expect("a socket");
    shared.sockets.lock().extend([copy(&client), copy(&server)]);
    let (from_client, mut to_server) = (copy(&client), copy(&server));
    let of_client = Arc::clone(shared);
    thread::spawn(move || {
        let _ = relay(BufReader::new(from_client), &mut to_server, |subject| {
            of_client.passes.lock().as_mut().is_none_or(|passes| passes(subject))
        });
        let _ = to_server.shutdown(Shutdown::Both);
    });
    let of_server = Arc::clone(shared);
    thread::spawn(move || {
        let mut to_client = copy(&client);
        let mut number = 0;
        let _ = relay(BufReader::new(server), &mut to_client, |subject| {
            if !subject.ends_with(".tail") {
                return true;
            }
            number += 1;
            of_server.discards.lock().as_mut().is_none_or(|discards| !discards(number))
        });
        let _ = to_client.shutdown(Shutdown::Both);
    });
}

/// Copies what one side sends, operation by operation, without the messages whose subject does not
/// pass.
fn relay(
    mut from: BufReader<TcpStream>,
    to: &mut TcpStream,
    mut passes: impl FnMut(&str) -> bool,
) -> std::io::Result<()> {
    let mut operation = Vec::new();
    while from.read_until(b'\n', &mut operation)? > 0 {
        let line = String::from_utf8_lossy(&operation).into_owned();
        if ["MSG ", "HMSG ", "PUB ", "HPUB "].iter().any(|verb| line.starts_with(verb)) {
            let length = line.trim_end().rsplit(' ').next().and_then(|it| it.parse::<usize>().ok());
            let begin = operation.len();
            operation.resize(begin + length.expect("a length") + 2, 0);
            from.read_exact(&mut operation[begin..])?;
            if !line.split(' ').nth(1).is_some_and(&mut passes) {
                operation.clear();
            }
        }
        to.write_all(&operation)?;
        operation.clear();
    }
    Ok(())
}
