//! The browser's own `EventSource`, in a headless Chromium and a headless Firefox, over cuts and a
//! restart of the hub.
//!
//! The page reports its events by POST to a small server of the test, which also serves the page:
//! from another origin than the hub's, as in production.

use std::collections::BTreeSet;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use fanfare_testing::http::get;
use fanfare_testing::{HubProcess, within};

use super::support::start_hub;

/// A page that follows a channel and reports everything, in order.
const PAGE: &str = r#"<!doctype html><title>viewer</title><script>
let reports = Promise.resolve();
const report = (text) => { reports = reports.then(() => fetch('/reports', { method: 'POST', body: text })); };
const source = new EventSource('HUB/v1/channels/CHANNEL');
source.onopen = () => report('open');
source.onerror = () => report('error ' + source.readyState);
source.onmessage = (event) => report('message ' + event.data);
source.addEventListener('token', (event) => report('token ' + event.data));
source.addEventListener('fanfare.gap', (event) => report('gap ' + event.data));
source.addEventListener('fanfare.end', (event) => report('end ' + event.data));
</script>"#;

/// A page with many event sources at once, which reports the events of each. It begins to report
/// when all are open.
const MANY: &str = r#"<!doctype html><title>many viewers</title><script>
let reports = Promise.resolve();
const report = (text) => { reports = reports.then(() => fetch('/reports', { method: 'POST', body: text })); };
let open = 0;
for (let n = 0; n < COUNT; n++) {
  const source = new EventSource('HUB/v1/channels/many/' + n);
  source.onopen = () => { if (++open === COUNT) report('all open'); };
  source.onerror = () => report('error of ' + n);
  source.onmessage = (event) => report(n + ' ' + event.data);
}
</script>"#;

/// A headless browser, without the features that a closed network refuses.
struct Browser {
    child: Child,
    _profile: tempfile::TempDir,
}

impl Browser {
    fn open(url: &str) -> Self {
        Self::chromium(url)
    }

    fn firefox(url: &str) -> Self {
        let profile = tempfile::tempdir().expect("a folder");
        let mut firefox = Command::new("firefox-esr");
        firefox.args(["--headless", "--no-remote", "--profile"]).arg(profile.path()).arg(url);
        // It writes to the home directory, too.
        firefox.env("HOME", profile.path());
        Self::start(firefox, profile)
    }

    fn chromium(url: &str) -> Self {
        let profile = tempfile::tempdir().expect("a folder");
        let mut chromium = Command::new("chromium");
        chromium
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic"])
            .args(["--no-first-run", "--disable-background-networking", "--disable-sync"])
            .args(["--disable-component-update", "--disable-dev-shm-usage"])
            // The certificate of the test is not from a trusted authority.
            .arg("--ignore-certificate-errors")
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(url);
        Self::start(chromium, profile)
    }

    fn start(mut browser: Command, profile: tempfile::TempDir) -> Self {
        let child = browser
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("the browser starts: scripts/test installs it");
        Self { child, _profile: profile }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Includes all processes that it has started.
        let group = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        let _ = self.child.wait();
    }
}

/// Serves the page, and forwards its reports.
struct PageServer {
    listener: TcpListener,
}

impl PageServer {
    async fn bind() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.expect("a free port") }
    }

    fn origin(&self) -> String {
        format!("http://{}", self.listener.local_addr().expect("its address"))
    }

    fn run(self, page: String) -> mpsc::Receiver<String> {
        let (report, reports) = mpsc::channel(1000);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = self.listener.accept().await {
                tokio::spawn(answer(tcp, page.clone(), report.clone()));
            }
        });
        reports
    }
}

async fn answer(mut tcp: TcpStream, page: String, report: mpsc::Sender<String>) {
    let mut request = Vec::new();
    let body = loop {
        if tcp.read_buf(&mut request).await.unwrap_or(0) == 0 {
            return;
        }
        let text = String::from_utf8_lossy(&request).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head.to_ascii_lowercase();
        let length = length.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
        if body.len() >= length.and_then(|text| text.parse().ok()).unwrap_or(0) {
            break body.to_owned();
        }
    };
    let answer = if request.starts_with(b"POST") { "" } else { &page };
    if request.starts_with(b"POST") {
        let _ = report.send(body).await;
    }
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close";
    let text = format!("{head}\r\nContent-Length: {}\r\n\r\n{answer}", answer.len());
    let _ = tcp.write_all(text.as_bytes()).await;
}

async fn next(reports: &mut mpsc::Receiver<String>) -> String {
    within("the page to report", reports.recv()).await.expect("the page")
}

