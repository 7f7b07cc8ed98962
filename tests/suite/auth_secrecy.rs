//! A client without a grant on a channel cannot find out whether the channel exists.

use serde_json::json;

use crate::support::keys::{Client, Keys};
use crate::support::{Piece, Response, TestHub, keys as members, page_texts, within};

const NDJSON: &str = "application/x-ndjson";

/// All four grants on the team's own channels.
const TEAM_A: &str = "{ publish = [\"team-a/**\"], subscribe = [\"team-a/**\"], signal = [\"team-a/**\"], \
     admin = [\"team-a/**\"] }";

/// Channels of another team: one in every state of a channel.
const OTHERS: [&str; 5] =
    ["team-b/open", "team-b/done", "team-b/gone", "team-b/none", "team-b/live"];

/// A hub where the channels of `OTHERS` are in the state that their name says.
async fn hub_of_two(keys: &Keys) -> TestHub {
    let hub = keys.hub("publish.max_event_bytes = \"1KiB\"").await;
    let root = Client::key(&hub, "root");
    for channel in ["team-b/open", "team-b/done", "team-b/gone", "team-b/live"] {
        root.publish(channel, "secret").await;
    }
    root.close("team-b/done").await;
    assert_eq!(root.delete("team-b/gone").await.status(), 204);
    hub
}

/// Returns everything that an answer reveals, without the date, and without the channel's name,
/// which was in the request.
fn said(answer: &Response, channel: &str) -> (u16, Vec<(String, String)>, String) {
    let headers = answer.head.headers.iter().filter(|(name, _)| name != "date").cloned().collect();
    (answer.head.status, headers, answer.text().replace(channel, "{channel}"))
}

#[tokio::test]
async fn auth_no_route_reveals_whether_a_channel_of_others_exists() {
    let keys = Keys::new(&[("a", TEAM_A)]);
    let hub = hub_of_two(&keys).await;
    let root = Client::key(&hub, "root");
    let a = Client::key(&hub, "a");
    let _live = root.subscribe("team-b/live").await;
    let id = root.publish("team-b/live", "more").await;
    let json = "application/json";
    let requests = [
        ("GET", "/v1/channels/{}", "text/event-stream", ""),
        ("GET", "/v1/channels/{}?from=earliest", "application/json", ""),
        ("GET", "/v1/channels/{}?from=snapshot", NDJSON, ""),
        ("GET", "/v1/channels/{}?bare", "*/*", ""),
        ("GET", "/v1/channels/{}?last_event_id={id}", json, ""),
        ("GET", "/v1/channels/{}?wait=1s", json, ""),
        ("HEAD", "/v1/channels/{}", "*/*", ""),
        ("POST", "/v1/channels/{}", "*/*", "data"),
        ("POST", "/v1/channels/{}?close=auto", "*/*", "data"),
        ("POST", "/v1/channels/{}?close=complete", "*/*", ""),
        ("PUT", "/v1/channels/{}", "*/*", "{}"),
        ("PUT", "/v1/channels/{}", "*/*", "nonsense"),
        ("DELETE", "/v1/channels/{}", "*/*", ""),
        ("PATCH", "/v1/channels/{}", "*/*", ""),
        ("OPTIONS", "/v1/channels/{}", "*/*", ""),
        ("GET", "/v1/signals/{}", "text/event-stream", ""),
        ("POST", "/v1/signals/{}", "*/*", "{\"signal\":\"stop\"}"),
        ("GET", "/v1/events?channel={}", "text/event-stream", ""),
        ("GET", "/v1/events?channel=team-a/x&channel={}", "application/json", ""),
        ("GET", "/v1/events?channel={}&last_event_id={id}", "application/json", ""),
        ("POST", "/v1/publish", "*/*", "{\"channel\":\"{}\",\"data\":\"x\"}"),
        ("POST", "/v1/tokens", "*/*", "{\"subscribe\":[\"{}\"]}"),
        ("POST", "/v1/tokens", "*/*", "{\"subscribe\":[\"team-b/*\"]}"),
    ];
    for (method, to, accept, body) in requests {
        let mut answers = Vec::new();
        for channel in OTHERS {
            let fill = |text: &str| text.replace("{}", channel).replace("{id}", &id);
            let to = fill(to);
            let body = fill(body);
            let kind = match (method, to.as_str()) {
                ("POST", "/v1/publish") => NDJSON,
                ("POST", to) if to.contains("channels") => "text/event-stream",
                _ => json,
            };
            let headers = [("Accept", accept), ("Content-Type", kind), ("Idempotency-Key", "k")];
            let answer = a.request(method, &to, &headers, body).await;
            if !matches!(method, "PATCH" | "OPTIONS") {
                assert_eq!(answer.status(), 403, "{method} {to}: {}", answer.text());
            }
            answers.push(said(&answer, channel));
        }
        for (channel, answer) in OTHERS.iter().zip(&answers) {
            assert_eq!(answer, &answers[0], "{method} {to}: {channel} is distinguished");
        }
    }
    // Nor did any of the requests have an effect there.
    assert_eq!(page_texts(&root.page("team-b/open", "from=earliest").await), ["secret"]);
    assert_eq!(root.page("team-b/open", "").await["state"], "open");
    assert_eq!(root.page("team-b/live", "").await["state"], "open");
    let listed = hub.admin_get("/v1/channels").await.ok().text();
    assert!(!listed.contains("team-b/none") && !listed.contains("team-b/gone"), "{listed}");
}

