//! HTTP and event streams for a client whose hub may be killed at any byte: a broken connection is
//! an `io::Error`, and a violation of the protocol is a panic.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader,
};
use tokio::net::{TcpSocket, TcpStream};

/// A request that can be repeated unchanged.
#[derive(Clone, Debug)]
pub struct Request {
    method: &'static str,
    line: String,
    headers: String,
    body: Body,
}

#[derive(Clone, Debug)]
enum Body {
    Whole(String),
    /// Sent piece by piece, with a pause before each.
    Streamed(Vec<String>, Duration),
}

impl Request {
    /// A request without a body.
    pub fn new(method: &'static str, path: &str) -> Self {
        let line = format!("{method} {path}");
        Self { method, line, headers: String::new(), body: Body::Whole(String::new()) }
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push_str(&format!("{name}: {value}\r\n"));
        self
    }

    /// Sets a body that is sent at once.
    pub fn text(mut self, body: &str) -> Self {
        self.body = Body::Whole(body.to_owned());
        self
    }

    /// Sets a body that is sent piece by piece, with a pause before each.
    pub fn streamed(mut self, pieces: Vec<String>, pause: Duration) -> Self {
        self.body = Body::Streamed(pieces, pause);
        self
    }

    /// Returns method and path.
    pub fn line(&self) -> &str {
        &self.line
    }

    fn head(&self, addr: SocketAddr, framing: &str) -> String {
        format!("{} HTTP/1.1\r\nHost: {addr}\r\n{}{framing}\r\n\r\n", self.line, self.headers)
    }
}

/// A client that keeps its connection between requests.
pub struct Client {
    addr: SocketAddr,
    tcp: Option<BufReader<TcpStream>>,
}

impl Client {
    /// A client of the hub at this address.
    pub fn new(addr: SocketAddr) -> Self {
        Self { addr, tcp: None }
    }

    /// Connects, if it is not connected, so that the next request has a connection.
    pub async fn connect(&mut self) -> io::Result<()> {
        if self.tcp.is_none() {
            let tcp = TcpStream::connect(self.addr).await?;
            tcp.set_nodelay(true)?;
            self.tcp = Some(BufReader::new(tcp));
        }
        Ok(())
    }

    /// Sends one request. Without an answer, its effect is unknown.
    pub async fn send(&mut self, request: &Request) -> io::Result<Answer> {
        self.connect().await?;
        let mut tcp = self.tcp.take().expect("a connection");
        match &request.body {
            Body::Whole(body) => {
                let framing = format!("Content-Length: {}", body.len());
                let whole = request.head(self.addr, &framing) + body;
                tcp.write_all(whole.as_bytes()).await?;
            }
            Body::Streamed(pieces, pause) => {
                let head = request.head(self.addr, "Transfer-Encoding: chunked");
                tcp.write_all(head.as_bytes()).await?;
                let mut tcp = tcp.into_inner();
                let (read, mut write) = tcp.split();
                let mut read = BufReader::new(read);
                let answer = Answer::read(&mut read, request.method);
                // The answer may come before the end of the body.
                return tokio::select! {
                    answer = answer => answer,
                    error = send_pieces(&mut write, pieces, *pause) => error,
                };
            }
        }
        let answer = Answer::read(&mut tcp, request.method).await?;
        if answer.header("connection") != Some("close") {
            self.tcp = Some(tcp);
        }
        Ok(answer)
    }
}

/// Sends a body piece by piece, and waits for ever: the answer is read meanwhile.
async fn send_pieces(
    tcp: &mut (impl AsyncWrite + Unpin),
    pieces: &[String],
    pause: Duration,
) -> io::Result<Answer> {
    for piece in pieces {
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
        if tcp.write_all(chunk(piece).as_bytes()).await.is_err() {
            return std::future::pending().await; // an answer may be there all the same
        }
    }
    let _ = tcp.write_all(chunk("").as_bytes()).await;
    std::future::pending().await
}

/// A request with a body of open length.
pub struct Upload(BufReader<TcpStream>);

impl Upload {
    /// Sends the head of the request.
    pub async fn begin(addr: SocketAddr, request: &Request) -> io::Result<Self> {
        let mut tcp = TcpStream::connect(addr).await?;
        tcp.set_nodelay(true)?;
        let head = request.head(addr, "Transfer-Encoding: chunked");
        tcp.write_all(head.as_bytes()).await?;
        Ok(Self(BufReader::new(tcp)))
    }

    /// Sends a piece of the body.
    pub async fn say(&mut self, piece: &str) -> io::Result<()> {
        self.0.write_all(chunk(piece).as_bytes()).await
    }

