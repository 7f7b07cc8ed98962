//! All viewers of a generation end with the same text, whenever and however they join: random
//! formats, parts, splits of the body, positions to join, and coalescing, over a real server.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::support::generation::{Format, Generation, Ledger, Part, Viewer};
use crate::support::{TestHub, within};

/// A viewer that joins.
#[derive(Clone, Debug)]
struct Joiner {
    /// The piece of the body after which it joins.
    when: Index,
    from: &'static str,
    coalesce: &'static str,
}

/// A generation and its viewers.
#[derive(Clone, Debug)]
struct Story {
    format: Format,
    parts: Vec<Part>,
    /// The positions at which the body is cut.
    cuts: Vec<Index>,
    joiners: Vec<Joiner>,
}

/// Tokens with all difficult characters, except line ends that SSE would not keep.
fn tokens() -> impl Strategy<Value = Vec<String>> {
    let token = prop_oneof![
        4 => "[ a-z]{1,8}",
        1 => select(vec![" ", "\n\n", "\"", "\\", "é", "🎺", "雨 ", "[DONE].", "data: x", "{", "}"])
            .prop_map(str::to_owned),
    ];
    vec(token, 1..30)
}

fn parts() -> impl Strategy<Value = Vec<Part>> {
    let arguments = tokens().prop_map(|tokens| {
        let mut pieces = vec!["{\"city\":\"".to_owned()];
        pieces.extend(tokens.iter().map(|token| token.replace(['"', '\\', '\n'], "-")));
        pieces.push("\"}".to_owned());
        pieces
    });
    let part = prop_oneof![
        3 => tokens().prop_map(Part::Text),
        1 => tokens().prop_map(Part::Reasoning),
        1 => arguments.prop_map(Part::Call),
    ];
    // At most one call, because the oracle does not distinguish several.
    vec(part, 1..4).prop_map(|mut parts| {
        let mut called = false;
        parts.retain(|part| {
            let again = called && is_call(part);
            called |= is_call(part);
            !again
        });
        parts
    })
}

fn is_call(part: &Part) -> bool {
    matches!(part, Part::Call(_))
}

fn joiner() -> impl Strategy<Value = Joiner> {
    (
        any::<Index>(),
        select(vec!["snapshot", "snapshot", "earliest"]),
        select(vec!["off", "off", "1ms", "5ms", "40ms", "adaptive"]),
    )
        .prop_map(|(when, from, coalesce)| Joiner { when, from, coalesce })
}

fn story() -> impl Strategy<Value = Story> {
    let story = (select(&Format::ALL), parts(), vec(any::<Index>(), 0..24), vec(joiner(), 1..5));
    story.prop_map(|(format, parts, cuts, joiners)| Story { format, parts, cuts, joiners })
}

/// Publishes the generation to its own channel and checks the viewers.
async fn live(hub: &Arc<TestHub>, channel: &str, story: &Story) {
    let generation = Generation::with(story.format, &story.parts);
    let body = generation.whole().into_bytes();
    let mut cuts: Vec<usize> = story.cuts.iter().map(|cut| cut.index(body.len())).collect();
    cuts.extend([0, body.len()]);
    cuts.sort_unstable();
    let pieces: Vec<&[u8]> = cuts.windows(2).map(|cut| &body[cut[0]..cut[1]]).collect();
    let mut joined = Vec::new();
    let mut producer = generation.producer(hub, channel).await;
    for (n, piece) in pieces.iter().enumerate() {
        for joiner in story.joiners.iter().filter(|joiner| joiner.when.index(pieces.len()) == n) {
            let Joiner { from, coalesce, .. } = joiner;
            let to = format!("/v1/channels/{channel}?from={from}&coalesce={coalesce}");
            let hub = Arc::clone(hub);
            let format = story.format;
            joined.push(tokio::spawn(async move { Viewer::watch(&hub, format, &to).await }));
        }
        producer.send(piece).await;
        tokio::time::sleep(Duration::from_millis(1)).await; // the pace of the producer
    }
    let receipt = within("the receipt", producer.finish()).await.ok().json();
    assert_eq!(receipt["state"], "complete");
    let ledger = Ledger::read(hub, story.format, channel).await;
    assert_eq!(ledger.len(), generation.chunks.len());
    for viewer in joined {
        let viewer = within("a joiner", viewer).await.expect("all of it");
        viewer.assert_complete(&generation);
        ledger.assert_follows(story.format, viewer.joined.as_deref(), &viewer.seen);
        if viewer.snapshot.is_some() {
            ledger.assert_snapshot(&viewer);
        }
    }
}

#[test]
fn a_snapshot_joiner_and_an_earliest_joiner_end_with_equal_text() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let hub = Arc::new(runtime.block_on(TestHub::start()));
    let number = Cell::new(0);
    let config = ProptestConfig {
        cases: 48,
        failure_persistence: None,
        max_shrink_time: 20_000,
        ..ProptestConfig::default()
    };
    proptest!(config, |(story in story())| {
        number.set(number.get() + 1);
        runtime.block_on(live(&hub, &format!("c/{}", number.get()), &story));
    });
}
