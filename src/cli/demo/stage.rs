//! The state of the demo: the publisher, four viewers, and their results. No I/O.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::cli::terminal::count;
use fanfare_client::Start;

/// The number of recent tokens that are shown.
const RECENT: usize = 24;

/// The viewers, in the order of the seats.
pub(super) const PARTS: [DemoPart; 4] = [
    DemoPart { label: 'A', role: "from the start" },
    DemoPart { label: 'B', role: "by train" },
    DemoPart { label: 'C', role: "late · earliest" },
    DemoPart { label: 'D', role: "late · tail" },
];

/// The seat of the viewer that is connected all the time.
pub(super) const A: usize = 0;
/// The seat of the viewer that loses its connection.
pub(super) const B: usize = 1;
/// The seat of the late viewer that reads from the earliest event.
pub(super) const C: usize = 2;
/// The seat of the late viewer that reads from the tail.
pub(super) const D: usize = 3;

/// The description of a viewer.
#[derive(Clone, Copy, Debug)]
pub(super) struct DemoPart {
    pub(super) label: char,
    pub(super) role: &'static str,
}

impl DemoPart {
    /// Returns the start of this viewer's subscription.
    pub(super) fn start(seat: usize) -> Start {
        if seat == D { Start::Tail } else { Start::Earliest }
    }
}

/// Everything that is shown at one moment.
#[derive(Debug)]
pub(super) struct DemoStage {
    pub(super) channel: String,
    pub(super) hub: String,
    /// The tokens of the whole text.
    script: Vec<String>,
    /// The number of tokens sent to the hub.
    pub(super) sent: usize,
    sent_at: Vec<Instant>,
    pub(super) recent: VecDeque<String>,
    pub(super) viewers: [Viewer; 4],
    /// A sentence about the current scene.
    pub(super) caption: String,
}

impl DemoStage {
    pub(super) fn new(hub: String, channel: String, script: Vec<String>) -> Self {
        Self {
            channel,
            hub,
            script,
            sent: 0,
            sent_at: Vec::new(),
            recent: VecDeque::new(),
            viewers: std::array::from_fn(|_| Viewer::default()),
            caption: String::new(),
        }
    }

    pub(super) fn total(&self) -> usize {
        self.script.len()
    }

    /// Records that the next token is sent.
    pub(super) fn publish(&mut self, at: Instant) {
        if let Some(token) = self.script.get(self.sent) {
            self.sent_at.push(at);
            self.recent.push_back(token.clone());
            self.sent += 1;
        }
        if self.recent.len() > RECENT {
            self.recent.pop_front();
        }
    }

    pub(super) fn connect(&mut self, seat: usize) {
        let viewer = &mut self.viewers[seat];
        viewer.status = Status::Live;
        viewer.connections += 1;
        if viewer.events.is_empty() && seat == D {
            viewer.skipped = self.sent;
        }
        viewer.replay_until = self.sent;
    }

    /// Records an event at a viewer.
    pub(super) fn receive(&mut self, seat: usize, id: Option<&str>, text: &str, at: Instant) {
        let viewer = &mut self.viewers[seat];
        let replayed = viewer.skipped + viewer.events.len() < viewer.replay_until;
        viewer.replayed += usize::from(replayed);
        let shade = if replayed { Shade::Replayed } else { Shade::Live };
        let sent_at = self.sent_at.get(viewer.skipped + viewer.events.len());
        if let (Shade::Live, Some(sent_at)) = (shade, sent_at) {
            viewer.delays.push(at.saturating_duration_since(*sent_at));
        }
        viewer.shades.push(shade);
        viewer.text.extend(text.chars().map(|c| (c, shade)));
        viewer.newest = text.chars().count();
        viewer.events.push(id.unwrap_or_default().into());
    }

    /// Records that a viewer's connection is closed.
    pub(super) fn cut(&mut self, seat: usize) {
        let viewer = &mut self.viewers[seat];
        viewer.status = Status::Cut;
        viewer.seen_at_cut = viewer.events.len();
    }