    /// Ends the body, and returns the answer.
    pub async fn finish(mut self) -> io::Result<Answer> {
        self.say("").await?;
        Answer::read(&mut self.0, "POST").await
    }
}

fn chunk(piece: &str) -> String {
    format!("{:x}\r\n{piece}\r\n", piece.len())
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
}

impl Answer {
    async fn read(tcp: &mut (impl AsyncBufRead + Unpin), method: &str) -> io::Result<Self> {
        let mut answer = Self::head(tcp).await?;
        if method == "HEAD" || answer.status == 204 {
            return Ok(answer);
        }
        let length = answer.header("content-length");
        let length = length.unwrap_or_else(|| panic!("an answer without a length: {answer:?}"));
        let mut body = vec![0; length.parse().expect("a length")];
        tcp.read_exact(&mut body).await?;
        answer.body = String::from_utf8(body).expect("UTF-8");
        Ok(answer)
    }

    async fn head(tcp: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Self> {
        let status = line(tcp).await?;
        let code = status.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = code.unwrap_or_else(|| panic!("no status line: {status:?}"));
        let mut headers = Vec::new();
        loop {
            let line = line(tcp).await?;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Ok(Self { status, headers, body: String::new() })
    }

    /// Returns the answer, which must have this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    /// Returns the answer, which must be this problem.
    #[track_caller]
    pub fn expect_problem(self, status: u16, code: &str) -> Self {
        let answer = self.expect(status);
        assert_eq!(answer.json()["code"], code, "{answer:?}");
        answer
    }

    /// Returns the value of a header, whose name is in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.headers.iter();
        headers.find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Returns the body, which must be JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }
}

/// Reads a line without its end.
async fn line(tcp: &mut (impl AsyncBufRead + Unpin)) -> io::Result<String> {
    let mut line = String::new();
    tcp.read_line(&mut line).await?;
    match line.strip_suffix("\r\n") {
        Some(text) => Ok(text.to_owned()),
        None => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// An event as its block on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    /// Its id.
    pub id: String,
    /// Its type.
    pub name: String,
    /// Its data.
    pub data: String,
}

impl Event {
    /// Returns the data, which must be JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap_or_else(|_| panic!("not JSON: {self:?}"))
    }

    /// Asserts that it is a gap, for this reason and after this id.
    #[track_caller]
    pub fn assert_gap(&self, reason: &str, requested: &str) {
        assert_eq!(self.name, "fanfare.gap", "{self:?}");
        let gap = self.json();
        assert_eq!(
            (&gap["reason"], &gap["requested"]),
            (&reason.into(), &requested.into()),
            "{gap}"
        );
        assert_eq!(gap["resumed"], self.id.as_str(), "a gap's id is where it resumes: {gap}");
    }

    /// Asserts that it is the end of a channel.
    #[track_caller]
    pub fn assert_end(&self, state: &str) -> Value {
        assert_eq!(self.name, "fanfare.end", "{self:?}");
        let end = self.json();
        assert_eq!(end["state"], state, "{end}");
        end
    }
}

/// Asserts that an answer that is no stream says that the channel is over.
#[track_caller]
fn expect_end(answer: Answer) -> Option<Stream> {
    answer.expect(204);
    None
}

enum Block {
    Event(Event),
    /// An id and nothing else: the position to resume from.
    Position(String),
}

/// A subscription on one connection. The events of a stream that breaks off are returned first.
pub struct Stream {
    tcp: BufReader<TcpStream>,
    /// The remaining bytes of the current chunk, its line end included.
    chunk: usize,
    ended: bool,
    /// Bytes of incomplete lines.
    rest: Vec<u8>,
    block: Event,
    has_data: bool,
    ready: VecDeque<Block>,
    /// The number of received bytes, without heads and the sizes of chunks.
    pub received: usize,
    /// The value that a browser would send as `Last-Event-ID`.
    pub last_id: Option<String>,
}

impl Stream {
    /// Subscribes, after this id if there is one; `None` is a 204: the channel is over. A small
    /// `buffer` limits the kernel's backlog for a slow reader.
    pub async fn open(
        addr: SocketAddr,
        path: &str,
        after: Option<&str>,
        buffer: Option<u32>,
    ) -> io::Result<Option<Self>> {
        let answer = Self::try_open(addr, path, after, buffer).await?;
        Ok(answer.map_or_else(expect_end, Some))
    }

