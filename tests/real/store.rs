//! `fanfare store export` and `import`: the content of a hub, written to a file, and published to
//! another.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use fanfare_testing::http::{get, head, post, request};
use fanfare_testing::{HubProcess, eventually, free_address};

use super::support::{FANFARE, start_hub, start_hub_in};

/// The result of a command.
struct Ran {
    code: Option<i32>,
    out: String,
    said: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("text");
        Self { code: output.status.code(), out: text(output.stdout), said: text(output.stderr) }
    }

    /// The lines of an export.
    #[track_caller]
    fn lines(&self) -> Vec<Value> {
        assert_eq!(self.code, Some(0), "{}", self.said);
        lines(&self.out)
    }
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

/// Runs it on a separate thread, because the test may have to serve it.
async fn store(words: &[&str], input: &str) -> Ran {
    let mut command = Command::new(FANFARE);
    command.arg("store").args(words).env_remove("FANFARE_TOKEN");
    let input = input.to_owned();
    let ran = tokio::task::spawn_blocking(move || {
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().expect("fanfare");
        let mut stdin = child.stdin.take().expect("input");
        let fed = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
        let output = child.wait_with_output().expect("fanfare");
        let _may_have_left = fed.join();
        Ran::of(output)
    });
    ran.await.expect("a run")
}

async fn export_from(addr: SocketAddr, admin: SocketAddr, words: &[&str]) -> Ran {
    let (url, admin) = (format!("http://{addr}"), format!("http://{admin}"));
    store(&[&["export", "--url", &url, "--admin-url", &admin][..], words].concat(), "").await
}

async fn export(hub: &HubProcess, words: &[&str]) -> Ran {
    export_from(hub.addr(), hub.admin(), words).await
}

async fn import(hub: &HubProcess, text: &str, words: &[&str]) -> Ran {
    store(&[&["import", "--url", &hub.url()][..], words].concat(), text).await
}

/// Sends one request with a body of this type; it must succeed.
async fn send(hub: &HubProcess, method: &str, path: &str, media_type: &str, body: &str) {
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nContent-Type: {media_type}");
    let answer = request(hub.addr(), &format!("{head}\r\nContent-Length: {length}"), body).await;
    assert!(answer.starts_with("HTTP/1.1 20"), "{answer}");
}

/// Publishes lines of `{"channel", "event", "data"}`.
async fn publish(hub: &HubProcess, lines: &[Value]) {
    let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
    send(hub, "POST", "/v1/publish", "application/x-ndjson", &body).await;
}

/// Returns the content of a channel: types and data, and its end.
async fn seen(hub: &HubProcess, path: &str) -> Vec<(Value, Value)> {
    let to = format!("/v1/channels/{path}?from=earliest&limit=1000&coalesce=off");
    let answer = get(hub.addr(), &to).await;
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    let page: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("a page: {answer}"));
    let events = page["events"].as_array().expect("events").iter();
    events.map(|event| (event["event"].clone(), event["data"].clone())).collect()
}

/// Returns the lines without the members that an import replaces.
fn timeless(mut lines: Vec<Value>) -> Vec<Value> {
    for line in lines.iter_mut().filter_map(Value::as_object_mut) {
        line.remove("id");
        line.remove("time");
    }
    lines
}

/// Data of every kind that a conversion may lose.
const DATA: &[&str] = &[
    "plain",
    "",
    " leading and trailing ",
    "two\nlines",
    "\n\n",
    "windows\r\nand old mac\rends",
    r#"{"a": 1,  "b":[ ]}"#,
    r#""{\"a\":1}""#,
    "null",
    "1.0",
    "\"",
    "\\ud83d \\n",
    "größer, 語, 👩‍👩‍👧, \u{2028}\u{feff}",
    "\u{0}\u{1}\u{7f}\t",
    "data: no field\nid: 7",
    "[DONE]",
];

