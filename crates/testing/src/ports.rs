//! Free ports for processes that are started with them, and perhaps restarted.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::sync::atomic::{AtomicU16, Ordering};

use parking_lot::Mutex;

/// The first port, and the number of ports: outside the range that the kernel uses for outgoing
/// connections, because a port must stay free between two lives of a process.
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
    loop {
        let number = begin.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, FIRST + number));
        let Ok(claim) = UdpSocket::bind(addr) else { continue };
        if TcpListener::bind(addr).is_ok() {
            CLAIMS.lock().push(claim);
            return addr;
        }
    }
}
