//! The grants that each route requires: exactly those of the contract.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::support::keys::{Client, Keys, all_on};
use crate::support::{Response, TestHub, assert_problem, page_texts};

const NDJSON: &str = "application/x-ndjson";

const ALL: [&str; 4] = ["publish", "subscribe", "signal", "admin"];

/// The grants that a route requires.
enum Needs {
    Nothing,
    /// One of these, on the channel `team/a`.
    OnChannel(&'static [&'static str]),
    /// One of these, on any channel at all.
    OnSome(&'static [&'static str]),
    /// `admin` on all channels; on the admin listener.
    Operator,
    /// `metrics`, or `admin` on all channels; on the admin listener.
    Metrics,
}

use Needs::{Metrics, Nothing, OnChannel, OnSome, Operator};

struct Row {
    method: &'static str,
    path: &'static str,
    needs: Needs,
    /// The query, chosen so that the answer ends.
    query: &'static str,
    body: &'static str,
}

const fn row(method: &'static str, path: &'static str, needs: Needs) -> Row {
    Row { method, path, needs, query: "", body: "" }
}

/// Every route of the document, and the grants that the contract requires.
const TABLE: [Row; 26] = [
    Row { body: "x", ..row("POST", "/v1/channels/{name}", OnChannel(&["publish"])) },
    row("GET", "/v1/channels/{name}", OnChannel(&["subscribe"])),
    row("HEAD", "/v1/channels/{name}", OnChannel(&["subscribe", "publish"])),
    Row { body: "{}", ..row("PUT", "/v1/channels/{name}", OnChannel(&["admin"])) },
    row("DELETE", "/v1/channels/{name}", OnChannel(&["admin"])),
    row("OPTIONS", "/v1/channels/{name}", Nothing),
    row("GET", "/v1/signals/{name}", OnChannel(&["publish", "signal"])),
    Row {
        body: "{\"signal\":\"stop\"}",
        ..row("POST", "/v1/signals/{name}", OnChannel(&["signal"]))
    },
    Row { query: "?channel=team/a", ..row("GET", "/v1/events", OnChannel(&["subscribe"])) },
    Row {
        body: "{\"channel\":\"team/a\",\"data\":\"x\"}",
        ..row("POST", "/v1/publish", OnChannel(&["publish"]))
    },
    Row { body: "{}", ..row("POST", "/v1/tokens", OnSome(&ALL)) },
    row("GET", "/v1/channels", Operator),
    row("HEAD", "/v1/channels", Operator),
    row("GET", "/v1/cluster", Operator),
    row("HEAD", "/v1/cluster", Operator),
    row("GET", "/metrics", Metrics),
    row("HEAD", "/metrics", Metrics),
    row("GET", "/healthz", Nothing),
    row("HEAD", "/healthz", Nothing),
    row("GET", "/readyz", Nothing),
    row("HEAD", "/readyz", Nothing),
    row("GET", "/openapi.yaml", Nothing),
    row("HEAD", "/openapi.yaml", Nothing),
    row("GET", "/openapi-3.1.yaml", Nothing),
    row("HEAD", "/openapi-3.1.yaml", Nothing),
    row("OPTIONS", "/healthz", Nothing),
];

impl Row {
    fn target(&self) -> String {
        format!("{}{}", self.path.replace("{name}", "team/a"), self.query)
    }

    fn is_admin(&self) -> bool {
        matches!(self.needs, Operator | Metrics)
    }

    /// Calls the route. A stream is requested as a page; a feed of signals is not read to its end.
    async fn call(&self, hub: &TestHub, client: &Client<'_>) -> Response {
        let headers = [("Accept", "application/json"), ("Content-Type", self.kind())];
        let headers = client.headers(&headers);
        if self.is_admin() {
            return hub.admin_request(self.method, &self.target(), &headers).await;
        }
        if (self.method, self.path) == ("GET", "/v1/signals/{name}") {
            let headers = client.headers(&[("Connection", "close")]);
            let mut wire = hub.open(&self.target(), &headers).await;
            let head = wire.head().await;
            if head.status == 200 {
                return Response { head, body: Vec::new() };
            }
            return hub.request(self.method, &self.target(), &headers, "").await;
        }
        hub.request(self.method, &self.target(), &headers, self.body).await
    }

    fn kind(&self) -> &'static str {
        if self.path == "/v1/publish" { NDJSON } else { "application/json" }
    }
}

