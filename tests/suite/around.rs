//! The routes other than streams: HEAD, PUT, DELETE, CORS, problems, health, metrics and the admin
//! list.

use serde_json::{Value, json};

use crate::support::{Response, TestHub, Wire, assert_problem};

#[tokio::test]
async fn head_shows_the_state_of_a_channel() {
    let hub = TestHub::start().await;
    let ids = hub.publish_all("c", &["1", "2", "3"]).await;
    let _watchers = [hub.subscribe("c").await, hub.subscribe("c").await];
    let head = hub.head("c").await;
    assert_eq!(head.status(), 200);
    assert_eq!(head.header("fanfare-state"), Some("open"));
    assert_eq!(head.header("fanfare-earliest"), Some(ids[0].as_str()));
    assert_eq!(head.header("fanfare-tail"), Some(ids[2].as_str()));
    assert_eq!(head.header("fanfare-subscribers"), Some("2"));
    assert_eq!(head.header("fanfare-events"), Some("3"));
    assert_eq!(head.body, b"");
}

#[tokio::test]
async fn head_of_an_unknown_channel_is_404() {
    let hub = TestHub::start().await;
    assert_eq!(hub.head("unused").await.status(), 404);
    assert_eq!(hub.head("a//b").await.status(), 400);
}

#[tokio::test]
async fn delete_of_an_unknown_channel_is_404() {
    let hub = TestHub::start().await;
    let reply = hub.request("DELETE", "/v1/channels/nobody", &[], "").await;
    let problem = assert_problem(&reply, 404, "not_found", "");
    assert_eq!(problem["retryable"], false);
}

#[tokio::test]
async fn a_problem_is_a_document_that_machines_and_people_can_read() {
    let hub = TestHub::start().await;
    let reply = hub.get("/v1/channels/a//b", &[]).await;
    let problem = assert_problem(&reply, 400, "invalid_channel_name", "segment");
    for member in ["type", "title", "status", "detail", "code", "retryable"] {
        assert!(!problem[member].is_null(), "{member} in {problem}");
    }
}

#[tokio::test]
async fn a_path_that_does_not_exist_is_a_problem_too() {
    let hub = TestHub::start().await;
    for to in ["/nowhere", "/v1", "/v2/channels/a"] {
        assert_problem(&hub.get(to, &[]).await, 404, "not_found", "");
    }
}

#[tokio::test]
async fn a_wrong_method_is_refused_with_the_right_ones() {
    let hub = TestHub::start().await;
    for (method, to, allowed) in [
        ("PATCH", "/v1/channels/c", "POST"),
        ("PATCH", "/v1/channels/c", "DELETE"),
        ("DELETE", "/v1/events", "GET"),
        ("GET", "/v1/publish", "POST"),
        ("POST", "/healthz", "GET"),
    ] {
        let reply = hub.request(method, to, &[], "").await;
        assert_problem(&reply, 405, "method_not_allowed", allowed);
        let allow = reply.header("allow").unwrap_or_default();
        assert!(allow.split(", ").any(|method| method == allowed), "{method} {to}: {allow:?}");
    }
}

#[tokio::test]
async fn an_accept_that_cannot_be_served_is_refused_with_what_can() {
    let hub = TestHub::start().await;
    for to in ["/v1/channels/c", "/v1/events?channel=c"] {
        for accept in ["image/png", "text/html", "text/event-stream;q=0"] {
            let reply = hub.get(to, &[("Accept", accept)]).await;
            assert_problem(&reply, 406, "not_acceptable", "text/event-stream");
        }
    }
}

#[tokio::test]
async fn health_and_readiness_are_on_both_listeners() {
    let hub = TestHub::start().await;
    for to in ["/healthz", "/readyz"] {
        assert_eq!(hub.get(to, &[]).await.status(), 200, "{to}");
        assert_eq!(hub.admin_get(to).await.status(), 200, "{to} of the admin listener");
    }
}

#[tokio::test]
async fn what_is_for_the_operator_is_only_on_the_admin_listener() {
    let hub = TestHub::start().await;
    assert_eq!(hub.get("/metrics", &[]).await.status(), 404);
    assert_ne!(hub.get("/v1/channels?prefix=a", &[]).await.status(), 200);
    let publish = Wire::connect(hub.admin_addr());
    let mut wire = publish.await;
    wire.send_head("POST", "/v1/channels/c", &[("Content-Length", "0")]).await;
    assert!(matches!(wire.head().await.status, 404 | 405));
}

