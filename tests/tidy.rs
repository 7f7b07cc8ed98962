//! The rules of the repository, checked by `cargo test`.
#![allow(clippy::unwrap_used)] // a test may: what cannot be read cannot be checked

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::iter::successors;
use std::path::{Path, PathBuf};

/// The layers of the modules. A module imports from lower layers; in the lowest and the highest
/// layer, also from modules listed before it.
const FLOORS: &[&[&str]] = &[
    &[
        "word_enum",
        "limits",
        "clock",
        "position",
        "channel",
        "json",
        "event",
        "shutdown",
        "lease",
        "telemetry",
        "value",
    ],
    &["sse", "generation", "outbound"],
    &["store", "auth", "quota"],
    &["hub"],
    &["ingest", "egress", "hooks", "backplane"],
    &["http"],
    &["protocol", "admin"],
    &["config", "embed", "server", "cli", "main"],
];

/// The modules of [`FLOORS`] that are crates of their own, in `crates/`.
const CRATES: &[&str] = &["sse"];

/// The crate of `crates/` that is support of the tests, and no part of the product.
const SUPPORT: &str = "crates/testing";

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

/// Words that no comment has: `docs/STYLE.md` says what to write in their place.
const IDIOMS: &[&str] = &[
    "whoever",
    "whosoever",
    "nobody",
    "somebody",
    "anybody",
    "everybody",
    "anew",
    "handed in",
    "hands in",
    "of late",
    "is told",
    "are told",
    "was told",
    "be told",
    "becomes of",
    "became of",
    "as a rule",
    "in vain",
    "for want of",
    "so many",
    "goes on",
    "go on",
    "behind",
    "stands",
    "stand",
    "see the module",
    "the same but",
    "the same as",
];

/// Where a word of [`IDIOMS`] is the right one.
const PLAIN: &[&str] = &[
    "lags behind",
    "lag behind",
    "lagging behind",
    "falls behind",
    "fall behind",
    "fell behind",
    "far behind",
    "is behind",
    "are behind",
    "be behind",
    "more events behind",
    "more bytes behind",
    "behind another",
    "bytes behind",
    "events behind",
    "behind the tail",
    "behind a proxy",
    "behind a trusted proxy",
    "stands for",
    "stand for",
];

struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    /// Returns the module of `src/`, or the crate of `crates/`, that the file belongs to.
    fn module(&self) -> String {
        let inside = self.path.strip_prefix("src").or(self.path.strip_prefix("crates")).unwrap();
        let first = inside.components().next().unwrap().as_os_str().to_string_lossy();
        first.trim_end_matches(".rs").to_owned()
    }

    fn is_test(&self) -> bool {
        self.path.iter().any(|part| part == "tests" || part == "tests.rs")
    }

    /// Returns the path of the file's own module in the crate.
    fn module_path(&self) -> String {
        let path = self.path.strip_prefix("src").unwrap().with_extension("");
        let parts = path.iter().map(|part| part.to_str().unwrap());
        parts.filter(|part| *part != "mod").collect::<Vec<_>>().join("::")
    }

    /// Returns the lines of code, without comments and without the module of tests at the end.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines: Vec<_> = self.text.lines().collect();
        let is_tests = |pair: &[&str]| {
            pair[0] == "#[cfg(test)]" && pair[1].contains("mod ") && pair[1].ends_with('{')
        };
        let end = lines.windows(2).position(is_tests).unwrap_or(lines.len());
        let code = lines.into_iter().take(end).enumerate().map(|(number, line)| (number + 1, line));
        code.filter(|(_, line)| !line.trim_start().starts_with("//"))
    }
}

fn sources(folder: &str) -> Vec<Source> {
    let mut found = Vec::new();
    collect(Path::new(folder), &mut found);
    assert!(found.len() > 1, "{folder} has no sources: the rules would hold for nothing");
    found
}

/// Returns the sources of the product: of the hub and of the crates beside it.
fn product() -> Vec<Source> {
    let crates = sources("crates").into_iter();
    let inside = |source: &Source| source.path.components().nth(2).unwrap().as_os_str() == "src";
    let is_product = |source: &Source| inside(source) && !source.path.starts_with(SUPPORT);
    sources("src").into_iter().chain(crates.filter(is_product)).collect()
}

