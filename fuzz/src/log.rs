//! The content of a channel's log, read by a subscription.

use fanfare::internals::channel::{ChannelName, ChannelPattern};
use fanfare::internals::hub::{Bounds, Hub, Next, OnLag, Opened, Selection, Step};
use fanfare::internals::position::StartFrom;
use fanfare_sse::Frames;

/// An event of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Logged {
    pub(crate) id: String,
    pub(crate) event_type: Option<String>,
    pub(crate) data: String,
}

/// The events that a subscription returned until there were no more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The number of events before each gap.
    pub(crate) gaps: Vec<usize>,
    pub(crate) events: Vec<Logged>,
    /// There was nothing left to subscribe to.
    pub(crate) over: bool,
}

/// Reads a channel from this start.
pub(crate) fn read(hub: &Hub, name: &ChannelName, from: &StartFrom) -> Seen {
    follow(hub, Selection::One(name.clone()), from)
}

/// Reads the channels of a pattern from this start.
pub(crate) fn read_many(hub: &Hub, pattern: &ChannelPattern, from: &StartFrom) -> Seen {
    follow(hub, Selection::Many(vec![pattern.clone()]), from)
}

fn follow(hub: &Hub, selection: Selection, from: &StartFrom) -> Seen {
    let bounds =
        Bounds { max_lag_events: u64::MAX, max_lag_bytes: u64::MAX, on_lag: OnLag::Disconnect };
    let mut seen = Seen::default();
    let mut subscription = match hub.subscribe(selection, from, bounds) {
        Ok(Opened::Live(subscription)) => subscription,
        Ok(Opened::Later(_)) => panic!("nothing is on disk"),
        Ok(Opened::Over) => return Seen { over: true, ..seen },
        Err(error) => panic!("a subscription is refused: {error}"),
    };
    while let Next::Step(step) = subscription.try_next() {
        match step {
            Step::Events { batch, .. } => {
                let bytes = batch.bytes();
                let frames = Frames::new(&bytes).map(|frame| Logged {
                    id: frame.id().to_owned(),
                    event_type: frame.event_type().map(str::to_owned),
                    data: frame.data().into_owned(),
                });
                let before = seen.events.len();
                seen.events.extend(frames);
                assert_eq!(seen.events.len() - before, batch.count(), "a frame is damaged");
            }
            Step::Gap(_) => seen.gaps.push(seen.events.len()),
            Step::Snapshot { .. } | Step::Ended { .. } => {}
        }
    }
    seen
}
