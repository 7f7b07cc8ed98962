//! Draws the stage: boxes side by side, redrawn in place.

use std::io::{self, Write as _};

use super::stage::{B, DemoStage, PARTS, Shade, Status, Viewer};
use crate::cli::ansi;
use crate::cli::terminal::{Paint, count};

/// The minimum and the maximum width of the picture.
const WIDTH: std::ops::RangeInclusive<usize> = 78..=108;

/// The minimum and the maximum number of lines of text in a box.
const TEXT_ROWS: std::ops::RangeInclusive<usize> = 3..=8;

/// Lines of a picture without the text in its boxes.
const FIXED_ROWS: usize = 15;

/// Returns whether a terminal of this size has room for the picture.
pub(super) fn fits((columns, rows): (usize, usize)) -> bool {
    columns > *WIDTH.start() && rows > FIXED_ROWS + 2 * TEXT_ROWS.start()
}

/// A picture on the terminal. The cursor is hidden until it is dropped.
#[derive(Debug)]
pub(super) struct Screen {
    paint: Paint,
    size: (usize, usize),
    /// The number of lines on the screen that the next picture replaces.
    drawn: usize,
}

impl Screen {
    pub(super) fn new(paint: Paint, size: (usize, usize)) -> Self {
        put("\x1b[?25l\x1b[?7l"); // no cursor; a line that is too long is cut, not wrapped
        Self { paint, size, drawn: 0 }
    }

    /// Changes the terminal size. The terminal may have rewrapped the picture, so the next one
    /// begins on a clear screen.
    pub(super) fn resize(&mut self, size: (usize, usize)) {
        if size != self.size {
            self.size = size;
            self.drawn = 0;
            put("\x1b[2J\x1b[H");
        }
    }

    /// Replaces the picture, in one write, which terminals show without flicker.
    pub(super) fn draw(&mut self, stage: &DemoStage) {
        let lines = picture(stage, self.size, self.paint);
        let mut out = String::from("\x1b[?2026h\r");
        if self.drawn > 0 {
            out.push_str(&format!("\x1b[{}A", self.drawn));
        }
        for line in &lines {
            out.push_str(line);
            out.push_str("\x1b[K\r\n");
        }
        out.push_str("\x1b[J\x1b[?2026l");
        put(&out);
        self.drawn = lines.len();
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        put("\x1b[?7h\x1b[?25h");
    }
}

/// Writes to the terminal. Errors are ignored: if the terminal is gone, SIGHUP ends the process.
fn put(text: &str) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes());
    let _ = stdout.flush();
}

/// Returns the lines of the whole picture.
fn picture(stage: &DemoStage, (columns, rows): (usize, usize), paint: Paint) -> Vec<String> {
    let width = (columns - 1).clamp(*WIDTH.start(), *WIDTH.end());
    let room = rows.saturating_sub(FIXED_ROWS + 1) / 2;
    let text_rows = room.clamp(*TEXT_ROWS.start(), *TEXT_ROWS.end());
    let inner = (width - 4) / 2 * 2; // a margin of two on either side, and two equal halves
    let mut lines = vec![String::new(), headline(stage, inner, paint), String::new()];
    lines.push(publisher_line(stage, inner, paint));
    lines.push(progress_line(stage, inner, paint));
    lines.push(String::new());
    let box_width = (inner - 2) / 2;
    for pair in [[0, 1], [2, 3]] {
        let [left, right] = pair.map(|seat| viewer_box(stage, seat, box_width, text_rows, paint));
        lines.extend(left.iter().zip(&right).map(|(left, right)| format!("{left}  {right}")));
    }
    lines.push(String::new());
    lines.push(format!("{} {}", paint.with(ansi::TITLE, "▸"), stage.caption));
    lines.push(legend(paint));
    let margin = |line: String| {
        if line.is_empty() { line } else { format!("  {line}") }
    };
    lines.into_iter().map(margin).collect()
}

