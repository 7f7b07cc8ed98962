//! A minimal server with faults on request, for tests of the load generator.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;

use parking_lot::Mutex;

/// A fault of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FakeFault {
    None,
    /// Drops every tenth event.
    Loses,
    /// Sends every tenth event twice.
    Repeats,
    /// Sends every tenth event after the next one.
    Swaps,
    /// Refuses subscriptions.
    Refuses,
    /// Closes every tenth publishing connection without a response.
    HangsUp,
}

#[derive(Default)]
struct FakeChannel {
    events: usize,
    held: Option<Vec<u8>>,
    members: Vec<TcpStream>,
}

type FakeHub = Arc<Mutex<HashMap<String, FakeChannel>>>;

/// Serves until the test process ends.
pub(crate) fn serve(fault: FakeFault) -> SocketAddr {
    listen(&FakeHub::default(), fault)
}

/// Serves the same channels at two addresses.
pub(crate) fn serve_at_two(fault: FakeFault) -> [SocketAddr; 2] {
    let hub = FakeHub::default();
    [listen(&hub, fault), listen(&hub, fault)]
}

fn listen(hub: &FakeHub, fault: FakeFault) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let hub = Arc::clone(hub);
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            let hub = Arc::clone(&hub);
            std::thread::spawn(move || attend(stream, &hub, fault));
        }
    });
    address
}

fn attend(mut stream: TcpStream, hub: &FakeHub, fault: FakeFault) {
    stream.set_nodelay(true).unwrap();
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    loop {
        let mut path = String::new();
        let mut length = 0;
        let mut line = String::new();
        while reader.read_line(&mut line).is_ok_and(|len| len > 2) {
            if path.is_empty() {
                path = line.split(' ').nth(1).unwrap().into();
            } else if let Some(value) = line.strip_prefix("Content-Length: ") {
                length = value.trim().parse().unwrap();
            }
            line.clear();
        }
        if let Some(name) = path.strip_prefix("/sub/") {
            let head = if fault == FakeFault::Refuses {
                "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nfull"
            } else {
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n:\n\r\n"
            };
            stream.write_all(head.as_bytes()).unwrap();
            return hub.lock().entry(name.into()).or_default().members.push(stream);
        }
        let Some(name) = path.strip_prefix("/pub/") else { return };
        let mut data = vec![0; length];
        reader.read_exact(&mut data).unwrap();
        let mut hub = hub.lock();
        if !publish(hub.entry(name.into()).or_default(), &data, fault) {
            return;
        }
        stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
    }
}

fn publish(channel: &mut FakeChannel, data: &[u8], fault: FakeFault) -> bool {
    let event = [b"data".as_slice(), b": ", data, b"\n\n"].concat();
    channel.events += 1;
    let mut out = match (channel.events.is_multiple_of(10), fault) {
        (true, FakeFault::Loses) => vec![],
        (true, FakeFault::Repeats) => vec![event.clone(), event],
        (true, FakeFault::Swaps) => {
            channel.held = Some(event);
            return true;
        }
        (true, FakeFault::HangsUp) => return false,
        _ => vec![event],
    };
    out.extend(channel.held.take());
    for event in out {
        // In two chunks, because a client may not assume one chunk per event.
        let (a, b) = event.split_at(9);
        for member in &mut channel.members {
            let _ = write!(member, "{:x}\r\n", a.len());
            let _ = member.write_all(&[a, b"\r\n"].concat());
            let _ = write!(member, "{:x}\r\n", b.len());
            let _ = member.write_all(&[b, b"\r\n"].concat());
        }
    }
    true
}
