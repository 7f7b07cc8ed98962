//! The floor of the comparison: what fan-out costs when a server does nothing else.
//!
//! `GET /…/channel` makes the connection a subscriber of the channel. `POST /…/channel` renders its body as one
//! event and makes one `write` of it to each subscriber, then answers. That is all: no history, no heartbeat, no
//! backlog (what a socket does not take is lost to that subscriber), no limits. It is no hub and must not be used as
//! one. What a hub spends beyond it is the hub's own doing; what it spends less, it saves by writing several
//! events at once.
//!
//! Each thread has its own `epoll`. Both wait for connections; the n-th belongs to thread n modulo their number. The
//! subscribers of a channel lie in one list, and the thread that reads a POST writes to all of them itself, so that
//! no delivery costs a wake-up.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Registry, Token};
use parking_lot::{Mutex, RwLock};

/// The token of the listener; connections have their number.
const LISTENER: Token = Token(usize::MAX);

const SUBSCRIBED: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n\r\n:\n\n";
const PUBLISHED: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
const REFUSED: &[u8] =
    b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";

/// The subscribers of one channel, and the number of its next event.
#[derive(Default)]
struct Channel {
    next: u64,
    members: Vec<(usize, Arc<TcpStream>)>,
}

/// The state that the threads share.
#[derive(Default)]
struct Hub {
    channels: RwLock<HashMap<Vec<u8>, Arc<Mutex<Channel>>>>,
    accepted: AtomicUsize,
}

impl Hub {
    fn channel(&self, name: &[u8]) -> Arc<Mutex<Channel>> {
        if let Some(found) = self.channels.read().get(name) {
            return Arc::clone(found);
        }
        let mut channels = self.channels.write();
        Arc::clone(channels.entry(name.to_vec()).or_default())
    }

    /// One event, rendered once, written once to each subscriber. The lock is what keeps the order.
    fn publish(&self, name: &[u8], data: &[u8], event: &mut Vec<u8>) {
        let channel = self.channel(name);
        let mut channel = channel.lock();
        event.clear();
        let _ = write!(event, "id: {}\ndata: ", channel.next);
        event.extend_from_slice(data);
        event.extend_from_slice(b"\n\n");
        channel.next += 1;
        for (_, stream) in &channel.members {
            if let Ok(written) = (&**stream).write(event)
                && written < event.len()
            {
                let _ = stream.shutdown(std::net::Shutdown::Both); // half an event: better none at all
            }
        }
    }
}

/// A connection, owned by the thread that reads it.
struct Connection {
    stream: Arc<TcpStream>,
    /// Bytes of an incomplete request. Empty for a subscriber, without memory.
    unread: Vec<u8>,
    subscribed: Option<Arc<Mutex<Channel>>>,
}

/// The queue of connections from another thread.
struct Seat {
    registry: Registry,
    sender: Sender<(usize, Arc<TcpStream>)>,
}

struct Worker {
    hub: Arc<Hub>,
    seats: Arc<Vec<Seat>>,
    receiver: Receiver<(usize, Arc<TcpStream>)>,
    listener: TcpListener,
    connections: HashMap<usize, Connection>,
    scratch: Vec<u8>,
    event: Vec<u8>,
}

impl Worker {
    fn run(mut self, mut poll: Poll) -> io::Result<()> {
        poll.registry().register(&mut self.listener, LISTENER, Interest::READABLE)?;
        let mut events = Events::with_capacity(1024);
        loop {
            match poll.poll(&mut events, None) {
                Err(error) if error.kind() != ErrorKind::Interrupted => return Err(error),
                _ => {}
            }
            for event in &events {
                match event.token() {
                    LISTENER => self.accept(),
                    Token(number) => self.read(number),
                }
            }
        }
    }

    /// Accepts all waiting connections, and distributes them in turn.
    fn accept(&mut self) {
        while let Ok((mut stream, _)) = self.listener.accept() {
            let _ = stream.set_nodelay(true);
            let number = self.hub.accepted.fetch_add(1, Ordering::Relaxed);
            let seat = &self.seats[number % self.seats.len()];
            // Registered first: the other thread may see it at once, and then waits for it.
            if seat.registry.register(&mut stream, Token(number), Interest::READABLE).is_ok() {
                let _ = seat.sender.send((number, Arc::new(stream)));
            }
        }
    }

