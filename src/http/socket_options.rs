//! The options of the sockets of connections.

use std::time::Duration;

use bytesize::ByteSize;
use socket2::{SockRef, TcpKeepalive};

/// Options of a connection's socket. A socket inherits those that its listening socket has when
/// its handshake ends.
#[derive(Clone, Copy, Debug)]
pub struct SocketOptions {
    /// Maximum number of bytes that the kernel holds unsent: each is a copy for one subscriber.
    pub unsent_limit: ByteSize,
}

impl SocketOptions {
    /// Sets the options that the kernel knows.
    pub fn set(self, socket: &SockRef<'_>) {
        // Otherwise an event waits for the acknowledgement of the one before.
        let _ = socket.set_tcp_nodelay(true);
        // Otherwise a publisher whose machine is lost would hold its channel for ever.
        let _ = socket.set_tcp_keepalive(&keepalive());
        let unsent = u32::try_from(self.unsent_limit.as_u64()).unwrap_or(u32::MAX);
        let _ = socket.set_tcp_notsent_lowat(unsent);
    }
}

/// Returns keepalive options that notice a lost peer after 30 s of silence and three probes.
fn keepalive() -> TcpKeepalive {
    let pause = Duration::from_secs(10);
    TcpKeepalive::new().with_time(3 * pause).with_interval(pause).with_retries(3)
}