#[tokio::test]
async fn what_was_exported_is_published_again_byte_by_byte() {
    let from = start_hub(&[]);
    let to = start_hub(&[]);
    let channels = ["a", "chat/42", "café/a b/?#%"];
    for (i, channel) in channels.into_iter().enumerate() {
        let events = DATA.iter().enumerate().map(|(j, data)| match (i + j) % 3 {
            0 => json!({ "channel": channel, "data": data }),
            1 => json!({ "channel": channel, "data": data, "event": "token" }),
            _ => json!({ "channel": channel, "data": data, "event": "größer: \"\\" }),
        });
        publish(&from, &events.collect::<Vec<_>>()).await;
    }
    send(&from, "POST", "/v1/channels/a?event=bare", "text/plain", r#"{"as": "it is"}"#).await;
    let exported = export(&from, &[]).await;
    let written = exported.lines();
    assert_eq!(written.len(), channels.len() * (DATA.len() + 1) + 1, "{}", exported.out);
    assert!(written.iter().skip(1).take(DATA.len()).all(|line| line["time"].is_string()));
    assert!(exported.said.contains("3 channels, 49 events"), "{}", exported.said);

    let imported = import(&to, &exported.out, &[]).await;
    assert_eq!(imported.lines(), [json!({ "channels": 3, "events": 49, "closed": 0 })]);
    for path in ["a", "chat/42", "caf%C3%A9/a%20b/%3F%23%25"] {
        let before = seen(&from, path).await;
        let after = seen(&to, path).await;
        assert!(before.len() >= DATA.len(), "{before:?}");
        assert_eq!(before, after, "{path}");
    }
    let again = export(&to, &[]).await.lines();
    assert_eq!(timeless(again), timeless(written));
}

#[tokio::test]
async fn a_channel_that_has_ended_ends_the_same_way_for_the_same_reason() {
    let grace = [("FANFARE_CHANNELS__PRODUCER_GRACE", "0s")];
    let from = start_hub(&grace);
    let to = start_hub(&[]);
    for channel in ["complete", "error", "cancelled", "stopped", "open"] {
        from.publish(channel, "x").await;
    }
    for close in [
        "complete?close=complete",
        "error?close=error&reason=out+of+%22luck%22",
        "cancelled?close=cancelled&reason=",
        "empty?close=complete",
    ] {
        send(&from, "POST", &format!("/v1/channels/{close}"), "text/event-stream", "").await;
    }
    post(from.addr(), "/v1/signals/stopped", r#"{"signal":"stop","reason":"enough"}"#).await;
    let left = "/v1/channels/left?close=auto";
    send(&from, "POST", left, "text/event-stream", "data: x\n\n").await;
    eventually("the producer to be given up", async || {
        let page = get(from.addr(), "/v1/channels/left?from=earliest").await;
        page.contains("\"abandoned\"").then_some(())
    })
    .await;

    let exported = export(&from, &[]).await;
    let ends: Vec<_> = timeless(exported.lines());
    let ends: Vec<_> = ends.iter().filter(|line| line.get("state").is_some()).collect();
    let given_up = "the producer left without an end mark";
    let end = |channel, state, reason: Value| json!({ "channel": channel, "state": state, "reason": reason });
    let expected = [
        end("cancelled", "cancelled", json!("")),
        end("complete", "complete", Value::Null),
        end("empty", "complete", Value::Null),
        end("error", "error", json!("out of \"luck\"")),
        end("left", "abandoned", json!(given_up)),
        end("stopped", "cancelled", json!("enough")),
    ];
    assert_eq!(ends, expected.iter().collect::<Vec<_>>());
    assert!(!exported.out.contains("fanfare.end"), "{}", exported.out);

    let imported = import(&to, &exported.out, &[]).await;
    assert_eq!(imported.lines(), [json!({ "channels": 7, "events": 6, "closed": 6 })]);
    assert!(imported.said.contains("`left` was abandoned"), "{}", imported.said);
    for channel in ["complete", "error", "cancelled", "stopped", "empty", "open"] {
        assert_eq!(seen(&to, channel).await, seen(&from, channel).await, "{channel}");
    }
    let left = seen(&to, "left").await;
    let last: Value = serde_json::from_str(left[1].1.as_str().expect("an end")).expect("JSON");
    assert_eq!(last, end("left", "error", json!(given_up)));
}

#[tokio::test]
async fn settings_go_with_their_channel_and_do_not_change_what_is_exported() {
    let from = start_hub(&[]);
    let to = start_hub(&[]);
    let own = json!({
        "max_events": 17, "max_bytes": 1_500_001, "max_age": "1day", "idle_timeout": "2h 1ms",
        "producer_grace": "1s", "coalesce": "10s",
        "when_unwatched": { "after": "30s", "signal": "stop" },
    });
    for (channel, settings) in [("own", own.clone()), ("none", json!({}))] {
        let path = format!("/v1/channels/{channel}");
        send(&from, "PUT", &path, "application/json", &settings.to_string()).await;
    }
    for data in ["a", "b", "c"] {
        from.publish("own", data).await;
    }
    let exported = export(&from, &[]).await;
    let written = timeless(exported.lines());
    assert_eq!(written[0], json!({ "channel": "none", "options": {} }));
    assert_eq!(written[1], json!({ "channel": "own", "options": own }));
    // The readers of the channel get "abc".
    let data: Vec<_> = written[2..].iter().map(|line| line["data"].clone()).collect();
    assert_eq!(data, ["a", "b", "c"]);

    assert_eq!(import(&to, &exported.out, &[]).await.code, Some(0));
    assert_eq!(timeless(export(&to, &[]).await.lines()), written);
}

#[tokio::test]
async fn more_than_a_page_is_exported_in_order_and_all_of_it() {
    let from = start_hub(&[]);
    let to = start_hub(&[]);
    let large = "x".repeat(300_000);
    let events = (0..2_500).map(|i| {
        let data = if i % 500 == 7 { format!("{i} {large}") } else { i.to_string() };
        json!({ "channel": "long", "data": data })
    });
    publish(&from, &events.collect::<Vec<_>>()).await;
    for i in 0..1_003 {
        let line = json!({ "channel": format!("many/{i}"), "options": {} });
        assert!(i > 0 || import(&from, &format!("{line}\n"), &[]).await.code == Some(0));
    }
    let many: String =
        (1..1_003).map(|i| format!("{{\"channel\":\"many/{i}\",\"data\":\"{i}\"}}\n")).collect();
    assert_eq!(import(&from, &many, &[]).await.code, Some(0));

    let exported = export(&from, &[]).await;
    let written = exported.lines();
    let long = written.iter().filter(|line| line["channel"] == "long" && line["id"].is_string());
    let number = |line: &Value| {
        let data = line["data"].as_str().expect("a text");
        data.split(' ').next().and_then(|first| first.parse::<usize>().ok()).expect("a number")
    };
    assert!(long.map(number).eq(0..2_500), "events are missing, or not in order");
    let channels = written.iter().filter(|line| line["options"].is_object()).count();
    assert_eq!(channels, 1_004, "a list has up to 1000");
    assert!(exported.said.contains("1,004 channels, 3,502 events"), "{}", exported.said);

    assert_eq!(import(&to, &exported.out, &[]).await.code, Some(0));
    assert_eq!(timeless(export(&to, &[]).await.lines()), timeless(written));
}

#[tokio::test]
async fn an_export_during_a_publish_has_all_that_was_there_and_no_hole() {
    let hub = start_hub(&[
        ("FANFARE_CHANNELS__MAX_EVENTS", "100000000"),
        ("FANFARE_CHANNELS__MAX_BYTES", "400MiB"),
    ]);
    let request = "POST /v1/channels/busy HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\
                \r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut publisher = TcpStream::connect(hub.addr()).expect("a connection");
    publisher.write_all(request.as_bytes()).expect("a request");
    let stop = Arc::new(AtomicBool::new(false));
    let until = stop.clone();
    let flood = std::thread::spawn(move || {
        let mut next = 0..;
        while !until.load(Ordering::Relaxed) {
            let body: String = next.by_ref().take(100).map(|i: u64| format!("{i}\n")).collect();
            let chunk = format!("{:x}\r\n{body}\r\n", body.len());
            publisher.write_all(chunk.as_bytes()).expect("the hub reads");
        }
    });
    let before = eventually("some thousand events", async || {
        let head_lines = head(hub.addr(), "/v1/channels/busy").await;
        let (_, count) = head_lines.split_once("fanfare-events: ")?;
        let count: u64 = count.split('\r').next()?.parse().ok()?;
        (count > 5_000).then_some(count)
    })
    .await;
    let exported = export(&hub, &[]).await;
    stop.store(true, Ordering::Relaxed);
    flood.join().expect("a flood");
    let numbers = exported.lines().into_iter().skip(1);
    let numbers: Vec<u64> = numbers
        .map(|line| line["data"].as_str().and_then(|data| data.parse().ok()).expect("a number"))
        .collect();
    assert!(numbers.len() as u64 >= before, "{} of {before} and more", numbers.len());
    assert!(numbers.iter().copied().eq(0..numbers.len() as u64), "one is missing in between");
}

#[tokio::test]
async fn patterns_select_and_a_name_that_is_not_there_is_missed() {
    let hub = start_hub(&[]);
    for channel in ["chat/1", "chat/1/x", "logs/web", "logs/db", "logger", "other"] {
        hub.publish(channel, channel).await;
    }
    for (words, expected) in [
        (&["chat/**"][..], &["chat/1", "chat/1/x"][..]),
        (&["logs/*"], &["logs/db", "logs/web"]),
        (&["logs/web", "logs/*", "other"], &["logs/db", "logs/web", "other"]),
        (&["*"], &["logger", "other"]),
        (&["nothing/*"], &[]),
    ] {
        let written = export(&hub, words).await.lines();
        let settings = written.iter().filter(|line| line["options"].is_object());
        let names: Vec<_> = settings.map(|line| line["channel"].as_str().unwrap()).collect();
        assert_eq!(names, expected, "{words:?}");
        assert_eq!(written.len(), 2 * expected.len());
    }
    let missing = export(&hub, &["other", "no/such"]).await;
    assert_eq!(missing.code, Some(3), "{}", missing.said);
    assert!(missing.said.contains("no channel `no/such`"), "{}", missing.said);
    assert_eq!(lines(&missing.out).len(), 2);
}

#[tokio::test]
async fn a_line_that_is_wrong_is_named_and_what_came_before_is_kept() {
    let hub = start_hub(&[("FANFARE_PUBLISH__MAX_EVENT_BYTES", "1KiB")]);
    let large = format!(r#"{{"channel":"c","data":"{}"}}"#, "x".repeat(2000));
    for (i, (wrong, why)) in [
        ("no JSON", r#"expected {"channel":"chat/42""#),
        (r#"{"channel":"c//","data":"x"}"#, "empty segment"),
        (r#"{"channel":"c","data":"x","type":"y"}"#, "unknown field `type`"),
        (r#"{"channel":"c","data":"x","event":"fanfare.end"}"#, "the hub's own"),
        (r#"{"channel":"c","state":"deleted"}"#, "expected one of `complete`"),
        (r#"{"channel":"c","options":{"max_event":1}}"#, "max_event"),
        (&large, "publish.max_event_bytes"),
    ]
    .into_iter()
    .enumerate()
    {
        let good = format!("{{\"channel\":\"good/{i}\",\"data\":\"1\"}}\n\n");
        let more = format!("{{\"channel\":\"good/{i}\",\"data\":\"2\"}}\n");
        let refused = import(&hub, &format!("{good}{more}{wrong}\n{more}"), &[]).await;
        assert_eq!((refused.code, &*refused.out), (Some(1), ""), "{}", refused.said);
        let said = &refused.said;
        assert!(said.contains("error: line 4: ") && said.contains(why), "{why}: {said}");
        assert!(said.contains("stays: ") && said.contains(", 2 events, up to line 3"), "{said}");
        assert_eq!(seen(&hub, &format!("good/{i}")).await.len(), 2);
    }
    let wrong_door = format!("http://{}", hub.admin());
    let refused =
        store(&["import", "--url", &wrong_door], "{\"channel\":\"c\",\"options\":{}}").await;
    for part in ["nothing was imported", "error: the hub refused", "does --url name"] {
        assert!(refused.code == Some(1) && refused.said.contains(part), "{}", refused.said);
    }
    let refused = import(&hub, "", &["/no/such/file"]).await;
    assert!(refused.code == Some(1) && refused.said.contains("/no/such/file"), "{}", refused.said);
}

#[tokio::test]
async fn a_channel_that_has_events_is_refused_unless_they_may_come_after_these() {
    let hub = start_hub(&[]);
    hub.publish("old", "old").await;
    send(&hub, "POST", "/v1/channels/done?close=complete", "text/plain", "").await;
    let event = |channel: &str, data: &str| json!({ "channel": channel, "data": data });
    let text = format!("{}\n{}\n{}\n", event("new", "1"), event("old", "2"), event("new", "3"));
    let refused = import(&hub, &text, &[]).await;
    assert_eq!(refused.code, Some(1));
    for part in ["line 2: `old` has events already (1)", "--append", "1 channel, 1 event"] {
        assert!(refused.said.contains(part), "{part}: {}", refused.said);
    }
    assert_eq!(seen(&hub, "old").await.len(), 1);
    assert_eq!(seen(&hub, "new").await.len(), 1);

    let appended = import(&hub, &text, &["--append"]).await;
    assert_eq!(appended.lines(), [json!({ "channels": 2, "events": 3, "closed": 0 })]);
    let data: Vec<_> = seen(&hub, "old").await.into_iter().map(|(_, data)| data).collect();
    assert_eq!(data, ["old", "2"]);

    let ended = import(&hub, &format!("{}\n", event("done", "x")), &["--append"]).await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.said.contains("`done` has ended (complete)"), "{}", ended.said);
}

/// Starts a proxy of the hub which loses the first answer to the publish of a piece.
fn lossy_way_to(hub: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = listener.local_addr().expect("its address");
    let asked = Arc::new(AtomicBool::new(false));
    let lost = Arc::new(AtomicBool::new(false));
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let upstream = TcpStream::connect(hub).expect("the hub");
            let mut from = client.try_clone().unwrap();
            let mut to = upstream.try_clone().unwrap();
            let asks = asked.clone();
            std::thread::spawn(move || {
                let mut piece = [0; 65536];
                while let Ok(read @ 1..) = from.read(&mut piece) {
                    let text = String::from_utf8_lossy(&piece[..read]);
                    asks.fetch_or(text.contains("POST /v1/publish"), Ordering::SeqCst);
                    if to.write_all(&piece[..read]).is_err() {
                        return;
                    }
                }
                let _gone = to.shutdown(Shutdown::Both);
            });
            let mut from = upstream;
            let mut to = client;
            let asked = asked.clone();
            let lost = lost.clone();
            std::thread::spawn(move || {
                let mut piece = [0; 65536];
                while let Ok(read @ 1..) = from.read(&mut piece) {
                    let lose = asked.load(Ordering::SeqCst) && !lost.swap(true, Ordering::SeqCst);
                    if lose || to.write_all(&piece[..read]).is_err() {
                        break;
                    }
                    lost.store(asked.load(Ordering::SeqCst), Ordering::SeqCst);
                }
                let _gone = to.shutdown(Shutdown::Both);
            });
        }
    });
    address
}

#[tokio::test]
async fn a_piece_whose_receipt_was_lost_is_not_published_twice() {
    let hub = start_hub(&[]);
    let url = format!("http://{}", lossy_way_to(hub.addr()));
    let text: String =
        (0..5).map(|i| format!("{{\"channel\":\"a\",\"data\":\"{i}\"}}\n")).collect();
    let imported = store(&["import", "--url", &url], &text).await;
    assert_eq!(imported.lines(), [json!({ "channels": 1, "events": 5, "closed": 0 })]);
    let data: Vec<_> = seen(&hub, "a").await.into_iter().map(|(_, data)| data).collect();
    assert_eq!(data, ["0", "1", "2", "3", "4"]);
}

/// Starts a hub that answers each request by the beginning of its request line.
fn scripted(answers: Vec<(&'static str, String)>) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = listener.local_addr().expect("its address");
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            let mut head = Vec::new();
            let mut byte = [0];
            while !head.ends_with(b"\r\n\r\n") && matches!(client.read(&mut byte), Ok(1)) {
                head.push(byte[0]);
            }
            let head = String::from_utf8_lossy(&head).into_owned();
            let found = answers.iter().find(|(line, _)| head.starts_with(line));
            let (status, body) = found.map_or(("404 Not Found", ""), |(_, body)| ("200 OK", body));
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
            );
            let _gone = client.write_all(answer.as_bytes());
        }
    });
    address
}

#[tokio::test]
async fn what_is_lost_or_deleted_meanwhile_is_reported_and_the_rest_is_exported() {
    let listed = |channel: &str| json!({ "channel": channel, "tail": "e-9", "events": 5, "settings": {}, "state": "open" });
    let list = json!({ "channels": [listed("cut"), listed("gone"), listed("here")], "next": null });
    let event = |n: u64| json!({ "id": format!("e-{n}"), "event": null, "data": "x", "time": "" });
    let gap = json!({ "id": "e-6", "event": "fanfare.gap", "time": "",
                      "data": json!({ "message": "events were evicted" }).to_string() });
    let page = |events: &[&Value], next: &str| {
        json!({ "events": events, "next": next, "state": "open" }).to_string()
    };
    let hub = scripted(vec![
        ("GET /v1/channels?", list.to_string()),
        ("GET /v1/channels/cut?from=earliest", page(&[&event(1), &event(2)], "e-2")),
        ("GET /v1/channels/cut?last_event_id=e-2", page(&[&gap, &event(9)], "e-9")),
        ("GET /v1/channels/gone?from=earliest", page(&[&event(3)], "e-3")),
        ("GET /v1/channels/gone?last_event_id=e-3", page(&[], "e-3")),
        ("GET /v1/channels/here?from=earliest", page(&[&event(9)], "e-9")),
        // Events after the listed tail can be left out, because a publisher may never pause.
        ("GET /v1/channels/here?last_event_id=e-9", page(&[&event(10)], "e-9")),
    ]);
    let exported = export_from(hub, hub, &[]).await;
    assert_eq!(exported.code, Some(3), "{}", exported.said);
    let of = |channel: &str| {
        let lines = lines(&exported.out).into_iter();
        lines.filter(|line| line["channel"] == channel && line["data"] == "x").count()
    };
    assert_eq!((of("cut"), of("gone"), of("here")), (3, 1, 1), "{}", exported.out);
    for part in
        ["`cut` has a gap: events were evicted", "`gone` went away", "1 gap, 1 channel missing"]
    {
        assert!(exported.said.contains(part), "{part}: {}", exported.said);
    }
    assert!(!exported.out.contains("fanfare."), "{}", exported.out);
}

#[tokio::test]
async fn a_file_has_its_name_only_when_it_is_complete() {
    let hub = start_hub(&[]);
    hub.publish("a", "x").await;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("hub.ndjson");
    let file = path.to_str().expect("text");
    let files = || std::fs::read_dir(folder.path()).expect("a folder").count();
    let text = || std::fs::read_to_string(&path).expect("a file");
    let exported = export(&hub, &["-o", file]).await;
    assert_eq!((exported.code, &*exported.out), (Some(0), ""), "{}", exported.said);
    let complete = text();
    assert_eq!((lines(&complete).len(), files()), (2, 1));
    assert_eq!(import(&start_hub(&[]), "", &[file]).await.code, Some(0));

    hub.publish("a", "y").await;
    let failed = export_from(free_address(), hub.admin(), &["-o", file]).await;
    assert!(failed.code == Some(1) && failed.said.contains("cannot reach"), "{}", failed.said);
    assert_eq!((text(), files()), (complete.clone(), 1));

    // An interrupt while it waits for a hub that does not answer.
    let silent = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let url = format!("http://{}", silent.local_addr().expect("its address"));
    let admin = format!("http://{}", hub.admin());
    let mut waiting = Command::new(FANFARE)
        .args(["store", "export", "-o", file, "--url", &url, "--admin-url", &admin])
        .spawn()
        .expect("fanfare");
    let (asking, _) = silent.accept().expect("a request");
    asking.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    (&asking).read_exact(&mut [0; 16]).expect("a request");
    assert_eq!(files(), 2);
    let pid = waiting.id().to_string();
    assert!(Command::new("kill").args(["-s", "INT", &pid]).status().expect("kill").success());
    assert_eq!(waiting.wait().expect("the end").code(), Some(1));
    assert_eq!((text(), files()), (complete, 1));

    assert_eq!(export(&hub, &["-o", "/dev/null"]).await.code, Some(0));
    assert!(!std::fs::metadata("/dev/null").expect("a device").is_file());
    let nowhere = export(&hub, &["-o", "/no/such/folder/x"]).await;
    assert!(nowhere.code == Some(1) && nowhere.said.contains("/no/such/folder/x"));
}

#[tokio::test]
async fn a_hub_with_credentials_is_exported_and_imported_by_those_who_may() {
    let key = |name: &str| {
        let made = Command::new(FANFARE).args(["token", "key", "--name", name]).output();
        let made = Ran::of(made.expect("fanfare"));
        let (_, hash) = made.said.split_once("hash = \"").expect("a hash");
        (made.out.trim().to_owned(), hash.split('"').next().expect("a hash").to_owned())
    };
    let ((backup, backup_hash), (restore, restore_hash)) = (key("backup"), key("restore"));
    let folder = tempfile::tempdir().expect("a folder");
    let keys = format!(
        "[[auth.api_keys]]\nname = \"backup\"\nhash = \"{backup_hash}\"\n\
         grants = {{ subscribe = [\"**\"], admin = [\"**\"] }}\n\
         [[auth.api_keys]]\nname = \"restore\"\nhash = \"{restore_hash}\"\n\
         grants = {{ publish = [\"a/*\"], admin = [\"a/*\"] }}\n"
    );
    std::fs::write(folder.path().join("fanfare.toml"), keys).expect("written");
    let hub = start_hub_in(folder.path(), &[]);
    let text = "{\"channel\":\"a/1\",\"options\":{\"max_events\":9}}\n{\"channel\":\"a/1\",\
                \"data\":\"x\"}\n{\"channel\":\"a/1\",\"state\":\"complete\"}\n";
    let refused = import(&hub, text, &[]).await;
    assert!(refused.code == Some(1) && refused.said.contains("HTTP 401"), "{}", refused.said);
    assert!(refused.said.contains("hint: --token"), "{}", refused.said);
    let imported = import(&hub, text, &["--token", &restore]).await;
    assert_eq!(imported.lines(), [json!({ "channels": 1, "events": 1, "closed": 1 })]);
    let elsewhere = text.replace("a/1", "b/1");
    let refused = import(&hub, &elsewhere, &["--token", &restore]).await;
    assert!(refused.code == Some(1) && refused.said.contains("line 1: "), "{}", refused.said);

    let refused = export(&hub, &[]).await;
    assert!(
        refused.code == Some(1) && refused.said.contains("unauthenticated"),
        "{}",
        refused.said
    );
    assert!(refused.said.contains("cannot list the channels"), "{}", refused.said);
    let refused = export(&hub, &["--token", &restore]).await;
    assert!(refused.code == Some(1) && refused.said.contains("forbidden"), "{}", refused.said);
    assert_eq!(export(&hub, &["--token", &backup]).await.lines().len(), 3);
}

#[tokio::test]
async fn a_file_size_limit_is_a_full_store_until_it_is_raised() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut limited = Command::new("prlimit");
    limited
        .args(["--fsize=4000000:unlimited", FANFARE])
        .env("FANFARE_STORE__PATH", folder.path().join("store"))
        .env("FANFARE_STORE__DURABILITY", "sync")
        .env("FANFARE_STORE__MIN_FREE", "1MiB");
    let mut hub = HubProcess::new(limited).started();
    let event = "x".repeat(100_000);
    let mut published = 0;
    let refused = loop {
        let answer = post(hub.addr(), "/v1/channels/c", &event).await;
        if !answer.starts_with("HTTP/1.1 200") {
            break answer;
        }
        published += 1;
        assert!(published < 100, "the limit is not reached");
    };
    assert!(published > 5, "{published}");
    assert!(refused.starts_with("HTTP/1.1 507") && refused.contains("store_full"), "{refused}");
    let raised = ["--fsize=unlimited:unlimited", "--pid", &hub.id().to_string()];
    assert!(Command::new("prlimit").args(raised).status().expect("prlimit").success());
    eventually("room", async || {
        let answer = post(hub.addr(), "/v1/channels/c", &event).await;
        answer.starts_with("HTTP/1.1 200").then_some(())
    })
    .await;
    let head_lines = head(hub.addr(), "/v1/channels/c").await;
    assert!(head_lines.contains(&format!("fanfare-events: {}\r\n", published + 1)), "{head_lines}");
    hub.stop().await;
}
