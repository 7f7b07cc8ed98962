//! HTTP/1.1 by hand: sends exactly the given bytes, reads heads and bodies as they arrive.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::within;

/// A connection, and the bytes read from it but not yet parsed.
pub(crate) struct Wire {
    stream: TcpStream,
    unread: Vec<u8>,
    framing: Framing,
}

/// The framing of a body.
#[derive(Clone, Copy, Debug)]
enum Framing {
    Nothing,
    Length(usize),
    Chunked,
    Eof,
}

/// A part of a body.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Some bytes of it.
    Data(Vec<u8>),
    /// Its proper end.
    End,
    /// The connection broke off within it.
    Broken,
}

impl Wire {
    pub(crate) async fn connect(to: SocketAddr) -> Self {
        let stream = within("a connection", TcpStream::connect(to)).await.expect("connect");
        Self::new(stream)
    }

    /// Opens a connection with a small receive buffer, for a slow subscriber.
    pub(crate) async fn connect_narrow(to: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().expect("socket");
        socket.set_recv_buffer_size(16 * 1024).expect("SO_RCVBUF");
        let stream = within("a connection", socket.connect(to)).await.expect("connect");
        Self::new(stream)
    }

    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("TCP_NODELAY");
        Self { stream, unread: Vec::new(), framing: Framing::Nothing }
    }

    /// Sends these bytes. A closed connection is noticed when reading.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _hung_up = within("a write", self.stream.write_all(bytes.as_ref())).await;
    }

    /// Closes the client's side, and reads on.
    pub(crate) async fn close_side(&mut self) {
        let _hung_up = within("the end of what is sent", self.stream.shutdown()).await;
    }

    /// Sends the head of a request; a body may follow.
    pub(crate) async fn send_head(&mut self, method: &str, to: &str, headers: &[(&str, &str)]) {
        let mut head = format!("{method} {to} HTTP/1.1\r\nHost: hub.test\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        self.send(head).await;
    }

    /// Reads the head of the reply. `None` when the peer closed the connection instead.
    pub(crate) async fn try_head(&mut self, to_head: bool) -> Option<Head> {
        let end = loop {
            if let Some(at) = find(&self.unread, b"\r\n\r\n") {
                break at;
            }
            if !self.fill().await {
                return None;
            }
        };
        let text = String::from_utf8(self.unread[..end].to_vec()).expect("a head is ASCII");
        self.unread.drain(..end + 4);
        let head = Head::parse(&text);
        self.framing = head.framing(to_head);
        Some(head)
    }

    /// Reads the head of the reply to anything but a `HEAD`.
    pub(crate) async fn head(&mut self) -> Head {
        within("the head of a reply", self.try_head(false)).await.expect("a reply, not a hang-up")
    }

    /// Reads the whole reply.
    pub(crate) async fn response(&mut self) -> Response {
        self.response_to(false).await
    }

    /// Reads the whole reply, to a `HEAD` request or to another.
    pub(crate) async fn response_to(&mut self, to_head: bool) -> Response {
        let head = within("the head of a reply", self.try_head(to_head)).await;
        let head = head.expect("a reply, not a hang-up");
        let mut body = Vec::new();
        let reading = async {
            loop {
                match self.piece().await {
                    Piece::Data(bytes) => body.extend_from_slice(&bytes),
                    Piece::End => break,
                    Piece::Broken => panic!("the reply broke off: {head:?}"),
                }
            }
        };
        within(&format!("the whole of the reply {head:?}"), reading).await;
        Response { head, body }
    }

    /// Returns the next part of the body, as soon as there is any.
    pub(crate) async fn piece(&mut self) -> Piece {
        match self.framing {
            Framing::Nothing | Framing::Length(0) => Piece::End,
            Framing::Length(left) => {
                if self.unread.is_empty() && !self.fill().await {
                    return Piece::Broken;
                }
                let bytes = take(&mut self.unread, left);
                self.framing = Framing::Length(left - bytes.len());
                Piece::Data(bytes)
            }
            Framing::Eof => {
                if self.unread.is_empty() && !self.fill().await {
                    return Piece::End;
                }
                Piece::Data(std::mem::take(&mut self.unread))
            }
            Framing::Chunked => self.chunk().await,
        }
    }

    async fn chunk(&mut self) -> Piece {
        let line = loop {
            if let Some(at) = find(&self.unread, b"\r\n") {
                break at;
            }
            if !self.fill().await {
                return Piece::Broken;
            }
        };
        let size = std::str::from_utf8(&self.unread[..line]).expect("a chunk size");
        let size = size.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).expect("a chunk size in hexadecimal");
        while self.unread.len() < line + 2 + size + 2 {
            if !self.fill().await {
                return Piece::Broken;
            }
        }
        let data = self.unread[line + 2..line + 2 + size].to_vec();
        let rest = line + 2 + size;
        assert_eq!(&self.unread[rest..rest + 2], b"\r\n", "the end of a chunk");
        self.unread.drain(..rest + 2);
        if size == 0 {
            self.framing = Framing::Nothing;
            return Piece::End;
        }
        Piece::Data(data)
    }

    /// Waits until the peer closes the connection; returns the bytes until then.
    pub(crate) async fn hang_up(&mut self) -> Vec<u8> {
        while within("the peer to hang up", self.fill()).await {}
        std::mem::take(&mut self.unread)
    }

    async fn fill(&mut self) -> bool {
        let mut some = vec![0; 16 * 1024];
        match self.stream.read(&mut some).await {
            Ok(0) | Err(_) => false,
            Ok(n) => {
                self.unread.extend_from_slice(&some[..n]);
                true
            }
        }
    }
}

/// Status and headers of a reply.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
}

impl Head {
    fn parse(text: &str) -> Self {
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 "));
        let status = status.and_then(|rest| rest.get(..3)).and_then(|code| code.parse().ok());
        let status = status.unwrap_or_else(|| panic!("not a reply: {text}"));
        let pair = |line: &str| {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("header {line}"));
            (name.to_ascii_lowercase(), value.trim().to_owned())
        };
        Self { status, headers: lines.map(pair).collect() }
    }

    /// Returns the value of the header, several joined by commas.
    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let name = name.to_ascii_lowercase();
        let values: Vec<&str> =
            self.headers.iter().filter(|(n, _)| *n == name).map(|(_, v)| v.as_str()).collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    fn framing(&self, to_head: bool) -> Framing {
        if to_head || matches!(self.status, 100..=199 | 204 | 304) {
            Framing::Nothing
        } else if self.header("transfer-encoding").as_deref() == Some("chunked") {
            Framing::Chunked
        } else if let Some(length) = self.header("content-length") {
            Framing::Length(length.parse().expect("a content-length"))
        } else {
            Framing::Eof
        }
    }
}

/// A whole reply.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
}

impl Response {
    pub(crate) fn status(&self) -> u16 {
        self.head.status
    }

    /// Returns the only value of the header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut found = self.head.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name));
        let value = found.next().map(|(_, value)| value.as_str());
        assert!(found.next().is_none(), "more than one {name}: {:?}", self.head);
        value
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("a reply in UTF-8")
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {} {}", self.status(), self.text()))
    }

    /// Returns the reply, if it is a 200; otherwise fails the test.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.status(), 200, "{}", self.text());
        self
    }
}

fn find(hay: &[u8], needle: &[u8]) -> Option<usize> {
    hay.windows(needle.len()).position(|window| window == needle)
}

fn take(from: &mut Vec<u8>, most: usize) -> Vec<u8> {
    let n = most.min(from.len());
    from.drain(..n).collect()
}
