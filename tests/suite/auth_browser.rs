//! A web page can use the credential of its user only as far as its origin may.

use serde_json::json;

use crate::support::keys::{Client, Keys, all_on, key};
use crate::support::{Response, TestHub, Wire, assert_problem, page_texts};

const APP: &str = "https://app.example.com";
const EVIL: &str = "https://evil.example";

/// A hub that accepts cookies, and the origins of one application.
const SETTINGS: &str =
    "auth.cookie = \"session\"\ncors.allow_origins = [\"https://app.example.com\"]\n";

fn cookie(keys: &Keys) -> String {
    format!("theme=dark; session={}", keys.token("viewer", &all_on("a"), 600))
}

/// Returns the headers of a request that have a value.
fn headers<'a>(
    cookie: &'a str,
    origin: Option<&'a str>,
    site: Option<&'a str>,
) -> Vec<(&'a str, &'a str)> {
    let some = [("Cookie", Some(cookie)), ("Origin", origin), ("Sec-Fetch-Site", site)];
    let mut all = vec![("Accept", "application/json"), ("Content-Type", "application/json")];
    all.extend(some.into_iter().filter_map(|(name, value)| Some((name, value?))));
    all
}

#[track_caller]
fn assert_foreign(answer: &Response, what: &str) {
    assert_eq!(answer.status(), 403, "{what}: {}", answer.text());
    if !answer.body.is_empty() {
        let problem = assert_problem(answer, 403, "forbidden", "origin");
        assert_eq!(problem["reason"], "origin", "{what}");
    }
}

#[tokio::test]
async fn auth_a_cookie_is_taken_from_pages_that_may_use_it_and_from_no_others() {
    let keys = Keys::new(&[]);
    let hub = keys.hub(SETTINGS).await;
    let cookie = cookie(&keys);
    // Origin, Sec-Fetch-Site, may read, may write.
    for (origin, site, read, write) in [
        (None, None, true, false),
        (None, Some("same-origin"), true, true),
        (None, Some("none"), true, true),
        (None, Some("same-site"), false, false),
        (None, Some("cross-site"), false, false),
        (None, Some("nonsense"), false, false),
        (Some(APP), None, true, true),
        (Some(APP), Some("cross-site"), true, true),
        (Some(APP), Some("same-site"), true, true),
        (Some("http://hub.test"), None, true, true),
        (Some("http://hub.test"), Some("same-origin"), true, true),
        (Some("http://hub.test:81"), None, false, false),
        (Some("http://hub.test.evil.example"), None, false, false),
        (Some("http://not-hub.test"), None, false, false),
        (Some("http://app.example.com"), None, false, false),
        (Some("https://app.example.com:8443"), None, false, false),
        (Some("https://app.example.com.evil.example"), None, false, false),
        (Some("https://sub.app.example.com"), None, false, false),
        (Some(EVIL), None, false, false),
        (Some(EVIL), Some("cross-site"), false, false),
        (Some(EVIL), Some("same-site"), false, false),
        (Some("null"), None, false, false),
        (Some("null"), Some("cross-site"), false, false),
        (Some(""), None, false, false),
    ] {
        let what = |method: &str| format!("{method} from {origin:?} {site:?}");
        for method in ["GET", "HEAD", "POST", "PUT", "DELETE"] {
            let headers = headers(&cookie, origin, site);
            let body = if method == "PUT" { "{}" } else { "" };
            let answer = hub.request(method, "/v1/channels/a", &headers, body).await;
            if if matches!(method, "GET" | "HEAD") { read } else { write } {
                assert!(!matches!(answer.status(), 401 | 403), "{} {:?}", what(method), answer);
            } else {
                assert_foreign(&answer, &what(method));
            }
        }
        let to = "/v1/signals/a";
        let answer = hub.request("POST", to, &headers(&cookie, origin, site), "{}").await;
        assert_eq!(answer.status() != 403, write, "{}", what("a signal"));
        let answer = hub.get("/v1/events?channel=a", &headers(&cookie, origin, site)).await;
        assert_eq!(answer.status() != 403, read, "{}", what("many"));
    }
}