    pub(super) fn end(&mut self, seat: usize, state: &str) {
        self.viewers[seat].status = Status::Ended(state.into());
    }

    /// Returns whether every viewer has received the end of the channel.
    pub(super) fn is_over(&self) -> bool {
        self.viewers.iter().all(|viewer| matches!(viewer.status, Status::Ended(_)))
    }

    /// Compares the events of a viewer with those published, and with those of A.
    pub(super) fn verdict(&self, seat: usize) -> DemoVerdict {
        let viewer = &self.viewers[seat];
        let received = viewer.events.len();
        let expected = self.script.len().saturating_sub(received);
        let expected = if seat == D { &self.script[expected..] } else { &self.script[..] };
        let text: String = viewer.text.iter().map(|(c, _)| c).collect();
        let ids: HashSet<_> = viewer.events.iter().collect();
        let same_ids = self.viewers[0].events.ends_with(&viewer.events);
        let ended = viewer.status == Status::Ended("complete".into());
        let whole = received > 0 && text == expected.concat();
        let good = ended && whole && ids.len() == received && same_ids;
        let all = format!("{received} of {}", count(self.total(), "event"));
        let said = match seat {
            _ if !good => format!("{all}, {} characters: NOT what was published", text.len()),
            B => format!(
                "{all}: {} before the cut, {} after {}, no gap",
                viewer.seen_at_cut,
                received - viewer.seen_at_cut,
                viewer.id_at_cut(),
            ),
            C => format!("{all}: {} replayed on arrival, the rest live", viewer.replayed),
            D => format!("{all}: each one since it came, and none before"),
            _ => format!("{all}: the whole text, each token {} after it was sent", viewer.delay()),
        };
        DemoVerdict { good, said }
    }
}

/// The result of a viewer.
#[derive(Debug)]
pub(super) struct DemoVerdict {
    pub(super) good: bool,
    pub(super) said: String,
}

/// The state of a viewer.
#[derive(Debug, Default)]
pub(super) struct Viewer {
    pub(super) status: Status,
    /// The received text, each character with its delivery.
    pub(super) text: Vec<(char, Shade)>,
    /// The delivery of each event, in order.
    shades: Vec<Shade>,
    /// The delay of each live event from the publisher to this viewer.
    delays: Vec<Duration>,
    /// The number of characters of the newest event.
    pub(super) newest: usize,
    /// The ids of the received events, in order.
    pub(super) events: Vec<String>,
    pub(super) replayed: usize,
    /// Tokens published before a viewer that starts at the tail.
    pub(super) skipped: usize,
    seen_at_cut: usize,
    pub(super) connections: usize,
    /// Events below this number are replayed: they were published before the connection was open.
    replay_until: usize,
}

impl Viewer {
    pub(super) fn last_id(&self) -> &str {
        self.events.last().map_or("", String::as_str)
    }

    /// Returns the delivery of each of `parts` equal parts of the text; `None` if it was not
    /// received.
    pub(super) fn ribbon(&self, parts: usize, total: usize) -> Vec<Option<Shade>> {
        let shade_of = |event: usize| {
            let at = event.checked_sub(self.skipped)?;
            self.shades.get(at).copied()
        };
        (0..parts).map(|part| shade_of(part * total / parts)).collect()
    }

    /// Returns the median delay of live events, formatted.
    fn delay(&self) -> String {
        let mut delays = self.delays.clone();
        delays.sort_unstable();
        let median = delays.get(delays.len() / 2).copied().unwrap_or_default();
        format!("{:.1} ms", median.as_secs_f64() * 1000.0)
    }

    /// Returns the number of events received before the connection was cut.
    pub(super) fn seen_at_cut(&self) -> usize {
        self.seen_at_cut
    }

    pub(super) fn id_at_cut(&self) -> &str {
        let last = self.seen_at_cut.checked_sub(1);
        last.and_then(|at| self.events.get(at)).map_or("", String::as_str)
    }
}

