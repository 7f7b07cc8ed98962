//! Operations: metrics, the grant to read them, and reloads.

use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::support::keys::{self, Keys};
use crate::support::tls::Identity;
use crate::support::{Publisher, Receiver, TestHub, assert_problem, event_stream};

async fn ended(hub: &TestHub, state: &str) -> f64 {
    hub.metric(&format!("fanfare_channels_ended_total{{state=\"{state}\"}}")).await
}

#[tokio::test]
async fn channels_are_counted_once_by_the_state_in_which_they_ended() {
    let hub = TestHub::with("channels.producer_grace = \"10ms\"").await;
    for state in ["complete", "error", "cancelled"] {
        hub.publish(state, "x").await;
        hub.close(state, state).await;
    }
    // A channel that is deleted after its end counts as one end.
    hub.request("DELETE", "/v1/channels/complete", &[], "").await;
    hub.publish("gone", "x").await;
    hub.request("DELETE", "/v1/channels/gone", &[], "").await;
    let stop = "{\"signal\":\"stop\"}";
    hub.post("/v1/signals/stopped", "application/json", stop).await.ok();
    let to = "/v1/channels/left?close=auto";
    hub.post(to, "text/event-stream", event_stream(["1"])).await.ok();
    hub.until_metric("fanfare_channels_ended_total{state=\"abandoned\"}", 1.0).await;
    for (state, count) in [
        ("complete", 1.0),
        ("error", 1.0),
        ("cancelled", 2.0),
        ("abandoned", 1.0),
        ("deleted", 1.0),
    ] {
        assert_eq!(ended(&hub, state).await, count, "{state}");
    }
    assert_eq!(hub.metric("fanfare_stops_total").await, 1.0);
}

#[tokio::test]
async fn producers_that_stream_are_counted_while_they_do() {
    let hub = TestHub::start().await;
    assert_eq!(hub.metric("fanfare_producers").await, 0.0);
    let producer = Publisher::events(&hub, "c?close=auto").await;
    hub.until_metric("fanfare_producers", 1.0).await;
    producer.finish().await;
    assert_eq!(hub.metric("fanfare_producers").await, 0.0);
}

#[tokio::test]
async fn the_metrics_have_the_version_readiness_and_cpu_time() {
    let hub = TestHub::start().await;
    let version = format!("fanfare_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION"));
    assert_eq!(hub.metric(&version).await, 1.0);
    assert_eq!(hub.metric("fanfare_ready").await, 1.0);
    let cpu = hub.metric("process_cpu_seconds_total").await;
    assert!(cpu > 0.0 && cpu.fract() != 0.0, "{cpu}");
}

#[tokio::test]
async fn the_expiry_of_the_certificate_is_a_metric() {
    let identity = Identity::new();
    let hub = TestHub::with(&identity.settings()).await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
    let expiry = hub.metric("fanfare_certificate_expiry_timestamp_seconds").await;
    // The certificates of these tests are valid until the year 4096.
    assert!(expiry > now + 1e9 && expiry < 1e11, "{expiry}");
    let plain = TestHub::start().await.admin_get("/metrics").await.ok().text();
    assert!(!plain.contains("certificate_expiry"), "without a certificate there is none");
}

#[tokio::test]
async fn subscribers_without_lag_are_in_the_histogram_of_either_engine() {
    let hub = TestHub::start().await;
    let client = hub.subscribe("c").await;
    let many = hub.stream("/v1/events?channel=c", &[]).await.settled().await;
    hub.until_metric("fanfare_subscription_lag_events_bucket{le=\"0\"}", 2.0).await;
    drop((client, many));
}

