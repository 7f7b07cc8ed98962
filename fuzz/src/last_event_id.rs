//! The id that a client sends to resume: an id of the hub, or any other text.
//!
//! The input: the id as it is sent. Each `@` in it stands for the hub's own epoch, which no fuzzer
//! guesses.

use std::sync::{Arc, LazyLock};

use fanfare::internals::channel::{ChannelName, ChannelPattern};
use fanfare::internals::event::NewEvent;
use fanfare::internals::hub::{self, Append, Hub};
use fanfare::internals::position::{Position, StartFrom};
use fanfare::internals::telemetry::Metrics;

use crate::log::{self, Seen};

/// The number of events, alternating between two channels.
const EVENTS: u64 = 40;

/// The number of events that a channel keeps.
const KEPT: u64 = 8;

struct World {
    hub: Hub,
    name: ChannelName,
    /// Of both channels.
    all: ChannelPattern,
    epoch: String,
    /// The retained offsets, of one channel and of both.
    one: Vec<u64>,
    both: Vec<u64>,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let config = hub::Config { max_events: KEPT, ..hub::Config::default() };
    let hub = Hub::new(config, Arc::new(Metrics::new()));
    let names: [ChannelName; 2] = ["fuzz/a", "fuzz/b"].map(|name| name.parse().expect("a name"));
    for number in 0..EVENTS {
        let event = NewEvent { event_type: None, data: number.to_string().into() };
        let name = &names[(number % 2) as usize];
        drop(hub.submit(name, Append::of(&[event], None)).expect("it is appended"));
    }
    let all = "fuzz/*".parse().expect("a pattern");
    let one = offsets(&log::read(&hub, &names[0], &StartFrom::Earliest));
    let both = offsets(&log::read_many(&hub, &all, &StartFrom::Earliest));
    assert_eq!((one.len() as u64, both.len() as u64), (KEPT, 2 * KEPT));
    let epoch = hub.tail().epoch.to_string();
    let [name, _] = names;
    World { hub, name, all, epoch, one, both }
});

/// Checks one input.
///
/// # Panics
/// If a property does not hold.
pub fn check(input: &[u8]) {
    let world = &*WORLD;
    let text = String::from_utf8_lossy(input).replace('@', &world.epoch);
    let parsed = text.parse::<Position>();
    assert_eq!(parsed.is_ok(), is_id(&text), "{text:?}");
    if let Ok(position) = &parsed {
        assert_eq!(position.to_string(), text, "an id is written in one way only");
    }
    let from = StartFrom::After(text.as_str().into());
    let known = parsed.ok().filter(|position| position.epoch.as_str() == world.epoch);
    let offset = known.map(|position| position.offset.0);
    resumed(offset, &world.one[..1], &world.one, &log::read(&world.hub, &world.name, &from));
    resumed(offset, &world.both[..2], &world.both, &log::read_many(&world.hub, &world.all, &from));
}

/// Checks that a resume gets all events after the id, and first a gap where events are missing.
/// `first` has the first retained event of each channel.
fn resumed(offset: Option<u64>, first: &[u64], retained: &[u64], seen: &Seen) {
    assert!(!seen.over, "nothing has ended");
    let given = offsets(seen);
    match offset.filter(|offset| *offset <= WORLD.hub.tail().offset.0) {
        Some(offset) => {
            let after = retained.iter().copied().filter(|at| *at > offset);
            assert_eq!(given, after.collect::<Vec<_>>(), "behind {offset}");
            // The last lost event of a channel is the one before its first, two back.
            let lost = first.iter().filter(|first| offset + 2 < **first);
            assert_eq!(seen.gaps.len(), lost.count(), "gaps behind {offset}");
        }
        None => {
            assert_eq!(seen.gaps, [0], "one gap, before everything else");
            assert_eq!(given, retained, "as much as there is");
        }
    }
}

fn offsets(seen: &Seen) -> Vec<u64> {
    let offset = |id: &str| id.parse::<Position>().expect("the hub's own id").offset.0;
    seen.events.iter().map(|event| offset(&event.id)).collect()
}

/// Returns whether the text is `<epoch>-<offset>`, by the documents.
fn is_id(text: &str) -> bool {
    let Some(dash) = text.rfind('-') else { return false };
    let epoch = &text[..dash];
    let offset = &text[dash + 1..];
    let plain = epoch.chars().all(|c| matches!(c, 'a'..='z' | '0'..='9'));
    let canonical = offset.parse::<u64>().is_ok_and(|number| number.to_string() == offset);
    text.len() <= 128 && !epoch.is_empty() && plain && canonical
}