/// The connection state of a viewer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Status {
    /// Not connected yet.
    #[default]
    Away,
    Live,
    /// Disconnected, and about to reconnect.
    Cut,
    /// Received the end of the channel, with its state.
    Ended(String),
}

/// The delivery of a character: live or replayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shade {
    Live,
    Replayed,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage() -> DemoStage {
        let script = ["one", " two", " three", " four"].map(String::from).to_vec();
        DemoStage::new("http://hub".into(), "demo/story".into(), script)
    }

    fn play(stage: &mut DemoStage, seats: &[usize], at: usize) {
        let token = stage.script[at].clone();
        for seat in seats {
            stage.receive(*seat, Some(&format!("e-{at}")), &token, Instant::now());
        }
    }

    /// A demo of four tokens, played to its end.
    fn played() -> DemoStage {
        let mut stage = stage();
        stage.connect(0);
        stage.connect(B);
        stage.publish(Instant::now());
        play(&mut stage, &[0, B], 0);
        stage.cut(B);
        stage.publish(Instant::now());
        play(&mut stage, &[0], 1);
        stage.connect(C);
        stage.connect(D);
        play(&mut stage, &[C], 0);
        play(&mut stage, &[C], 1);
        stage.publish(Instant::now());
        play(&mut stage, &[0, C, D], 2);
        stage.connect(B);
        play(&mut stage, &[B], 1);
        play(&mut stage, &[B], 2);
        stage.publish(Instant::now());
        play(&mut stage, &[0, B, C, D], 3);
        (0..4).for_each(|seat| stage.end(seat, "complete"));
        stage
    }

    #[test]
    fn who_was_given_everything_is_told_so() {
        let stage = played();
        assert!(stage.is_over());
        let verdicts: Vec<_> = (0..4).map(|seat| stage.verdict(seat)).collect();
        assert!(verdicts.iter().all(|verdict| verdict.good), "{verdicts:?}");
        assert!(verdicts[B].said.contains("1 before the cut, 3 after e-0"), "{verdicts:?}");
        assert!(verdicts[C].said.contains("2 replayed"), "{verdicts:?}");
        assert!(verdicts[D].said.starts_with("2 of 4 events"), "{verdicts:?}");
    }

    #[test]
    fn replayed_text_is_told_from_live_text() {
        let stage = played();
        let replayed: String = stage.viewers[B]
            .text
            .iter()
            .filter_map(|(c, shade)| (*shade == Shade::Replayed).then_some(c))
            .collect();
        assert_eq!(replayed, " two three");
        assert!(stage.viewers[D].text.iter().all(|(_, shade)| *shade == Shade::Live));
    }

    #[test]
    fn a_ribbon_shows_what_a_viewer_has_of_the_whole() {
        let stage = played();
        let ribbon = |seat: usize| stage.viewers[seat].ribbon(4, 4);
        let live = Some(Shade::Live);
        let replayed = Some(Shade::Replayed);
        assert_eq!(ribbon(A), [live; 4]);
        assert_eq!(ribbon(B), [live, replayed, replayed, live]);
        assert_eq!(ribbon(C), [replayed, replayed, live, live]);
        assert_eq!(ribbon(D), [None, None, live, live]);
        assert_eq!(stage.viewers[A].ribbon(8, 4).len(), 8);
    }

    #[test]
    fn a_missing_a_doubled_or_a_foreign_event_is_not_good() {
        let mut missing = played();
        missing.viewers[C].events.remove(1);
        assert!(!missing.verdict(C).good);
        let mut doubled = played();
        doubled.receive(B, Some("e-3"), "", Instant::now());
        assert!(!doubled.verdict(B).good);
        let mut foreign = played();
        foreign.viewers[D].events[0] = "x-9".into();
        assert!(!foreign.verdict(D).good);
        let mut cut_short = played();
        cut_short.end(0, "error");
        assert!(!cut_short.verdict(0).good);
    }
}
