//! The lists in the documents are complete: settings with their defaults, metrics, links.
#![allow(clippy::unwrap_used)] // a test may: what cannot be read cannot be checked

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use fanfare::internals::config::{Config, DEFAULT};

const SETTINGS: &str = include_str!("../docs/configuration.md");
const OPERATIONS: &str = include_str!("../docs/operations.md");

/// Settings that are lists of tables, and the section with the keys of these tables. A setting
/// without a default is listed without one.
const TABLES: [(&str, &str); 4] = [
    ("channels.rules", "rules"),
    ("hooks", "hooks"),
    ("auth.issuers", "auth"),
    ("auth.api_keys", "auth"),
];
const NO_DEFAULT: [&str; 1] = ["channels.when_unwatched"];

/// Returns the sections of a document by their heading, of any level.
fn sections(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::<String, String>::new();
    let mut heading = String::new();
    for line in outside_of_fences(text) {
        match line.strip_prefix('#') {
            Some(rest) => {
                rest.trim_start_matches('#').trim().to_lowercase().clone_into(&mut heading)
            }
            None => found.entry(heading.clone()).or_default().push_str(&format!("{line}\n")),
        }
    }
    found
}

fn outside_of_fences(text: &str) -> impl Iterator<Item = &str> {
    let mut inside = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        inside ^= fence;
        !inside && !fence
    })
}

/// Returns every setting but lists of tables, as `section.key`, with its default in TOML.
fn settings() -> BTreeMap<String, Option<toml::Value>> {
    let defaults: toml::Table = toml::from_str(DEFAULT).unwrap();
    let all = toml::Table::try_from(Config::default()).unwrap();
    let mut found = BTreeMap::new();
    for (section, keys) in &all {
        for key in keys.as_table().into_iter().flat_map(toml::Table::keys) {
            let name = format!("{section}.{key}");
            if TABLES.iter().all(|(table, _)| *table != name) {
                found.insert(name, defaults[section].get(key).cloned());
            }
        }
    }
    found.extend(NO_DEFAULT.map(|name| (name.to_owned(), None)));
    found
}

/// Returns the settings in a section: the text after `- **` at the beginning of a line.
fn documented(section: &str) -> impl Iterator<Item = (&str, &str)> {
    section.lines().filter_map(|line| line.strip_prefix("- **`")?.split_once("`**"))
}

#[test]
fn every_setting_is_documented_with_its_default_and_no_other_is() {
    let sections = sections(SETTINGS);
    let mut missing = settings();
    for section in toml::Table::try_from(Config::default()).unwrap().keys() {
        let text = sections.get(section).unwrap_or_else(|| panic!("no section `{section}`"));
        for (key, rest) in documented(text) {
            let name = format!("{section}.{key}");
            match missing.remove(&name) {
                Some(Some(default)) => {
                    let stated = rest.strip_prefix(" = `").and_then(|rest| rest.split_once('`'));
                    let Some((stated, _)) = stated else {
                        panic!("{name} is documented without default")
                    };
                    let value: toml::Table = toml::from_str(&format!("it = {stated}")).unwrap();
                    assert_eq!(value["it"], default, "the default of {name}");
                }
                Some(None) => assert!(rest.starts_with(", not set"), "{name} has no default"),
                // Keys of tables in lists are checked below.
                None => assert!(
                    TABLES.iter().any(|(table, place)| *place == section && has_key(table, key)),
                    "{name} is documented twice, or is no setting"
                ),
            }
        }
    }
    assert!(missing.is_empty(), "not in docs/configuration.md: {:?}", missing.keys());
}

