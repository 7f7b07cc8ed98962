//! The listening sockets: inherited, or bound by the hub.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

use super::{StartError, auth_setup};
use crate::config::{Config, Inherited};

/// Connections that may wait to be accepted: a reconnect storm must not be dropped by the kernel.
const BACKLOG: u32 = 4096;

/// A listening socket.
pub(super) struct Socket {
    pub(super) tcp: TcpListener,
    pub(super) addr: SocketAddr,
    /// Whether another process has it open as well.
    pub(super) inherited: bool,
}

/// Opens the public and the admin socket.
pub(super) fn open(config: &Config, inherited: Inherited) -> Result<(Socket, Socket), StartError> {
    let server = &config.server;
    let public = one("server.listen", server.listen, inherited.public, config)?;
    let admin = one("server.admin_listen", server.admin_listen, inherited.admin, config)?;
    Ok((public, admin))
}

fn one(
    key: &'static str,
    address: SocketAddr,
    inherited: Option<std::net::TcpListener>,
    config: &Config,
) -> Result<Socket, StartError> {
    let is_inherited = inherited.is_some();
    let tcp = inherited.map_or_else(|| bind(address), adopt);
    let bound = tcp.and_then(|tcp| Ok((tcp.local_addr()?, tcp)));
    let (addr, tcp) = bound.map_err(|source| StartError::Bind { key, address, source })?;
    if is_inherited {
        auth_setup::check_listener(&format!("the inherited socket for `{key}`"), addr, config)?;
        tracing::info!(%addr, "serves on an inherited socket, in place of `{key}`");
    }
    Ok(Socket { tcp, addr, inherited: is_inherited })
}

fn adopt(socket: std::net::TcpListener) -> io::Result<TcpListener> {
    socket.set_nonblocking(true)?;
    TcpListener::from_std(socket)
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}