#[tokio::test]
async fn auth_the_metrics_have_a_grant_of_their_own() {
    let keys = Keys::new(&[
        ("prometheus", "{ metrics = true }"),
        ("operator", "{ admin = true }"),
        ("team", "{ admin = [\"team/**\"], publish = [\"**\"] }"),
    ]);
    let hub = keys.hub("").await;
    for (name, metrics, list) in
        [("prometheus", 200, 403), ("operator", 200, 200), ("team", 403, 403)]
    {
        let secret = keys::key(name);
        let show = [("X-API-Key", secret.as_str())];
        let answer = hub.admin_request("GET", "/metrics", &show).await;
        assert_eq!(answer.status(), metrics, "{name}: {}", answer.text());
        let answer = hub.admin_request("GET", "/v1/channels", &show).await;
        assert_eq!(answer.status(), list, "{name}: {}", answer.text());
    }
    // An operator can grant `metrics` to others; a client without it cannot.
    let wanted = json!({"metrics": true}).to_string();
    for (name, status) in [("operator", 201), ("prometheus", 201), ("team", 403)] {
        let secret = keys::key(name);
        let headers = [("X-API-Key", secret.as_str()), ("Content-Type", "application/json")];
        let answer = hub.request("POST", "/v1/tokens", &headers, &wanted).await;
        assert_eq!(answer.status(), status, "{name}: {}", answer.text());
        if status == 201 {
            let bearer = format!("Bearer {}", answer.json()["token"].as_str().unwrap());
            let show = [("Authorization", bearer.as_str())];
            assert_eq!(hub.admin_request("GET", "/metrics", &show).await.status(), 200);
        }
    }
    let wrong = json!({"metrics": ["chat/*"]}).to_string();
    let secret = keys::key("operator");
    let headers = [("X-API-Key", secret.as_str()), ("Content-Type", "application/json")];
    let answer = hub.request("POST", "/v1/tokens", &headers, &wrong).await;
    assert_problem(&answer, 400, "invalid_parameter", "metrics");
}

#[tokio::test]
async fn a_hook_is_signed_with_the_key_that_a_file_has() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    std::io::Write::write_all(&mut file, b"the key of this hook\n").unwrap();
    let mut receiver = Receiver::start().await;
    let secret = format!("secret = \"file:{}\"", file.path().display());
    let hub = TestHub::with(&receiver.hook("**", &secret)).await;
    hub.close("c", "complete").await;
    let call = receiver.call().await;
    let id = call.header("webhook-id");
    let timestamp = call.header("webhook-timestamp");
    let signed = [id.as_bytes(), b".", timestamp.as_bytes(), b".", &call.body].concat();
    let signature = call.header("webhook-signature").strip_prefix("v1,").expect("version 1");
    let signature = STANDARD.decode(signature).expect("base64");
    let key = hmac::Key::new(hmac::HMAC_SHA256, b"the key of this hook");
    hmac::verify(&key, &signed, &signature).expect("the signature of the file's key");
}

#[tokio::test]
async fn a_reload_exchanges_pages_rules_and_quotas_and_names_what_needs_a_restart() {
    let hub = TestHub::start().await;
    for event in ["1", "2", "3"] {
        hub.publish("logs/1", event).await;
    }
    hub.put("logs/2", "{\"max_events\": 7}").await;
    let settings = "cors.allow_origins = [\"https://new.example\"]\n\
                    subscribers.heartbeat = \"7s\"\ndrain.window = \"3s\"\n\
                    quotas.signals = \"5/s\"\n\
                    [[channels.rules]]\npattern = \"logs/*\"\nmax_events = 2";
    let mut beyond = hub.reload(settings).await.expect("a reload");
    beyond.retain(|key| !key.starts_with("store.") && key != "subscribers.takeover");
    beyond.retain(|key| !key.starts_with("channels.rules") && !key.starts_with("cluster."));
    assert_eq!(beyond, ["drain.window", "subscribers.heartbeat"]);
    let page = [("Origin", "https://new.example")];
    let allowed = hub.get("/healthz", &page).await;
    assert_eq!(allowed.header("access-control-allow-origin"), Some("https://new.example"));
    // Existing channels adopt the rule, except for their own options.
    let events = hub.page("logs/1", "from=earliest").await;
    assert_eq!(crate::support::page_texts(&events).len(), 2, "{events}");
    let listed = hub.admin_get("/v1/channels?prefix=logs/2").await.ok().json();
    assert_eq!(listed["channels"][0]["settings"]["max_events"], 7, "{listed}");
}

#[tokio::test]
async fn a_reload_calls_new_hooks_and_no_longer_those_that_are_gone() {
    let mut old = Receiver::start().await;
    let mut new = Receiver::start().await;
    let hub = TestHub::with(&old.hook("**", "")).await;
    hub.publish("c", "x").await;
    hub.reload(&new.hook("**", "")).await.expect("a reload");
    hub.close("c", "complete").await;
    assert_eq!(new.call().await.channel(), "c");
    hub.until_metric("fanfare_hooks_total{outcome=\"delivered\"}", 1.0).await;
    old.assert_no_other();
    // An invalid configuration changes nothing.
    let wrong = new.hook("**", "secret = \"file:/nowhere/at/all\"");
    let error = hub.reload(&wrong).await.unwrap_err();
    assert!(error.contains("/nowhere/at/all"), "{error}");
    hub.close("d", "complete").await;
    assert_eq!(new.call().await.channel(), "d");
}