fn headline(stage: &DemoStage, width: usize, paint: Paint) -> String {
    let mark = "▁▃▅█";
    let name = "Fanfare";
    let about = "one channel, four viewers";
    let used = mark.chars().count() + name.len() + about.len() + stage.hub.len() + 4;
    let space = " ".repeat(width.saturating_sub(used));
    format!(
        "{} {}  {}{space} {}",
        paint.with(ansi::ACCENT, mark),
        paint.with(ansi::TITLE, name),
        paint.with(ansi::DIM, about),
        paint.with(ansi::DIM, &stage.hub),
    )
}

/// Formats the request line and the last published tokens, with separators between them.
fn publisher_line(stage: &DemoStage, width: usize, paint: Paint) -> String {
    let request = format!("POST /v1/channels/{}", stage.channel);
    let mut room = width.saturating_sub(request.chars().count() + 3);
    let mut shown = Vec::new();
    for (age, token) in stage.recent.iter().rev().enumerate() {
        let token = token.replace('\n', "⏎");
        let needed = token.chars().count() + 1;
        if needed > room {
            break;
        }
        room -= needed;
        let token =
            if age == 0 { paint.with(ansi::BOLD, token) } else { paint.with(ansi::DIM, token) };
        shown.push(token);
    }
    shown.reverse();
    let divider = paint.with(ansi::ACCENT, "·");
    format!("{}   {}", paint.with(ansi::BOLD, request), shown.join(&divider))
}

fn progress_line(stage: &DemoStage, width: usize, paint: Paint) -> String {
    let label = format!(" {} / {}", stage.sent, count(stage.total(), "token"));
    let room = width.saturating_sub(label.chars().count());
    let done = (room * stage.sent).checked_div(stage.total()).unwrap_or(0).min(room);
    format!(
        "{}{}{}",
        paint.with(ansi::ACCENT, "━".repeat(done)),
        paint.with(ansi::DIM, "─".repeat(room - done)),
        paint.with(ansi::DIM, label),
    )
}

fn legend(paint: Paint) -> String {
    let line = |sgr, text| format!("{} {}", paint.with(sgr, "━━"), paint.with(ansi::DIM, text));
    let live = line(ansi::ACCENT, "live");
    let replayed = line(ansi::REPLAY, "replayed");
    format!("  {live}   {replayed}   {}", paint.with(ansi::DIM, "╌╌ not there"))
}

/// Draws the parts of the text that a viewer has, live or replayed.
fn ribbon(viewer: &Viewer, width: usize, total: usize, paint: Paint) -> String {
    let parts = viewer.ribbon(width, total);
    let paint_run = |run: &[Option<Shade>]| {
        let (sgr, mark) = match run.first().copied().flatten() {
            Some(Shade::Live) => (ansi::ACCENT, "━"),
            Some(Shade::Replayed) => (ansi::REPLAY, "━"),
            None => (ansi::DIM, "╌"),
        };
        paint.with(sgr, mark.repeat(run.len()))
    };
    parts.chunk_by(|a, b| a == b).map(paint_run).collect()
}

/// Draws one viewer: a frame with its name and state above, its text inside, its numbers below.
fn viewer_box(
    stage: &DemoStage,
    seat: usize,
    width: usize,
    rows: usize,
    paint: Paint,
) -> Vec<String> {
    let viewer = &stage.viewers[seat];
    let edge = if viewer.status == Status::Cut { ansi::BAD } else { ansi::DIM };
    let bar = paint.with(edge, "│");
    let mut lines = vec![upper_edge(viewer, seat, width, edge, paint)];
    for row in text_rows(viewer, width - 4, rows, paint) {
        lines.push(format!("{bar} {row} {bar}"));
    }
    let ribbon = ribbon(viewer, width - 4, stage.total(), paint);
    lines.push(format!("{bar} {ribbon} {bar}"));
    lines.push(lower_edge(stage, seat, width, edge, paint));
    lines
}

