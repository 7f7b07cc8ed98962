//! Looking at what a connection begins with, without taking it from the socket.
//!
//! What is not whole yet waits in the kernel: a client that stops in the middle has none of the
//! buffers of a conversation, and nobody looks again before it sends more.

use std::cell::RefCell;
use std::io;

use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Bytes that can be looked at: as much as the head of a request may have by default.
pub(super) const ROOM: usize = 32 * 1024;

thread_local! {
    /// Where connections are looked at, one at a time: none of them needs room of its own.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; ROOM].into());
}

/// Looks, whenever there is more to see, until `decide` has seen enough. Whoever calls this bounds
/// its time.
///
/// # Errors
/// No more will come, or `decide` says so.
pub(super) async fn peek<T>(
    tcp: &TcpStream,
    decide: impl Fn(&[u8]) -> io::Result<Option<T>>,
) -> io::Result<T> {
    loop {
        let ready = tcp.ready(Interest::READABLE).await?;
        // To the runtime, what is not enough is nothing: it waits until something is added to it.
        let looked = tcp.try_io(Interest::READABLE, || {
            look(tcp, &decide)?.ok_or_else(|| io::ErrorKind::WouldBlock.into())
        });
        match looked {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if ready.is_read_closed() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            looked => return looked,
        }
    }
}

fn look<T>(
    tcp: &TcpStream,
    decide: impl Fn(&[u8]) -> io::Result<Option<T>>,
) -> io::Result<Option<T>> {
    SCRATCH.with_borrow_mut(|room| {
        let (seen, _) = recv(tcp, &mut **room, RecvFlags::PEEK)?;
        if seen == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        decide(&room[..seen])
    })
}