/// Returns the sources of the tests and of their support.
fn tests() -> Vec<Source> {
    sources("tests").into_iter().chain(sources(SUPPORT)).collect()
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

/// The imports between the files of `src/`, which are named by their module paths.
#[derive(Default)]
struct Imports {
    /// The paths that each file names.
    named: BTreeMap<String, Vec<String>>,
    /// What a path stands for that is a re-export.
    reexported: BTreeMap<String, String>,
}

impl Imports {
    fn of(sources: &[Source]) -> Self {
        let mut imports = Self::default();
        for source in sources.iter().filter(|source| !source.is_test()) {
            imports.named.insert(source.module_path(), Vec::new());
        }
        for source in sources.iter().filter(|source| !source.is_test()) {
            let code: Vec<_> = source.code().map(|(_, line)| line).collect();
            for statement in code.join("\n").replace("pub(in crate", "pub(in ").split(';') {
                imports.add(&source.module_path(), statement);
            }
        }
        imports
    }

    fn add(&mut self, module: &str, statement: &str) {
        let (code, tree) = statement.rsplit_once("use ").unwrap_or((statement, ""));
        let is_reexport = code.lines().last().is_some_and(|line| line.starts_with("pub"));
        let mut paths = Vec::new();
        expand("", tree, &mut paths);
        for path in paths {
            let (path, name) = path.split_once(" as ").unwrap_or((&path, last_part(&path)));
            match self.absolute(module, path) {
                Some(path) if is_reexport => {
                    self.reexported.insert(format!("{module}::{name}"), path);
                }
                Some(path) => self.named.get_mut(module).unwrap().push(path),
                None => {}
            }
        }
        for start in ["crate::", "super::", "self::"] {
            for (at, _) in code.match_indices(start) {
                let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
                let path = code[at..].split(|c| !is_part(c)).next().unwrap_or_default();
                let path = self.absolute(module, path.trim_end_matches(':'));
                self.named.get_mut(module).unwrap().extend(path);
            }
        }
    }

    /// Returns a path from the root of the crate; nothing if it leads out of the crate.
    fn absolute(&self, module: &str, path: &str) -> Option<String> {
        let (first, rest) = path.split_once("::").unwrap_or((path, ""));
        match first {
            "crate" => Some(rest.to_owned()),
            "self" => Some(format!("{module}::{rest}")),
            "super" => {
                let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
                Some(format!("{parent}::{rest}"))
            }
            _ => {
                let is_child = self.named.contains_key(&format!("{module}::{first}"));
                is_child.then(|| format!("{module}::{path}"))
            }
        }
    }

    /// Returns the file that has the definition of a path.
    fn file_of(&self, path: &str) -> Option<&str> {
        for prefix in successors(Some(path), |path| Some(path.rsplit_once("::")?.0)) {
            if let Some((file, _)) = self.named.get_key_value(prefix) {
                return Some(file);
            }
            if let Some(definition) = self.reexported.get(prefix) {
                return self.file_of(&format!("{definition}{}", &path[prefix.len()..]));
            }
        }
        None
    }

    fn files_of(&self, module: &str) -> impl Iterator<Item = &str> {
        let files = self.named[module].iter().filter_map(|path| self.file_of(path));
        files.filter(move |file| *file != module)
    }

    /// Returns a shortest circle that begins and ends with this file, if there is one.
    fn circle_through(&self, file: &str) -> Option<String> {
        let mut found = BTreeSet::new();
        let mut queue = VecDeque::from([(file, file.to_owned())]);
        while let Some((from, path)) = queue.pop_front() {
            for to in self.files_of(from) {
                if to == file {
                    return Some(format!("{path} -> {file}"));
                }
                if found.insert(to) {
                    queue.push_back((to, format!("{path} -> {to}")));
                }
            }
        }
        None
    }
}

/// Lists the paths of a tree such as `a::{b, c::{d, e}}`.
fn expand(prefix: &str, tree: &str, paths: &mut Vec<String>) {
    let Some((head, items)) = tree.split_once('{') else {
        paths.extend((!tree.trim().is_empty()).then(|| format!("{prefix}{}", tree.trim())));
        return;
    };
    let prefix = format!("{prefix}{}", head.trim());
    let mut depth = 0;
    let mut start = 0;
    for (at, c) in items.char_indices() {
        match c {
            ',' | '}' if depth == 0 => {
                expand(&prefix, &items[start..at], paths);
                start = at + 1;
            }
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
    }
}

fn last_part(path: &str) -> &str {
    path.rsplit("::").next().unwrap_or(path)
}

#[test]
fn no_file_imports_itself_by_way_of_others() {
    let sources = sources("src");
    let imports = Imports::of(&sources);
    let edges: usize = imports.named.keys().map(|file| imports.files_of(file).count()).sum();
    assert!(edges > 500, "{edges} imports: is the rule still reading them?");
    let circles: BTreeMap<_, _> = imports
        .named
        .keys()
        .filter_map(|file| Some((file.as_str(), imports.circle_through(file)?)))
        .collect();
    assert!(circles.is_empty(), "circles of imports: {circles:#?}");
}

#[test]
fn a_circle_is_seen_through_a_reexport() {
    let source = |path: &str, text: &str| Source { path: path.into(), text: text.to_owned() };
    let sources = [
        source("src/a/mod.rs", "mod b;\nmod c;\npub use b::{B as Renamed, other::{X}};\n"),
        source("src/a/b.rs", "fn f() -> crate::a::c::C { x }\n"),
        source("src/a/c.rs", "use std::fmt;\nuse super::{\n    Renamed,\n};\n"),
        source("src/d.rs", "use crate::a::Renamed;\n"),
    ];
    let imports = Imports::of(&sources);
    assert_eq!(imports.circle_through("a::b").unwrap(), "a::b -> a::c -> a::b");
    assert_eq!(imports.files_of("d").collect::<Vec<_>>(), ["a::b"]);
    assert_eq!(imports.circle_through("d"), None);
}

#[test]
fn every_module_has_a_floor_and_every_floor_its_modules() {
    let present: BTreeSet<_> = sources("src").iter().map(Source::module).collect();
    for module in present.iter().filter(|module| *module != "lib") {
        place(module);
    }
    for module in FLOORS.iter().flat_map(|row| row.iter()) {
        let exists = present.contains(*module) || CRATES.contains(module);
        assert!(exists, "`{module}` has a floor and does not exist");
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
        for source in product().iter().filter(|source| source.module() == *module) {
            for (number, line) in source.code() {
                for word in *words {
                    let named = line.contains(word) && !line.contains("crate::http::");
                    assert!(!named, "{}:{number}: `{word}`: {why}", source.name());
                }
            }
        }
    }
}

/// What the state machine of the shared log must not have: all hubs must come to the same state.
const IMPURE: &[&str] = &[
    "HashMap",
    "HashSet",
    "RandomState",
    "Instant",
    "SystemTime",
    "std::fs",
    "std::net",
    "std::env",
    "std::thread",
    "std::sync",
    "fastrand",
    "tokio",
    "tracing",
    "f32",
    "f64",
];

#[test]
fn the_state_machine_depends_on_nothing_but_messages() {
    let folders = ["crates/cluster/src/state_machine", "crates/cluster/src/viewers"];
    let all: Vec<_> = folders.into_iter().flat_map(sources).collect();
    for source in all.iter().filter(|source| !source.is_test()) {
        // A table of its own, that cannot be iterated.
        let is_table = source.path.ends_with("table.rs");
        if is_table {
            let names = [".iter", "Iter", ".keys", ".values", ".drain", ".retain"];
            for (number, line) in source.code() {
                let named = names.iter().find(|name| line.contains(**name));
                assert!(named.is_none(), "{}:{number} iterates: {named:?}", source.name());
            }
        }
        for (number, line) in source.code() {
            let word = IMPURE.iter().find(|word| line.contains(**word));
            let allowed = is_table && word == Some(&"HashMap");
            assert!(allowed || word.is_none(), "{}:{number}: {word:?}", source.name());
        }
    }
}

/// Words of the API: routes, headers and query parameters. `docs/openapi.yaml` has them all.
const API_WORDS: &[&str] = &[
    "/v1/",
    "Authorization",
    "Idempotency-Key",
    "Last-Event-ID",
    "X-API-Key",
    "`access_token`",
    "`bare`",
    "`close`",
    "`close=",
    "`coalesce`",
    "`event`",
    "`format`",
    "`format=",
    "`from`",
    "`from=",
    "`generation`",
    "`last_event_id`",
    "`reason`",
];

/// The first floor that knows the API.
const API_FLOOR: usize = 5;

#[test]
fn only_the_api_knows_its_routes_parameters_and_headers() {
    let below = |source: &&Source| {
        let module = source.module();
        let is_test = source.path.components().any(|part| part.as_os_str() == "tests");
        // The descriptions of metrics are a document for operators.
        !is_test && !["lib", "telemetry"].contains(&&*module) && place(&module).0 < API_FLOOR
    };
    for source in sources("src").iter().filter(below) {
        for (number, line) in source.code() {
            for word in API_WORDS {
                assert!(
                    !line.contains(word),
                    "{}:{number} writes {word}, which is a word of the API: src/http/wording.rs",
                    source.name()
                );
            }
        }
    }
}

#[test]
fn only_the_grammar_knows_its_field_names() {
    for source in product().iter().filter(|source| source.module() != "sse") {
        for (number, line) in source.code() {
            for field in ["\"data: ", "\"event: ", "\"id: ", "\"retry: ", "b\"data:", "\"data:"] {
                assert!(!line.contains(field), "{}:{number} writes `{field}`", source.name());
            }
        }
    }
}

#[test]
fn only_ingest_appends() {
    for source in product() {
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
    for source in product().iter().chain(&tests()) {
        assert!(source.text.starts_with("//! "), "{} does not begin with `//!`", source.name());
    }
}

#[test]
fn lines_are_at_most_a_hundred_columns_wide() {
    for source in product().iter().chain(&sources(SUPPORT)) {
        for (number, line) in source.text.lines().enumerate() {
            let width = line.chars().count();
            assert!(width <= 100, "{}:{} has {width} columns", source.name(), number + 1);
        }
    }
}

#[test]
fn nothing_climbs_out_of_its_folder_twice() {
    for source in product() {
        for (number, line) in source.code() {
            assert!(!line.contains("super::super::"), "{}:{number}", source.name());
        }
    }
}

#[test]
fn nothing_is_left_for_later_without_saying_so() {
    for source in product().iter().chain(&tests()) {
        for (number, line) in source.text.lines().enumerate() {
            let later = ["TO".to_owned() + "DO", "FIX".to_owned() + "ME", "XX".to_owned() + "X"];
            let left = later.iter().any(|word| line.contains(word.as_str()));
            assert!(!left, "{}:{} leaves something for later", source.name(), number + 1);
        }
    }
}

/// The words of a comment line, in lower case and single-spaced; code in backquotes is left out.
fn words_of_comment(line: &str) -> String {
    let Some(comment) = line.trim_start().strip_prefix("//") else { return String::new() };
    let outside = comment.split('`').step_by(2).collect::<Vec<_>>().join(" ` ");
    let letters = outside.to_lowercase().replace(|c: char| !c.is_alphanumeric() && c != '`', " ");
    letters.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The first word of the list in a text, of which `and` is what the next line begins with.
fn idiom_in(text: &str, and: &str) -> Option<&'static str> {
    let mut text = format!(" {text} ");
    let next = format!("{text}{} ", and.split(' ').next().unwrap_or_default());
    for plain in PLAIN {
        let whole = format!(" {plain} ");
        if next.contains(&whole) && !text.contains(&whole) {
            // Broken over two lines: the word at the end of this one is part of it.
            text =
                text.trim_end().rsplit_once(' ').map_or_else(String::new, |(text, _)| text.into());
            text.push(' ');
        }
        text = text.replace(&whole, " ");
    }
    IDIOMS.iter().copied().find(|idiom| {
        let whole = format!(" {idiom} ");
        text.contains(&whole) || (idiom.contains(' ') && next.contains(&whole))
    })
}

#[test]
fn comments_are_plain_english() {
    let mut found = Vec::new();
    for source in product().iter().chain(&tests()).chain(&sources("benches")) {
        let lines: Vec<_> = source.text.lines().map(words_of_comment).collect();
        for (at, line) in lines.iter().enumerate() {
            let following = lines.get(at + 1).map_or("", String::as_str);
            if let Some(idiom) = idiom_in(line, following) {
                found.push(format!("{}:{}: `{idiom}`", source.name(), at + 1));
            }
        }
    }
    assert!(found.is_empty(), "see docs/STYLE.md:\n{}", found.join("\n"));
}

#[test]
fn an_idiom_is_seen_and_a_plain_word_is_not() {
    let found = |line: &str| idiom_in(&words_of_comment(line), "").is_some();
    for line in [
        "/// Whoever reads",
        "// so that it is told.",
        "/// behind the last",
        "//! See the module.",
        "/// The same, but shorter.",
    ] {
        assert!(found(line), "{line}");
    }
    for line in ["/// lags behind", "let behind = 1;", "// `behind`", "/// `0` stands for none"] {
        assert!(!found(line), "{line}");
    }
    assert_eq!(idiom_in("how it is", "told"), Some("is told"));
}

#[test]
fn every_file_is_on_the_code_map() {
    let map = fs::read_to_string("docs/ARCHITECTURE.md").unwrap();
    let rows: Vec<_> = map.lines().filter(|line| line.starts_with("| `")).collect();
    for source in product().iter().chain(&sources(SUPPORT)) {
        let folder = source.path.parent().unwrap();
        let file = source.path.file_name().unwrap().to_str().unwrap();
        if source.is_test() {
            continue;
        }
        let folder = format!("{}/", folder.display());
        // A row names its first file with its folder, and the others, of the same folder, in short.
        let of_folder = |row: &&str| {
            let first = row.trim_start_matches("| `").split('`').next().unwrap_or_default();
            first.strip_prefix(folder.as_str()).is_some_and(|rest| !rest.contains('/'))
        };
        let named = |row: &str| {
            row.contains(&format!("`{folder}{file}`")) || row.contains(&format!("`{file}`"))
        };
        let is_facade = file == "mod.rs" && map.contains(&format!("`{folder}`"));
        let found = is_facade || rows.iter().copied().filter(of_folder).any(named);
        assert!(found, "{} is not on the code map of docs/ARCHITECTURE.md", source.name());
    }
}