#[test]
fn every_key_of_rules_hooks_issuers_and_api_keys_is_documented() {
    let sections = sections(SETTINGS);
    for (table, place) in TABLES {
        for key in keys_of(table) {
            let found = sections[place].contains(&format!("`{key}`"));
            assert!(found, "`{key}` of {table} is not in docs/configuration.md, {place}");
            let (_, example) = DEFAULT.split_once(&format!("# [[{table}]]")).unwrap();
            let is_part = |line: &&str| line.starts_with("# ") && !line.starts_with("# [[");
            let example = example.lines().skip(1).take_while(is_part);
            let shown = example.filter(|line| line.starts_with(&format!("# {key} = "))).count();
            assert_eq!(shown, 1, "`{key}` of {table} is not in deploy/fanfare.toml");
        }
    }
}

/// Returns the keys of a table in a list: those that an error names.
fn keys_of(table: &str) -> Vec<String> {
    let error = Config::from_toml(&format!("[[{table}]]\nnonsense = 1")).unwrap_err().to_string();
    let (_, known) = error.split_once("expected one of ").unwrap_or_else(|| panic!("{error}"));
    known.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn has_key(table: &str, key: &str) -> bool {
    keys_of(table).iter().any(|known| known == key)
}

#[test]
fn every_metric_is_documented_and_no_other_is() {
    let source = include_str!("../src/telemetry/metrics.rs");
    let mut made = BTreeSet::new();
    for call in ["counter(", "counters(", "gauge(", "gauges(", "histogram(", " opts("] {
        let arguments = source.split(call).skip(1).map(str::trim_start);
        let names = arguments.filter_map(|rest| rest.strip_prefix('"')?.split('"').next());
        made.extend(names.map(|name| format!("fanfare_{name}")));
    }
    assert!(made.len() > 30, "only these were found: {made:?}");
    let table = &sections(OPERATIONS)["metrics"];
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `fanfare_"));
    let listed: BTreeSet<_> = rows
        .filter_map(|row| row.split(['`', '{']).next())
        .map(|name| format!("fanfare_{name}"))
        .collect();
    let missing: Vec<_> = made.difference(&listed).collect();
    assert!(missing.is_empty(), "not in docs/operations.md: {missing:?}");
    let invented: Vec<_> = listed.difference(&made).collect();
    assert!(invented.is_empty(), "in docs/operations.md, and no metric: {invented:?}");
}

/// Returns the documents: all Markdown files of the repository.
fn documents() -> Vec<PathBuf> {
    let mut found = Vec::new();
    collect(Path::new("."), &mut found);
    assert!(found.len() > 15, "only these were found: {found:?}");
    found
}

fn collect(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let is_ours = !name.starts_with('.') && name != "target" && name != "node_modules";
        if path.is_dir() && !path.is_symlink() && is_ours {
            collect(&path, found);
        } else if name.ends_with(".md") {
            found.push(path);
        }
    }
}

/// Returns the anchors of a document's headings, in GitHub's form.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for heading in outside_of_fences(text).filter(|line| line.starts_with('#')) {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let again = (1..).map(|count| format!("{anchor}-{count}"));
        let unused = std::iter::once(anchor.clone()).chain(again).find(|it| !found.contains(it));
        found.extend(unused);
    }
    found
}

/// Returns the targets of a document's links.
fn links(text: &str) -> Vec<String> {
    let text: Vec<_> = outside_of_fences(text).collect();
    let text = text.join("\n");
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    targets.map(str::to_owned).collect()
}

#[test]
fn every_link_leads_to_a_file_and_to_a_heading_that_are_there() {
    let mut count = 0;
    let mut broken = Vec::new();
    for document in documents() {
        let text = fs::read_to_string(&document).unwrap();
        for link in links(&text).iter().filter(|link| !link.contains("://")) {
            count += 1;
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => document.clone(),
                file => document.parent().unwrap().join(file),
            };
            let is_there = target.exists()
                && (anchor.is_empty()
                    || anchors(&fs::read_to_string(&target).unwrap()).contains(anchor));
            if !is_there {
                broken.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(count > 100, "only {count} links were found");
    assert!(broken.is_empty(), "{broken:#?}");
}
