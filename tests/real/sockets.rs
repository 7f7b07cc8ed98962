//! Sockets that outlive the hub: passed in the way of systemd, and kept open by the test.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use fanfare::internals::config::{Inherited, variable};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use fanfare_testing::http::{get, post};
use fanfare_testing::{HubProcess, Signal, eventually, free_address, within};

use super::support::FANFARE;

/// Returns a program with these sockets as its descriptors from 3 on, which belong to it by
/// `LISTEN_PID`: a shell knows the id of the process that it becomes. At most two sockets, and the
/// first a third time.
fn with_sockets(program: &Path, sockets: &[&OwnedFd], names: Option<&str>) -> Command {
    let redirections = &["3<&0", "4<&1", "5<&0"][..sockets.len()].join(" ");
    let script = format!(
        "LISTEN_PID=$$ exec \"$0\" \"$@\" {redirections} </dev/null {}",
        if sockets.len() > 1 { ">/dev/null" } else { "" }
    );
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).arg(program).env("LISTEN_FDS", sockets.len().to_string());
    if let Some(names) = names {
        shell.env("LISTEN_FDNAMES", names);
    }
    let copy = |socket: &OwnedFd| Stdio::from(socket.try_clone().expect("a copy"));
    if let Some(first) = sockets.first() {
        shell.stdin(copy(first));
    }
    if let Some(second) = sockets.get(1) {
        shell.stdout(copy(second));
    }
    shell
}

/// Opens a socket that listens on a free port, and returns its address.
fn listening() -> (OwnedFd, SocketAddr) {
    listening_at(Ipv4Addr::LOCALHOST)
}

fn listening_at(address: Ipv4Addr) -> (OwnedFd, SocketAddr) {
    let listener = TcpListener::bind((address, 0)).expect("a port");
    let addr = listener.local_addr().expect("its address");
    (listener.into(), addr)
}

/// Starts a hub on the first of these, and its admin listener on the second if there is one.
fn hub_on(sockets: &[&OwnedFd], addr: SocketAddr, settings: &[(&str, &str)]) -> HubProcess {
    let names = ["public", "public:admin"][sockets.len() - 1];
    let mut program = with_sockets(Path::new(FANFARE), sockets, Some(names));
    program.envs(settings.iter().copied());
    HubProcess::new(program).reached_at(addr).started()
}

/// Runs `fanfare serve` on these, and expects it to end by itself.
async fn refused(sockets: &[&OwnedFd], names: Option<&str>, settings: &[(&str, &str)]) -> String {
    let addresses = [free_address().to_string(), free_address().to_string()];
    let mut program = with_sockets(Path::new(FANFARE), sockets, names);
    program.args(["serve", "--listen", &addresses[0], "--admin-listen", &addresses[1]]);
    program.envs(settings.iter().copied());
    let mut program = tokio::process::Command::from(program);
    let started = program.stderr(Stdio::piped()).kill_on_drop(true).spawn().expect("the program");
    let ended = within("a start that fails", started.wait_with_output()).await;
    let Output { status, stderr, .. } = ended.expect("its end");
    let error = String::from_utf8(stderr).expect("text");
    assert_eq!(status.code(), Some(64), "{error}");
    error
}

/// Sends a publish without reading the answer.
async fn begin_post(addr: SocketAddr, channel: &str, data: &str) -> TcpStream {
    let mut tcp = TcpStream::connect(addr).await.expect("a connection that is not refused");
    let head =
        format!("POST /v1/channels/{channel} HTTP/1.1\r\nHost: localhost\r\nConnection: close");
    let request = format!("{head}\r\nContent-Length: {}\r\n\r\n{data}", data.len());
    tcp.write_all(request.as_bytes()).await.expect("a request that the kernel takes");
    tcp
}

async fn rest(mut tcp: TcpStream) -> String {
    let mut answer = String::new();
    within("an answer", tcp.read_to_string(&mut answer)).await.expect("an answer");
    answer
}

#[tokio::test]
async fn a_connection_made_while_no_hub_runs_is_answered_by_the_next() {
    let (socket, addr) = listening();
    let mut first = hub_on(&[&socket], addr, &[]);
    first.publish("a", "one").await;
    first.kill();
    let waiting = begin_post(addr, "a", "two").await;
    let second = hub_on(&[&socket], addr, &[]);
    let answer = rest(waiting).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let page = get(second.addr(), "/v1/channels/a?from=earliest").await;
    assert!(page.contains("two") && !page.contains("one"), "{page}");
}