    fn read(&mut self, number: usize) {
        while let Ok((number, stream)) = self.receiver.try_recv() {
            self.connections
                .insert(number, Connection { stream, unread: Vec::new(), subscribed: None });
        }
        let Some(connection) = self.connections.get_mut(&number) else {
            // Registered just now and still in the queue; or closed, and this was its last event.
            if let Ok((sent, stream)) =
                self.receiver.recv_timeout(std::time::Duration::from_millis(1))
            {
                self.connections
                    .insert(sent, Connection { stream, unread: Vec::new(), subscribed: None });
                self.read(number);
            }
            return;
        };
        let open = loop {
            match (&*connection.stream).read(&mut self.scratch) {
                Ok(0) => break false,
                Ok(_) if connection.subscribed.is_some() => {} // its input is ignored
                Ok(count) => {
                    connection.unread.extend_from_slice(&self.scratch[..count]);
                    if !requests(&self.hub, number, connection, &mut self.event) {
                        break false;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => break false,
            }
        };
        if !open && let Some(connection) = self.connections.remove(&number) {
            leave(number, &connection);
        }
    }
}

/// Answers every complete request. Returns false if the connection ends.
fn requests(hub: &Hub, number: usize, connection: &mut Connection, event: &mut Vec<u8>) -> bool {
    let mut done = 0;
    while let Some(length) = find(&connection.unread[done..], b"\r\n\r\n") {
        let body = done + length + 4;
        let Some((method, name, content_length)) = head(&connection.unread[done..body]) else {
            let _ = (&*connection.stream).write(REFUSED);
            return false;
        };
        if method == b"GET" {
            let channel = hub.channel(name);
            connection.unread = Vec::new();
            return join(number, connection, channel);
        }
        let Some(data) = connection.unread.get(body..body + content_length) else { break };
        hub.publish(name, data, event);
        if (&*connection.stream).write(PUBLISHED).is_err() {
            return false;
        }
        done = body + content_length;
    }
    connection.unread.drain(..done);
    true
}

/// Makes the connection a subscriber. The head is sent under the lock, so that no event precedes
/// it.
fn join(number: usize, connection: &mut Connection, channel: Arc<Mutex<Channel>>) -> bool {
    let mut list = channel.lock();
    if (&*connection.stream).write(SUBSCRIBED).is_err() {
        return false;
    }
    list.members.push((number, Arc::clone(&connection.stream)));
    drop(list);
    connection.subscribed = Some(channel);
    true
}

fn leave(number: usize, connection: &Connection) {
    if let Some(channel) = &connection.subscribed {
        let mut channel = channel.lock();
        if let Some(at) = channel.members.iter().position(|(member, _)| *member == number) {
            channel.members.swap_remove(at);
        }
    }
}

/// Parses the method, the channel (the last segment of the path) and the length of the body.
fn head(head: &[u8]) -> Option<(&[u8], &[u8], usize)> {
    let mut lines = head.split(|byte| *byte == b'\n');
    let mut words = lines.next()?.split(|byte| *byte == b' ');
    let method = words.next()?;
    let target = words.next()?;
    let path = target.split(|byte| *byte == b'?').next()?;
    let name = path.rsplit(|byte| *byte == b'/').next()?;
    let length = lines.find_map(|line| {
        let (key, value) = line.split_at_checked(b"content-length:".len())?;
        key.eq_ignore_ascii_case(b"content-length:")
            .then(|| str::from_utf8(value).ok()?.trim().parse().ok())?
    });
    let known = method == b"GET" || (method == b"POST" && length.is_some());
    (known && !name.is_empty()).then_some((method, name, length.unwrap_or(0)))
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let address: SocketAddr =
        arguments.next().unwrap_or_else(|| "127.0.0.1:4199".into()).parse().map_err(|error| {
            io::Error::new(
                ErrorKind::InvalidInput,
                format!("usage: floor [ADDRESS [THREADS]]: {error}"),
            )
        })?;
    let threads = arguments.next().and_then(|count| count.parse().ok()).unwrap_or(2).max(1);

    let listener = std::net::TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    // The standard library's backlog of 128 drops a crowd's handshakes.
    socket2::SockRef::from(&listener).listen(4096)?;
    let hub = Arc::new(Hub::default());
    let mut seats = Vec::new();
    let mut sides = Vec::new();
    for _ in 0..threads {
        let poll = Poll::new()?;
        let (sender, receiver) = channel();
        seats.push(Seat { registry: poll.registry().try_clone()?, sender });
        sides.push((poll, receiver));
    }
    let seats = Arc::new(seats);
    let mut handles = Vec::new();
    for (poll, receiver) in sides {
        let worker = Worker {
            hub: Arc::clone(&hub),
            seats: Arc::clone(&seats),
            receiver,
            listener: TcpListener::from_std(listener.try_clone()?),
            connections: HashMap::new(),
            scratch: vec![0; 64 * 1024],
            event: Vec::new(),
        };
        handles.push(thread::spawn(move || worker.run(poll)));
    }
    for handle in handles {
        handle.join().map_err(|_| io::Error::other("a thread panicked"))??;
    }
    Ok(())
}