/// Returns the paths and methods of the document, by its indentation: `  /path:`, then `
/// method:`.
fn documented() -> BTreeSet<(String, String)> {
    let mut found = BTreeSet::new();
    let mut path = String::new();
    for line in include_str!("../../docs/openapi.yaml").lines() {
        let name = line.trim_end_matches(':').trim_start();
        match line.len() - line.trim_start().len() {
            2 if name.starts_with('/') => path = name.to_owned(),
            2 => path.clear(),
            4 if !path.is_empty() && line.ends_with(':') => {
                found.insert((path.clone(), name.to_uppercase()));
            }
            _ => {}
        }
    }
    found.retain(|(_, name)| name != "PARAMETERS");
    found
}

fn token_with(keys: &Keys, operations: &[&str], pattern: &str) -> String {
    let grants: serde_json::Map<String, Value> =
        operations.iter().map(|name| ((*name).to_owned(), json!([pattern]))).collect();
    keys.token("subject", &grants.into(), 600)
}

#[track_caller]
fn assert_forbidden(response: &Response, what: &str) {
    assert_eq!(response.status(), 403, "{what}: {}", response.text());
    if !response.body.is_empty() {
        assert_problem(response, 403, "forbidden", "not granted");
    }
}

/// Asserts that the refusal names the missing operation; that of a line is checked below.
#[track_caller]
fn assert_says_what_is_missing(response: &Response, row: &Row, operations: &[&str]) {
    if row.method != "HEAD" && row.path != "/v1/publish" {
        let problem = response.json();
        let operation = problem["operation"].as_str().unwrap_or_default();
        assert!(operations.contains(&operation), "{} {}: {problem}", row.method, row.path);
    }
}

#[track_caller]
fn assert_admitted(response: &Response, what: &str) {
    assert!(
        !matches!(response.status(), 401 | 403 | 405),
        "{what}: {:?} {}",
        response.head,
        response.text()
    );
}

#[test]
fn auth_every_documented_route_has_its_row() {
    let rows: BTreeSet<_> =
        TABLE.iter().map(|row| (row.path.to_owned(), row.method.to_owned())).collect();
    assert_eq!(rows.len(), TABLE.len(), "a row twice");
    let missing: Vec<_> = documented().difference(&rows).cloned().collect();
    assert!(missing.is_empty(), "no row for {missing:?}: what do they ask for?");
    assert!(documented().len() >= 15);
}

#[tokio::test]
async fn auth_a_request_without_a_credential_has_only_what_is_free() {
    let hub = Keys::new(&[]).hub("").await;
    let anonymous = Client::anonymous(&hub);
    for row in &TABLE {
        let answer = row.call(&hub, &anonymous).await;
        let what = format!("{} {}", row.method, row.path);
        if matches!(row.needs, Nothing) {
            assert!(matches!(answer.status(), 200 | 204), "{what}: {}", answer.status());
            let headers = [("X-API-Key", "no key at all")];
            let again = hub.request(row.method, &row.target(), &headers, "").await;
            assert_eq!(again.status(), answer.status(), "{what}, whatever is shown");
            continue;
        }
        assert_eq!(answer.status(), 401, "{what}");
        let how = answer.header("www-authenticate");
        assert_eq!(how, Some("Bearer realm=\"fanfare\""), "{what}");
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{what}");
        if row.method != "HEAD" {
            let problem = assert_problem(&answer, 401, "unauthenticated", "");
            assert_eq!(
                (&problem["reason"], &problem["retryable"]),
                (&json!("missing"), &json!(false))
            );
        }
    }
}

#[tokio::test]
async fn auth_each_route_takes_its_own_grants_and_no_others() {
    let keys = Keys::new(&[]);
    let hub = keys.hub("").await;
    for row in &TABLE {
        let (operations, somewhere) = match row.needs {
            Nothing => continue,
            OnChannel(operations) => (operations, false),
            OnSome(operations) => (operations, true),
            Operator => (["admin"].as_slice(), false),
            Metrics => (["admin", "metrics"].as_slice(), false),
        };
        let everywhere = if row.is_admin() { "**" } else { "team/a" };
        for operation in ALL {
            let what = format!("{} {} with {operation}", row.method, row.path);
            let token = token_with(&keys, &[operation], everywhere);
            let answer = row.call(&hub, &Client::token(&hub, &token)).await;
            if operations.contains(&operation) {
                assert_admitted(&answer, &what);
            } else {
                assert_forbidden(&answer, &what);
                assert_says_what_is_missing(&answer, row, operations);
            }
            let token = token_with(&keys, &[operation], "team/b");
            let answer = row.call(&hub, &Client::token(&hub, &token)).await;
            if somewhere {
                assert_admitted(&answer, &what);
            } else {
                assert_forbidden(&answer, &format!("{what} on another channel"));
            }
        }
        let what = format!("{} {} with all", row.method, row.path);
        let token = token_with(&keys, &ALL, everywhere);
        assert_admitted(&row.call(&hub, &Client::token(&hub, &token)).await, &what);
    }
}

