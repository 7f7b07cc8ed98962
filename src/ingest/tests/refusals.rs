//! Publishes into a hub whose store takes something and refuses the rest.

use std::sync::Arc;

use bytes::Bytes;

use crate::event::{GapReason, NewEvent};
use crate::hub::{
    Bounds, ChannelOptions, Config as HubConfig, Hub, Next, OnLag, Opened, Rule, Selection, Step,
};
use crate::ingest::{Begun, Config, Failure, Ingest, ScatterReceipt, Sender};
use crate::position::{Offset, StartFrom};
use crate::store::disk::Durability;
use crate::store::disk::tests::Lent;
use crate::telemetry::Metrics;

/// A hub that keeps what is below `d/`, and all else in memory.
struct Kept {
    store: Lent,
    hub: Hub,
    ingest: Ingest,
}

impl Kept {
    fn new() -> Self {
        Self::on(Lent::new(Durability::Memory, ""))
    }

    fn on(store: Lent) -> Self {
        let rule = Rule {
            pattern: "d/**".parse().unwrap(),
            durability: Some(Durability::Sync),
            options: ChannelOptions::default(),
        };
        let channels = HubConfig { rules: vec![rule], ..HubConfig::default() };
        let metrics = Arc::new(Metrics::new());
        let hub = Hub::resume(channels, metrics, &store.disk, &store.config, &store.found);
        let ingest = Ingest::new(hub.clone(), Config::default());
        ingest.restore(&store.found.receipts);
        Self { store, hub, ingest }
    }

    /// The process dies, and another is started.
    fn kill(self) -> Self {
        Self::on(self.store.kill(Durability::Memory, ""))
    }

    /// Publishes one line to each of these channels, under one key. The body comes in pieces;
    /// before one of them the disk is full.
    async fn scatter_filling(
        &self,
        pieces: &[&[&str]],
        full_before: usize,
    ) -> Result<ScatterReceipt, Failure> {
        let sender = Sender { name: "me".into(), may: Box::new(|_| true), account: None };
        let mut scatter = match self.ingest.scatter(sender, Some("key".parse().unwrap())).unwrap() {
            Begun::Replay(receipt) => return Ok(receipt),
            Begun::Publish(scatter) => scatter,
        };
        for (number, channels) in pieces.iter().enumerate() {
            if number == full_before {
                self.store.fill();
            }
            let line = |name| format!("{{\"channel\":\"{name}\",\"data\":\"x\"}}\n");
            let piece: String = channels.iter().map(line).collect();
            scatter.feed(&Bytes::from(piece)).await?;
        }
        scatter.finish().await
    }

    async fn scatter(&self, channels: &[&str]) -> Result<ScatterReceipt, Failure> {
        self.scatter_filling(&[channels], usize::MAX).await
    }

    fn held<const N: usize>(&self, names: [&str; N]) -> [u64; N] {
        let described = |name: &str| self.hub.describe(&name.parse().unwrap());
        names.map(|name| described(name).map_or(0, |channel| channel.events))
    }
}

fn bounds() -> Bounds {
    Bounds { max_lag_events: u64::MAX, max_lag_bytes: u64::MAX, on_lag: OnLag::Skip }
}

#[tokio::test]
async fn a_retry_publishes_the_lines_that_were_refused_and_no_other() {
    let kept = Kept::new();
    let lines = ["m/1", "d/a", "m/2", "m/2"];
    kept.store.fill();
    let failure = kept.scatter(&lines).await.unwrap_err();
    assert_eq!(kept.held(["m/1", "m/2", "d/a"]), [1, 2, 0]);
    assert_eq!((failure.kept.events, failure.place), (3, None), "{failure:?}");
    // Still no room: now it is refused at once.
    assert!(kept.scatter(&lines).await.is_err());
    kept.store.make_room();
    let receipt = kept.scatter(&lines).await.unwrap();
    assert_eq!(receipt.events, 4);
    assert_eq!(kept.held(["m/1", "m/2", "d/a"]), [1, 2, 1]);
    assert_eq!(kept.scatter(&lines).await.unwrap(), receipt);
    assert_eq!(kept.held(["m/1", "m/2", "d/a"]), [1, 2, 1]);
}

#[tokio::test]
async fn what_the_store_keeps_of_a_key_is_what_is_published() {
    let kept = Kept::new();
    kept.scatter_filling(&[&["d/a"], &["d/b", "m"]], 1).await.unwrap_err();
    assert_eq!(kept.held(["d/a", "d/b", "m"]), [1, 0, 1]);
    kept.store.make_room();
    kept.scatter_filling(&[&["d/a", "d/b"], &["m", "d/c"]], 1).await.unwrap_err();
    assert_eq!(kept.held(["d/a", "d/b", "m", "d/c"]), [1, 1, 1, 0]);
    let kept = kept.kill();
    let receipt = kept.scatter(&["d/a", "d/b", "m", "d/c"]).await.unwrap();
    assert_eq!(receipt.events, 4);
    assert_eq!(kept.held(["d/a", "d/b", "d/c"]), [1, 1, 1]);
    assert_eq!(kept.held(["m"]), [0], "it went with the memory of the hub, and was seen before");
}

/// Who resumes with an id of a channel that was kept in memory, and is durable by now.
#[tokio::test]
async fn events_of_a_name_that_was_not_durable_are_not_gone_in_silence() {
    let named = |durability: Durability| HubConfig::default().durable_names(durability);
    let hub_of = |store: &Lent| {
        let (config, metrics) = (HubConfig::default(), Arc::new(Metrics::new()));
        Hub::resume(config, metrics, &store.disk, &store.config, &store.found)
    };
    let store = Lent::new(Durability::Memory, &named(Durability::Memory));
    let (hub, event) = (hub_of(&store), || NewEvent { event_type: None, data: "x".into() });
    let name = "c".parse().unwrap();
    let appended = hub.append(&name, &[event(), event()], None).unwrap();
    let id = hub.position(appended.offsets.unwrap().0).to_string();
    let mut store = store;
    for life in 0..3 {
        store = store.kill(Durability::Sync, &named(Durability::Sync));
        let hub = hub_of(&store);
        for selection in [
            Selection::One("c".parse().unwrap()),
            Selection::Many(vec!["c".parse().unwrap()]),
            Selection::Many(vec!["*".parse().unwrap()]),
        ] {
            let from = StartFrom::After(id.as_str().into());
            let Opened::Live(mut subscription) =
                hub.subscribe(selection.clone(), &from, bounds()).unwrap()
            else {
                panic!("{selection:?} in life {life}")
            };
            let Next::Step(Step::Gap(gap)) = subscription.try_next() else {
                panic!("{selection:?} in life {life}: silence")
            };
            assert_eq!(gap.reason, GapReason::Evicted);
        }
    }
}

#[tokio::test]
async fn a_hub_whose_offsets_run_out_takes_nothing_until_more_are_reserved() {
    let store = Lent::new(Durability::Memory, "");
    store.fill_up();
    let kept = Kept::on(store);
    let publish = || {
        let event = NewEvent { event_type: None, data: "x".into() };
        kept.hub.append(&"m".parse().unwrap(), &[event], None)
    };
    let mut last = None;
    while let Ok(appended) = publish() {
        last = Some(appended.offsets.unwrap().0);
        assert!(last < Some(Offset(10_000)), "they are given out, and not reserved");
    }
    let next = kept.store.kill(Durability::Memory, "").disk.first_offset();
    assert!(Some(next) > last, "{next:?} of {last:?}");
    kept.store.make_room();
    assert!(publish().is_ok());
}
