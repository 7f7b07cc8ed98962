//! Mistakes of new users of `curl`, and the hub's answers.

use crate::support::{TestHub, assert_problem};

/// A request, and the required text of its answer.
struct Mistake {
    method: &'static str,
    target: &'static str,
    header: &'static str,
    body: &'static str,
    status: u16,
    code: &'static str,
    says: &'static str,
}

const fn mistake(request: [&'static str; 4], status: u16, answer: [&'static str; 2]) -> Mistake {
    let [method, target, header, body] = request;
    let [code, says] = answer;
    Mistake { method, target, header, body, status, code, says }
}

const X: &str = "/v1/channels/x";
const PARAMETER: &str = "invalid_parameter";
const JSON: &str = "Accept: application/json";

#[rustfmt::skip]
const MISTAKES: &[Mistake] = &[
    mistake(["POST", "/channels/x", "", "hi"], 404, ["not_found", "see /openapi.yaml"]),
    mistake(["POST", "/v1/channels/", "", "hi"], 400, ["invalid_channel_name", "such as `chat/42`"]),
    mistake(["GET", "/v1/channels", "", ""], 404, ["not_found", "on the admin listener"]),
    mistake(["GET", "/metrics", "", ""], 404, ["not_found", "`server.admin_listen`"]),
    mistake(["PATCH", X, "", ""], 405, ["method_not_allowed", "GET, HEAD, POST, PUT, DELETE"]),
    mistake(["GET", X, "Accept: text/html", ""], 406, ["not_acceptable", "text/event-stream"]),
    mistake(["DELETE", X, "", ""], 404, ["not_found", "it was not created with PUT"]),
    mistake(["POST", "/v1/channels/x?evnet=a", "", "hi"], 400, [PARAMETER, "`event` is meant"]),
    mistake(["POST", "/v1/channels/x?close=done", "", "hi"], 400, [PARAMETER, "`complete`, `error`"]),
    mistake(["GET", "/v1/channels/x?form=earliest", "", ""], 400, [PARAMETER, "`from` is meant"]),
    mistake(["GET", "/v1/channels/x?from=begin", "", ""], 400, [PARAMETER, "`tail`, `earliest`"]),
    mistake(["GET", "/v1/channels/x?limit=0", JSON, ""], 400, [PARAMETER, "1 to 1000"]),
    mistake(["GET", "/v1/channels/x?wait=soon", JSON, ""], 400, [PARAMETER, "up to `60s`"]),
    mistake(["GET", "/v1/events", "", ""], 400, [PARAMETER, "`channel` is given 0 times"]),
    mistake(["GET", "/v1/events?channels=x", "", ""], 400, [PARAMETER, "`channel` is meant"]),
    mistake(["PUT", X, "", "max_age=10"], 400, [PARAMETER, "not JSON"]),
    mistake(["PUT", X, "", "[]"], 400, [PARAMETER, "not a JSON object"]),
    mistake(["PUT", X, "", r#"{"max_event":3}"#], 400, [PARAMETER, "did you mean `max_events`?"]),
    mistake(["PUT", X, "", r#"{"max_age":10}"#], 400, [PARAMETER, "`max_age`: found 10, expected a duration"]),
    mistake(["PUT", X, "", r#"{"max_age":"0s"}"#], 400, [PARAMETER, "a duration above \"0s\""]),
    mistake(["PUT", X, "", r#"{"max_events":"many"}"#], 400, [PARAMETER, "found \"many\", expected a whole number"]),
    mistake(["PUT", X, "", r#"{"max_bytes":"1XB"}"#], 400, [PARAMETER, "a size such as \"64KiB\""]),
    mistake(["PUT", X, "", r#"{"when_unwatched":"30s"}"#], 400, [PARAMETER, "expected a table: { after ="]),
    mistake(["POST", "/v1/signals/x", "", "stop"], 400, [PARAMETER, r#"{"signal": "stop""#]),
    mistake(["POST", "/v1/signals/x", "", r#"{"signal":"halt"}"#], 400, [PARAMETER, "found \"halt\", expected \"stop\""]),
    mistake(["POST", "/v1/publish", "", "hello"], 400, ["invalid_event", "line 1"]),
    mistake(["POST", X, "Content-Type: multipart/form-data", "--a"], 415, ["unsupported_media_type", "--data-binary"]),
    mistake(["POST", X, "Content-Encoding: gzip", "hi"], 415, ["unsupported_media_type", "without compression"]),
    mistake(["POST", X, "Origin: https://app.example", "hi"], 403, ["forbidden", "`cors.allow_origins`"]),
    mistake(["POST", "/v1/tokens", "", r#"{"subscribe":["x"]}"#], 404, ["not_found", "`auth.signing_key`"]),
];

#[tokio::test]
async fn each_mistake_is_answered_with_what_is_wrong_and_what_would_be_right() {
    let hub = TestHub::start().await;
    for Mistake { method, target, header, body, status, code, says } in MISTAKES {
        let headers: Vec<_> = header.split_once(": ").into_iter().collect();
        let answer = hub.request(method, target, &headers, *body).await;
        let text = format!("{method} {target} {header} {body}: {}", answer.text());
        assert_eq!(answer.status(), *status, "{text}");
        let problem = assert_problem(&answer, *status, code, says);
        let detail = problem["detail"].as_str().unwrap();
        for word in ["struct", "enum", "variant", "sequence", "u64", "invalid type", "parsable"] {
            assert!(!detail.contains(word), "{word:?} in {text}");
        }
    }
}