#[tokio::test]
async fn the_metrics_are_in_the_text_format_and_name_no_channel() {
    let hub = TestHub::start().await;
    let mut client = hub.subscribe("very/secret").await;
    hub.publish("very/secret", "x").await;
    client.next().await;
    hub.until_metric("fanfare_events_delivered_total", 1.0).await;
    let reply = hub.admin_get("/metrics").await.ok();
    let kind = reply.header("content-type").unwrap();
    assert!(kind.starts_with("text/plain"), "{kind}");
    let text = reply.text();
    for name in [
        "fanfare_publishes_total",
        "fanfare_events_published_total",
        "fanfare_published_bytes_total",
        "fanfare_events_delivered_total",
        "fanfare_delivered_bytes_total",
        "fanfare_subscriptions",
        "fanfare_subscriptions_started_total",
        "fanfare_subscriptions_ended_total",
        "fanfare_gaps_total",
        "fanfare_replays_total",
        "fanfare_subscription_lag_events",
        "fanfare_delivery_latency_seconds",
        "fanfare_channels",
        "fanfare_retained_bytes",
        "fanfare_events_evicted_total",
        "fanfare_connections",
        "fanfare_limit_hits_total",
        "process_resident_memory_bytes",
    ] {
        assert!(text.contains(&format!("# TYPE {name} ")), "{name} is missing");
        assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
    }
    assert!(!text.contains("secret"), "a channel name is never a label");
    for reason in ["closed", "client_gone", "lagged_events", "lagged_bytes", "write_timeout"] {
        let series = format!("fanfare_subscriptions_ended_total{{reason=\"{reason}\"}}");
        assert!(
            text.contains(&series),
            "{series}: there from the start, so that it can be alerted on"
        );
    }
}

#[tokio::test]
async fn a_replay_is_counted() {
    let hub = TestHub::start().await;
    let id = hub.publish_all("c", &["1", "2"]).await.remove(0);
    hub.resume("c", &id).await.next().await;
    hub.until_metric("fanfare_replays_total", 1.0).await;
}

#[tokio::test]
async fn the_admin_lists_the_channels_that_begin_with_a_prefix() {
    let hub = TestHub::start().await;
    for channel in ["logs/web", "logs/db", "chat/1"] {
        hub.publish(channel, "x").await;
    }
    let _watcher = hub.subscribe("logs/db").await;
    let names = |list: &Value| -> Vec<String> {
        let channels = list["channels"].as_array().unwrap_or_else(|| panic!("no list: {list}"));
        let name = |entry: &Value| entry["channel"].as_str().expect("a name").to_owned();
        channels.iter().map(name).collect()
    };
    let list = hub.admin_get("/v1/channels?prefix=logs/").await.ok();
    assert_eq!(list.header("content-type"), Some("application/json"));
    let list = list.json();
    let mut found = names(&list);
    found.sort();
    assert_eq!(found, ["logs/db", "logs/web"]);
    let db = list["channels"].as_array().unwrap().iter().find(|c| c["channel"] == "logs/db");
    let db = db.unwrap();
    assert_eq!((&db["state"], &db["subscribers"]), (&json!("open"), &json!(1)));
    assert_eq!(db["settings"], json!({}));
    assert_eq!(names(&hub.admin_get("/v1/channels").await.ok().json()).len(), 3);
    assert_eq!(names(&hub.admin_get("/v1/channels?prefix=no").await.ok().json()).len(), 0);
}

#[tokio::test]
async fn the_openapi_document_is_served_in_two_versions_that_differ_in_the_schemas_of_streams() {
    let hub = TestHub::start().await;
    let new = hub.get("/openapi.yaml", &[]).await.ok().text();
    let old = hub.get("/openapi-3.1.yaml", &[]).await.ok().text();
    assert!(new.starts_with("openapi: 3.2.0\n") && old.starts_with("openapi: 3.1.2\n"));
    let lines = new.lines().zip(old.lines()).skip(1);
    let differ: Vec<_> = lines.filter(|(new, old)| new != old).collect();
    assert_eq!(differ.len(), new.matches(" itemSchema: {").count());
    for (new, old) in &differ {
        let schema = new.trim().strip_prefix("itemSchema: ").expect("a schema");
        let expected = format!("schema: {{ type: string, contentSchema: {schema} }}");
        assert_eq!(old.trim(), expected);
    }
    assert!(differ.len() >= 5 && !old.contains(" itemSchema: "));
    assert_eq!(new.lines().count(), old.lines().count());
}

/// Sends a preflight from this origin, for the headers of a web application.
async fn preflight(hub: &TestHub, to: &str, origin: &str) -> Response {
    let headers = [
        ("Origin", origin),
        ("Access-Control-Request-Method", "POST"),
        ("Access-Control-Request-Headers", "idempotency-key, last-event-id"),
    ];
    hub.request("OPTIONS", to, &headers, "").await
}

