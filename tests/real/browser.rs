//! The browser's own `EventSource`, in a headless Chromium, over a restart of the hub.
//!
//! The page tells what it sees by POST to a small server of the test, which also serves the page:
//! from another origin than the hub's, as in life.

use std::process::{Child, Command, Stdio};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::support::{HubProcess, within};

/// A page that follows a channel and tells everything, in order.
const PAGE: &str = r#"<!doctype html><title>viewer</title><script>
let told = Promise.resolve();
const tell = (text) => { told = told.then(() => fetch('/told', { method: 'POST', body: text })); };
const source = new EventSource('HUB/v1/channels/CHANNEL');
source.onopen = () => tell('open');
source.onerror = () => tell('error ' + source.readyState);
source.onmessage = (event) => tell('message ' + event.data);
source.addEventListener('token', (event) => tell('token ' + event.data));
source.addEventListener('fanfare.gap', (event) => tell('gap ' + event.data));
source.addEventListener('fanfare.end', (event) => tell('end ' + event.data));
</script>"#;

/// Headless Chromium, without what a closed network would refuse it anyway.
struct Browser {
    child: Child,
    _profile: tempfile::TempDir,
}

impl Browser {
    fn open(url: &str) -> Self {
        let profile = tempfile::tempdir().expect("a folder");
        let child = Command::new("chromium")
            .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic"])
            .args(["--no-first-run", "--disable-background-networking", "--disable-sync"])
            .args(["--disable-component-update", "--disable-dev-shm-usage"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(url)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("chromium starts: scripts/test installs it");
        Self { child, _profile: profile }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Serves the page, and hands on what it tells.
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
        let (tell, told) = mpsc::channel(1000);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = self.listener.accept().await {
                tokio::spawn(answer(tcp, page.clone(), tell.clone()));
            }
        });
        told
    }
}

async fn answer(mut tcp: TcpStream, page: String, tell: mpsc::Sender<String>) {
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
        let _ = tell.send(body).await;
    }
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close";
    let text = format!("{head}\r\nContent-Length: {}\r\n\r\n{answer}", answer.len());
    let _ = tcp.write_all(text.as_bytes()).await;
}

async fn next(told: &mut mpsc::Receiver<String>) -> String {
    within("the page to tell something", told.recv()).await.expect("the page")
}

#[tokio::test]
async fn an_event_source_survives_a_restart_of_the_hub_and_is_told_of_the_gap() {
    let server = PageServer::bind().await;
    let origin = server.origin();
    let settings = [
        ("FANFARE_CORS__ALLOW_ORIGINS", origin.as_str()),
        ("FANFARE_SUBSCRIBERS__RECONNECT_DELAY", "200ms"),
    ];
    let mut hub = HubProcess::start(&settings);
    let page = PAGE.replace("HUB", &hub.url()).replace("CHANNEL", "chat/42");
    let mut told = server.run(page);
    let _browser = Browser::open(&format!("{origin}/"));

    assert_eq!(next(&mut told).await, "open");
    hub.publish("chat/42", "one").await;
    assert_eq!(next(&mut told).await, "message one");
    hub.publish("chat/42?event=token", "two").await;
    assert_eq!(next(&mut told).await, "token two");

    let (addr, admin) = (hub.addr(), hub.admin());
    hub.kill();
    assert_eq!(next(&mut told).await, "error 0");
    let hub = HubProcess::start_at(addr, admin, &settings);
    hub.publish("chat/42", "three").await;
    let gap = loop {
        let text = next(&mut told).await;
        // It may try in vain a few times before the hub is back.
        if text != "error 0" && text != "open" {
            break text;
        }
    };
    assert!(gap.starts_with("gap ") && gap.contains(r#""reason":"epoch""#), "{gap}");
    assert_eq!(next(&mut told).await, "message three");

    hub.publish("chat/42?close=complete", "four").await;
    assert_eq!(next(&mut told).await, "message four");
    let end = next(&mut told).await;
    assert!(end.starts_with("end ") && end.contains(r#""state":"complete""#), "{end}");
    // The stream ends, the page comes back once more, and 204 tells it to stay away.
    assert_eq!(next(&mut told).await, "error 0");
    assert_eq!(next(&mut told).await, "error 2");
}
