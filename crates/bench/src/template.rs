//! The publish and subscribe requests of each kind of server, as bytes.

use std::io::Write as _;
use std::net::{SocketAddr, ToSocketAddrs as _};

use anyhow::{Context as _, bail};

use fanfare_sse as sse;

/// The placeholder for the name of a channel in a URL or a body.
const CHANNEL: &str = "{channel}";

/// The placeholder for the data of an event in a body.
const DATA: &str = "{data}";

/// The supported kinds of servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum TemplateKind {
    /// Fanfare's native API
    Fanfare,
    /// nginx with Nchan, at /pub/{channel} and /sub/{channel}
    Nchan,
    /// A Mercure hub (give the publisher's token with --header)
    Mercure,
    /// A Durable Streams server, at /v1/stream/{channel}
    Durable,
    /// Any server: see --publish-url and --subscribe-url
    Plain,
    /// The bare server of benches/compare
    Floor,
}

/// The start of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum From {
    Now,
    Earliest,
    /// After the event with this id.
    After(String),
}

/// The encoding of the body of a POST.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wrap {
    Raw,
    /// Durable Streams keep bytes, not events: a line end keeps payloads apart.
    Line,
    /// `topic=…&data=…`
    Form,
    /// Text around the data.
    Around(String, String),
}

/// A parsed URL.
#[derive(Clone, Debug, PartialEq, Eq)]
struct UrlPlace {
    authority: String,
    address: SocketAddr,
    /// Path and query.
    path: String,
}

/// The command-line options about the server.
#[derive(Clone, Debug)]
pub(crate) struct TemplateWanted {
    pub(crate) kind: TemplateKind,
    pub(crate) url: String,
    pub(crate) publish_url: Option<String>,
    pub(crate) subscribe_url: Option<String>,
    pub(crate) replay_url: Option<String>,
    pub(crate) publish_body: Option<String>,
    pub(crate) content_type: Option<String>,
    pub(crate) headers: Vec<String>,
}

/// Writes requests for one server.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    kind: TemplateKind,
    publish: UrlPlace,
    subscribe: UrlPlace,
    replay: Option<UrlPlace>,
    wrap: Wrap,
    content_type: String,
    /// The user's header lines, each with its line end.
    headers: String,
}

impl Template {
    pub(crate) fn new(wanted: &TemplateWanted) -> anyhow::Result<Self> {
        let (publish, subscribe) = default_paths(wanted.kind);
        let missing = wanted.publish_url.is_none() || wanted.subscribe_url.is_none();
        if wanted.kind == TemplateKind::Plain && missing {
            bail!("--template plain needs --publish-url and --subscribe-url, with {CHANNEL}");
        }
        let place = |given: &Option<String>, default: &str| {
            UrlPlace::new(given.as_deref().unwrap_or(default), default, &wanted.url)
        };
        let (wrap, content_type) = match (&wanted.publish_body, wanted.kind) {
            (Some(body), _) => {
                let parts = body.split_once(DATA);
                let (before, after) = parts.context("--publish-body has no {data} in it")?;
                (Wrap::Around(before.into(), after.into()), "application/json")
            }
            (None, TemplateKind::Mercure) => (Wrap::Form, "application/x-www-form-urlencoded"),
            (None, TemplateKind::Durable) => (Wrap::Line, "text/plain"),
            (None, _) => (Wrap::Raw, "text/plain"),
        };
        let mut headers = String::new();
        for header in &wanted.headers {
            if !header.contains(':') || header.contains(['\r', '\n']) {
                bail!("`{header}` is no header: write `Name: value`");
            }
            headers.push_str(header);
            headers.push_str("\r\n");
        }
        Ok(Self {
            kind: wanted.kind,
            publish: place(&wanted.publish_url, publish)?,
            subscribe: place(&wanted.subscribe_url, subscribe)?,
            replay: wanted
                .replay_url
                .as_deref()
                .map(|url| UrlPlace::new(url, subscribe, &wanted.url))
                .transpose()?,
            wrap,
            content_type: wanted.content_type.clone().unwrap_or_else(|| content_type.into()),
            headers,
        })
    }

