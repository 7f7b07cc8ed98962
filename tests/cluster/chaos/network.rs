//! The network between a hub and the servers, which can be cut: packets are lost, and no side is
//! informed of it.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use fanfare_testing::free_address;
use fanfare_testing::nats::NatsCluster;

/// The network of a hub.
pub(crate) enum Network {
    /// That of the machine.
    Shared,
    /// A namespace of its own.
    Namespace(Namespace),
    /// Proxies before the servers, where a namespace cannot be created.
    Proxies(Proxies),
}

impl Network {
    /// A network that can be cut.
    pub(crate) async fn separate(nats: &NatsCluster) -> Self {
        match Namespace::new() {
            Some(namespace) => Self::Namespace(namespace),
            None => {
                eprintln!("no network namespace without root: a proxy that holds all bytes");
                Self::Proxies(Proxies::start(nats).await)
            }
        }
    }

    /// Returns the URLs of the servers for the hub.
    pub(crate) fn urls(&self, nats: &NatsCluster) -> Vec<String> {
        let at = |host: Ipv4Addr, port: u16| format!("nats://{host}:{port}");
        let ports = nats.servers.iter().map(|server| server.port());
        match self {
            Self::Shared => nats.urls(),
            Self::Namespace(namespace) => {
                ports.map(|port| at(namespace.address(SERVERS, OUTSIDE), port)).collect()
            }
            Self::Proxies(proxies) => {
                proxies.ports.iter().map(|port| at(Ipv4Addr::LOCALHOST, *port)).collect()
            }
        }
    }

    /// Returns an address of the hub that the tests can reach.
    pub(crate) fn free_address(&self) -> SocketAddr {
        let mut addr = free_address();
        if let Self::Namespace(namespace) = self {
            addr.set_ip(namespace.address(CLIENTS, INSIDE).into());
        }
        addr
    }

    /// Returns the command that starts a program in this network.
    pub(crate) fn command(&self, program: &str) -> Command {
        let Self::Namespace(namespace) = self else { return Command::new(program) };
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &namespace.name, program]);
        command
    }

    /// Loses all packets between the hub and the servers.
    pub(crate) fn cut(&self) {
        self.connect(false);
    }

    /// Passes packets on again.
    pub(crate) fn restore(&self) {
        self.connect(true);
    }

    fn connect(&self, connected: bool) {
        match self {
            Self::Shared => panic!("this network cannot be cut"),
            Self::Namespace(namespace) => namespace.connect(connected),
            Self::Proxies(proxies) => {
                proxies.is_connected.send_replace(connected);
            }
        }
    }
}

/// The two links of a namespace: a cut leaves that of the clients.
const CLIENTS: u8 = 0;
const SERVERS: u8 = 1;

/// The two ends of a link.
const OUTSIDE: u8 = 1;
const INSIDE: u8 = 2;

/// A network namespace with two links, each to a bridge outside. The link to the servers is cut by
/// taking it from its bridge: both ends stay up, and the packets are lost.
pub(crate) struct Namespace {
    name: String,
    number: u8,
}

impl Namespace {
    fn new() -> Option<Self> {
        static NEXT: AtomicU8 = AtomicU8::new(0);
        let process = std::process::id() % 64;
        let number = process as u8 * 4 + NEXT.fetch_add(1, Ordering::Relaxed) % 4;
        let namespace = Self { name: format!("fanfare{number}"), number };
        namespace.delete(); // that of a test which was killed
        if !ip(&["netns", "add", &namespace.name]) {
            return None;
        }
        namespace.run(&format!("-n {} link set lo up", namespace.name));
        namespace.link(CLIENTS);
        namespace.link(SERVERS);
        Some(namespace)
    }

    fn link(&self, link: u8) {
        let [bridge, outside, inside] = self.interfaces(link);
        let name = &self.name;
        let [out, within] = [OUTSIDE, INSIDE].map(|end| self.address(link, end));
        self.run(&format!("link add {bridge} type bridge"));
        self.run(&format!("addr add {out}/30 dev {bridge}"));
        self.run(&format!("link set {bridge} up"));
        self.run(&format!("link add {outside} type veth peer name {inside} netns {name}"));
        self.run(&format!("link set {outside} master {bridge}"));
        self.run(&format!("link set {outside} up"));
        self.run(&format!("-n {name} addr add {within}/30 dev {inside}"));
        self.run(&format!("-n {name} link set {inside} up"));
    }

    fn connect(&self, connected: bool) {
        let [bridge, outside, _] = self.interfaces(SERVERS);
        if connected {
            self.run(&format!("link set {outside} master {bridge}"));
        } else {
            self.run(&format!("link set {outside} nomaster"));
        }
    }

    fn interfaces(&self, link: u8) -> [String; 3] {
        ["b", "o", "i"].map(|kind| format!("ff{}{kind}{link}", self.number))
    }

    fn address(&self, link: u8, end: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 213, self.number, link * 4 + end)
    }

    #[track_caller]
    fn run(&self, arguments: &str) {
        let arguments: Vec<_> = arguments.split(' ').collect();
        assert!(ip(&arguments), "`ip {}` failed", arguments.join(" "));
    }

    fn delete(&self) {
        for link in [CLIENTS, SERVERS] {
            let [bridge, outside, _] = self.interfaces(link);
            ip(&["link", "del", &outside]);
            ip(&["link", "del", &bridge]);
        }
        ip(&["netns", "del", &self.name]);
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.delete();
    }
}

/// Runs `ip`, and returns whether it succeeded.
fn ip(arguments: &[&str]) -> bool {
    Command::new("ip").args(arguments).output().is_ok_and(|output| output.status.success())
}

/// A proxy before each server, which holds all bytes while the network is cut.
pub(crate) struct Proxies {
    ports: Vec<u16>,
    is_connected: watch::Sender<bool>,
}

impl Proxies {
    async fn start(nats: &NatsCluster) -> Self {
        let is_connected = watch::Sender::new(true);
        let mut ports = Vec::new();
        for server in &nats.servers {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
            ports.push(listener.local_addr().expect("an address").port());
            tokio::spawn(proxy(listener, server.port(), is_connected.subscribe()));
        }
        Self { ports, is_connected }
    }
}

async fn proxy(listener: TcpListener, server: u16, is_connected: watch::Receiver<bool>) {
    while let Ok((client, _)) = listener.accept().await {
        let is_connected = is_connected.clone();
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await else {
                return;
            };
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            tokio::select! {
                () = copy(from_client, to_server, is_connected.clone()) => {}
                () = copy(from_server, to_client, is_connected) => {}
            }
        });
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut is_connected: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if is_connected.wait_for(|connected| *connected).await.is_err()
            || to.write_all(&buffer[..length]).await.is_err()
        {
            return;
        }
    }
}
