//! The results that publishers get while the store is writing.

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Waker};

use bytes::Bytes;

use crate::hub;
use crate::hub::tests::support::{Stage, begun, name};
use crate::ingest::{Begun, BodyKind, Config, Ingest, PublishError, PublishOptions};
use crate::store::disk::Durability;

#[tokio::test]
async fn an_end_that_may_still_be_refused_is_not_sent() {
    let stage = Stage::new(Durability::Sync);
    let ingest = Ingest::new(stage.hub.clone(), Config::default());
    for (channel, kind) in [("c", BodyKind::Single), ("d", BodyKind::Text)] {
        assert_eq!(stage.append(channel, "x").await, Ok(()));
        stage.files.shut();
        let _stop = begun(stage.stop(channel));
        let publish = ingest.publish(name(channel), kind, PublishOptions::default()).await;
        let Ok(Begun::Publish(mut publish)) = publish else { panic!("it does not begin") };
        let mut told = pin!(async move {
            publish.feed(&Bytes::from("late")).await?;
            publish.finish().await
        });
        let mut context = Context::from_waker(Waker::noop());
        assert!(told.as_mut().poll(&mut context).is_pending(), "{kind:?}");
        stage.files.open_up();
        let error = told.await.unwrap_err().error;
        assert_eq!(error, PublishError::Hub(hub::SubmitError::Stopped(None)));
    }
}
