//! Looking at what a connection begins with, without taking it from the socket.

use std::io;
use std::time::Duration;

use tokio::net::TcpStream;

/// The first pause before looking again. A socket that has something is ready at once, so there is
/// nothing to wait for but time.
const PAUSE: Duration = Duration::from_millis(5);

/// The longest pause: thousands of clients that send a byte and then nothing must cost nothing. It
/// is never longer than what the client has taken so far, so an honest one waits twice at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(3);

/// Looks until `decide` has seen enough, or as much as there is room for. Whoever calls this bounds
/// its time.
///
/// # Errors
/// The connection is over, or `decide` says so.
pub(super) async fn peek<T>(
    tcp: &TcpStream,
    room: &mut [u8],
    decide: impl Fn(&[u8]) -> io::Result<Option<T>>,
) -> io::Result<T> {
    let mut pause = PAUSE;
    loop {
        let seen = tcp.peek(room).await?;
        if seen == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(decided) = decide(&room[..seen])? {
            return Ok(decided);
        }
        if seen == room.len() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
