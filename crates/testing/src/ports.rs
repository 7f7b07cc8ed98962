//! Free ports for processes that are started with them, and perhaps restarted.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

use parking_lot::Mutex;

/// The first port, and the number of ports: outside the range that Linux uses by default for
/// outgoing connections, because a port must stay free between two lives of a process.
const FIRST: u16 = 10_000;
const COUNT: u16 = 20_000;

/// The UDP sockets at the ports that this process has returned. Their TCP ports are free for the
/// tests, and no other process that runs tests takes them meanwhile.
static CLAIMS: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());

/// Returns a free address of this machine, each only once.
pub fn free_address() -> SocketAddr {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    // Processes that run at the same time seldom try the same ports.
    let begin = (std::process::id() % 200) as u16 * 100;
    let mut refusal = None;
    for _ in 0..COUNT {
        let number = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, FIRST + number));
        match claim(addr) {
            Ok(claim) => {
                CLAIMS.lock().push(claim);
                return addr;
            }
            Err(error) => refusal = Some(error),
        }
    }
    panic!("none of {COUNT} ports is free; the last error: {refusal:?}")
}

/// Returns the UDP socket at this address if its TCP port is free as well.
fn claim(addr: SocketAddr) -> io::Result<UdpSocket> {
    let claim = UdpSocket::bind(addr)?;
    TcpListener::bind(addr)?;
    Ok(claim)
}
