//! Publishes into a hub whose store takes something and refuses the rest.

use bytes::Bytes;
use rustix::io::Errno;

use crate::event::GapReason;
use crate::hub::tests::support::{Stage, bounds, event, name};
use crate::hub::{
    Append, ChannelOptions, Config as HubConfig, Next, Opened, Rule, Selection, Step,
};
use crate::ingest::{Begun, Config, Failure, Ingest, MultiReceipt, Sender};
use crate::position::{Offset, StartFrom};
use crate::store::disk::tests::gated::{Gated, store_config};
use crate::store::disk::{Durability, OpenOptions};

/// A hub that stores what is below `d/`, and keeps all else in memory.
struct Kept {
    stage: Stage,
    ingest: Ingest,
}

impl Kept {
    fn new() -> Self {
        Self::on(Stage::of(Gated::new(), store_config(Durability::Memory), channels()))
    }

    fn on(stage: Stage) -> Self {
        let ingest = Ingest::new(stage.hub.clone(), Config::default());
        ingest.restore(&stage.found.receipts);
        Self { stage, ingest }
    }

    /// Starts another hub on the disk as a killed process leaves it.
    fn kill(self) -> Self {
        let config = self.stage.config.clone();
        Self::on(self.stage.kill(config, channels()))
    }

    /// Publishes one line to each of these channels, under one key. The body comes in chunks;
    /// before one of them the disk is full.
    async fn scatter_filling(
        &self,
        pieces: &[&[&str]],
        full_before: usize,
    ) -> Result<MultiReceipt, Failure> {
        let sender = Sender { name: "me".into(), may: Box::new(|_| true), account: None };
        let mut publish =
            match self.ingest.publish_many(sender, Some("key".parse().unwrap())).unwrap() {
                Begun::Replay(receipt) => return Ok(receipt),
                Begun::Publish(publish) => publish,
            };
        for (number, channels) in pieces.iter().enumerate() {
            if number == full_before {
                self.stage.fill();
            }
            let line = |name| format!("{{\"channel\":\"{name}\",\"data\":\"x\"}}\n");
            let piece: String = channels.iter().map(line).collect();
            publish.feed(&Bytes::from(piece)).await?;
        }
        publish.finish().await
    }

    async fn scatter(&self, channels: &[&str]) -> Result<MultiReceipt, Failure> {
        self.scatter_filling(&[channels], usize::MAX).await
    }

    fn held<const N: usize>(&self, names: [&str; N]) -> [u64; N] {
        let described = |name: &str| self.stage.hub.describe(&name.parse().unwrap());
        names.map(|name| described(name).map_or(0, |channel| channel.events))
    }
}

fn channels() -> HubConfig {
    let rule = Rule {
        pattern: "d/**".parse().unwrap(),
        durability: Some(Durability::Sync),
        options: ChannelOptions::default(),
    };
    HubConfig { rules: vec![rule], ..HubConfig::default() }
}

#[tokio::test]
async fn a_retry_publishes_the_lines_that_were_refused_and_no_other() {
    let kept = Kept::new();
    let lines = ["m/1", "d/a", "m/2", "m/2"];
    kept.stage.fill();
    let failure = kept.scatter(&lines).await.unwrap_err();
    assert_eq!(kept.held(["m/1", "m/2", "d/a"]), [1, 2, 0]);
    assert_eq!((failure.kept.events, failure.place), (3, None), "{failure:?}");
    // The disk is still full: the publish is now refused at once.
    assert!(kept.scatter(&lines).await.is_err());
    kept.stage.make_room();
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
    kept.stage.make_room();
    kept.scatter_filling(&[&["d/a", "d/b"], &["m", "d/c"]], 1).await.unwrap_err();
    assert_eq!(kept.held(["d/a", "d/b", "m", "d/c"]), [1, 1, 1, 0]);
    let kept = kept.kill();
    let receipt = kept.scatter(&["d/a", "d/b", "m", "d/c"]).await.unwrap();
    assert_eq!(receipt.events, 4);
    assert_eq!(kept.held(["d/a", "d/b", "d/c"]), [1, 1, 1]);
    assert_eq!(kept.held(["m"]), [0], "it went with the memory of the hub, and was seen before");
}

/// A client resumes with an id from when the channel was in memory; it is durable now.
#[tokio::test]
async fn events_of_a_name_that_was_not_durable_are_not_gone_in_silence() {
    let mut stage = Stage::new(Durability::Memory);
    let appended =
        stage.hub.submit(&name("c"), Append::of(&[event("x"), event("y")], None)).unwrap();
    let offsets = appended.committed().unwrap().offsets;
    let id = stage.hub.position(offsets.unwrap().0).to_string();
    for life in 0..3 {
        stage = stage.kill(store_config(Durability::Sync), HubConfig::default());
        for selection in [
            Selection::One(name("c")),
            Selection::Many(vec!["c".parse().unwrap()]),
            Selection::Many(vec!["*".parse().unwrap()]),
        ] {
            let from = StartFrom::After(id.as_str().into());
            let Opened::Live(mut subscription) =
                stage.hub.subscribe(selection.clone(), &from, bounds()).unwrap()
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
    let stage = Stage::of(Gated::new(), store_config(Durability::Memory), channels());
    stage.files.disk.make_no_files(Some(Errno::NOSPC));
    let publish = || stage.hub.submit(&name("m"), Append::of(&[event("x")], None));
    let mut last = None;
    while let Ok(appended) = publish() {
        last = Some(appended.committed().unwrap().offsets.unwrap().0);
        assert!(last < Some(Offset(10_000)), "they are given out, and not reserved");
    }
    let (next, _) = stage.files.after_kill().store(&stage.config, OpenOptions::default());
    assert!(Some(next.first_offset()) > last, "{next:?} of {last:?}");
    stage.files.disk.make_no_files(None);
    stage.make_room();
    assert!(publish().is_ok());
}