#[tokio::test]
async fn auth_of_many_channels_each_must_be_granted_or_none_is_shown() {
    let keys = Keys::new(&[]);
    let hub = keys.hub("").await;
    let grants = json!({"subscribe": ["chat/*", "logs/a", "logs/b"], "publish": ["**"]});
    let token = keys.token("viewer", &grants, 600);
    let viewer = Client::token(&hub, &token);
    let root = Client::key(&hub, "root");
    for channel in ["chat/1", "logs/a", "logs/c", "other"] {
        root.publish(channel, channel).await;
    }
    let page = [("Accept", "application/json")];
    for (query, granted) in [
        ("channel=chat/1", true),
        ("channel=chat/1&channel=logs/a", true),
        ("channel=chat/*", true),
        ("channel=chat/*&channel=logs/b", true),
        ("channel=chat/**", false),
        ("channel=logs/*", false),
        ("channel=**", false),
        ("channel=*", false),
        ("channel=logs/c", false),
        ("channel=chat/1&channel=logs/c", false),
        ("channel=other&channel=chat/*", false),
        ("channel=chat/*&channel=logs/a&channel=never/seen", false),
    ] {
        for from in ["", "&from=earliest", "&from=last:5"] {
            let to = format!("/v1/events?{query}{from}");
            let answer = viewer.get(&to, &page).await;
            if granted {
                assert_admitted(&answer, &to);
            } else {
                assert_forbidden(&answer, &to);
            }
            for accept in ["text/event-stream", NDJSON] {
                if !granted {
                    assert_forbidden(&viewer.get(&to, &[("Accept", accept)]).await, &to);
                }
            }
        }
    }
    let all = viewer.get("/v1/events?channel=chat/*&channel=logs/a&from=earliest", &page).await;
    assert_eq!(page_texts(&all.ok().json()), ["chat/1", "logs/a"]);
}

#[tokio::test]
async fn auth_a_line_for_a_channel_that_is_not_granted_ends_the_body_there() {
    let keys = Keys::new(&[]);
    let hub = keys.hub("").await;
    let token = keys.token("producer", &all_on("team/a"), 600);
    let producer = Client::token(&hub, &token);
    let root = Client::key(&hub, "root");
    let line = |channel: &str, data: &str| json!({"channel": channel, "data": data}).to_string();
    let body = [line("team/a", "1"), line("team/a", "2"), line("team/b", "3"), line("team/a", "4")];
    let answer = producer.post("/v1/publish", NDJSON, body.join("\n")).await;
    let problem = assert_problem(&answer, 403, "forbidden", "not granted");
    assert_eq!((&problem["line"], &problem["events"]), (&json!(3), &json!(2)), "{problem}");
    assert_eq!(problem["operation"], "publish");
    let page = root.page("team/a", "from=earliest").await;
    assert_eq!(page_texts(&page), ["1", "2"]);
    assert_eq!(problem["first_id"], page["events"][0]["id"]);
    assert_eq!(problem["last_id"], page["events"][1]["id"]);
    let listed = hub.admin_get("/v1/channels").await.ok().text();
    assert!(!listed.contains("team/b"), "nor is there a channel now: {listed}");
    assert_eq!(hub.metric("fanfare_auth_refused_total{reason=\"forbidden\"}").await, 1.0);
}

#[tokio::test]
async fn auth_a_line_that_the_anonymous_role_may_not_publish_asks_for_a_credential() {
    let hub = Keys::new(&[]).hub("auth.anonymous = { publish = [\"open/*\"] }\n").await;
    let lines =
        "{\"channel\":\"open/a\",\"data\":\"1\"}\n{\"channel\":\"team/a\",\"data\":\"2\"}\n";
    let reply = Client::anonymous(&hub).post("/v1/publish", "application/x-ndjson", lines).await;
    let problem = assert_problem(&reply, 401, "unauthenticated", "no credential");
    assert_eq!((&problem["line"], &problem["events"]), (&json!(2), &json!(1)), "{problem}");
    assert_eq!(hub.metric("fanfare_auth_refused_total{reason=\"missing\"}").await, 1.0);
}

