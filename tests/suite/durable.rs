//! Durable channels: the state after a restart, and replay from disk.
//!
//! Here hubs are stopped by a drain; `tests/crash` kills them.

use serde_json::{Value, json};

use crate::support::{
    Piece, SseClient, SseEvent, TestHub, event_stream, offset, page_ids, page_texts, texts, within,
};

/// A directory for a hub, and settings for it.
struct Place {
    folder: tempfile::TempDir,
    settings: String,
}

impl Place {
    fn new(settings: &str) -> Self {
        Self { folder: tempfile::tempdir().expect("a folder"), settings: settings.to_owned() }
    }

    fn settings(&self) -> String {
        let path = self.folder.path().display();
        let quick = "drain.window = \"50ms\"\nstore.min_free = \"1MiB\"\n";
        format!("{quick}store.path = \"{path}\"\n{}", self.settings)
    }

    async fn hub(&self) -> TestHub {
        TestHub::with(&self.settings()).await
    }

    /// Leaves the directory in the state after a power cut.
    fn cut_the_power(&self) {
        let path = self.folder.path().join("fanfare.store");
        let mut identity: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        (identity["clean"], identity["boot"]) = (json!(false), json!("another"));
        identity.as_object_mut().unwrap().remove("checksum");
        std::fs::write(&path, identity.to_string()).unwrap();
    }

    /// Starts another hub in place of this one.
    async fn restart(&self, mut hub: TestHub) -> TestHub {
        hub.drain();
        hub.stopped().await;
        drop(hub);
        self.hub().await
    }
}

const SYNC: &str = "store.durability = \"sync\"\n";

fn numbers(from: usize, to: usize) -> Vec<String> {
    (from..to).map(|number| number.to_string()).collect()
}

/// Publishes numbered events in one request, padded to a certain size.
async fn publish_numbers(hub: &TestHub, channel: &str, from: usize, to: usize) {
    let lines: String =
        (from..to).map(|n| format!("{{\"n\":{n},\"pad\":\"{}\"}}\n", "x".repeat(150))).collect();
    let to = format!("/v1/channels/{channel}");
    hub.post(&to, "application/x-ndjson", lines).await.ok();
}

/// Returns the numbers of the next events of a stream.
async fn take_numbers(client: &mut SseClient, count: usize) -> Vec<u64> {
    let events = client.take(count).await;
    events.iter().map(|event| event.json()["n"].as_u64().expect("a number")).collect()
}

#[tokio::test]
async fn a_restart_is_no_gap_for_those_who_resume() {
    for durability in ["sync", "async"] {
        let place = Place::new(&format!("store.durability = \"{durability}\"\n"));
        let hub = place.hub().await;
        let ids = hub.publish_all("c", &["1", "2", "3"]).await;
        let hub = place.restart(hub).await;
        let mut after = hub.resume("c", &ids[0]).await;
        let mut at_tail = hub.resume("c", &ids[2]).await;
        assert_eq!(texts(&after.take(2).await), ["2", "3"], "{durability}");
        let next = hub.publish("c", "4").await;
        assert!(offset(&next) > offset(&ids[2]), "{next} is not behind {}", ids[2]);
        assert_eq!(next.split('-').next(), ids[2].split('-').next(), "the epoch goes on");
        assert_eq!(texts(&after.take(1).await), ["4"], "{durability}");
        assert_eq!(texts(&at_tail.take(1).await), ["4"], "{durability}");
    }
}

#[tokio::test]
async fn every_form_and_start_reads_what_was_stored() {
    let place = Place::new(SYNC);
    let hub = place.hub().await;
    let ids = hub.publish_all("c", &["1", "2", "3", "4"]).await;
    let hub = place.restart(hub).await;
    let page = hub.page("c", "from=earliest").await;
    assert_eq!(page_texts(&page), ["1", "2", "3", "4"]);
    assert_eq!(page_ids(&page), ids);
    assert_eq!(page_texts(&hub.page("c", "from=last:2").await), ["3", "4"]);
    let after = format!("last_event_id={}", ids[1]);
    assert_eq!(page_texts(&hub.page("c", &after).await), ["3", "4"]);
    let mut lines = hub.stream("/v1/channels/c?from=last:3", &[]).await;
    assert_eq!(texts(&lines.take(3).await), ["2", "3", "4"]);
    let mut many = hub.stream("/v1/events?channel=c&from=earliest", &[]).await;
    let seen = many.take(4).await;
    assert_eq!(seen.iter().map(|event| event.id().to_owned()).collect::<Vec<_>>(), ids);
    let mut tail = hub.subscribe("c").await;
    hub.publish("c", "5").await;
    assert_eq!(tail.next().await.data, "5");
}