    pub(crate) fn publish_address(&self) -> SocketAddr {
        self.publish.address
    }

    pub(crate) fn subscribe_address(&self) -> SocketAddr {
        self.subscribe.address
    }

    /// Returns whether the server accepts a streamed body of many events.
    pub(crate) fn can_stream(&self) -> bool {
        self.kind == TemplateKind::Fanfare || self.kind == TemplateKind::Plain
    }

    /// Returns the request that creates a channel, on servers that need one.
    pub(crate) fn create(&self, channel: &str) -> Option<Vec<u8>> {
        (self.kind == TemplateKind::Durable).then(|| {
            let mut request = self.head("PUT", &self.publish, channel);
            request.push_str("Content-Type: text/plain\r\nContent-Length: 0\r\n\r\n");
            request.into_bytes()
        })
    }

    pub(crate) fn subscription(&self, channel: &str, from: &From) -> Vec<u8> {
        let mut place = self.subscribe.clone();
        let mut last_id = None;
        match (self.kind, from) {
            (_, From::Now) => {}
            (_, From::Earliest) if self.replay.is_some() => {
                place = self.replay.clone().unwrap_or(place);
            }
            (TemplateKind::Fanfare, From::Earliest) => place.add_parameter("from=earliest"),
            (TemplateKind::Nchan, From::Earliest) => last_id = Some("0:0"),
            (_, From::Earliest) if self.kind != TemplateKind::Durable => last_id = Some("earliest"),
            (_, From::Earliest) => place.replace("offset=now", "offset=-1"),
            (TemplateKind::Durable, From::After(id)) => {
                place.replace("offset=now", &format!("offset={id}"));
            }
            (_, From::After(id)) => last_id = Some(id),
        }
        let mut request = self.head("GET", &place, channel);
        request.push_str("Accept: text/event-stream\r\n");
        if let Some(id) = last_id {
            request.push_str(&format!("Last-Event-ID: {id}\r\n"));
        }
        request.push_str("\r\n");
        request.into_bytes()
    }

    /// Returns the invariant parts of publish requests to one channel.
    pub(crate) fn publication(&self, channel: &str) -> Publication {
        let mut head = self.head("POST", &self.publish, channel);
        let stream = format!(
            "{head}Content-Type: {}\r\nTransfer-Encoding: chunked\r\n\r\n",
            sse::MEDIA_TYPE
        );
        head.push_str(&format!("Content-Type: {}\r\nContent-Length: ", self.content_type));
        let (before, after, spaces) = match &self.wrap {
            Wrap::Raw => (String::new(), "", b' '),
            Wrap::Line => (String::new(), "\n", b' '),
            Wrap::Form => (format!("topic={channel}&data="), "", b'+'),
            Wrap::Around(before, after) => (before.replace(CHANNEL, channel), after.as_str(), b' '),
        };
        Publication {
            post: head.into_bytes(),
            stream: stream.into_bytes(),
            before: before.into_bytes(),
            after: after.replace(CHANNEL, channel).into_bytes(),
            spaces,
        }
    }

    fn head(&self, method: &str, place: &UrlPlace, channel: &str) -> String {
        let path = place.path.replace(CHANNEL, channel);
        format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n{}", place.authority, self.headers)
    }
}

/// The parts from which publish requests to one channel are assembled.
#[derive(Clone, Debug)]
pub(crate) struct Publication {
    /// The head of a POST up to the value of Content-Length.
    post: Vec<u8>,
    /// The whole head of a streamed request.
    pub(crate) stream: Vec<u8>,
    before: Vec<u8>,
    after: Vec<u8>,
    /// The encoding of a space in the body.
    spaces: u8,
}