fn upper_edge(viewer: &Viewer, seat: usize, width: usize, edge: &str, paint: Paint) -> String {
    let part = PARTS[seat];
    let (mark, word, colour) = match &viewer.status {
        Status::Away => ("○", "to come", ansi::DIM),
        Status::Live => ("●", "live", ansi::GOOD),
        Status::Cut => ("✗", "disconnected", ansi::BAD),
        Status::Ended(state) => ("✓", state.as_str(), ansi::GOOD),
    };
    let used = "╭─ A  ".chars().count() + " ● ".chars().count() + " ─╮".chars().count();
    let used = used + part.role.chars().count() + word.chars().count();
    let dashes = "─".repeat(width.saturating_sub(used));
    let name = paint.with(ansi::BOLD, part.label);
    let state = paint.with(colour, format_args!("{mark} {word}"));
    format!(
        "{} {name} {} {} {state} {}",
        paint.with(edge, "╭─"),
        part.role,
        paint.with(edge, dashes),
        paint.with(edge, "─╮"),
    )
}

fn lower_edge(stage: &DemoStage, seat: usize, width: usize, edge: &str, paint: Paint) -> String {
    let viewer = &stage.viewers[seat];
    let events = count(viewer.events.len(), "event");
    let room = width.saturating_sub(6);
    let note = match &viewer.status {
        Status::Away => String::new(),
        Status::Cut => format!("{events} · last id {}", viewer.id_at_cut()),
        _ if seat == B && viewer.connections > 1 => {
            let before = viewer.seen_at_cut();
            let id = viewer.id_at_cut();
            format!("{before} + {} after {id}", viewer.events.len() - before)
        }
        _ if viewer.replayed > 0 => format!("{events} · {} replayed", viewer.replayed),
        _ if viewer.events.is_empty() => "connected".into(),
        _ => format!("{events} · at {}", viewer.last_id()),
    };
    let note: String = note.chars().take(room).collect();
    if note.is_empty() {
        return paint.with(edge, format_args!("╰{}╯", "─".repeat(width - 2)));
    }
    let dashes = "─".repeat(width.saturating_sub(note.chars().count() + 5));
    let tail = format!("{dashes}╯");
    format!("{} {} {}", paint.with(edge, "╰─"), paint.with(ansi::DIM, note), paint.with(edge, tail))
}

/// Returns the end of a viewer's text, as lines of exactly this width.
fn text_rows(viewer: &Viewer, width: usize, rows: usize, paint: Paint) -> Vec<String> {
    let mut text = viewer.text.clone();
    let live = viewer.status == Status::Live;
    if live {
        text.push(('▌', Shade::Live));
    }
    let mut wrapped = wrap(&text, width);
    let kept = wrapped.len().saturating_sub(rows);
    wrapped.drain(..kept);
    // The newest event is the brightest.
    let newest_from = if live { viewer.text.len() - viewer.newest } else { usize::MAX };
    let dim = viewer.status == Status::Cut;
    let mut lines: Vec<_> =
        wrapped.iter().map(|line| paint_line(line, newest_from, dim, width, paint)).collect();
    lines.resize_with(rows, || " ".repeat(width));
    lines
}

/// A character, its delivery, and its index in the whole text.
type Cell = (char, Shade, usize);

/// Breaks a text at spaces into lines of at most this width; longer words are split.
fn wrap(text: &[(char, Shade)], width: usize) -> Vec<Vec<Cell>> {
    let mut lines = vec![Vec::new()];
    let mut word: Vec<Cell> = Vec::new();
    let place = |lines: &mut Vec<Vec<Cell>>, word: &mut Vec<Cell>| {
        let begins_line = lines.last().is_none_or(Vec::is_empty);
        let space = usize::from(word.first().is_some_and(|(c, _, _)| *c == ' '));
        if let Some(line) = lines.last_mut()
            && line.len() + word.len() <= width
        {
            line.extend(word.drain(if begins_line { space } else { 0 }..));
            word.clear();
            return;
        }
        for piece in word[space..].chunks(width) {
            lines.push(piece.to_vec());
        }
        word.clear();
    };
    for (at, (c, shade)) in text.iter().enumerate() {
        if matches!(c, ' ' | '\n') {
            place(&mut lines, &mut word);
        }
        match c {
            '\n' => lines.push(Vec::new()),
            c => word.push((*c, *shade, at)),
        }
    }
    place(&mut lines, &mut word);
    lines
}

