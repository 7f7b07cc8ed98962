//! Reads the first bytes of a connection without taking them from the socket.
//!
//! Incomplete data waits in the kernel: a client that stops in the middle costs no buffers of
//! hyper, and no work until it sends more.

use std::cell::RefCell;
use std::io;

use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// Bytes that can be peeked at: as many as the head of a request may have by default.
pub(super) const ROOM: usize = 32 * 1024;

thread_local! {
    /// The thread's buffer for peeking, one connection at a time: none needs a buffer of its own.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; ROOM].into());
}

/// Peeks each time more bytes have arrived, until `decide` returns a result. The caller limits the
/// time.
///
/// # Errors
/// The client closed its side, or `decide` fails.
pub(super) async fn peek<T>(
    tcp: &TcpStream,
    decide: impl Fn(&[u8]) -> io::Result<Option<T>>,
) -> io::Result<T> {
    loop {
        let ready = tcp.ready(Interest::READABLE).await?;
        // `WouldBlock` makes tokio wait until more bytes arrive.
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