impl Publication {
    /// Appends a complete request that publishes one event.
    pub(crate) fn post(&self, out: &mut Vec<u8>, data: &[u8]) {
        out.extend_from_slice(&self.post);
        let length = self.before.len() + data.len() + self.after.len();
        out.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
        out.extend_from_slice(b"\r\n\r\n");
        out.extend_from_slice(&self.before);
        if self.spaces == b' ' {
            out.extend_from_slice(data);
        } else {
            out.extend(data.iter().map(|byte| if *byte == b' ' { self.spaces } else { *byte }));
        }
        out.extend_from_slice(&self.after);
    }
}

/// Replaces the content of `out` with the data of an event.
pub(crate) fn write_data(out: &mut Vec<u8>, seq: u64, intended: u64, size: usize) {
    out.clear();
    out.extend_from_slice(itoa::Buffer::new().format(seq).as_bytes());
    out.push(b' ');
    out.extend_from_slice(itoa::Buffer::new().format(intended).as_bytes());
    out.push(b' ');
    out.resize(size.max(out.len()), b'x');
}

/// Appends a chunk to a streamed body.
pub(crate) fn write_chunk(out: &mut Vec<u8>, text: &[u8]) {
    let _ = write!(out, "{:x}\r\n", text.len()); // writing to a Vec cannot fail
    out.extend_from_slice(text);
    out.extend_from_slice(b"\r\n");
}

fn default_paths(kind: TemplateKind) -> (&'static str, &'static str) {
    const MERCURE: &str = "/.well-known/mercure";
    match kind {
        TemplateKind::Fanfare => ("/v1/channels/{channel}", "/v1/channels/{channel}"),
        TemplateKind::Mercure => (MERCURE, "/.well-known/mercure?topic={channel}"),
        TemplateKind::Durable => {
            ("/v1/stream/{channel}", "/v1/stream/{channel}?offset=now&live=sse")
        }
        TemplateKind::Nchan | TemplateKind::Plain | TemplateKind::Floor => {
            ("/pub/{channel}", "/sub/{channel}")
        }
    }
}

impl UrlPlace {
    /// Parses `given`, which is a URL, a URL without a path, which means the default path at that
    /// server, or a path at the server of `base`.
    fn new(given: &str, default_path: &str, base: &str) -> anyhow::Result<Self> {
        let (authority, path) = if given.starts_with('/') {
            let (authority, prefix) = split(base)?;
            (authority, format!("{}{given}", prefix.trim_end_matches('/')))
        } else {
            let (authority, path) = split(given)?;
            (authority, if path.is_empty() { default_path.into() } else { path })
        };
        if path.contains(|c: char| c.is_whitespace() || c.is_control()) {
            bail!("`{given}` has blanks in it: percent-encode them");
        }
        let with_port = if authority.parse::<SocketAddr>().is_ok() || authority.contains(':') {
            authority.clone()
        } else {
            format!("{authority}:80")
        };
        let found = with_port.to_socket_addrs().map(|mut addresses| addresses.next());
        let address = found.ok().flatten().with_context(|| format!("no address for `{given}`"))?;
        Ok(Self { authority, address, path })
    }

    fn add_parameter(&mut self, parameter: &str) {
        self.path.push(if self.path.contains('?') { '&' } else { '?' });
        self.path.push_str(parameter);
    }

    fn replace(&mut self, old: &str, new: &str) {
        self.path = self.path.replace(old, new);
    }
}

