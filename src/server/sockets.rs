//! The sockets of the listeners: inherited, or bound by the hub.

use std::io;
use std::net::{SocketAddr, TcpListener};

use socket2::{Domain, SockRef, Socket, Type};

use super::{StartError, auth_setup};
use crate::config::{Config, Inherited};
use crate::http::{self, SocketOptions};

/// A socket that listens, or is bound and will listen.
pub(super) struct BoundSocket {
    pub(super) tcp: TcpListener,
    pub(super) addr: SocketAddr,
    /// Whether another process has it open as well.
    pub(super) inherited: bool,
}

/// Opens the public and the admin socket. In a cluster, the public one listens later, unless it was
/// inherited.
pub(super) fn open(
    config: &Config,
    inherited: Inherited,
) -> Result<(BoundSocket, BoundSocket), StartError> {
    let server = &config.server;
    let public = one("server.listen", server.listen, inherited.public, config)?;
    let admin = one("server.admin_listen", server.admin_listen, inherited.admin, config)?;
    listen("server.admin_listen", &admin)?;
    if !config.cluster.is_on() {
        listen("server.listen", &public)?;
    }
    Ok((public, admin))
}

fn listen(key: &'static str, socket: &BoundSocket) -> Result<(), StartError> {
    let BoundSocket { tcp, addr: address, .. } = socket;
    let address = *address;
    http::listen(tcp).map_err(|source| StartError::Bind { key, address, source })
}

fn one(
    key: &'static str,
    address: SocketAddr,
    inherited: Option<TcpListener>,
    config: &Config,
) -> Result<BoundSocket, StartError> {
    let is_inherited = inherited.is_some();
    let tcp = inherited.map_or_else(|| bind(address, options(config)), Ok);
    let bound = tcp.and_then(|tcp| {
        tcp.set_nonblocking(true)?;
        Ok((tcp.local_addr()?, tcp))
    });
    let (addr, tcp) = bound.map_err(|source| StartError::Bind { key, address, source })?;
    if is_inherited {
        auth_setup::check_listener(&format!("the inherited socket for `{key}`"), addr, config)?;
        tracing::info!(%addr, "serves on an inherited socket, in place of `{key}`");
    }
    Ok(BoundSocket { tcp, addr, inherited: is_inherited })
}

/// Returns the options of the sockets of connections.
pub(super) fn options(config: &Config) -> SocketOptions {
    SocketOptions { unsent_limit: config.subscribers.unsent_limit }
}

/// Binds a socket to the address, which does not listen yet. Accepted sockets inherit the options,
/// which saves six system calls for each.
fn bind(address: SocketAddr, options: SocketOptions) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    options.set(&SockRef::from(&socket));
    socket.bind(&address.into())?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::time::Duration;

    use bytesize::ByteSize;

    use super::*;

    #[test]
    fn accepted_sockets_have_the_options_of_their_listener() {
        let options = SocketOptions { unsent_limit: ByteSize::kib(16) };
        let listener = bind(([127, 0, 0, 1], 0).into(), options).unwrap();
        http::listen(&listener).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let socket = SockRef::from(&accepted);
        assert!(socket.tcp_nodelay().unwrap());
        assert!(socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), Duration::from_secs(30));
        assert_eq!(socket.tcp_keepalive_interval().unwrap(), Duration::from_secs(10));
        assert_eq!(socket.tcp_keepalive_retries().unwrap(), 3);
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), 16 * 1024);
    }
}
