//! Whole requests to a live hub: each gets an answer that the document has, and a refusal is a
//! problem with a reason.
//!
//! The input: up to eight requests, with a line `%%` between them. A request is a line with method
//! and target, lines of headers, an empty line, and a body. If the first line begins with `@`, it
//! is sent to the admin listener; if with `!`, on its own connection. The headers for the length of
//! the body and for the connection are written here and not taken from the input: the target
//! `connection` covers false ones.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpStream;
use std::sync::{LazyLock, Mutex};
use std::time::{Duration, Instant};

use fanfare::internals::http::ErrorCode;
use serde_json::Value;

use crate::hub::{self, Look, PATIENT};

/// The maximum number of requests of one input.
const MOST: usize = 8;

/// Headers of the input that are not sent.
const FRAMING: [&str; 6] =
    ["connection", "content-length", "expect", "te", "transfer-encoding", "upgrade"];

/// The time limit for the answer to a request that asks the hub to wait.
const GLANCE: Duration = Duration::from_millis(20);

/// The statuses of each operation, by path and method, in the document.
type Operations = BTreeMap<String, BTreeMap<String, BTreeSet<u16>>>;

/// Parsed by the document's indentation: `  /path:`, then `    method:`, then `        "status":`.
static DOCUMENTED: LazyLock<Operations> = LazyLock::new(|| {
    let mut found = Operations::new();
    let mut path = String::new();
    let mut method = String::new();
    for line in include_str!("../../docs/openapi.yaml").lines() {
        let text = line.trim_start();
        let name = text.split(':').next().unwrap_or_default().trim_matches('"').to_owned();
        match line.len() - text.len() {
            0 if !text.is_empty() => path.clear(),
            2 if text.starts_with('/') => path = name,
            4 if !path.is_empty() && text.ends_with(':') => {
                method = name.to_uppercase();
                found.entry(path.clone()).or_default().entry(method.clone()).or_default();
            }
            8 if !path.is_empty() && text.starts_with('"') => {
                let methods = found.get_mut(&path).and_then(|methods| methods.get_mut(&method));
                methods.expect("a method").insert(name.parse().expect("a status"));
            }
            _ => {}
        }
    }
    found.values_mut().for_each(|methods| drop(methods.remove("PARAMETERS")));
    assert!(found.len() >= 8 && found["/v1/channels/{name}"]["GET"].contains(&406));
    found
});

/// The document's paths on the admin listener; it shares those of `health`.
const ADMIN: [&str; 2] = ["/metrics", "/v1/channels"];
const BOTH: [&str; 3] = ["/healthz", "/readyz", "/openapi.yaml"];

/// A connection to each listener, for as long as it lasts.
static CONNECTIONS: [Mutex<Option<TcpStream>>; 2] = [Mutex::new(None), Mutex::new(None)];

