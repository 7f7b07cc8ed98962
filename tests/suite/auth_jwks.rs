//! Key sets fetched over HTTP: rotation without a restart, and a key server that is slow, broken or
//! down.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::support::tokens::{
    OPERATOR, Signer, assert_refused, bearer, claims, get_as, issuer, operator,
};
use crate::support::{Response, TestHub, eventually, within};

/// The answer of the key server.
#[derive(Clone)]
enum Answers {
    /// A reply of this status with this body.
    With(u16, Vec<u8>),
    /// A key set, once the gate is opened.
    Later(Vec<u8>, watch::Receiver<bool>),
    /// No answer, on an open connection.
    Nothing,
    /// Another address.
    Redirect(String),
}

/// An HTTP server that publishes keys and counts requests.
struct Publisher {
    url: String,
    answers: Arc<Mutex<Answers>>,
    fetches: Arc<AtomicUsize>,
}

impl Publisher {
    async fn start(keys: &[Value]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/jwks.json", listener.local_addr().expect("an address"));
        let answers = Arc::new(Mutex::new(set(keys)));
        let fetches = Arc::new(AtomicUsize::new(0));
        let this = Self { url, answers: answers.clone(), fetches: fetches.clone() };
        tokio::spawn(async move {
            while let Ok((mut tcp, _)) = listener.accept().await {
                let answers = answers.clone();
                let fetches = fetches.clone();
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let mut some = [0; 1024];
                        match tcp.read(&mut some).await {
                            Ok(0) | Err(_) => return,
                            Ok(n) => head.extend_from_slice(&some[..n]),
                        }
                    }
                    fetches.fetch_add(1, Ordering::SeqCst);
                    let now = answers.lock().clone();
                    let (status, more, body) = match now {
                        Answers::With(status, body) => (status, String::new(), body),
                        Answers::Later(body, mut gate) => {
                            let _test_is_over = gate.wait_for(|open| *open).await;
                            (200, String::new(), body)
                        }
                        Answers::Nothing => return std::future::pending().await,
                        Answers::Redirect(to) => (302, format!("Location: {to}\r\n"), vec![]),
                    };
                    let length = body.len();
                    let head = format!(
                        "HTTP/1.1 {status} Said\r\n{more}Content-Type: application/json\r\n\
                         Content-Length: {length}\r\nConnection: close\r\n\r\n"
                    );
                    let _hung_up = tcp.write_all(head.as_bytes()).await;
                    let _hung_up = tcp.write_all(&body).await;
                });
            }
        });
        this
    }

    fn answer(&self, answers: Answers) {
        *self.answers.lock() = answers;
    }

    fn fetches(&self) -> usize {
        self.fetches.load(Ordering::SeqCst)
    }
}

fn set(keys: &[Value]) -> Answers {
    Answers::With(200, text_of(keys))
}

fn text_of(keys: &[Value]) -> Vec<u8> {
    json!({"keys": keys}).to_string().into_bytes()
}

/// A key of the key server.
struct Key {
    kid: String,
    signer: Signer,
}

impl Key {
    fn new(kid: &str) -> Self {
        Self { kid: kid.to_owned(), signer: Signer::new("ES256") }
    }

    fn jwk(&self) -> Value {
        self.signer.jwk(&self.kid, "ES256")
    }

    fn token(&self) -> String {
        self.signer.sign_by("ES256", &self.kid, &claims())
    }
}

/// A hub that trusts the key server, with events in `a`, whose first fetch is over.
async fn hub(publisher: &Publisher, interval: &str) -> TestHub {
    let settings = format!(
        "auth.jwks_min_interval = \"{interval}\"\nauth.jwks_refresh = \"1h\"\n{}{}",
        issuer("id", &format!("jwks_url = \"{}\"", publisher.url), ""),
        operator(),
    );
    let hub = TestHub::with(&settings).await;
    hub.request("POST", "/v1/channels/a", &[("X-API-Key", OPERATOR)], "x").await.ok();
    eventually("the first fetch", async || publisher.fetches() > 0).await;
    hub
}

async fn reads(hub: &TestHub, token: &str) -> Response {
    let headers = [("Authorization", bearer(token))];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    get_as(hub.addr(), "/v1/channels/a?from=earliest", &headers).await
}

/// Repeats a request until the token is accepted.
async fn until_accepted(hub: &TestHub, token: &str) {
    eventually("the key to be fetched", async || reads(hub, token).await.status() == 200).await;
}