#[tokio::test]
async fn auth_what_a_foreign_page_asks_for_is_not_done_whatever_its_cookie_is() {
    let keys = Keys::new(&[]);
    let hub = keys.hub(SETTINGS).await;
    let cookie = cookie(&keys);
    let root = Client::key(&hub, "root");
    root.publish("a", "before").await;
    let evil = headers(&cookie, Some(EVIL), Some("cross-site"));
    assert_foreign(&hub.request("POST", "/v1/channels/a", &evil, "forged").await, "POST");
    assert_foreign(&hub.request("DELETE", "/v1/channels/a", &evil, "").await, "DELETE");
    let stop = "{\"signal\":\"stop\"}";
    assert_foreign(&hub.request("POST", "/v1/signals/a", &evil, stop).await, "a signal");
    let page = root.page("a", "from=earliest").await;
    assert_eq!((page_texts(&page), &page["state"]), (vec!["before"], &json!("open")));
    // Nor does the answer reveal whether the cookie is valid.
    let bad = headers("session=not.a.token", Some(EVIL), None);
    assert_foreign(&hub.get("/v1/channels/a", &bad).await, "a bad cookie");
    let refused = hub.metric("fanfare_auth_refused_total{reason=\"origin\"}").await;
    assert_eq!(refused, 4.0);
    // A page may send a credential that it must know itself, from any origin.
    let token = format!("Bearer {}", keys.token("viewer", &all_on("a"), 600));
    let own = [("Authorization", token.as_str()), ("Origin", EVIL), ("Cookie", &cookie)];
    assert_eq!(hub.request("POST", "/v1/channels/a", &own, "mine").await.status(), 200);
    let own = [("X-API-Key", key("root")), ("Origin", EVIL.to_owned())];
    let own: Vec<(&str, &str)> = own.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(hub.request("POST", "/v1/channels/a", &own, "mine").await.status(), 200);
    // A cookie is a token, and nothing else; and only by its name.
    let wrong = format!("session={}", key("root"));
    let answer = hub.get("/v1/channels/a", &headers(&wrong, None, None)).await;
    assert_eq!(assert_problem(&answer, 401, "unauthenticated", "")["reason"], "malformed");
    let other = cookie.replace("session=", "sessions=");
    let answer = hub.get("/v1/channels/a", &headers(&other, None, None)).await;
    assert_eq!(assert_problem(&answer, 401, "unauthenticated", "")["reason"], "missing");
}

#[tokio::test]
async fn auth_every_page_is_not_a_page_that_may_use_a_cookie() {
    let keys = Keys::new(&[]);
    let hub = keys.hub("auth.cookie = \"session\"\ncors.allow_origins = [\"*\"]\n").await;
    let cookie = cookie(&keys);
    for origin in [APP, EVIL, "null"] {
        let headers = headers(&cookie, Some(origin), None);
        let answer = hub.get("/v1/channels/a", &headers).await;
        assert_foreign(&answer, origin);
        assert_eq!(answer.header("access-control-allow-origin"), Some("*"));
        assert_eq!(answer.header("access-control-allow-credentials"), None, "never with *");
    }
    let preflight = hub.request("OPTIONS", "/v1/channels/a", &preflight(APP, "POST"), "").await;
    assert_eq!(preflight.header("access-control-allow-origin"), Some("*"));
    assert_eq!(preflight.header("access-control-allow-credentials"), None);
    assert_allows(&preflight, "access-control-allow-headers", &["authorization", "x-api-key"]);
    // Cookies are off where none is configured.
    let hub = keys.hub("").await;
    let answer = hub.get("/v1/channels/a", &headers(&cookie, None, Some("same-origin"))).await;
    assert_eq!(assert_problem(&answer, 401, "unauthenticated", "")["reason"], "missing");
}

#[tokio::test]
async fn auth_a_page_from_everywhere_is_from_nowhere() {
    let keys = Keys::new(&[]);
    let hub = keys.hub("auth.cookie = \"session\"\ncors.allow_origins = [\"*\"]\n").await;
    let answer = hub.get("/v1/channels/a", &headers(&cookie(&keys), Some("*"), None)).await;
    assert_foreign(&answer, "an origin called *");
}

fn preflight<'a>(origin: &'a str, method: &'a str) -> [(&'a str, &'a str); 3] {
    [
        ("Origin", origin),
        ("Access-Control-Request-Method", method),
        ("Access-Control-Request-Headers", "authorization,x-api-key,last-event-id"),
    ]
}