    /// Subscribes like [`Stream::open`], or returns the answer that is no stream.
    pub async fn try_open(
        addr: SocketAddr,
        path: &str,
        after: Option<&str>,
        buffer: Option<u32>,
    ) -> io::Result<Result<Self, Answer>> {
        let mut request = Request::new("GET", path);
        if let Some(id) = after {
            request = request.header("Last-Event-ID", id);
        }
        let stream = Self::try_ask(addr, request, buffer).await?;
        Ok(stream.map(|stream| Self { last_id: after.map(str::to_owned), ..stream }))
    }

    /// Sends a request whose answer is an event stream, or 204.
    pub async fn ask(
        addr: SocketAddr,
        request: Request,
        buffer: Option<u32>,
    ) -> io::Result<Option<Self>> {
        let answer = Self::try_ask(addr, request, buffer).await?;
        Ok(answer.map_or_else(expect_end, Some))
    }

    async fn try_ask(
        addr: SocketAddr,
        request: Request,
        buffer: Option<u32>,
    ) -> io::Result<Result<Self, Answer>> {
        let socket = TcpSocket::new_v4()?;
        if let Some(bytes) = buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        let capacity = buffer.map_or(32 << 10, |bytes| bytes as usize);
        let mut tcp = BufReader::with_capacity(capacity, socket.connect(addr).await?);
        let request = request.header("Accept", "text/event-stream");
        let head = request.head(addr, "Cache-Control: no-cache");
        tcp.write_all(head.as_bytes()).await?;
        let answer = Answer::head(&mut tcp).await?;
        if answer.status != 200 {
            return Ok(Err(answer));
        }
        assert_eq!(
            answer.header("content-type"),
            Some("text/event-stream; charset=utf-8"),
            "{answer:?}"
        );
        assert_eq!(answer.header("transfer-encoding"), Some("chunked"), "{answer:?}");
        Ok(Ok(Self {
            tcp,
            chunk: 0,
            ended: false,
            rest: Vec::new(),
            block: Event::default(),
            has_data: false,
            ready: VecDeque::new(),
            received: 0,
            last_id: None,
        }))
    }

    /// Returns the next event, or `None` at the proper end of the stream.
    pub async fn next(&mut self) -> io::Result<Option<Event>> {
        loop {
            match self.ready.pop_front() {
                Some(Block::Event(event)) => {
                    self.last_id.get_or_insert_default().clone_from(&event.id);
                    return Ok(Some(event));
                }
                Some(Block::Position(id)) => self.last_id = Some(id),
                None if self.ended => return Ok(None),
                None => self.advance().await?,
            }
        }
    }

    /// Reads until there is an id to resume after: from this point on nothing is missed.
    pub async fn settle(&mut self) -> io::Result<()> {
        while self.last_id.is_none() {
            match self.ready.pop_front() {
                Some(Block::Position(id)) => self.last_id = Some(id),
                Some(Block::Event(event)) => panic!("{event:?} before any id"),
                None => self.advance().await?,
            }
        }
        Ok(())
    }

    async fn advance(&mut self) -> io::Result<()> {
        if self.chunk == 0 {
            let size = line(&mut self.tcp).await?;
            let size = usize::from_str_radix(&size, 16).expect("the size of a chunk");
            self.ended = size == 0;
            self.chunk = size + 2;
        }
        let bytes = self.tcp.fill_buf().await?;
        if bytes.is_empty() && !self.ended {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let taken = bytes.len().min(self.chunk);
        let payload = taken.min(self.chunk.saturating_sub(2));
        self.rest.extend_from_slice(&bytes[..payload]);
        self.tcp.consume(taken);
        self.chunk -= taken;
        self.received += payload;
        self.lines();
        Ok(())
    }

    /// Parses all complete lines. The hub ends each with a line feed.
    fn lines(&mut self) {
        let rest = std::mem::take(&mut self.rest);
        let whole = rest.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let text = std::str::from_utf8(&rest[..whole]).expect("UTF-8");
        for line in text.lines() {
            self.line(line);
        }
        self.rest = rest[whole..].to_vec();
    }

    fn line(&mut self, line: &str) {
        if line.is_empty() {
            let event = std::mem::take(&mut self.block);
            // Only the id of the opening matters.
            if std::mem::take(&mut self.has_data) && event.name != "fanfare.open" {
                assert!(!event.id.is_empty(), "an event without an id: {event:?}");
                self.ready.push_back(Block::Event(event));
            } else if !event.id.is_empty() {
                self.ready.push_back(Block::Position(event.id));
            }
            return;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => self.block.id = value.to_owned(),
            "event" => self.block.name = value.to_owned(),
            "data" if self.has_data => panic!("no test sends two lines of data: {line}"),
            "data" => (self.block.data, self.has_data) = (value.to_owned(), true),
            "" | "retry" => {}
            other => panic!("a field that no browser knows: {other:?}"),
        }
    }
}
