//! The fold of events, in every format: randomly merged neighbours have the same fold and the same
//! end.
//!
//! The input: a byte for the format (or, if it is large, the format is detected from the first
//! event), a byte that selects the neighbours to merge, and events, one per line. A line that
//! begins with `!` has an event type up to the first space.

use fanfare::internals::generation::{Fold, Format, Mark, Merge, ModelEvent, PartKind, Recogniser};

/// An event's type and data.
type Event<'a> = (Option<&'a str>, String);

/// Checks one input.
///
/// # Panics
/// If a property does not hold.
pub fn check(input: &[u8]) {
    let [format, joins, rest @ ..] = input else { return };
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let events: Vec<Event<'_>> = text.split('\n').map(event).collect();
    let mut recogniser = Recogniser::new();
    recogniser.look(&ModelEvent::new(None, &events[0].1));
    let Some(format) = Format::ALL.get(usize::from(*format)).copied().or(recogniser.format())
    else {
        return;
    };
    let merged = merge(format, &events, *joins);
    assert!(merged.len() <= events.len(), "a merge made more of it");
    let before = fold(format, &events);
    let after = fold(format, &merged);
    assert_eq!(value(&before), value(&after), "merged, it adds up to something else");
    assert_eq!(before.parts(), after.parts());
    assert_eq!(marks(format, &events), marks(format, &merged), "merged, it ends in another way");
    folded(&before, &events);
}

fn event(line: &str) -> Event<'_> {
    match line.strip_prefix('!').and_then(|line| line.split_once(' ')) {
        Some((event_type, data)) => (Some(event_type), data.to_owned()),
        None => (None, line.to_owned()),
    }
}

fn merge<'a>(format: Format, events: &[Event<'a>], joins: u8) -> Vec<Event<'a>> {
    let mut merged: Vec<Event<'a>> = Vec::new();
    let mut current: Option<(Merge, Option<&'a str>)> = None;
    for (number, (event_type, data)) in events.iter().enumerate() {
        let read = ModelEvent::new(*event_type, data);
        let may = joins >> (number % 8) & 1 == 0;
        if let Some((merge, _)) = current.as_mut()
            && may
            && merge.try_add(&read)
        {
            continue;
        }
        merged.extend(current.take().map(finish));
        match Merge::begin(format, &read) {
            Some(merge) => current = Some((merge, *event_type)),
            None => merged.push((*event_type, data.clone())),
        }
    }
    merged.extend(current.map(finish));
    merged
}

fn finish<'a>((merge, event_type): (Merge, Option<&'a str>)) -> Event<'a> {
    let len = merge.len();
    let data = merge.finish();
    assert_eq!(data.len(), len, "a merge is of another size than it says");
    (event_type, data)
}

fn fold(format: Format, events: &[Event<'_>]) -> Fold {
    let mut fold = Fold::new(format);
    for (event_type, data) in events {
        fold.push(&ModelEvent::new(*event_type, data));
    }
    fold
}

fn value(fold: &Fold) -> serde_json::Value {
    let text = serde_json::to_string(fold).expect("a fold can be written");
    serde_json::from_str(&text).expect("a fold is JSON")
}

fn marks(format: Format, events: &[Event<'_>]) -> Vec<Mark> {
    events
        .iter()
        .filter_map(|(event_type, data)| format.mark(&ModelEvent::new(*event_type, data)))
        .collect()
}

fn folded(fold: &Fold, events: &[Event<'_>]) {
    let held: usize = fold.parts().iter().map(|part| part.text.len()).sum();
    assert!(fold.weight() >= held, "{held} bytes weigh {}", fold.weight());
    // A fold adds nothing to the text: at most a character for an escape.
    let said: usize = events.iter().map(|(_, data)| data.len()).sum();
    assert!(held <= 3 * said, "{said} bytes became {held}");
    let texts = fold.parts().iter().filter(|part| part.choice == 0 && part.kind == PartKind::Text);
    assert_eq!(fold.text(), texts.map(|part| part.text.as_str()).collect::<String>());
    if fold.format() == Format::Text {
        let ends = |data: &&str| *data == "[DONE]";
        let all = events.iter().map(|(_, data)| data.as_str());
        assert_eq!(fold.text(), all.filter(|data| !ends(data)).collect::<String>());
    }
}