#[track_caller]
fn assert_allows(answer: &Response, header: &str, wanted: &[&str]) {
    let allowed = answer.header(header).unwrap_or_default().to_lowercase();
    let allowed: Vec<&str> = allowed.split(',').map(str::trim).collect();
    for name in wanted {
        assert!(allowed.contains(name), "{name} in {allowed:?}");
    }
}

#[tokio::test]
async fn auth_answers_are_shown_to_pages_of_named_origins_with_their_cookies_and_to_no_others() {
    let keys = Keys::new(&[]);
    let hub = keys.hub(SETTINGS).await;
    let cookie = cookie(&keys);
    let with = "access-control-allow-credentials";
    for (method, to) in [
        ("GET", "/v1/channels/a"),
        ("GET", "/v1/channels/b"),
        ("POST", "/v1/channels/a"),
        ("GET", "/v1/nowhere"),
        ("PATCH", "/v1/channels/a"),
        ("GET", "/v1/events"),
        ("GET", "/healthz"),
    ] {
        for cookie in [cookie.as_str(), "none=1"] {
            let answer = hub.request(method, to, &headers(cookie, Some(APP), None), "").await;
            let what = format!("{method} {to} {}", answer.status());
            assert_eq!(answer.header("access-control-allow-origin"), Some(APP), "{what}");
            assert_eq!(answer.header(with), Some("true"), "{what}");
            assert_allows(&answer, "vary", &["origin"]);
            for origin in [EVIL, "null", "http://app.example.com"] {
                let answer =
                    hub.request(method, to, &headers(cookie, Some(origin), None), "").await;
                assert_eq!(answer.header("access-control-allow-origin"), None, "{what} {origin}");
                assert_allows(&answer, "vary", &["origin"]);
            }
        }
    }
    let stream = [("Cookie", cookie.as_str()), ("Origin", APP)];
    let stream = hub.stream("/v1/channels/a", &stream).await.settled().await;
    assert_eq!(stream.head.header("access-control-allow-origin").as_deref(), Some(APP));
    assert_eq!(stream.head.header(with).as_deref(), Some("true"));
    for method in ["GET", "POST", "PUT", "DELETE"] {
        let answer = hub.request("OPTIONS", "/v1/channels/a", &preflight(APP, method), "").await;
        assert!(matches!(answer.status(), 200 | 204), "a preflight shows nothing, and need not");
        assert_eq!(answer.header("access-control-allow-origin"), Some(APP));
        assert_eq!(answer.header(with), Some("true"));
        let asked = ["authorization", "x-api-key", "last-event-id", "idempotency-key"];
        assert_allows(&answer, "access-control-allow-headers", &asked);
        assert_allows(&answer, "access-control-allow-methods", &[&method.to_lowercase()]);
        let answer = hub.request("OPTIONS", "/v1/channels/a", &preflight(EVIL, method), "").await;
        assert_eq!(answer.header("access-control-allow-origin"), None);
    }
}

/// Returns one answer of each kind.
async fn one_of_each(hub: &TestHub) -> Vec<(String, Response)> {
    let root = key("root");
    let mut answers = Vec::new();
    let typed = ("Content-Type", "application/json");
    let over = {
        let client = Client::key(hub, "root");
        client.publish("over", "x").await;
        client.close("over").await;
        client.page("over", "from=earliest").await["next"].as_str().unwrap().to_owned()
    };
    let resume = format!("/v1/channels/over?last_event_id={over}");
    for (method, to, accept, body) in [
        ("POST", "/v1/channels/html", "*/*", "<script>alert(1)</script>"),
        ("GET", "/v1/channels/html?from=earliest", "application/json", ""),
        ("HEAD", "/v1/channels/html", "*/*", ""),
        ("GET", "/v1/events?channel=html&from=earliest", "application/json", ""),
        ("GET", &resume, "text/event-stream", ""),
        ("GET", "/v1/channels/html", "text/html", ""),
        ("PUT", "/v1/channels/html", "*/*", "{}"),
        ("PUT", "/v1/channels/html", "*/*", "<b>"),
        ("DELETE", "/v1/channels/html", "*/*", ""),
        ("OPTIONS", "/v1/channels/html", "*/*", ""),
        ("PATCH", "/v1/channels/html", "*/*", ""),
        ("GET", "/v1/%3Cscript%3Ealert(1)%3C%2Fscript%3E", "text/html", ""),
        ("GET", "/v1/channels/%3Cscript%3Ealert(1)%3C%2Fscript%3E?from=%3Cb%3E", "text/html", ""),
        ("GET", "/v1/channels/a?bare=%3Cscript%3E", "text/html", ""),
        ("GET", "/v1/events?channel=%3Cscript%3E*", "text/html", ""),
        ("POST", "/v1/tokens", "text/html", "{\"subscribe\":[\"<b>/**\"]}"),
        ("POST", "/v1/tokens", "text/html", "{\"subscribe\":[\"<b>*\"]}"),
        ("GET", "/healthz", "text/html", ""),
        ("GET", "/readyz", "text/html", ""),
        ("GET", "/openapi.yaml", "text/html", ""),
    ] {
        for shown in [root.as_str(), "<script>alert(1)</script>"] {
            let headers = [("X-API-Key", shown), ("Accept", accept), typed];
            let answer = hub.request(method, to, &headers, body).await;
            answers.push((format!("{method} {to}"), answer));
        }
    }
    for to in ["/metrics", "/v1/channels", "/nowhere%3Cb%3E"] {
        for headers in [vec![("X-API-Key", root.as_str())], Vec::new()] {
            let answer = hub.admin_request("GET", to, &headers).await;
            answers.push((format!("admin {to}"), answer));
        }
    }
    answers
}

