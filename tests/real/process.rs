//! The hub as a process: signals, exit codes, and messages of a failed start.

use std::process::Command;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use fanfare_testing::http::{get, post};
use fanfare_testing::{HubProcess, Signal, eventually, within};

use super::support::{FANFARE, start_hub};

async fn subscriber(hub: &HubProcess) -> TcpStream {
    let mut tcp = TcpStream::connect(hub.addr()).await.expect("a connection");
    let head = b"GET /v1/channels/a HTTP/1.1\r\nHost: localhost\r\n\r\n";
    tcp.write_all(head).await.expect("a request");
    let mut seen = String::new();
    while !seen.contains("retry: ") {
        let mut piece = [0; 4096];
        let read = within("the first bytes", tcp.read(&mut piece)).await.expect("bytes");
        seen.push_str(&String::from_utf8_lossy(&piece[..read]));
    }
    tcp
}

#[tokio::test]
async fn a_signal_drains_the_hub_and_it_leaves_with_zero() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut hub = start_hub(&[("FANFARE_DRAIN__WINDOW", "400ms")]);
        let mut subscriber = subscriber(&hub).await;
        hub.signal(signal);
        let mut rest = String::new();
        within("the goodbye", subscriber.read_to_string(&mut rest)).await.expect("a clean end");
        assert!(rest.contains("retry: "), "{rest:?}");
        assert!(rest.ends_with("0\r\n\r\n"), "the body has no proper end: {rest:?}");
        assert_eq!(hub.ended().await.code(), Some(0));
    }
}

#[tokio::test]
async fn a_second_signal_ends_the_hub_at_once() {
    let mut hub = start_hub(&[("FANFARE_DRAIN__WINDOW", "1h")]);
    let _subscriber = subscriber(&hub).await;
    hub.signal(Signal::TERM);
    eventually("the hub to drain", async || {
        get(hub.admin(), "/readyz").await.starts_with("HTTP/1.1 503").then_some(())
    })
    .await;
    hub.signal(Signal::TERM);
    assert_eq!(hub.ended().await.code(), Some(130));
}

#[tokio::test]
async fn without_a_descriptor_left_a_client_is_refused_and_the_others_stay() {
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -n 80 && exec \"$0\" \"$@\"", FANFARE]);
    let hub = HubProcess::new(shell).started();
    let mut first = subscriber(&hub).await;
    let mut others = Vec::new();
    // Without a free descriptor, a new client is answered on the reserved one.
    let refused = within("a refusal", async {
        loop {
            let mut tcp = TcpStream::connect(hub.addr()).await.expect("a connection");
            let head = b"GET /v1/channels/a HTTP/1.1\r\nHost: localhost\r\n\r\n";
            tcp.write_all(head).await.expect("a request");
            let mut piece = [0; 4096];
            let read = tcp.read(&mut piece).await.unwrap_or(0);
            let answer = String::from_utf8_lossy(&piece[..read]).into_owned();
            if answer.starts_with("HTTP/1.1 503") {
                return answer;
            }
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer:?}");
            others.push(tcp);
        }
    })
    .await;
    assert!(refused.to_ascii_lowercase().contains("retry-after: "), "{refused}");
    assert!(others.len() > 10, "only {} were let in", others.len());
    drop(others);
    eventually("room for a publisher", async || {
        let tcp = TcpStream::connect(hub.addr()).await;
        drop(tcp);
        let published = post(hub.addr(), "/v1/channels/a", "still here").await;
        published.starts_with("HTTP/1.1 200").then_some(())
    })
    .await;
    let mut seen = String::new();
    while !seen.contains("still here") {
        let mut piece = [0; 4096];
        let read = within("the event", first.read(&mut piece)).await.expect("bytes");
        assert!(read > 0, "the first subscriber was cut off");
        seen.push_str(&String::from_utf8_lossy(&piece[..read]));
    }
}

fn serve(arguments: &[&str], environment: &[(&str, &str)]) -> (Option<i32>, String) {
    let output = Command::new(FANFARE)
        .arg("serve")
        .args(arguments)
        .envs(environment.iter().copied())
        .output()
        .expect("the program");
    (output.status.code(), String::from_utf8(output.stderr).expect("text"))
}

#[test]
fn a_wrong_configuration_stops_the_start_and_says_source_key_and_what_would_be_right() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("hub.toml");
    for (text, says) in [
        (
            "[server]\nlisen = \"127.0.0.1:1\"",
            "server.lisen: unknown setting; did you mean `server.listen`?",
        ),
        ("[server]\nlisten = \"localhost\"", "server.listen: "),
        ("[subscribers]\nheartbeat = 15", "subscribers.heartbeat: "),
        ("[subscribers]\non_lag = \"explode\"", "subscribers.on_lag: "),
        ("[serve]\nlisten = 1", "serve.listen: unknown setting; did you mean `server.listen`?"),
        ("[[channels.rules]]\npattern = \"a*\"", "channels.rules[0].pattern, of `a*`: "),
        (
            "[[channels.rules]]\npattern = \"a/*\"\nmax_event = 1",
            "channels.rules[0], of `a/*`: unknown key `max_event`; did you mean `max_events`?",
        ),
        ("[server", "hub.toml"),
    ] {
        std::fs::write(&path, text).expect("a file");
        let (code, error) = serve(&["--config", path.to_str().expect("text")], &[]);
        assert_eq!(code, Some(64), "{text}: {error}");
        assert!(error.contains("hub.toml") && error.contains(says), "{text}: {error}");
    }
}