/// Colours the runs of a line and pads it to the width.
fn paint_line(line: &[Cell], newest_from: usize, dim: bool, width: usize, paint: Paint) -> String {
    let style = |(c, shade, at): &Cell| match shade {
        _ if *c == '▌' => Some(ansi::ACCENT),
        _ if dim => Some(ansi::DIM),
        Shade::Replayed => Some(ansi::REPLAY),
        Shade::Live if *at >= newest_from => Some(ansi::BOLD),
        Shade::Live => None,
    };
    let mut out = String::new();
    for run in line.chunk_by(|a, b| style(a) == style(b)) {
        let text: String = run.iter().map(|(c, _, _)| c).collect();
        match run.first().and_then(style) {
            Some(sgr) => out.push_str(&paint.with(sgr, text)),
            None => out.push_str(&text),
        }
    }
    out.push_str(&" ".repeat(width.saturating_sub(line.len())));
    out
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn plain(text: &str) -> Vec<(char, Shade)> {
        text.chars().map(|c| (c, Shade::Live)).collect()
    }

    fn lines(text: &str, width: usize) -> Vec<String> {
        let wrapped = wrap(&plain(text), width);
        wrapped.iter().map(|line| line.iter().map(|(c, _, _)| c).collect()).collect()
    }

    fn stage() -> DemoStage {
        let script = ["Hello", ",", " wor", "ld", "!\n", "Bye"].map(String::from).to_vec();
        DemoStage::new("http://127.0.0.1:4100".into(), "demo/story".into(), script)
    }

    #[test]
    fn text_is_broken_at_spaces() {
        assert_eq!(lines("the quick brown fox", 9), ["the quick", "brown fox"]);
        assert_eq!(lines("one\ntwo", 9), ["one", "two"]);
        assert_eq!(lines(" one", 9), ["one"]);
        assert_eq!(lines("incomprehensible", 6), ["", "incomp", "rehens", "ible"]);
        assert_eq!(lines("", 6), [""]);
    }

    #[test]
    fn every_line_of_a_box_is_as_wide_as_the_box() {
        let mut stage = stage();
        for seat in 0..4 {
            stage.connect(seat);
            for at in 0..6 {
                stage.publish(Instant::now());
                stage.receive(
                    seat,
                    Some(&format!("k7q2xm-{at}")),
                    "incomprehensible words ",
                    Instant::now(),
                );
            }
        }
        stage.cut(B);
        stage.end(0, "complete");
        for seat in 0..4 {
            for line in viewer_box(&stage, seat, 37, 5, Paint::OFF) {
                assert_eq!(line.chars().count(), 37, "{line:?}");
            }
        }
    }

    #[test]
    fn the_picture_fits_the_terminal() {
        for size in [(80, 24), (100, 30), (200, 60), (79, 22)] {
            assert!(fits(size));
            let lines = picture(&stage(), size, Paint::OFF);
            assert!(lines.len() < size.1, "{} lines in {size:?}", lines.len());
            for line in lines {
                assert!(line.chars().count() < size.0, "{line:?} in {size:?}");
            }
        }
        assert!(!fits((78, 24)) && !fits((80, 16)));
    }

    #[test]
    fn the_end_of_the_text_stays_in_sight() {
        let mut stage = stage();
        stage.connect(0);
        for word in 0..100 {
            stage.receive(0, None, &format!(" word{word}"), Instant::now());
        }
        let rows = text_rows(&stage.viewers[0], 20, 4, Paint::OFF);
        assert_eq!(rows.len(), 4);
        assert!(rows[3].contains("word99"), "{rows:?}");
    }
}