#[tokio::test]
async fn what_no_memory_holds_is_replayed_from_disk_and_goes_over_to_live() {
    let place = Place::new(&format!("{SYNC}store.window = \"4KiB\"\n"));
    let hub = place.hub().await;
    publish_numbers(&hub, "c", 0, 3000).await;
    let mut from_start = hub.stream("/v1/channels/c?from=earliest", &[]).await;
    let mut last = hub.stream("/v1/channels/c?from=last:1000", &[]).await;
    let mut many = hub.stream("/v1/events?channel=c&from=earliest", &[]).await;
    publish_numbers(&hub, "c", 3000, 3500).await;
    assert_eq!(take_numbers(&mut from_start, 3500).await, (0..3500).collect::<Vec<_>>());
    assert_eq!(take_numbers(&mut last, 1500).await, (2000..3500).collect::<Vec<_>>());
    let merged = many.take(3500).await;
    let number = |text: &str| serde_json::from_str::<Value>(text).unwrap()["n"].as_u64().unwrap();
    let data = |event: &SseEvent| number(event.json()["data"].as_str().unwrap());
    let merged: Vec<u64> = merged.iter().map(data).collect();
    assert_eq!(merged, (0..3500).collect::<Vec<_>>());
    let middle = from_start.last_id().expect("an id").to_owned();
    let hub = place.restart(hub).await;
    publish_numbers(&hub, "c", 3500, 3510).await;
    let mut resumed = hub.resume("c", &middle).await;
    assert_eq!(take_numbers(&mut resumed, 10).await, (3500..3510).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_client_that_closes_its_side_is_sent_what_only_the_disk_holds() {
    let place = Place::new(&format!("{SYNC}store.window = \"4KiB\"\n"));
    let mut hub = place.hub().await;
    publish_numbers(&hub, "c", 0, 3000).await;
    for (to, accept) in [
        ("/v1/channels/c?from=earliest", "text/event-stream"),
        ("/v1/channels/c?from=earliest&coalesce=10s", "text/event-stream"),
        ("/v1/channels/c?from=earliest", "application/x-ndjson"),
        ("/v1/events?channel=c&from=earliest", "text/event-stream"),
        ("/v1/events?channel=c&from=earliest", "application/x-ndjson"),
    ] {
        hub = place.restart(hub).await;
        let mut wire = hub.open(to, &[("Accept", accept)]).await;
        wire.close_side().await;
        assert_eq!(wire.head().await.status, 200, "{to}");
        let mut body = Vec::new();
        while let Piece::Data(data) = within("the end of a stream", wire.piece()).await {
            body.extend(data);
        }
        let events = String::from_utf8(body).unwrap().matches(&"x".repeat(150)).count();
        assert_eq!(events, 3000, "{to} as {accept}");
    }
}

#[tokio::test]
async fn an_id_in_the_middle_of_what_is_stored_resumes_exactly_there() {
    let place = Place::new(&format!("{SYNC}store.window = \"4KiB\"\n"));
    let hub = place.hub().await;
    let lines: String = numbers(0, 2000).iter().map(|n| format!("{{\"n\":{n}}}\n")).collect();
    hub.post("/v1/channels/c", "application/x-ndjson", lines).await.ok();
    let mut all = hub.stream("/v1/channels/c?from=earliest", &[]).await;
    let events = all.take(2000).await;
    let hub = place.restart(hub).await;
    for at in [0, 1, 17, 512, 999, 1500, 1998] {
        let mut client = hub.resume("c", events[at].id()).await;
        let seen = client.take((1999 - at).min(700)).await;
        assert_eq!(seen[..], events[at + 1..at + 1 + seen.len()], "behind {at}");
    }
}

#[tokio::test]
async fn a_closed_channel_stays_closed_and_its_end_is_sent() {
    let place = Place::new(SYNC);
    let hub = place.hub().await;
    let id = hub.publish("c", "text").await;
    hub.close("c", "complete").await;
    let hub = place.restart(hub).await;
    assert_eq!(hub.head("c").await.header("fanfare-state"), Some("complete"));
    let mut client = hub.resume("c", &id).await;
    let end = client.next().await;
    end.assert_end("complete");
    client.assert_eof().await;
    let over = hub.get("/v1/channels/c", &[("Last-Event-ID", end.id())]).await;
    assert_eq!(over.status(), 204);
    let refused = hub.post("/v1/channels/c", "text/plain", "more").await;
    assert_eq!((refused.status(), refused.json()["code"].clone()), (409, json!("channel_closed")));
    let mut late = hub.stream("/v1/channels/c", &[]).await;
    late.next().await.assert_end("complete");
}

#[tokio::test]
async fn a_key_is_good_after_a_restart() {
    let place = Place::new(SYNC);
    let hub = place.hub().await;
    let key = [("Idempotency-Key", "once"), ("Content-Type", "application/x-ndjson")];
    let closing = "/v1/channels/done?close=complete";
    let open = hub.request("POST", "/v1/channels/c", &key, "1\n2\n").await.ok().json();
    let closed = hub.request("POST", closing, &key, "1\n").await.ok().json();
    let hub = place.restart(hub).await;
    for (to, body, receipt) in [("/v1/channels/c", "1\n2\n", &open), (closing, "1\n", &closed)] {
        let again = hub.request("POST", to, &key, body).await.ok();
        assert_eq!(again.json(), *receipt, "{to}");
    }
    assert_eq!(page_texts(&hub.page("c", "from=earliest").await).len(), 2);
}

#[tokio::test]
async fn a_publish_to_many_channels_is_kept_and_its_key_too() {
    let place = Place::new(SYNC);
    let hub = place.hub().await;
    let lines: String =
        (0..100).map(|n| format!("{{\"channel\":\"c/{}\",\"data\":{n}}}\n", n % 7)).collect();
    let key = [("Idempotency-Key", "once")];
    let first = hub.request("POST", "/v1/publish", &key, &lines).await.ok().json();
    assert_eq!(first["events"], 100);
    let hub = place.restart(hub).await;
    let again = hub.request("POST", "/v1/publish", &key, &lines).await.ok().json();
    for field in ["events", "first_id", "last_id"] {
        assert_eq!(again[field], first[field], "{field}");
    }
    let mut all = hub.stream("/v1/events?channel=c/*&from=earliest", &[]).await;
    let seen = all.take(100).await;
    let data: Vec<_> = seen.iter().map(|event| event.json()["data"].clone()).collect();
    assert_eq!(data, numbers(0, 100));
}

#[tokio::test]
async fn options_stay_and_what_was_deleted_stays_away() {
    let place = Place::new(SYNC);
    let hub = place.hub().await;
    let options = r#"{"max_events": 3, "max_bytes": 1500001, "max_age": "1h 1ms"}"#;
    assert_eq!(hub.put("kept", options).await.status(), 201);
    let gone = hub.publish("gone", "1").await;
    let deleted = hub.request("DELETE", "/v1/channels/gone", &[], "").await;
    assert_eq!(deleted.status(), 204);
    let hub = place.restart(hub).await;
    assert_eq!(hub.head("gone").await.status(), 404);
    let mut client = hub.resume("gone", &gone).await;
    client.next().await.assert_gap("evicted");
    hub.publish("gone", "anew").await;
    assert_eq!(client.next().await.data, "anew");
    let kept = hub.put("kept", "").await.ok().json()["retention"].clone();
    assert_eq!(
        (&kept["max_events"], &kept["max_bytes"], &kept["max_age"]),
        (&json!(3), &json!(1_500_001), &json!("1h 1ms"))
    );
}

#[tokio::test]
async fn retention_holds_on_disk() {
    let place = Place::new(&format!("{SYNC}store.window = \"1KiB\"\nchannels.max_events = 50\n"));
    let hub = place.hub().await;
    let mut first = None;
    for n in 0..120 {
        let id = hub.publish("c", &n.to_string()).await;
        first.get_or_insert(id);
    }
    let hub = place.restart(hub).await;
    let page = hub.page("c", "from=earliest&limit=1000").await;
    let texts = page_texts(&page);
    assert_eq!(texts.last().copied(), Some("119"));
    assert!((50..=60).contains(&texts.len()), "{} events are retained", texts.len());
    let mut late = hub.resume("c", &first.expect("an id")).await;
    late.next().await.assert_gap("evicted");
    assert_eq!(late.next().await.data, texts[0]);
}

#[tokio::test]
async fn only_what_was_in_memory_is_missing_after_a_restart() {
    let rule = "[[channels.rules]]\npattern = \"kept/**\"\ndurability = \"async\"\n";
    let place = Place::new(rule);
    let hub = place.hub().await;
    let kept = hub.publish_all("kept/a", &["1", "2"]).await;
    let lost = hub.publish_all("other", &["1", "2"]).await;
    let hub = place.restart(hub).await;
    let mut durable = hub.resume("kept/a", &kept[0]).await;
    assert_eq!(durable.next().await.data, "2");
    let wild = [("Last-Event-ID", kept[0].as_str())];
    let mut pattern = hub.stream("/v1/events?channel=kept/**", &wild).await;
    assert_eq!(pattern.next().await.json()["data"], json!("2"), "no gap before it");
    let mut all = hub.stream("/v1/events?channel=**", &wild).await;
    let events = all.take(2).await;
    assert!(events.iter().any(|event| event.event.as_deref() == Some("fanfare.gap")));
    let mut memory = hub.resume("other", &lost[0]).await;
    memory.next().await.assert_gap("evicted");
}

#[tokio::test]
async fn a_channel_that_becomes_durable_says_what_it_had_in_memory() {
    let mut place = Place::new("");
    let hub = place.hub().await;
    let ids = hub.publish_all("c", &["1", "2"]).await;
    place.settings = "[[channels.rules]]\npattern = \"c\"\ndurability = \"sync\"\n".to_owned();
    let mut hub = place.restart(hub).await;
    for _ in 0..2 {
        let mut client = hub.resume("c", &ids[0]).await;
        assert_eq!(client.next().await.json()["reason"], "evicted");
        hub = place.restart(hub).await;
    }
    let id = hub.publish("c", "3").await;
    hub = place.restart(hub).await;
    let mut client = hub.resume("c", &id).await;
    hub.publish("c", "4").await;
    assert_eq!(client.next().await.data, "4", "from here on there is no gap");
}

#[tokio::test]
async fn a_generation_continues_after_a_restart_or_is_abandoned() {
    let place = Place::new(&format!("{SYNC}channels.producer_grace = \"300ms\"\n"));
    let hub = place.hub().await;
    let text = event_stream(["{\"choices\":[{\"delta\":{\"content\":\"a\"}}]}"]);
    let to = "/v1/channels/c?close=auto";
    let receipt = hub.post(to, "text/event-stream", text).await.ok();
    assert_eq!(receipt.json()["state"], "open");
    let hub = place.restart(hub).await;
    let mut client = hub.stream("/v1/channels/c?from=earliest", &[]).await;
    client.next().await;
    client.next().await.assert_end("abandoned");
}

#[tokio::test]
async fn a_second_hub_is_refused_the_directory() {
    let place = Place::new(SYNC);
    let _hub = place.hub().await;
    let path = place.folder.path().display();
    let settings = format!(
        "server.listen = \"127.0.0.1:0\"\nserver.admin_listen = \"127.0.0.1:0\"\n\
         store.path = \"{path}\""
    );
    let config = fanfare::Config::from_toml(&settings).expect("settings");
    let error = fanfare::Server::bind(config).await.err().expect("a refusal").to_string();
    assert!(error.contains("in use by another hub"), "{error}");
    assert!(error.contains(&path.to_string()), "{error}");
}

#[tokio::test]
async fn without_room_on_the_disk_only_durable_channels_take_nothing() {
    let rule = "[[channels.rules]]\npattern = \"kept/**\"\ndurability = \"sync\"\n";
    let place = Place::new(rule);
    let hub = place.hub().await;
    let id = hub.publish("kept/a", "1").await;
    let hub = {
        // More than any disk has free.
        let full = place.settings().replace("\"1MiB\"", "\"4EiB\"");
        let mut hub = hub;
        hub.drain();
        hub.stopped().await;
        TestHub::with(&full).await
    };
    let refused = hub.post("/v1/channels/kept/a", "text/plain", "2").await;
    assert_eq!((refused.status(), refused.json()["code"].clone()), (507, json!("store_full")));
    assert!(refused.header("retry-after").is_some());
    assert_eq!(refused.json()["events"], 0);
    let put = hub.put("kept/b", "{}").await;
    assert_eq!((put.status(), put.json()["code"].clone()), (507, json!("store_full")));
    hub.publish("elsewhere", "in memory").await;
    assert_eq!(page_texts(&hub.page("kept/a", "from=earliest").await), ["1"]);
    assert_eq!(hub.get("/readyz", &[]).await.status(), 200);
    let hub = place.restart(hub).await;
    let mut client = hub.resume("kept/a", &id).await;
    hub.publish("kept/a", "2").await;
    assert_eq!(client.next().await.data, "2");
}

#[tokio::test]
async fn a_resume_after_a_power_cut_gets_a_gap_for_what_may_be_missing() {
    let rule = "[[channels.rules]]\npattern = \"sync/**\"\ndurability = \"sync\"\n";
    let place = Place::new(&format!("store.durability = \"async\"\n{rule}"));
    let mut hub = place.hub().await;
    let loose = hub.publish("loose", "1").await;
    let safe = hub.publish("sync/a", "1").await;
    hub.close("ended", "complete").await;
    hub.drain();
    hub.stopped().await;
    place.cut_the_power();
    let hub = place.hub().await;
    let mut resumed = hub.resume("loose", &loose).await;
    let gap = resumed.next().await;
    gap.assert_gap("lost");
    hub.publish("loose", "2").await;
    assert_eq!(resumed.next().await.data, "2");
    let mut again = hub.resume("loose", gap.id()).await;
    assert_eq!(again.next().await.data, "2", "once is enough");
    let mut synced = hub.resume("sync/a", &safe).await;
    hub.publish("sync/a", "2").await;
    assert_eq!(synced.next().await.data, "2", "nothing can be missing there");
}

/// An event of the largest default size, with tokens around it, reaches all subscribers: live and
/// late, over either engine, from memory and from disk.
#[tokio::test]
async fn an_event_of_the_largest_size_reaches_subscribers_with_default_bounds() {
    let place = Place::new("[[channels.rules]]\npattern = \"d/*\"\ndurability = \"async\"\n");
    let hub = place.hub().await;
    let large = "x".repeat(8 << 20);
    let all: Vec<&str> = std::iter::repeat_n("a token", 3)
        .chain([large.as_str()])
        .chain(std::iter::repeat_n("another", 100))
        .collect();
    for channel in ["m/1", "d/1"] {
        let mut written = hub.subscribe(channel).await;
        let mut body = hub.stream(&format!("/v1/events?channel={channel}"), &[]).await;
        body.raw_until("its first bytes", |raw| raw.contains("retry:")).await;
        let to = format!("/v1/channels/{channel}");
        for part in [&all[..4], &all[4..]] {
            hub.post(&to, "text/event-stream", event_stream(part)).await.ok();
        }
        let mut late = hub.stream(&format!("{to}?from=earliest"), &[]).await;
        for client in [&mut written, &mut late] {
            let seen = client.take(all.len()).await;
            assert!(texts(&seen) == all, "{channel}");
        }
        let seen = body.take(all.len()).await;
        assert!(
            seen.iter()
                .map(|event| event.json()["data"].as_str().unwrap().to_owned())
                .eq(all.iter().map(|data| (*data).to_owned())),
            "{channel}"
        );
    }
    let hub = place.restart(hub).await;
    let mut replayed = hub.stream("/v1/channels/d/1?from=earliest", &[]).await;
    assert!(texts(&replayed.take(all.len()).await) == all, "from disk");
    let over = format!("data: {large}x\n\n");
    let reply = hub.post("/v1/channels/d/1", "text/event-stream", over).await;
    assert_eq!(reply.status(), 413);
}
