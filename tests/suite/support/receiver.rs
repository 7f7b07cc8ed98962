//! A receiver of hooks: an HTTP server with configured answers, which records its requests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::within;

/// The answer to a call.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// An empty answer with this status.
    Status(u16),
    /// A redirect to this URL.
    MovedTo(String),
    /// No answer.
    Silence,
    /// 200, and a body that never ends.
    Endless,
}

/// A receiver of hook calls. Its server stops at the end of the test.
pub(crate) struct Receiver {
    addr: SocketAddr,
    calls: mpsc::Receiver<Call>,
}

/// A call that was received.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) request_line: String,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Receiver {
    /// A receiver that answers every call with a success.
    pub(crate) async fn start() -> Self {
        Self::answering([Answer::Status(204)]).await
    }

    /// A receiver that sends these answers one after the other, and repeats the last one.
    pub(crate) async fn answering(answers: impl Into<Vec<Answer>>) -> Self {
        let answers = Arc::new(answers.into());
        let given = Arc::new(AtomicUsize::new(0));
        let tcp = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = tcp.local_addr().expect("an address");
        let (sender, calls) = mpsc::channel(10_000);
        tokio::spawn(async move {
            while let Ok((stream, _)) = tcp.accept().await {
                tokio::spawn(serve(stream, answers.clone(), given.clone(), sender.clone()));
            }
        });
        Self { addr, calls }
    }

    /// Returns the URL of the receiver.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/ended?from=hub", self.addr)
    }

    /// Returns the settings of a hook for this pattern that calls this receiver.
    pub(crate) fn hook(&self, pattern: &str, more: &str) -> String {
        format!("[[hooks]]\npattern = \"{pattern}\"\nurl = \"{}\"\n{more}\n", self.url())
    }

    /// Returns the next call.
    pub(crate) async fn call(&mut self) -> Call {
        within("a call", self.calls.recv()).await.expect("the receiver runs")
    }

    /// Asserts that there was no other call so far.
    #[track_caller]
    pub(crate) fn assert_no_other(&mut self) {
        if let Ok(call) = self.calls.try_recv() {
            panic!("one call too many: {call:?} {}", String::from_utf8_lossy(&call.body));
        }
    }
}

impl Call {
    /// Returns the only value of the header.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        self.try_header(name).unwrap_or_else(|| panic!("no {name}: {:?}", self.headers))
    }

    pub(crate) fn try_header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str());
        let value = values.next();
        assert_eq!(values.next(), None, "{name} twice: {:?}", self.headers);
        value
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).expect("JSON")
    }

    /// Returns the channel of the call.
    #[track_caller]
    pub(crate) fn channel(&self) -> String {
        self.json()["channel"].as_str().expect("a channel").to_owned()
    }
}

async fn serve(
    stream: TcpStream,
    answers: Arc<Vec<Answer>>,
    given: Arc<AtomicUsize>,
    calls: mpsc::Sender<Call>,
) {
    let mut stream = BufReader::new(stream);
    while let Some(call) = read(&mut stream).await {
        let turn = given.fetch_add(1, Ordering::Relaxed).min(answers.len() - 1);
        let _test_is_over = calls.send(call).await;
        if answer(&mut stream, &answers[turn]).await.is_none() {
            return;
        }
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> Option<Call> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        match stream.read_line(&mut line).await {
            Ok(0) | Err(_) => return None,
            Ok(_) if line == "\r\n" => break,
            Ok(_) => lines.push(line.trim_end().to_owned()),
        }
    }
    let request_line = lines.remove(0);
    let pair = |line: &String| {
        let (name, value) = line.split_once(':').expect("a header");
        (name.to_ascii_lowercase(), value.trim().to_owned())
    };
    let headers: Vec<_> = lines.iter().map(pair).collect();
    let mut call = Call { request_line, headers, body: Vec::new() };
    call.body = vec![0; call.header("content-length").parse().expect("a length")];
    stream.read_exact(&mut call.body).await.ok()?;
    Some(call)
}

async fn answer(stream: &mut BufReader<TcpStream>, answer: &Answer) -> Option<()> {
    let head = match answer {
        Answer::Status(status) => format!("HTTP/1.1 {status} So\r\nContent-Length: 0\r\n\r\n"),
        Answer::MovedTo(url) => {
            format!("HTTP/1.1 307 Moved\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n")
        }
        Answer::Silence => std::future::pending().await,
        Answer::Endless => "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".into(),
    };
    stream.write_all(head.as_bytes()).await.ok()?;
    match answer {
        Answer::Endless => loop {
            stream.write_all(&[b'x'; 16 * 1024]).await.ok()?;
        },
        _ => Some(()),
    }
}