#[tokio::test]
async fn auth_a_body_is_refused_at_the_same_line_whatever_is_there() {
    let keys = Keys::new(&[("a", TEAM_A)]);
    let hub = hub_of_two(&keys).await;
    let a = Client::key(&hub, "a");
    let mut answers = Vec::new();
    for channel in OTHERS {
        let line =
            |channel: &str, data: &str| json!({"channel": channel, "data": data}).to_string();
        let long = "x".repeat(2000);
        let body = [line("team-a/x", "1"), line(channel, "2"), line(channel, &long)].join("\n");
        let answer = a.post("/v1/publish", NDJSON, body).await;
        assert_eq!(answer.status(), 403, "{}", answer.text());
        let mut problem = answer.json();
        for id in ["first_id", "last_id"] {
            assert!(problem.as_object_mut().unwrap().remove(id).is_some(), "{problem}");
        }
        answers.push(problem);
    }
    for answer in &answers {
        assert_eq!(answer, &answers[0]);
    }
}

#[tokio::test]
async fn auth_a_pattern_shows_what_is_granted_and_nothing_of_others() {
    let keys = Keys::new(&[("a", TEAM_A)]);
    let hub = hub_of_two(&keys).await;
    let root = Client::key(&hub, "root");
    let a = Client::key(&hub, "a");
    a.publish("team-a/x", "one").await;
    root.publish("team-b/open", "two").await;
    let accept = [("Accept", "application/json")];
    let page = a.get("/v1/events?channel=team-a/**&from=earliest", &accept).await.ok().json();
    assert_eq!(page_texts(&page), ["one"]);
    // The id of another team's event, which is a position in the shared order.
    let id = root.publish("team-b/open", "three").await;
    a.publish("team-a/x", "four").await;
    let to = format!("/v1/events?channel=team-a/**&last_event_id={id}");
    assert_eq!(page_texts(&a.get(&to, &accept).await.ok().json()), ["four"]);
    let mut live = a.stream("/v1/events?channel=team-a/**", &[]).await.settled().await;
    root.publish("team-b/live", "five").await;
    root.publish("team-b/new", "six").await;
    root.close("team-b/open").await;
    a.publish("team-a/y", "seven").await;
    let event = live.next().await;
    assert!(event.data.contains("seven"), "{event:?}");
    let raw = live.raw_until("the event", |text| text.contains("seven")).await;
    assert!(!raw.contains("team-b"), "{raw}");
}

#[tokio::test]
async fn auth_a_receipt_of_many_channels_counts_only_those_that_are_granted() {
    let keys = Keys::new(&[("a", TEAM_A)]);
    let hub = hub_of_two(&keys).await;
    let root = Client::key(&hub, "root");
    let a = Client::key(&hub, "a");
    let _viewer = root.subscribe("team-b/open").await;
    let body = "{\"channel\":\"team-a/x\",\"data\":\"1\"}\n";
    let receipt = a.post("/v1/publish", NDJSON, body).await.ok().json();
    assert_eq!((&receipt["events"], &receipt["channels"]), (&json!(1), &json!(1)));
    assert_eq!(receipt["subscribers"], 0, "{receipt}");
    assert_eq!(members(&receipt), ["channels", "events", "first_id", "last_id", "subscribers"]);
    let refused = a.post("/v1/publish", NDJSON, body.replace("team-a/x", "team-b/open")).await;
    assert_eq!(refused.json()["events"], 0);
    assert!(!refused.text().contains("subscribers"), "{}", refused.text());
}