/// Checks one input.
///
/// # Panics
/// If a property does not hold.
pub fn check(input: &[u8]) {
    let mut rest = Some(input);
    for _ in 0..MOST {
        let Some(text) = rest else { return };
        let (request, more) = match find(text, b"\n%%\n") {
            Some(at) => (&text[..at], Some(&text[at + 4..])),
            None => (text, None),
        };
        rest = more;
        if let Some(request) = Request::read(request) {
            let answer = request.send();
            if let Some(answer) = answer {
                answer.holds(&request);
            }
        }
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    text.windows(what.len()).position(|window| window == what)
}

struct Request {
    admin: bool,
    fresh: bool,
    method: String,
    target: String,
    bytes: Vec<u8>,
}

#[derive(Debug)]
struct Answer {
    status: u16,
    headers: BTreeMap<String, String>,
    /// `None` for a stream, and for an answer whose head was enough.
    body: Option<Vec<u8>>,
}

impl Request {
    fn read(text: &[u8]) -> Option<Self> {
        let (head, body) = match find(text, b"\n\n") {
            Some(at) => (&text[..at], &text[at + 2..]),
            None => (text, &text[text.len()..]),
        };
        let mut lines = head.split(|byte| *byte == b'\n');
        let mut first = lines.next()?;
        let mut admin = false;
        let mut fresh = false;
        while let [mark @ (b'@' | b'!'), more @ ..] = first {
            admin |= *mark == b'@';
            fresh |= *mark == b'!';
            first = more;
        }
        let line = String::from_utf8_lossy(first);
        let (method, target) = line.split_once(' ')?;
        let mut bytes = first.to_vec();
        bytes.extend_from_slice(b" HTTP/1.1\r\nHost: localhost\r\n");
        for line in lines {
            let name = line.split(|byte| *byte == b':').next()?;
            let name = String::from_utf8_lossy(name).trim().to_ascii_lowercase();
            if !FRAMING.contains(&name.as_str()) && !line.is_empty() {
                bytes.extend_from_slice(line);
                bytes.extend_from_slice(b"\r\n");
            }
        }
        bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
        bytes.extend_from_slice(body);
        Some(Self { admin, fresh, method: method.into(), target: target.into(), bytes })
    }

    /// Returns the answer; `None` if the hub was asked to wait, and does.
    fn send(&self) -> Option<Answer> {
        let kept = &CONNECTIONS[usize::from(self.admin)];
        let mut kept = kept.lock().expect("nobody panicked");
        let listener = if self.admin { PATIENT.admin } else { PATIENT.public };
        for used in [kept.take().filter(|_| !self.fresh), None] {
            let was_used = used.is_some();
            let mut tcp = used.unwrap_or_else(|| hub::connect(listener));
            hub::write(&mut tcp, &self.bytes);
            match self.receive(&mut tcp) {
                Received::Whole(answer) => {
                    if answer.header("connection") != Some("close") {
                        *kept = Some(tcp);
                    }
                    return Some(answer);
                }
                Received::Begun(answer) => return Some(answer),
                Received::Nothing => return None,
                // The hub closes an idle connection.
                Received::Closed if was_used => {}
                // The request was refused before its body was read, and the reset overtook the
                // answer.
                Received::Closed if !self.is_well_formed() => return None,
                Received::Closed => {
                    panic!("closed without an answer: {:?}", String::from_utf8_lossy(&self.bytes))
                }
            }
        }
        None
    }

    fn receive(&self, tcp: &mut TcpStream) -> Received {
        let mut bytes = Vec::new();
        let began = Instant::now();
        let waits = self.waits();
        let mut end = false;
        loop {
            if let Some(received) = self.parse(&bytes, end) {
                return received;
            }
            match hub::read(tcp, &mut bytes, if waits { GLANCE } else { hub::PATIENCE }) {
                Look::Bytes => {}
                Look::End if bytes.is_empty() => return Received::Closed,
                Look::End if end => panic!("cut off: {:?}", String::from_utf8_lossy(&bytes)),
                Look::End => end = true,
                Look::Nothing if waits => return Received::Nothing,
                Look::Nothing => panic!("no answer in {:?}", began.elapsed()),
            }
        }
    }

    /// Returns whether the HTTP library has no reason to refuse it.
    fn is_well_formed(&self) -> bool {
        let mut headers = [httparse::EMPTY_HEADER; 32];
        let mut head = httparse::Request::new(&mut headers);
        let parsed = head.parse(&self.bytes).is_ok();
        parsed && head.path.is_some_and(|target| target.parse::<http::Uri>().is_ok())
    }

    /// Returns whether RFC 9112 allows its head.
    fn is_by_the_standard(&self) -> bool {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Request::new(&mut headers);
        let parsed = head.parse(&self.bytes).is_ok();
        let hosts = head.headers.iter().filter(|header| header.name.eq_ignore_ascii_case("host"));
        let one_host = hosts.count() == 1;
        parsed && one_host && head.path.is_some_and(|target| !target.contains('#'))
    }

    /// Returns whether the request asks the hub to wait before it answers, or may be understood so.
    fn waits(&self) -> bool {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        form_urlencoded::parse(query.as_bytes()).any(|(name, _)| name == "wait")
    }

    /// Parses the answer, as far as it has arrived.
    fn parse(&self, bytes: &[u8], end: bool) -> Option<Received> {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Response::new(&mut headers);
        let parsed = head.parse(bytes);
        let parsed = parsed.unwrap_or_else(|error| {
            panic!("no HTTP ({error}): {:?}", String::from_utf8_lossy(bytes))
        });
        let httparse::Status::Complete(start) = parsed else { return None };
        let status = head.code.expect("it is complete");
        let headers = head.headers.iter().map(|header| {
            let value = String::from_utf8_lossy(header.value).into_owned();
            (header.name.to_ascii_lowercase(), value)
        });
        let mut answer = Answer { status, headers: headers.collect(), body: None };
        let rest = &bytes[start..];
        if self.method == "HEAD" || matches!(status, 204 | 304) {
            assert!(rest.is_empty(), "a body where none may be");
            answer.body = Some(Vec::new());
            return Some(Received::Whole(answer));
        }
        if answer.is_stream() {
            return Some(Received::Begun(answer));
        }
        if let Some(length) = answer.header("content-length") {
            let length: usize = length.parse().expect("a length");
            assert!(rest.len() <= length, "more than was announced");
            answer.body = (rest.len() == length).then(|| rest.to_vec());
            return answer.body.is_some().then_some(Received::Whole(answer));
        }
        // Without a length, the body ends with its last chunk, or with the connection.
        match (answer.header("transfer-encoding"), end) {
            (Some(_), _) if rest.ends_with(b"0\r\n\r\n") => Some(Received::Begun(answer)),
            (None, true) => {
                answer.body = Some(rest.to_vec());
                Some(Received::Begun(answer))
            }
            _ => None,
        }
    }

    /// Returns the operation's statuses, if there is such an operation; `None` for an unknown path.
    fn documented(&self) -> Option<Option<&BTreeSet<u16>>> {
        let path = self.target.split(['?', '#']).next().unwrap_or_default();
        let here =
            |pattern: &str| BOTH.contains(&pattern) || ADMIN.contains(&pattern) == self.admin;
        let fits = |pattern: &str| match pattern.strip_suffix("{name}") {
            Some(prefix) => path.starts_with(prefix),
            None => path == pattern,
        };
        let found = DOCUMENTED.iter().find(|(pattern, _)| here(pattern) && fits(pattern));
        found.map(|(pattern, methods)| match methods.get(&self.method) {
            // Every document also answers to HEAD.
            None if self.method == "HEAD" && !pattern.contains('{') => methods.get("GET"),
            known => known,
        })
    }
}

enum Received {
    Whole(Answer),
    Begun(Answer),
    Closed,
    Nothing,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    fn media_type(&self) -> Option<&str> {
        self.header("content-type").map(|value| value.split(';').next().unwrap_or_default())
    }

    fn is_stream(&self) -> bool {
        matches!(self.media_type(), Some("text/event-stream" | "application/x-ndjson"))
    }

    /// Returns whether it is a refusal by the HTTP library, before the hub saw a request.
    fn is_of_the_library(&self) -> bool {
        matches!(self.status, 400 | 414 | 431 | 505) && self.header("content-type").is_none()
    }

    fn holds(&self, request: &Request) {
        assert!(self.header("date").is_some(), "no date: {self:?}");
        if self.is_of_the_library() && request.method != "HEAD" {
            return;
        }
        self.is_documented(request);
        if self.status >= 400 && request.method != "HEAD" {
            self.is_problem();
        }
        if self.status == 405 {
            let allow = self.header("allow").unwrap_or_default();
            let mut allowed = allow.split(", ");
            assert!(allowed.any(|method| method == "OPTIONS"), "allow: {allow}");
            assert!(allow.split(", ").all(|method| method != request.method), "allow: {allow}");
        }
        let says_when = self.header("retry-after").is_some();
        assert!(self.status != 503 || says_when, "503 and no `Retry-After`");
        let origin = self.header("access-control-allow-origin");
        assert!(origin.is_none_or(|origin| origin == "https://app.example"), "{origin:?}");
        if self.media_type() == Some("application/json") {
            let body = self.body.as_deref().unwrap_or_default();
            let read = serde_json::from_slice::<Value>(body);
            assert!(request.method == "HEAD" || read.is_ok_and(|it| it.is_object()), "{self:?}");
        }
    }

    fn is_documented(&self, request: &Request) {
        let status = self.status;
        // An invalid head is refused before its path is read.
        if (status == 400 && !request.is_by_the_standard()) || status == 431 {
            assert_eq!(self.header("connection"), Some("close"), "{self:?}");
        } else if !request.target.starts_with('/') || (request.method == "HEAD" && status == 400) {
            assert!(status < 500 || status == 503, "{self:?}");
        } else if request.method == "OPTIONS" {
            assert!(matches!(status, 200 | 204 | 404), "{self:?}");
        } else {
            let expected = match request.documented() {
                None => status == 404,
                Some(None) => status == 405,
                Some(Some(statuses)) => statuses.contains(&status) && status != 500,
            };
            assert!(expected, "{} {}: {self:?}", request.method, request.target);
        }
    }

    fn is_problem(&self) {
        assert_eq!(self.media_type(), Some("application/problem+json"), "{self:?}");
        assert_eq!(self.header("cache-control"), Some("no-store"), "{self:?}");
        let body = self.body.as_deref().unwrap_or_default();
        let problem: Value = serde_json::from_slice(body).expect("a problem is JSON");
        let code = problem["code"].as_str().expect("a problem has a code");
        let known = ErrorCode::ALL.into_iter().find(|known| known.as_str() == code);
        let known = known.unwrap_or_else(|| panic!("{code} is no code"));
        assert_eq!(known.status().as_u16(), self.status);
        assert_eq!(problem["status"], self.status);
        assert_eq!(problem["retryable"], known.is_retryable());
        assert_eq!(problem["type"], format!("urn:fanfare:problem:{code}"));
        for text in ["title", "detail"] {
            assert!(problem[text].as_str().is_some_and(|text| !text.is_empty()), "{problem}");
        }
    }
}