#[tokio::test]
async fn keys_are_there_from_the_start_and_fetched_once() {
    let key = Key::new("one");
    let publisher = Publisher::start(&[key.jwk()]).await;
    let hub = hub(&publisher, "1h").await;
    until_accepted(&hub, &key.token()).await;
    for _ in 0..20 {
        reads(&hub, &key.token()).await.ok();
    }
    assert_eq!(publisher.fetches(), 1);
}

#[tokio::test]
async fn a_new_key_is_believed_without_a_restart_and_the_old_one_no_longer() {
    let old = Key::new("old");
    let new = Key::new("new");
    let publisher = Publisher::start(&[old.jwk()]).await;
    let hub = hub(&publisher, "1s").await;
    until_accepted(&hub, &old.token()).await;
    publisher.answer(set(&[old.jwk(), new.jwk()]));
    until_accepted(&hub, &new.token()).await;
    reads(&hub, &old.token()).await.ok();
    let last = Key::new("last");
    publisher.answer(set(&[last.jwk()]));
    until_accepted(&hub, &last.token()).await;
    assert_refused(&reads(&hub, &old.token()).await, "unknown_key");
    assert_refused(&reads(&hub, &new.token()).await, "unknown_key");
}

#[tokio::test]
async fn those_who_come_with_a_new_key_at_the_same_time_wait_for_one_fetch() {
    let old = Key::new("old");
    let new = Key::new("new");
    let publisher = Publisher::start(&[old.jwk()]).await;
    let hub = Arc::new(hub(&publisher, "1s").await);
    until_accepted(&hub, &old.token()).await;
    let (open, gate) = watch::channel(false);
    publisher.answer(Answers::Later(text_of(&[old.jwk(), new.jwk()]), gate));
    // Unknown key ids, until the interval is over and one of them starts a fetch.
    let before = publisher.fetches();
    let probing = {
        let hub = hub.clone();
        let fetches = publisher.fetches.clone();
        tokio::spawn(async move {
            while fetches.load(Ordering::SeqCst) == before {
                let kid = format!("probe-{}", fastrand::u64(..));
                assert_refused(&reads(&hub, &Key::new(&kid).token()).await, "unknown_key");
            }
        })
    };
    eventually("the fetch", async || publisher.fetches() > before).await;
    let waiting: Vec<_> = (0..50)
        .map(|_| {
            let hub = hub.clone();
            let token = new.token();
            tokio::spawn(async move { reads(&hub, &token).await.status() })
        })
        .collect();
    // A token whose key is cached does not wait for the fetch.
    reads(&hub, &old.token()).await.ok();
    // All fifty requests are connected when the set is sent.
    eventually("all to have come", async || {
        let page = get_as(hub.admin_addr(), "/metrics", &[("X-API-Key", OPERATOR)]).await.ok();
        let page = page.text();
        let open = page.lines().find_map(|line| line.strip_prefix("fanfare_connections "));
        open.expect("a gauge").parse::<f64>().expect("a number") >= 51.0
    })
    .await;
    open.send(true).expect("a publisher");
    for reply in waiting {
        assert_eq!(within("a reply", reply).await.expect("a reply"), 200);
    }
    within("the probe", probing).await.expect("refused");
    assert_eq!(publisher.fetches(), before + 1, "one fetch for all");
}

#[tokio::test]
async fn names_that_are_made_up_cost_no_more_fetches_than_the_interval_allows() {
    let key = Key::new("one");
    let publisher = Publisher::start(&[key.jwk()]).await;
    let hub = Arc::new(hub(&publisher, "1h").await);
    until_accepted(&hub, &key.token()).await;
    let stranger = Signer::new("ES256");
    let mut storms = tokio::task::JoinSet::new();
    for part in 0..10 {
        let hub = hub.clone();
        storms.spawn(async move {
            for n in 0..100 {
                let token = stranger.sign_by("ES256", &format!("{part}-{n}"), &claims());
                assert_refused(&reads(&hub, &token).await, "unknown_key");
            }
        });
    }
    while let Some(ended) = storms.join_next().await {
        ended.expect("all refused");
    }
    reads(&hub, &key.token()).await.ok();
    assert_eq!(publisher.fetches(), 1, "the interval is an hour");
}