#[tokio::test]
async fn no_origin_is_allowed_unless_configured() {
    let hub = TestHub::start().await;
    let reply = preflight(&hub, "/v1/channels/c", "https://evil.example").await;
    assert!(matches!(reply.status(), 200 | 204), "{}", reply.status());
    assert_eq!(reply.header("access-control-allow-origin"), None);
    let reply =
        hub.request("POST", "/v1/channels/c", &[("Origin", "https://evil.example")], "x").await;
    assert_eq!(reply.header("access-control-allow-origin"), None);
}

#[tokio::test]
async fn an_allowed_origin_may_use_all_of_it() {
    let hub = TestHub::with("cors.allow_origins = [\"https://app.example\"]").await;
    let allowed = "https://app.example";
    for to in ["/v1/channels/c", "/v1/events", "/v1/publish"] {
        let reply = preflight(&hub, to, allowed).await;
        assert!(matches!(reply.status(), 200 | 204), "{to}: {}", reply.status());
        assert_eq!(reply.header("access-control-allow-origin"), Some(allowed), "{to}");
        let headers = reply.header("access-control-allow-headers").unwrap().to_lowercase();
        for name in
            ["last-event-id", "authorization", "cache-control", "idempotency-key", "content-type"]
        {
            assert!(headers.contains(name), "{to}: {name} in {headers:?}");
        }
        let methods = reply.header("access-control-allow-methods").unwrap();
        assert!(methods.contains("POST") && methods.contains("GET"), "{to}: {methods}");
    }
    let other = preflight(&hub, "/v1/channels/c", "https://evil.example").await;
    assert_ne!(other.header("access-control-allow-origin"), Some("https://evil.example"));
    assert_ne!(other.header("access-control-allow-origin"), Some("*"));
}

#[tokio::test]
async fn replies_of_every_kind_carry_the_cors_headers() {
    let hub = TestHub::with("cors.allow_origins = [\"https://app.example\"]").await;
    let origin = [("Origin", "https://app.example")];
    let stream = hub.stream("/v1/channels/c", &origin).await.settled().await;
    let problem = hub.get("/v1/channels/a//b", &origin).await;
    let receipt = hub.request("POST", "/v1/channels/c", &origin, "x").await.ok();
    for head in [&stream.head, &problem.head, &receipt.head] {
        let allow = head.header("access-control-allow-origin");
        assert_eq!(allow.as_deref(), Some("https://app.example"), "{head:?}");
        let vary = head.header("vary").unwrap_or_default().to_lowercase();
        assert!(vary.contains("origin"), "{head:?}");
        let exposed = head.header("access-control-expose-headers").unwrap_or_default();
        let exposed = exposed.to_lowercase();
        for name in ["fanfare-state", "fanfare-earliest", "fanfare-tail", "fanfare-subscribers"] {
            assert!(exposed.contains(name), "{name} in {exposed:?}");
        }
    }
}

#[tokio::test]
async fn a_star_alone_allows_every_origin() {
    let hub = TestHub::with("cors.allow_origins = [\"*\"]").await;
    let reply = preflight(&hub, "/v1/channels/c", "https://any.example").await;
    let allow = reply.header("access-control-allow-origin").unwrap_or_default();
    assert!(allow == "*" || allow == "https://any.example", "{allow:?}");
}

#[tokio::test]
async fn put_answers_with_the_bounds_of_the_channel() {
    let hub = TestHub::start().await;
    let ids = hub.publish_all("c", &["1", "2"]).await;
    let reply = hub.request("PUT", "/v1/channels/c", &[], "").await.ok().json();
    assert_eq!((&reply["earliest"], &reply["tail"]), (&json!(ids[0]), &json!(ids[1])));
    let retention = &reply["retention"];
    assert_eq!(retention["max_events"], 10_000, "the default, when nothing was said: {retention}");
}

#[tokio::test]
async fn the_list_shows_how_a_channel_differs_from_its_configuration() {
    let rule = "channels.max_events = 9\n[[channels.rules]]\npattern = \"ruled/*\"\n\
                max_events = 7\nmax_age = \"1h 1s\"";
    let hub = TestHub::with(rule).await;
    let own = json!({ "max_events": 8, "max_bytes": 1_500_001, "coalesce": "40ms" });
    for (channel, settings, listed) in [
        ("a", json!({}), json!({})),
        ("b", own.clone(), own.clone()),
        ("ruled/a", json!({}), json!({})),
        ("ruled/b", json!({ "max_events": 7, "max_age": "1h" }), json!({ "max_age": "1h" })),
    ] {
        let to = format!("/v1/channels/{channel}");
        let put = hub.request("PUT", &to, &[], settings.to_string()).await;
        assert_eq!(put.status(), 201, "{}", put.text());
        let list = hub.admin_get(&format!("/v1/channels?prefix={channel}")).await.ok().json();
        assert_eq!(list["channels"][0]["settings"], listed, "{channel}");
    }
}
