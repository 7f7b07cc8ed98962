//! Arguments of a tool call that arrive value by value, each with its path, as Gemini on Vertex
//! sends them: writes the JSON that they add up to.
//!
//! Values arrive in the order of the JSON, so each is written after the one before it. A path that
//! goes back is rejected.

use super::address::Address;
use crate::json::{Fields, Json};

/// Maximum steps of a path.
const MAX_STEPS: usize = 64;

/// Writes the arguments of one tool call.
#[derive(Clone, Debug)]
pub(super) struct PartialArguments {
    address: Address<'static>,
    /// Path of the last value.
    path: Vec<PathStep>,
    /// Whether the last value is a string whose closing quote is not written yet.
    open: bool,
    /// Length of the text without the closing brackets, once the call has ended.
    unclosed: Option<usize>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum PathStep {
    Name(Box<str>),
    Item(u32),
}

impl PartialArguments {
    pub(super) fn new(address: Address<'static>) -> Self {
        Self { address, path: Vec::new(), open: false, unclosed: None }
    }

    pub(super) fn address(&self) -> Address<'static> {
        self.address.clone()
    }

    /// Returns the bytes of memory it holds.
    pub(super) fn weight(&self) -> usize {
        let named = self.path.iter().map(|step| match step {
            PathStep::Name(name) => name.len(),
            PathStep::Item(_) => 0,
        });
        size_of::<Self>() + self.path.capacity() * size_of::<PathStep>() + named.sum::<usize>()
    }

    /// Writes one value, or the next piece of a string; returns false if it does not fit here.
    pub(super) fn add(&mut self, value: &Fields<'_>, text: &mut String) -> bool {
        let path = value.text("jsonPath").and_then(|path| steps(&path));
        let Some(path) = path.filter(|path| matches!(path.first(), Some(PathStep::Name(_)))) else {
            return false;
        };
        let Some(written) = written(value) else {
            return true; // the value follows, or has ended
        };
        if let Some(length) = self.unclosed.take() {
            text.truncate(length);
        }
        if self.path == path {
            let more = contents(written).filter(|_| self.open);
            text.push_str(more.unwrap_or_default());
            return more.is_some();
        }
        if !self.go_to(path, text) {
            return false;
        }
        self.open = contents(written).is_some();
        text.push_str(if self.open { &written[..written.len() - 1] } else { written });
        true
    }

    /// Ends the call: closes what is open.
    pub(super) fn end(&mut self, text: &mut String) {
        if self.unclosed.is_none() {
            self.unclosed = Some(text.len());
            text.push_str(if self.open { "\"" } else { "" });
            text.push_str(if self.path.is_empty() { "{" } else { "" });
            close(self.path.get(1..).unwrap_or_default(), text);
            text.push('}');
        }
    }

    /// Writes the text between the last value and the one at this path.
    fn go_to(&mut self, path: Vec<PathStep>, text: &mut String) -> bool {
        let shared = self.path.iter().zip(&path).take_while(|(one, other)| one == other).count();
        let follows = match (self.path.get(shared), path.get(shared)) {
            (Some(PathStep::Item(last)), Some(PathStep::Item(next))) => {
                last.checked_add(1) == Some(*next)
            }
            (Some(PathStep::Name(_)), Some(PathStep::Name(_))) => true,
            (None, Some(_)) => self.path.is_empty(),
            _ => false,
        };
        let begins = |step: &PathStep| matches!(step, PathStep::Name(_) | PathStep::Item(0));
        if !follows || !path[shared + 1..].iter().all(begins) {
            return false;
        }
        text.push_str(if self.open { "\"" } else { "" });
        close(self.path.get(shared + 1..).unwrap_or_default(), text);
        text.push(if self.path.is_empty() { '{' } else { ',' });
        for (depth, step) in path.iter().enumerate().skip(shared) {
            if depth > shared {
                text.push(if let PathStep::Name(_) = step { '{' } else { '[' });
            }
            if let PathStep::Name(name) = step {
                text.push_str(&serde_json::Value::from(&**name).to_string());
                text.push(':');
            }
        }
        (self.path, self.open) = (path, false);
        true
    }
}

/// Closes the objects and arrays that the steps lead into, the innermost first.
fn close(steps: &[PathStep], text: &mut String) {
    for step in steps.iter().rev() {
        text.push(if let PathStep::Name(_) = step { '}' } else { ']' });
    }
}

/// Returns the value in the field for its type, as written.
fn written<'a>(value: &Fields<'a>) -> Option<&'a str> {
    let names = ["stringValue", "numberValue", "boolValue", "value"];
    let said = names.iter().find_map(|name| value.get(name)).map(Json::raw);
    let is_null = || value.all().any(|(name, _)| name.contents() == Some("nullValue"));
    said.or_else(|| is_null().then_some("null"))
}

/// Returns the bytes between the quotes of a string.
fn contents(written: &str) -> Option<&str> {
    written.strip_prefix('"')?.strip_suffix('"')
}

/// Parses a path such as `$.places[0]['zip code']`.
fn steps(path: &str) -> Option<Vec<PathStep>> {
    let mut rest = path.strip_prefix('$')?;
    let mut steps = Vec::new();
    while !rest.is_empty() && steps.len() < MAX_STEPS {
        let step;
        if let Some(name) = rest.strip_prefix('.') {
            let end = name.find(['.', '[']).unwrap_or(name.len());
            step = PathStep::Name(name[..end].into());
            rest = &name[end..];
        } else {
            let inside = rest.strip_prefix('[')?;
            if let Some(quote) = inside.chars().next().filter(|first| ['\'', '"'].contains(first)) {
                let (name, after) = inside[1..].split_once(&format!("{quote}]"))?;
                (step, rest) = (PathStep::Name(name.into()), after);
            } else {
                let (number, after) = inside.split_once(']')?;
                (step, rest) = (PathStep::Item(number.parse().ok()?), after);
            }
        }
        steps.push(step);
    }
    rest.is_empty().then_some(steps)
}