#[tokio::test]
async fn a_fetch_that_fails_keeps_the_keys_that_are_here() {
    let old = Key::new("old");
    let publisher = Publisher::start(&[old.jwk()]).await;
    let hub = hub(&publisher, "1s").await;
    until_accepted(&hub, &old.token()).await;
    let elsewhere = Key::new("elsewhere");
    let other = Publisher::start(&[elsewhere.jwk()]).await;
    let mut large = text_of(&[elsewhere.jwk()]);
    large.resize(10 << 20, b' ');
    for (n, bad) in [
        Answers::With(500, text_of(&[elsewhere.jwk()])),
        Answers::With(200, b"<html>sorry</html>".to_vec()),
        Answers::With(200, b"{\"keys\": 5}".to_vec()),
        Answers::With(200, Vec::new()),
        Answers::With(200, large),
        Answers::Redirect(other.url.clone()),
    ]
    .into_iter()
    .enumerate()
    {
        publisher.answer(bad);
        let before = publisher.fetches();
        let probe = AtomicUsize::new(0);
        eventually("a fetch", async || {
            let kid = format!("{n}-{}", probe.fetch_add(1, Ordering::SeqCst));
            let stranger = Key::new(&kid);
            assert_refused(&reads(&hub, &stranger.token()).await, "unknown_key");
            reads(&hub, &old.token()).await.ok();
            publisher.fetches() > before
        })
        .await;
        reads(&hub, &old.token()).await.ok();
        let answer = reads(&hub, &elsewhere.token()).await;
        assert_refused(&answer, "unknown_key");
    }
    assert_eq!(other.fetches(), 0, "keys come from where the configuration says");
    let new = Key::new("new");
    publisher.answer(set(&[new.jwk()]));
    until_accepted(&hub, &new.token()).await;
}

#[tokio::test]
async fn a_fetch_that_hangs_delays_only_requests_with_a_new_key() {
    let old = Key::new("old");
    let new = Key::new("new");
    let publisher = Publisher::start(&[old.jwk()]).await;
    let hub = Arc::new(hub(&publisher, "1s").await);
    until_accepted(&hub, &old.token()).await;
    publisher.answer(Answers::Nothing);
    let before = publisher.fetches();
    let waiting = {
        let hub = hub.clone();
        let fetches = publisher.fetches.clone();
        tokio::spawn(async move {
            while fetches.load(Ordering::SeqCst) == before {
                let kid = format!("probe-{}", fastrand::u64(..));
                assert_refused(&reads(&hub, &Key::new(&kid).token()).await, "unknown_key");
            }
        })
    };
    eventually("the fetch that hangs", async || publisher.fetches() > before).await;
    for _ in 0..20 {
        reads(&hub, &old.token()).await.ok();
    }
    // The fetch times out, and the next one succeeds.
    within("the fetch to be given up", waiting).await.expect("refused");
    publisher.answer(set(&[new.jwk()]));
    until_accepted(&hub, &new.token()).await;
}

#[tokio::test]
async fn a_key_that_was_asked_for_while_its_publisher_was_down_is_found_afterwards() {
    let old = Key::new("old");
    let new = Key::new("new");
    let publisher = Publisher::start(&[old.jwk()]).await;
    let hub = hub(&publisher, "1s").await;
    until_accepted(&hub, &old.token()).await;
    publisher.answer(Answers::With(503, Vec::new()));
    let before = publisher.fetches();
    eventually("a fetch in vain", async || {
        assert_refused(&reads(&hub, &new.token()).await, "unknown_key");
        publisher.fetches() > before
    })
    .await;
    publisher.answer(set(&[old.jwk(), new.jwk()]));
    until_accepted(&hub, &new.token()).await;
}

#[tokio::test]
async fn a_publisher_who_is_down_at_the_start_is_found_when_it_is_back() {
    let key = Key::new("one");
    let publisher = Publisher::start(&[]).await;
    publisher.answer(Answers::With(503, Vec::new()));
    let hub = hub(&publisher, "1s").await;
    publisher.answer(set(&[key.jwk()]));
    until_accepted(&hub, &key.token()).await;
}

#[tokio::test]
async fn what_is_published_as_a_secret_is_no_key() {
    let key = Key::new("one");
    let public = Signer::new("HS256");
    let publisher = Publisher::start(&[public.jwk("shared", "HS256"), key.jwk()]).await;
    let hub = hub(&publisher, "1h").await;
    until_accepted(&hub, &key.token()).await;
    let forged = public.sign_by("HS256", "shared", &claims());
    assert_refused(&reads(&hub, &forged).await, "unknown_key");
    let forged = public.sign_by("HS256", "one", &claims());
    assert_refused(&reads(&hub, &forged).await, "algorithm");
}