#[tokio::test]
async fn a_restart_refuses_no_client() {
    let ((public, addr), (operators, admin)) = (listening(), listening());
    let sockets = [&public, &operators];
    let mut first = hub_on(&sockets, addr, &[("FANFARE_DRAIN__WINDOW", "1h")]);
    // An open publish delays the end of the drain.
    let mut publisher = TcpStream::connect(addr).await.expect("a connection");
    let head = "POST /v1/channels/a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
                Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
    publisher.write_all(head.as_bytes()).await.expect("a head");
    publisher.write_all(b"4\r\n\"1\"\n\r\n").await.expect("a line");
    let path = "/v1/channels/a?from=earliest";
    eventually("the line", async || get(addr, path).await.contains("\\\"1\\\"").then_some(()))
        .await;
    first.signal(Signal::TERM);
    // Only the public listener leaves new clients to the next hub.
    eventually("the hub to drain", async || {
        get(admin, "/readyz").await.starts_with("HTTP/1.1 503").then_some(())
    })
    .await;
    let mut waiting = Vec::new();
    for number in 0..5 {
        waiting.push(begin_post(addr, "b", &format!("in the drain {number}")).await);
    }
    publisher.write_all(b"4\r\n\"2\"\n\r\n0\r\n\r\n").await.expect("the last line");
    let receipt = rest(publisher).await;
    assert!(receipt.starts_with("HTTP/1.1 200") && receipt.contains("\"events\":2"), "{receipt}");
    assert_eq!(first.ended().await.code(), Some(0));
    waiting.push(begin_post(addr, "b", "between the two").await);
    let second = hub_on(&sockets, addr, &[]);
    waiting.push(begin_post(addr, "b", "behind").await);
    for waiting in waiting {
        let answer = rest(waiting).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let page = get(second.addr(), "/v1/channels/b?from=earliest").await;
    for data in ["in the drain 0", "in the drain 4", "between the two", "behind"] {
        assert!(page.contains(data), "{data}: {page}");
    }
}

#[tokio::test]
async fn each_listener_serves_on_the_socket_that_is_named_for_it() {
    for (names, admin_is) in [
        (Some("public:admin"), 1),
        (Some("admin:public"), 0),
        (Some("fanfare.socket:fanfare.socket"), 1),
        (None, 1),
    ] {
        let (sockets, addrs): (Vec<_>, Vec<_>) = [listening(), listening()].into_iter().unzip();
        let program = with_sockets(Path::new(FANFARE), &[&sockets[0], &sockets[1]], names);
        let _hub = HubProcess::new(program).started();
        let metrics = get(addrs[admin_is], "/metrics").await;
        assert!(metrics.starts_with("HTTP/1.1 200"), "{names:?}: {metrics}");
        let published = post(addrs[1 - admin_is], "/v1/channels/a", "here").await;
        assert!(published.starts_with("HTTP/1.1 200"), "{names:?}: {published}");
        let none = get(addrs[1 - admin_is], "/metrics").await;
        assert!(none.starts_with("HTTP/1.1 404"), "{names:?}: {none}");
    }
}

#[tokio::test]
async fn what_is_not_inherited_is_bound() {
    let (socket, addr) = listening();
    let public = free_address();
    let admin = free_address();
    let program = with_sockets(Path::new(FANFARE), &[&socket], Some("admin"));
    let _hub = HubProcess::at(public, admin, program).started();
    assert!(post(public, "/v1/channels/a", "here").await.starts_with("HTTP/1.1 200"));
    assert!(get(addr, "/metrics").await.starts_with("HTTP/1.1 200"));
    assert!(TcpStream::connect(admin).await.is_err(), "the admin listener is there twice");
}

#[tokio::test]
async fn sockets_that_are_meant_for_another_process_are_none() {
    let mut program = Command::new(FANFARE);
    program.env("LISTEN_FDS", "1").env("LISTEN_PID", std::process::id().to_string());
    let hub = HubProcess::new(program).started();
    hub.publish("a", "here").await;
}

#[tokio::test]
async fn what_is_no_socket_to_serve_on_is_named_and_what_would_be() {
    let (tcp, addr) = listening();
    let udp = UdpSocket::bind("127.0.0.1:0").expect("a port").into();
    let folder = tempfile::tempdir().expect("a folder");
    let unix = UnixListener::bind(folder.path().join("socket")).expect("a socket").into();
    let connection = std::net::TcpStream::connect(addr).expect("a connection").into();
    let file = std::fs::File::open("/dev/null").expect("a file").into();
    for (socket, is) in [
        (&udp, "a UDP socket"),
        (&unix, "a Unix socket"),
        (&connection, "a TCP socket that does not listen"),
        (&file, "none (fd 3 is not a socket)"),
    ] {
        let error = refused(&[socket], None, &[]).await;
        let says = format!("the inherited socket for `server.listen` is {is}: hand over a TCP");
        assert!(error.contains(&says) && error.contains("ListenStream="), "{error}");
    }
    let error = refused(&[&tcp, &udp], Some("public:admin"), &[]).await;
    assert!(error.contains("for `server.admin_listen` is a UDP socket"), "{error}");
    let error = refused(&[&tcp], None, &[("LISTEN_FDS", "2")]).await;
    assert!(error.contains("is none (fd 4 is not a socket)"), "{error}");
}

#[tokio::test]
async fn sockets_that_have_no_place_are_named_and_what_would_be_right() {
    let (one, _) = listening();
    let (other, _) = listening();
    let two = [&one, &other];
    for (sockets, names, says) in [
        (&[&one][..], Some("web"), "named `web`: set FileDescriptorName=public if"),
        (&two, Some("public:web"), "named `web`: set FileDescriptorName=public if"),
        (&two, Some("public:public"), "for `server.listen`, which takes one"),
        (&two, Some("admin:admin"), "for `server.admin_listen`, which takes one"),
        (&two, Some("public:fanfare.socket"), "for `server.listen`, which takes one"),
        (&two, Some("a.socket:b.socket"), "`a.socket` and `b.socket` were inherited"),
        (
            &two,
            Some("public"),
            "each of the 2 inherited sockets, as in `public:admin`, and names 1",
        ),
        (&[&one, &other, &one], None, "3 sockets were inherited, and a hub has two"),
    ] {
        let error = refused(sockets, names, &[]).await;
        assert!(error.contains(says) && error.contains("public"), "{names:?}: {error}");
    }
}

#[tokio::test]
async fn a_hub_without_credentials_takes_no_socket_that_the_world_can_reach() {
    let (world, addr) = listening_at(Ipv4Addr::UNSPECIFIED);
    let (loopback, _) = listening();
    for (sockets, key) in
        [([&world, &loopback], "server.listen"), ([&loopback, &world], "server.admin_listen")]
    {
        let error = refused(&sockets, None, &[]).await;
        let says = format!("the inherited socket for `{key}`: {addr} can be reached from other");
        assert!(error.contains(&says) && error.contains("--insecure"), "{error}");
    }
    let settings = [("FANFARE_SERVER__INSECURE", "true")];
    let hub = hub_on(&[&world], SocketAddr::from(([127, 0, 0, 1], addr.port())), &settings);
    hub.publish("a", "on purpose").await;
}

/// Runs this program again, as the process that inherits a socket, and starts a child from it.
#[test]
fn children_inherit_neither_sockets_nor_variables() {
    if variable("LISTEN_FDS").is_none() {
        let (socket, _) = listening();
        let this = std::env::current_exe().expect("this program");
        let name = "sockets::children_inherit_neither_sockets_nor_variables";
        let ran = with_sockets(&this, &[&socket], Some("public")).args(["--exact", name]).output();
        let Output { status, stdout, .. } = ran.expect("this program, anew");
        let said = String::from_utf8_lossy(&stdout);
        assert!(status.success() && said.contains("1 passed"), "{said}");
        return;
    }
    let inherited = Inherited::from_environment().expect("a socket");
    assert!(inherited.public.is_some());
    let child = Command::new("sh").args(["-c", "env; readlink /proc/$$/fd/*"]).output();
    let seen = String::from_utf8(child.expect("a shell").stdout).expect("text");
    assert!(seen.contains("PATH=") && seen.contains("pipe:"), "{seen}");
    // The child has neither the variables nor the socket.
    for gone in ["LISTEN_FDS=", "LISTEN_PID=", "socket:"] {
        assert!(!seen.lines().any(|line| line.starts_with(gone)), "{gone} {seen}");
    }
}
