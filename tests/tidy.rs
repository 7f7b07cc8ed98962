//! The rules of the repository, checked by `cargo test`.
#![allow(clippy::unwrap_used)] // a test may: what cannot be read cannot be checked

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The layers of the modules. A module imports from lower layers; in the lowest and the highest
/// layer, also from modules listed before it.
const FLOORS: &[&[&str]] = &[
    &[
        "limits",
        "clock",
        "position",
        "channel",
        "event",
        "gathered",
        "shutdown",
        "lease",
        "telemetry",
        "value",
    ],
    &["sse", "generation", "outbound"],
    &["store", "auth", "quota"],
    &["hub"],
    &["ingest", "egress", "hooks"],
    &["http"],
    &["protocol", "admin"],
    &["config", "server", "cli", "main"],
];

/// Layers whose modules may import those listed before them.
const ORDERED: &[usize] = &[0, 7];

/// Imports that a module must not have although they are below it: text that its files must not
/// contain.
const NEVER: &[(&str, &[&str], &str)] = &[
    ("hub", &["hyper", "http::", "http_body"], "the hub knows no HTTP"),
    ("ingest", &["hyper", "http::", "http_body"], "the way in knows bytes, not requests"),
    ("store", &["hyper", "http::", "tokio"], "a log is a data structure, not a task"),
    (
        "auth",
        &["hyper", "http::", "tokio"],
        "who may do what is a question of values, not requests",
    ),
    ("quota", &["hyper", "http::"], "how much is a question of numbers"),
    ("sse", &["hyper", "http::", "tokio"], "a grammar is bytes in, bytes out"),
    ("egress", &["hyper", "http::", "HeaderMap"], "the way out knows a body, not a request"),
];

struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Returns the module of `src/` that the file belongs to.
    fn module(&self) -> String {
        let inside = self.path.strip_prefix("src").unwrap();
        let first = inside.components().next().unwrap().as_os_str().to_string_lossy();
        first.trim_end_matches(".rs").to_owned()
    }

    /// Returns the lines of code, without comments and without everything after the tests begin.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().enumerate().map(|(number, line)| (number + 1, line));
        lines
            .take_while(|(_, line)| !line.starts_with("#[cfg(test)]"))
            .filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

fn sources(folder: &str) -> Vec<Source> {
    let mut found = Vec::new();
    collect(Path::new(folder), &mut found);
    assert!(found.len() > 1, "{folder} has no sources: the rules would hold for nothing");
    found
}

fn collect(folder: &Path, found: &mut Vec<Source>) {
    let mut entries: Vec<_> =
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() && !path.ends_with("target") && !path.ends_with("node_modules") {
            collect(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(Source { text: fs::read_to_string(&path).unwrap(), path });
        }
    }
}

fn place(module: &str) -> (usize, usize) {
    let seats = FLOORS.iter().enumerate();
    let mut seats = seats.filter_map(|(floor, row)| {
        row.iter().position(|name| *name == module).map(|seat| (floor, seat))
    });
    seats.next().unwrap_or_else(|| panic!("`{module}` has no floor: add it to FLOORS on purpose"))
}

fn may_import(from: &str, to: &str) -> bool {
    let ((from_floor, from_seat), (to_floor, to_seat)) = (place(from), place(to));
    from == to
        || to_floor < from_floor
        || (to_floor == from_floor && ORDERED.contains(&to_floor) && to_seat < from_seat)
}

/// Returns the modules that a line names after `crate::`, also those of `crate::{a, b}`.
fn imports(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    for rest in line.split("crate::").skip(1) {
        let list = rest.strip_prefix('{').and_then(|list| list.split('}').next());
        for item in list.unwrap_or(rest).split(if list.is_some() { ',' } else { ';' }) {
            let name: String =
                item.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
            if !name.is_empty() {
                found.push(name);
            }
        }
    }
    found
}

#[test]
fn imports_point_down() {
    let mut seen = BTreeSet::new();
    for source in sources("src").iter().filter(|source| source.module() != "lib") {
        let from = source.module();
        for (number, line) in source.code() {
            for to in imports(line) {
                assert!(
                    may_import(&from, &to),
                    "{}:{number}: `{from}` imports `{to}`",
                    source.name()
                );
                seen.insert((from.clone(), to));
            }
        }
    }
    assert!(seen.len() > 20, "the rule found no imports: is it still reading them?");
}

#[test]
fn every_module_has_a_floor_and_every_floor_its_modules() {
    let present: BTreeSet<_> = sources("src").iter().map(Source::module).collect();
    for module in present.iter().filter(|module| *module != "lib") {
        place(module);
    }
    for module in FLOORS.iter().flat_map(|row| row.iter()) {
        assert!(present.contains(*module), "`{module}` has a floor and does not exist");
    }
}

#[test]
fn rooms_do_not_know_each_other() {
    for source in sources("src/protocol") {
        let inside = source.path.strip_prefix("src/protocol").unwrap();
        let own = inside.components().next().unwrap().as_os_str().to_string_lossy().into_owned();
        for (number, line) in source.code() {
            for rest in line.split("protocol::").skip(1) {
                assert!(
                    rest.starts_with(&own),
                    "{}:{number} names another protocol",
                    source.name()
                );
            }
        }
    }
}

#[test]
fn each_part_stays_ignorant_of_what_is_not_its_business() {
    for (module, words, why) in NEVER {
        for source in sources("src").iter().filter(|source| source.module() == *module) {
            for (number, line) in source.code() {
                for word in *words {
                    let named = line.contains(word) && !line.contains("crate::http::");
                    assert!(!named, "{}:{number}: `{word}`: {why}", source.name());
                }
            }
        }
    }
}

#[test]
fn only_the_grammar_knows_its_field_names() {
    for source in sources("src").iter().filter(|source| source.module() != "sse") {
        for (number, line) in source.code() {
            for field in ["\"data: ", "\"event: ", "\"id: ", "\"retry: ", "b\"data:", "\"data:"] {
                assert!(!line.contains(field), "{}:{number} writes `{field}`", source.name());
            }
        }
    }
}

#[test]
fn only_ingest_appends() {
    for source in sources("src") {
        if ["ingest", "hub", "store", "sse"].contains(&source.module().as_str()) {
            continue;
        }
        for (number, line) in source.code() {
            assert!(!line.contains("hub().append"), "{}:{number} appends", source.name());
            assert!(!line.contains("hub.append"), "{}:{number} appends", source.name());
        }
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    for source in sources("src").iter().chain(&sources("tests")) {
        assert!(source.text.starts_with("//! "), "{} does not begin with `//!`", source.name());
    }
}

#[test]
fn lines_are_at_most_a_hundred_columns_wide() {
    for source in sources("src") {
        for (number, line) in source.text.lines().enumerate() {
            let width = line.chars().count();
            assert!(width <= 100, "{}:{} has {width} columns", source.name(), number + 1);
        }
    }
}

#[test]
fn nothing_climbs_out_of_its_folder_twice() {
    for source in sources("src") {
        for (number, line) in source.code() {
            assert!(!line.contains("super::super::"), "{}:{number}", source.name());
        }
    }
}

#[test]
fn nothing_is_left_for_later_without_saying_so() {
    for source in sources("src").iter().chain(&sources("tests")) {
        for (number, line) in source.text.lines().enumerate() {
            let later = ["TO".to_owned() + "DO", "FIX".to_owned() + "ME", "XX".to_owned() + "X"];
            let left = later.iter().any(|word| line.contains(word.as_str()));
            assert!(!left, "{}:{} leaves something for later", source.name(), number + 1);
        }
    }
}