#[tokio::test]
async fn auth_only_requests_without_a_credential_have_the_anonymous_role() {
    let keys = Keys::new(&[("narrow", "{ publish = [\"team/a\"] }")]);
    let hub = keys.hub("auth.anonymous = { subscribe = [\"public/**\"] }\n").await;
    let root = Client::key(&hub, "root");
    root.publish("public/news", "hello").await;
    let anonymous = Client::anonymous(&hub);
    let page = anonymous.page("public/news", "from=earliest").await;
    assert_eq!(page_texts(&page), ["hello"]);
    assert_problem(
        &anonymous.try_publish("public/news", "no").await,
        401,
        "unauthenticated",
        "no credential",
    );
    assert_problem(
        &anonymous.get("/v1/channels/private", &[]).await,
        401,
        "unauthenticated",
        "no credential",
    );
    assert_problem(
        &anonymous.get("/v1/events?channel=**", &[]).await,
        401,
        "unauthenticated",
        "no credential",
    );
    assert_problem(
        &hub.admin_request("GET", "/metrics", &[]).await,
        401,
        "unauthenticated",
        "no credential",
    );
    assert_problem(
        &hub.admin_request("GET", "/v1/channels", &[]).await,
        401,
        "unauthenticated",
        "no credential",
    );
    // A request with a credential never falls back to anonymous.
    let to = "/v1/channels/public/news?from=earliest";
    let narrow = Client::key(&hub, "narrow").get(to, &[]).await;
    assert_forbidden(&narrow, "a key has its own grants only");
    for (name, value, reason) in [
        ("X-API-Key", "nobody's", "unknown_key"),
        ("Authorization", "Bearer nobody's", "unknown_key"),
        ("Authorization", "Basic bm9ib2R5", "malformed"),
        ("Authorization", "Bearer", "malformed"),
    ] {
        let problem = hub.get(to, &[(name, value)]).await;
        let problem = assert_problem(&problem, 401, "unauthenticated", "");
        assert_eq!(problem["reason"], reason, "{value}");
    }
}

#[tokio::test]
async fn auth_what_is_wrong_first_is_said_first() {
    let keys = Keys::new(&[]);
    let hub = keys.hub("").await;
    let token = keys.token("subject", &all_on("team/a"), 600);
    let client = Client::token(&hub, &token);
    let anonymous = Client::anonymous(&hub);
    let code = |answer: &Response| answer.json()["code"].as_str().unwrap().to_owned();
    let empty = [("Content-Type", "application/json")];
    for (method, to, unknown, known) in [
        ("POST", "/v1/nowhere", "not_found", "not_found"),
        ("PATCH", "/v1/channels/team/b", "method_not_allowed", "method_not_allowed"),
        ("DELETE", "/v1/events", "method_not_allowed", "method_not_allowed"),
        ("PATCH", "/v1/channels/bad*name", "method_not_allowed", "method_not_allowed"),
        ("GET", "/v1/channels/bad*name", "unauthenticated", "invalid_channel_name"),
        ("POST", "/v1/channels/", "unauthenticated", "invalid_channel_name"),
        ("POST", "/v1/signals/bad*name", "unauthenticated", "invalid_channel_name"),
        ("GET", "/v1/channels/team/b?from=nonsense", "unauthenticated", "forbidden"),
        ("GET", "/v1/channels/team/a?from=nonsense", "unauthenticated", "invalid_parameter"),
        ("PUT", "/v1/channels/team/b", "unauthenticated", "forbidden"),
        ("POST", "/v1/channels/team/b?close=nonsense", "unauthenticated", "forbidden"),
        ("POST", "/v1/channels/team/a?close=nonsense", "unauthenticated", "invalid_parameter"),
        ("POST", "/v1/signals/team/b", "unauthenticated", "forbidden"),
        ("GET", "/v1/events?channel=team/b&from=nonsense", "unauthenticated", "forbidden"),
        ("GET", "/v1/events", "unauthenticated", "invalid_parameter"),
    ] {
        let answer = anonymous.request(method, to, &empty, "not a document").await;
        assert_eq!(code(&answer), unknown, "{method} {to} without a credential");
        let answer = client.request(method, to, &empty, "not a document").await;
        assert_eq!(code(&answer), known, "{method} {to}");
    }
}