#[tokio::test]
async fn auth_no_answer_is_a_page_whatever_was_asked() {
    let hub = Keys::new(&[]).hub(SETTINGS).await;
    let mut kinds = std::collections::BTreeSet::new();
    let answers = one_of_each(&hub).await;
    for (what, answer) in &answers {
        let what = format!("{what} {}", answer.status());
        // A preflight has no content.
        if !what.starts_with("OPTIONS") {
            assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{what}");
        }
        if !answer.body.is_empty() {
            let kind = answer.header("content-type").expect("a type");
            let plain = ["html", "xml", "svg", "javascript"].iter().all(|bad| !kind.contains(bad));
            assert!(plain, "{what}: {kind}");
        }
        kinds.insert(answer.status());
    }
    for status in [200, 201, 204, 400, 401, 404, 405, 406] {
        assert!(kinds.contains(&status), "{status} among {kinds:?}");
    }
    let root = Client::key(&hub, "root");
    for (to, accept) in [
        ("/v1/channels/a", "text/event-stream"),
        ("/v1/channels/a", "application/x-ndjson"),
        ("/v1/channels/a?bare", "text/html"),
        ("/v1/channels/a?bare=lines", "text/html"),
        ("/v1/events?channel=*", "text/event-stream"),
        ("/v1/signals/a", "text/event-stream"),
    ] {
        let mut wire: Wire = root.open(to, &[("Accept", accept)]).await;
        let head = wire.head().await;
        assert_eq!(head.status, 200, "{to}");
        assert_eq!(head.header("x-content-type-options").as_deref(), Some("nosniff"), "{to}");
        let kind = head.header("content-type").unwrap();
        let known = ["text/event-stream; charset=utf-8", "application/x-ndjson"];
        assert!(known.contains(&kind.as_str()), "{kind}");
    }
}

#[tokio::test]
async fn auth_no_answer_repeats_a_credential() {
    let keys = Keys::new(&[]);
    let hub = keys.hub(&format!("{SETTINGS}auth.query_token = true\n")).await;
    let secret = "s3cr3t-of-nobody";
    for headers in [
        vec![("X-API-Key", secret)],
        vec![("Authorization", "Bearer s3cr3t-of-nobody")],
        vec![("Authorization", "s3cr3t-of-nobody")],
        vec![("Cookie", "session=s3cr3t-of-nobody")],
        Vec::new(),
    ] {
        let to = format!("/v1/channels/a?access_token={secret}");
        let answer = hub.get(&to, &headers).await;
        assert_eq!(answer.status(), 401);
        let all = format!("{:?} {}", answer.head, answer.text());
        assert!(!all.contains(secret), "{all}");
    }
    let to =
        format!("/v1/channels/a?from=nonsense&access_token={}", keys.token("v", &all_on("a"), 60));
    let answer = hub.get(&to, &[]).await;
    assert_eq!(answer.status(), 400);
    assert!(!answer.text().contains("access_token"), "{}", answer.text());
    assert!(!hub.admin_get("/metrics").await.ok().text().contains(secret));
}