#[tokio::test]
async fn an_event_source_survives_a_restart_of_the_hub_and_gets_the_gap() {
    let server = PageServer::bind().await;
    let origin = server.origin();
    let mut hub = start_hub(&[
        ("FANFARE_CORS__ALLOW_ORIGINS", origin.as_str()),
        ("FANFARE_SUBSCRIBERS__RECONNECT_DELAY", "200ms"),
        ("FANFARE_SUBSCRIBERS__END_RECONNECT_DELAY", "200ms"),
    ]);
    let page = PAGE.replace("HUB", &hub.url()).replace("CHANNEL", "chat/42");
    let mut reports = server.run(page);
    let _browser = Browser::open(&format!("{origin}/"));

    assert_eq!(next(&mut reports).await, "open");
    hub.publish("chat/42", "one").await;
    assert_eq!(next(&mut reports).await, "message one");
    hub.publish("chat/42?event=token", "two").await;
    assert_eq!(next(&mut reports).await, "token two");

    hub.kill();
    assert_eq!(next(&mut reports).await, "error 0");
    hub.start();
    hub.publish("chat/42", "three").await;
    let gap = loop {
        let text = next(&mut reports).await;
        // It may fail a few times before the hub has restarted.
        if text != "error 0" && text != "open" {
            break text;
        }
    };
    assert!(gap.starts_with("gap ") && gap.contains(r#""reason":"epoch""#), "{gap}");
    assert_eq!(next(&mut reports).await, "message three");

    hub.publish("chat/42?close=complete", "four").await;
    assert_eq!(next(&mut reports).await, "message four");
    let end = next(&mut reports).await;
    assert!(end.starts_with("end ") && end.contains(r#""state":"complete""#), "{end}");
    // The stream ends, the page reconnects once more, and 204 stops it.
    assert_eq!(next(&mut reports).await, "error 0");
    assert_eq!(next(&mut reports).await, "error 2");
}

/// A relay between a page and the hub: forwards bytes, and cuts the first connection on request.
async fn relay(to: std::net::SocketAddr) -> (std::net::SocketAddr, mpsc::Sender<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let addr = listener.local_addr().expect("its address");
    let (cut, mut reports) = mpsc::channel(1);
    tokio::spawn(async move {
        while let Ok((mut page, _)) = listener.accept().await {
            let Ok(mut hub) = TcpStream::connect(to).await else { continue };
            // Closes it like a network failure: without an end.
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut page, &mut hub) => {}
                Some(()) = reports.recv() => {}
            }
        }
    });
    (addr, cut)
}

/// A page that connects at the tail, is cut before its first event, and reconnects: it gets the
/// events published meanwhile. Its `EventSource` has dispatched no event to a listener before.
async fn loses_nothing_before_its_first_event(open: impl FnOnce(&str) -> Browser) {
    let server = PageServer::bind().await;
    let origin = server.origin();
    let hub = start_hub(&[
        ("FANFARE_CORS__ALLOW_ORIGINS", origin.as_str()),
        ("FANFARE_SUBSCRIBERS__RECONNECT_DELAY", "1s"),
    ]);
    hub.publish("chat/42", "old").await;
    let (between, cut) = relay(hub.addr()).await;
    let page = PAGE.replace("HUB", &format!("http://{between}")).replace("CHANNEL", "chat/42");
    let mut reports = server.run(page);
    let _browser = open(&format!("{origin}/"));
    // The first start of a browser takes long.
    let first = tokio::time::timeout(Duration::from_secs(90), reports.recv()).await;
    assert_eq!(first.expect("the browser to open the page").expect("the page"), "open");
    until_subscribed(&hub).await;
    cut.send(()).await.expect("the relay");
    assert_eq!(next(&mut reports).await, "error 0");
    hub.publish("chat/42", "one").await;
    hub.publish("chat/42", "two").await;
    assert_eq!(next(&mut reports).await, "open");
    assert_eq!(next(&mut reports).await, "message one");
    assert_eq!(next(&mut reports).await, "message two");
}

async fn until_subscribed(hub: &HubProcess) {
    within("the subscription", async {
        while !get(hub.admin(), "/metrics").await.contains("fanfare_subscriptions 1\n") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_page_in_chromium_loses_nothing_before_its_first_event() {
    loses_nothing_before_its_first_event(Browser::chromium).await;
}

#[tokio::test]
async fn a_page_in_firefox_loses_nothing_before_its_first_event() {
    loses_nothing_before_its_first_event(Browser::firefox).await;
}

#[tokio::test]
async fn fifty_event_sources_in_one_page_are_served_at_once_over_tls() {
    const COUNT: usize = 50;
    let folder = tempfile::tempdir().expect("a folder");
    let cert = folder.path().join("cert.pem");
    let key = folder.path().join("key.pem");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    std::fs::write(&cert, made.cert.pem()).expect("a file");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("a file");
    let server = PageServer::bind().await;
    let origin = server.origin();
    let hub = start_hub(&[
        ("FANFARE_CORS__ALLOW_ORIGINS", origin.as_str()),
        ("FANFARE_TLS__CERT", cert.to_str().expect("text")),
        ("FANFARE_TLS__KEY", key.to_str().expect("text")),
    ]);
    let page = MANY
        .replace("HUB", &format!("https://localhost:{}", hub.addr().port()))
        .replace("COUNT", &COUNT.to_string());
    let mut reports = server.run(page);
    let _browser = Browser::open(&format!("{origin}/"));

    // This would never arrive over HTTP/1.1: six would be open, and the others would wait.
    assert_eq!(next(&mut reports).await, "all open");
    publish_to_all(&hub, &folder.path().join("cert.pem"), COUNT).await;
    let mut seen = BTreeSet::new();
    while seen.len() < COUNT {
        seen.insert(next(&mut reports).await);
    }
    let expected: BTreeSet<_> = (0..COUNT).map(|n| format!("{n} event {n}")).collect();
    assert_eq!(seen, expected);
    let metrics = get(hub.admin(), "/metrics").await;
    let connections = metrics.lines().find_map(|line| line.strip_prefix("fanfare_connections "));
    let connections: usize = connections.expect("the metric").parse().expect("a number");
    assert!(connections < 6, "{connections} connections for {COUNT} streams");
}

/// Publishes one event to each channel over TLS, with curl.
async fn publish_to_all(hub: &HubProcess, cert: &std::path::Path, count: usize) {
    let port = hub.addr().port();
    let mut curl = tokio::process::Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--cacert"]).arg(cert);
    let lines: String = (0..count)
        .map(|n| format!("{{\"channel\":\"many/{n}\",\"data\":\"event {n}\"}}\n"))
        .collect();
    curl.args(["--header", "Content-Type: application/x-ndjson", "--data-binary", &lines]);
    curl.arg(format!("https://localhost:{port}/v1/publish"));
    let output = within("curl", curl.output()).await.expect("curl: scripts/test installs it");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
}