#[tokio::test]
async fn auth_an_idempotency_key_belongs_to_its_sender() {
    let keys = Keys::new(&[("a", TEAM_A), ("b", "{ publish = [\"team-b/**\", \"shared\"] }")]);
    let hub = keys.hub("").await;
    let a = Client::key(&hub, "a");
    let b = Client::key(&hub, "b");
    let headers = [("Content-Type", NDJSON), ("Idempotency-Key", "the same")];
    let line = |channel: &str| format!("{{\"channel\":\"{channel}\",\"data\":\"1\"}}\n");
    let first = b.request("POST", "/v1/publish", &headers, line("team-b/x")).await.ok();
    let other = a.request("POST", "/v1/publish", &headers, line("team-a/x")).await.ok();
    assert_eq!(other.header("idempotency-replayed"), None, "{}", other.text());
    assert_ne!(first.json()["first_id"], other.json()["first_id"]);
    let again = b.request("POST", "/v1/publish", &headers, line("team-b/x")).await.ok();
    assert_eq!(again.header("idempotency-replayed"), Some("true"));
    assert_eq!(again.json(), first.json());
    // Only clients with `publish` on a channel get its receipt.
    let to = "/v1/channels/team-b/y";
    b.request("POST", to, &headers, "1\n").await.ok();
    let refused = a.request("POST", to, &headers, "1\n").await;
    assert_eq!((refused.status(), refused.header("idempotency-replayed")), (403, None));
}

#[tokio::test]
async fn auth_a_chosen_name_does_not_give_the_idempotency_key_of_another() {
    let keys = Keys::new(&[("a", TEAM_A)]);
    let hub = keys.hub("").await;
    let token = keys.token("victim", &json!({"publish": ["team-b/**"]}), 600);
    let a = Client::key(&hub, "a");
    let victim = Client::token(&hub, &token);
    let headers = [("Content-Type", NDJSON), ("Idempotency-Key", "the same")];
    let line = |channel: &str| format!("{{\"channel\":\"{channel}\",\"data\":\"1\"}}\n");
    victim.request("POST", "/v1/publish", &headers, line("team-b/x")).await.ok();
    let wanted = json!({"publish": ["team-a/**"], "subject": "victim"}).to_string();
    let minted = a.post("/v1/tokens", "application/json", wanted).await;
    assert_eq!(minted.status(), 201, "{}", minted.text());
    let minted = minted.json()["token"].as_str().unwrap().to_owned();
    let thief = Client::token(&hub, &minted);
    let answer = thief.request("POST", "/v1/publish", &headers, line("team-a/x")).await.ok();
    assert_eq!(answer.header("idempotency-replayed"), None, "of another: {}", answer.text());
}

#[tokio::test]
async fn auth_signals_are_heard_by_those_alone_who_may() {
    let keys = Keys::new(&[("a", TEAM_A)]);
    let hub = hub_of_two(&keys).await;
    let root = Client::key(&hub, "root");
    let a = Client::key(&hub, "a");
    a.publish("team-a/x", "one").await;
    let mut feed = a.open("/v1/signals/team-a/x", &[("Connection", "close")]).await;
    assert_eq!(feed.head().await.status, 200);
    let body = json!({"signal": "stop", "reason": "of team b"}).to_string();
    root.post("/v1/signals/team-b/open", "application/json", &body).await.ok();
    let body = json!({"signal": "stop", "reason": "of team a"}).to_string();
    a.post("/v1/signals/team-a/x", "application/json", &body).await.ok();
    let mut heard = Vec::new();
    while let Piece::Data(bytes) = within("the end", feed.piece()).await {
        heard.extend(bytes);
    }
    let heard = String::from_utf8(heard).unwrap();
    assert!(heard.contains("of team a") && !heard.contains("team-b"), "{heard}");
}
