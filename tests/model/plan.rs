//! The operations of the model, and their proptest strategies.

use fanfare::internals::event::ChannelState;
use fanfare::internals::hub::OnLag;
use proptest::prelude::*;

use super::oracle::Text;

/// The channels of the model.
pub(crate) const CHANNELS: [&str; 4] = ["a", "b", "logs/x", "logs/y"];

/// The selections of subscriptions: one channel, or (from 4 on) many.
pub(crate) const SELECTIONS: [&[&str]; 13] = [
    &["a"],
    &["b"],
    &["logs/x"],
    &["logs/y"],
    &["a"],
    &["a", "b"],
    &["a", "b", "a"],
    &["logs/x", "logs/y", "a"],
    &["logs/*"],
    &["**"],
    &["a", "logs/*"],
    &["logs/x", "logs/*"],
    &["*/y", "*"],
];

/// The first selection of many channels.
pub(crate) const FIRST_OF_MANY: usize = CHANNELS.len();

/// The initial configuration of a hub.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) max_events: u64,
    pub(crate) max_bytes: u64,
    /// The memory budget; large if there is none.
    pub(crate) budget: Option<u64>,
}

/// One operation.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Publish {
        channel: usize,
        events: Vec<Text>,
        close: Option<(ChannelState, Option<&'static str>)>,
    },
    Delete(usize),
    Configure {
        channel: usize,
        max_events: Option<u64>,
        max_bytes: Option<u64>,
        ages: Option<bool>,
        idles: Option<bool>,
    },
    Sweep,
    Subscribe {
        selection: usize,
        from: From,
        bounds: Lag,
    },
    /// Reads this many steps; the viewer sleeps if there are no more and it waits.
    Read {
        viewer: usize,
        steps: usize,
        waits: bool,
    },
    Leave(usize),
    /// Leaves and resumes after the last id it has seen, perhaps with other channels.
    Resume {
        viewer: usize,
        selection: Option<usize>,
    },
}

/// The start of a subscription.
#[derive(Clone, Debug)]
pub(crate) enum From {
    Tail,
    Earliest,
    Last(u64),
    /// Any id that any viewer has seen.
    Seen(usize),
    /// Any offset that was ever assigned.
    Any(usize),
    Foreign(usize),
    Future(u64),
    Garbage(usize),
}

/// The lag limits of a subscription.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lag {
    pub(crate) events: u64,
    pub(crate) bytes: u64,
    pub(crate) on_lag: OnLag,
}

pub(crate) const GARBAGE: [&str; 6] =
    ["", "42", "ABC-1", "é", "abc-01", "abc-18446744073709551616"];

fn channel() -> impl Strategy<Value = usize> {
    0..CHANNELS.len()
}

fn text() -> impl Strategy<Value = Text> {
    let event_type = prop_oneof![
        3 => Just(None),
        1 => Just(Some("token")),
        1 => Just(Some("x.y"))
    ];
    let data = prop_oneof![
        4 => "[a-z]{0,8}",
        1 => "[ab\r\n: ]{0,12}",
        1 => (1usize..300).prop_map(|len| "0123456789".repeat(len / 10 + 1)),
    ];
    (event_type, data).prop_map(|(event_type, data)| Text { event_type, data })
}

fn close() -> impl Strategy<Value = (ChannelState, Option<&'static str>)> {
    let state = prop_oneof![
        Just(ChannelState::Complete),
        Just(ChannelState::Error),
        Just(ChannelState::Cancelled)
    ];
    (state, prop_oneof![Just(None), Just(Some("a \"reason\""))])
}

fn publish() -> impl Strategy<Value = Op> {
    let events = prop_oneof![
        8 => prop::collection::vec(text(), 0..5),
        1 => prop::collection::vec(text(), 5..40)
    ];
    (channel(), events, prop::option::weighted(0.12, close()))
        .prop_map(|(channel, events, close)| Op::Publish { channel, events, close })
}

fn configure() -> impl Strategy<Value = Op> {
    let max_events = prop::option::of(prop_oneof![0u64..6, Just(1000)]);
    let max_bytes = prop::option::weighted(0.3, prop_oneof![0u64..600, Just(1 << 20)]);
    let flag = || prop::option::weighted(0.4, any::<bool>());
    (channel(), max_events, max_bytes, flag(), flag()).prop_map(
        |(channel, max_events, max_bytes, ages, idles)| Op::Configure {
            channel,
            max_events,
            max_bytes,
            ages,
            idles,
        },
    )
}

fn subscribe() -> impl Strategy<Value = Op> {
    let from = prop_oneof![
        4 => Just(From::Tail),
        3 => Just(From::Earliest),
        3 => (0u64..8).prop_map(From::Last),
        5 => (0usize..1000).prop_map(From::Seen),
        3 => (0usize..1000).prop_map(From::Any),
        1 => (0usize..1000).prop_map(From::Foreign),
        1 => (1u64..5).prop_map(From::Future),
        1 => (0..GARBAGE.len()).prop_map(From::Garbage),
    ];
    let bounds = prop_oneof![
        3 => Just(Lag { events: 1000, bytes: 1 << 20, on_lag: OnLag::Disconnect }),
        1 => Just(Lag { events: 0, bytes: 0, on_lag: OnLag::Disconnect }),
        2 => (0u64..8).prop_map(|events| Lag { events, bytes: 1 << 20, on_lag: OnLag::Skip }),
        1 => (0u64..900).prop_map(|bytes| Lag { events: 1000, bytes, on_lag: OnLag::Skip }),
    ];
    (0..SELECTIONS.len(), from, bounds).prop_map(|(selection, from, bounds)| Op::Subscribe {
        selection,
        from,
        bounds,
    })
}

fn op() -> impl Strategy<Value = Op> {
    let viewer = || 0usize..8;
    let steps = prop_oneof![3 => 1usize..4, 2 => Just(1000)];
    let selection = prop::option::weighted(0.4, 0..SELECTIONS.len());
    prop_oneof![
        9 => publish(),
        1 => channel().prop_map(Op::Delete),
        1 => configure(),
        1 => Just(Op::Sweep),
        5 => subscribe(),
        9 => (viewer(), steps, any::<bool>())
            .prop_map(|(viewer, steps, waits)| Op::Read { viewer, steps, waits }),
        1 => viewer().prop_map(Op::Leave),
        3 => (viewer(), selection)
            .prop_map(|(viewer, selection)| Op::Resume { viewer, selection }),
    ]
}

/// A sequence of operations.
pub(crate) fn plan() -> impl Strategy<Value = Vec<Op>> {
    prop::collection::vec(op(), 1..60)
}

/// A hub that retains all, or little, of each channel.
pub(crate) fn roomy() -> impl Strategy<Value = Setup> {
    let max_events = prop_oneof![Just(1000u64), 0u64..8];
    let max_bytes = prop_oneof![3 => Just(1u64 << 20), 1 => 0u64..900];
    (max_events, max_bytes).prop_map(|(max_events, max_bytes)| Setup {
        max_events,
        max_bytes,
        budget: None,
    })
}

/// A hub with a minimal memory budget.
pub(crate) fn cramped() -> impl Strategy<Value = Setup> {
    (500u64..12_000).prop_map(|budget| Setup {
        max_events: 1000,
        max_bytes: 1 << 20,
        budget: Some(budget),
    })
}