#[test]
fn the_environment_and_flags_are_named_as_sources() {
    let (code, error) = serve(&[], &[("FANFARE_SERVER__LISEN", "127.0.0.1:1")]);
    assert_eq!(code, Some(64));
    assert!(error.contains("environment: FANFARE_SERVER__LISEN: unknown setting"), "{error}");
    let (code, error) = serve(&["--listen", "nowhere"], &[]);
    assert_eq!(code, Some(64));
    assert!(error.contains("command line: server.listen: "), "{error}");
    let (code, error) = serve(&["--config", "/does/not/exist.toml"], &[]);
    assert_eq!(code, Some(64));
    assert!(error.contains("/does/not/exist.toml"), "{error}");
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("hub.toml");
    std::fs::write(&path, "[log]\nlevel = \"warn\"\n[channels]\nmax_events = 7\nmax_age = \"2h\"")
        .expect("a file");
    let output = Command::new(FANFARE)
        .args(["config", "show", "--config", path.to_str().expect("text"), "--log-level", "debug"])
        .env("FANFARE_LOG__LEVEL", "error")
        .env("FANFARE_CHANNELS__MAX_EVENTS", "8")
        .env("FANFARE_CORS__ALLOW_ORIGINS", "https://a.example,https://b.example")
        .output()
        .expect("the program");
    let shown = String::from_utf8(output.stdout).expect("text");
    assert!(shown.contains("level = \"debug\"  # command line"), "{shown}");
    assert!(shown.contains("max_events = 8  # environment"), "{shown}");
    assert!(shown.contains("max_age = \"2h\"  # "), "{shown}");
    assert!(shown.contains("[\"https://a.example\", \"https://b.example\"]"), "{shown}");
    assert!(shown.contains("heartbeat = \"15s\"  # default"), "{shown}");
}

#[test]
fn an_address_in_use_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("its address").to_string();
    let (code, error) = serve(&["--listen", &address], &[]);
    assert_eq!(code, Some(1));
    assert!(error.contains(&address) && error.contains("server.listen"), "{error}");
}

#[tokio::test]
async fn a_hangup_exchanges_the_certificate_and_a_broken_one_changes_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let cert = folder.path().join("cert.pem");
    let key = folder.path().join("key.pem");
    let renew = || {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("one");
        std::fs::write(&cert, made.cert.pem()).expect("a file");
        std::fs::write(&key, made.signing_key.serialize_pem()).expect("a file");
    };
    renew();
    let hub = start_hub(&[
        ("FANFARE_TLS__CERT", cert.to_str().expect("text")),
        ("FANFARE_TLS__KEY", key.to_str().expect("text")),
    ]);
    // A client that trusts only the certificate in this file gets an answer.
    let trusts = async |file: &std::path::Path| {
        let url = format!("https://localhost:{}/healthz", hub.addr().port());
        let mut curl = tokio::process::Command::new("curl");
        curl.args(["--silent", "--fail", "--output", "/dev/null", "--cacert"]).arg(file).arg(url);
        within("curl", curl.status()).await.expect("curl: scripts/test installs it").success()
    };
    assert!(trusts(&cert).await);
    let old = folder.path().join("old.pem");
    std::fs::copy(&cert, &old).expect("a copy");
    renew();
    assert!(!trusts(&cert).await && trusts(&old).await, "nothing changes by itself");
    hub.signal(Signal::HUP);
    eventually("the new certificate", async || trusts(&cert).await.then_some(())).await;
    assert!(!trusts(&old).await);
    let new = folder.path().join("new.pem");
    std::fs::copy(&cert, &new).expect("a copy");
    std::fs::write(&key, "no key").expect("a file");
    hub.signal(Signal::HUP);
    for _ in 0..5 {
        assert!(trusts(&new).await, "what was there stays");
    }
    renew();
    hub.signal(Signal::HUP);
    eventually("the next certificate", async || trusts(&cert).await.then_some(())).await;
}

#[test]
fn a_certificate_that_is_not_there_is_named_with_its_setting() {
    let (code, error) =
        serve(&[], &[("FANFARE_TLS__CERT", "/not/there.pem"), ("FANFARE_TLS__KEY", "/nor/this")]);
    assert_eq!(code, Some(1));
    assert!(error.contains("/not/there.pem (`tls.cert`)"), "{error}");
    let (code, error) = serve(&[], &[("FANFARE_TLS__CERT", "/not/there.pem")]);
    assert_eq!(code, Some(64));
    assert!(
        error.contains("environment: FANFARE_TLS__CERT: ") && error.contains("`tls.key`"),
        "{error}"
    );
    let (code, error) = serve(&[], &[("FANFARE_SERVER__TRUSTED_PROXIES", "10.0.0.1,here")]);
    assert_eq!(code, Some(64));
    assert!(
        error.contains("FANFARE_SERVER__TRUSTED_PROXIES") && error.contains("`here`"),
        "{error}"
    );
}