/// Splits a URL into its authority and its path.
fn split(url: &str) -> anyhow::Result<(String, String)> {
    if url.starts_with("https://") {
        bail!("bench does not speak https: give the http:// address of the server itself");
    }
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let (authority, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    if authority.is_empty() || authority.contains('@') {
        bail!("`{url}` is no address: such as http://127.0.0.1:4100");
    }
    Ok((authority.into(), path.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(kind: TemplateKind) -> Template {
        Template::new(&wanted(kind)).unwrap()
    }

    fn wanted(kind: TemplateKind) -> TemplateWanted {
        TemplateWanted {
            kind,
            url: "http://127.0.0.1:4100".into(),
            publish_url: None,
            subscribe_url: None,
            replay_url: None,
            publish_body: None,
            content_type: None,
            headers: vec![],
        }
    }

    fn post(template: &Template) -> String {
        let mut out = Vec::new();
        template.publication("c").post(&mut out, b"0 5 xx");
        String::from_utf8(out).unwrap()
    }

    fn subscribe(kind: TemplateKind, from: From) -> String {
        String::from_utf8(template(kind).subscription("c", &from)).unwrap()
    }

    #[test]
    fn each_kind_is_published_to_in_its_way() {
        assert_eq!(
            post(&template(TemplateKind::Fanfare)),
            "POST /v1/channels/c HTTP/1.1\r\nHost: 127.0.0.1:4100\r\n\
             Content-Type: text/plain\r\nContent-Length: 6\r\n\r\n0 5 xx"
        );
        let mercure = post(&template(TemplateKind::Mercure));
        assert!(mercure.ends_with("Content-Length: 19\r\n\r\ntopic=c&data=0+5+xx"), "{mercure}");
        assert!(
            post(&template(TemplateKind::Durable)).ends_with("Content-Length: 7\r\n\r\n0 5 xx\n")
        );
        let create = template(TemplateKind::Durable).create("c").unwrap();
        assert!(create.starts_with(b"PUT /v1/stream/c HTTP/1.1\r\n"));
    }

    #[test]
    fn each_kind_has_its_way_to_begin_earlier() {
        let id = || From::After("7".into());
        let earliest = subscribe(TemplateKind::Fanfare, From::Earliest);
        assert!(earliest.starts_with("GET /v1/channels/c?from=earliest HTTP/1.1\r\n"));
        assert!(subscribe(TemplateKind::Fanfare, id()).ends_with("Last-Event-ID: 7\r\n\r\n"));
        assert!(
            subscribe(TemplateKind::Nchan, From::Earliest).ends_with("Last-Event-ID: 0:0\r\n\r\n")
        );
        assert!(subscribe(TemplateKind::Durable, From::Earliest).contains("?offset=-1&live=sse "));
        assert!(subscribe(TemplateKind::Durable, id()).contains("?offset=7&live=sse "));
        assert!(subscribe(TemplateKind::Mercure, From::Now).contains("mercure?topic=c "));
    }

    #[test]
    fn any_server_can_be_described() {
        let mut wanted = wanted(TemplateKind::Plain);
        assert!(Template::new(&wanted).is_err());
        wanted.publish_url = Some("http://127.0.0.1:5561/publish".into());
        wanted.subscribe_url = Some("/events?c={channel}".into());
        wanted.publish_body = Some(r#"{"channel":"{channel}","data":"{data}"}"#.into());
        wanted.headers = vec!["X-API-Key: secret".into()];
        let template = Template::new(&wanted).unwrap();
        let request = post(&template);
        assert!(request.starts_with("POST /publish HTTP/1.1\r\nHost: 127.0.0.1:5561\r\nX-API-"));
        assert!(request.ends_with(r#"{"channel":"c","data":"0 5 xx"}"#));
        assert_eq!(template.subscribe_address().port(), 4100);
        wanted.headers = vec!["nonsense".into()];
        assert!(Template::new(&wanted).is_err());
    }

    #[test]
    fn another_server_is_published_to_in_the_same_way() {
        let mut wanted = wanted(TemplateKind::Fanfare);
        wanted.publish_url = Some("http://127.0.0.1:4200".into());
        let template = Template::new(&wanted).unwrap();
        assert!(post(&template).starts_with("POST /v1/channels/c HTTP/1.1\r\n"));
        assert_eq!(template.publish_address().port(), 4200);
        assert_eq!(template.subscribe_address().port(), 4100);
    }

    #[test]
    fn data_has_the_size_that_was_asked_for() {
        let mut out = Vec::new();
        write_data(&mut out, 12, 345, 10);
        assert_eq!(out, b"12 345 xxx");
        write_data(&mut out, 12, 345, 1);
        assert_eq!(out, b"12 345 ");
    }
}
