//! Defaults < file < environment < flags. Every error names the source and the key.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use config::{Environment, File, FileFormat, Map, Source, Value, ValueKind};
use serde_json::{Number, Value as Json};
use serde_path_to_error::{Path as Place, Segment};

use super::{Config, DEFAULT};
use crate::value::{Given, Wrong, nearest};

/// Paths that are tried if no file is named.
const USUAL_FILES: [&str; 2] = ["fanfare.toml", "/etc/fanfare/fanfare.toml"];

/// The prefix of the hub's environment variables.
const PREFIX: &str = "FANFARE";

/// The name of the environment as a source.
const ENVIRONMENT: &str = "environment";

/// Settings that are lists: in the environment, their items are separated by commas.
const LISTS: [&str; 4] =
    ["cluster.servers", "cors.allow_origins", "server.hosts", "server.trusted_proxies"];

/// Settings that are lists of tables, or tables: they cannot be written as one text.
const TABLE_LISTS: [&str; 4] = ["auth.api_keys", "auth.issuers", "channels.rules", "hooks"];
const TABLES: [&str; 2] = ["auth.anonymous", "channels.when_unwatched"];

/// A configuration, and the source of each setting that is not a default.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// Sources by key.
    pub sources: BTreeMap<String, String>,
    /// The file, if there is one.
    pub file: Option<PathBuf>,
}

/// Variables that the command line clients read, which are not settings of the hub.
const OF_CLIENTS: [&str; 2] = ["token", "url"];

/// Returns an environment variable. Secrets may be there, which the configuration only names.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the place that reads the environment")]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// All errors of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError(Vec<String>);

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for LoadError {}

/// One source with its settings, by key, such as `server.listen`.
struct Layer {
    source: String,
    settings: Vec<(String, Value)>,
}

/// Returns a setting's name as it is written in the source.
fn spelled(source: &str, key: &str) -> String {
    if source == ENVIRONMENT {
        format!("{PREFIX}_{}", key.replace('.', "__").to_uppercase())
    } else {
        key.to_owned()
    }
}

/// Loads the configuration from a file, the environment and the flags. If no file is named, the
/// usual paths are tried.
///
/// # Errors
/// All that is wrong, one line each: the source, the key, and a valid value.
pub fn load(file: Option<&Path>, flags: &[(&str, String)]) -> Result<Loaded, LoadError> {
    let mut layers = Vec::new();
    let file = file.map(PathBuf::from).or_else(usual_file);
    if let Some(path) = &file {
        layers.push(file_layer(path)?);
    }
    layers.push(environment_layer(Environment::with_prefix(PREFIX))?);
    layers.push(flag_layer(flags));
    Ok(Loaded { file, ..merge(&layers)? })
}

fn usual_file() -> Option<PathBuf> {
    USUAL_FILES.iter().map(PathBuf::from).find(|path| path.exists())
}

fn file_layer(path: &Path) -> Result<Layer, LoadError> {
    let name = path.display().to_string();
    let wrong = |error: config::ConfigError| {
        LoadError(vec![format!("{name}: {}", without_secrets(&error.to_string()))])
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| LoadError(vec![format!("{name}: cannot be read: {error}")]))?;
    let table = File::from_str(&text, FileFormat::Toml).collect().map_err(wrong)?;
    Ok(Layer { source: name, settings: flatten(table) })
}

/// Hides secrets in a message of the TOML parser, which quotes the line that it cannot parse.
fn without_secrets(message: &str) -> String {
    let hidden = |line: &str| match line.split_once('|') {
        Some((number, quoted)) if ["secret", "password"].iter().any(|it| quoted.contains(it)) => {
            format!("{number}| (hidden)")
        }
        _ => line.to_owned(),
    };
    message.lines().map(hidden).collect::<Vec<_>>().join("\n")
}

/// Reads the variables of the hub. Each is a text, also one that looks like a number: `007`.
fn environment_layer(environment: Environment) -> Result<Layer, LoadError> {
    let source = environment.prefix_separator("_").separator("__").ignore_empty(true);
    let mut table =
        source.collect().map_err(|error| LoadError(vec![format!("environment: {error}")]))?;
    table.retain(|key, _| !OF_CLIENTS.contains(&key.as_str()) && !is_of_kubernetes(key));
    let mut settings = flatten(table);
    for (key, value) in &mut settings {
        if LISTS.contains(&key.as_str())
            && let ValueKind::String(text) = &value.kind
        {
            value.kind =
                ValueKind::Array(text.split(',').map(|item| text_value(item.trim())).collect());
        }
    }
    Ok(Layer { source: ENVIRONMENT.into(), settings })
}

fn text_value(text: &str) -> Value {
    Value::new(None, ValueKind::String(text.to_owned()))
}

/// Returns whether Kubernetes sets the variable in each pod, for a Service named `fanfare`:
/// `FANFARE_PORT`, `FANFARE_PORT_4100_TCP`, `FANFARE_SERVICE_HOST` and so on.
fn is_of_kubernetes(key: &str) -> bool {
    key == "port" || ["port_", "service_"].iter().any(|start| key.starts_with(start))
}

fn flag_layer(flags: &[(&str, String)]) -> Layer {
    let settings = flags.iter().map(|(key, text)| ((*key).to_owned(), text_value(text))).collect();
    Layer { source: "command line".into(), settings }
}

/// Flattens the tables of the sections into one list: sections are the only level of nesting.
fn flatten(table: Map<String, Value>) -> Vec<(String, Value)> {
    let mut settings = Vec::new();
    for (section, value) in table {
        match value.kind {
            ValueKind::Table(keys) => {
                settings.extend(
                    keys.into_iter().map(|(key, value)| (format!("{section}.{key}"), value)),
                );
            }
            _ => settings.push((section, value)),
        }
    }
    settings.sort_by(|(a, _), (b, _)| a.cmp(b));
    settings
}

fn merge(layers: &[Layer]) -> Result<Loaded, LoadError> {
    let mut wrong = Vec::new();
    let mut sources = BTreeMap::new();
    let mut accepted: Vec<(&str, &Value)> = Vec::new();
    let known = known_keys();
    for layer in layers {
        for (key, value) in &layer.settings {
            let outcome = if known.contains(key) {
                build(&[(key, value)]).map(drop).map_err(|misfit| misfit.message(layer, key, value))
            } else {
                Err(unknown(layer, key, &known))
            };
            match outcome {
                Err(problem) => wrong.push(format!("{}: {problem}", layer.source)),
                Ok(()) => {
                    accepted.push((key, value));
                    sources.insert(key.clone(), layer.source.clone());
                }
            }
        }
    }
    let config = build(&accepted).map_err(|misfit| LoadError(vec![misfit.to_string()]))?;
    for invalid in config.validate() {
        let source = sources.get(invalid.key).map_or("default", String::as_str);
        wrong.push(format!("{source}: {}: {}", spelled(source, invalid.key), invalid.message));
    }
    if wrong.is_empty() {
        Ok(Loaded { config, sources, file: None })
    } else {
        Err(LoadError(wrong))
    }
}

/// Builds a configuration from these settings, and defaults for the others.
fn build(settings: &[(&str, &Value)]) -> Result<Config, Misfit> {
    let mut whole = serde_json::Map::new();
    for (key, value) in settings {
        let Some((section, name)) = key.split_once('.') else {
            whole.insert((*key).to_owned(), to_json(value));
            continue;
        };
        let section = whole.entry(section).or_insert_with(|| Json::Object(serde_json::Map::new()));
        if let Json::Object(table) = section {
            table.insert(name.to_owned(), to_json(value));
        }
    }
    serde_path_to_error::deserialize(Given::spelled(&Json::Object(whole)))
        .map_err(|error| Misfit { place: error.path().clone(), wrong: error.into_inner() })
}

/// Converts a value. A number that JSON lacks becomes its text, which is refused where a number is
/// expected; `null` would be accepted as the default.
fn to_json(value: &Value) -> Json {
    match &value.kind {
        ValueKind::Nil => Json::Null,
        ValueKind::Boolean(value) => (*value).into(),
        ValueKind::I64(value) => (*value).into(),
        ValueKind::U64(value) => (*value).into(),
        ValueKind::Float(value) => {
            Number::from_f64(*value).map_or_else(|| value.to_string().into(), Json::Number)
        }
        ValueKind::I128(value) => value.to_string().into(),
        ValueKind::U128(value) => value.to_string().into(),
        ValueKind::String(text) => text.as_str().into(),
        ValueKind::Table(table) => {
            table.iter().map(|(key, value)| (key.clone(), to_json(value))).collect()
        }
        ValueKind::Array(items) => items.iter().map(to_json).collect(),
    }
}

/// A value that its setting cannot have, and its path in the configuration.
struct Misfit {
    place: Place,
    wrong: Wrong,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.wrong)
    }
}

impl Misfit {
    /// Returns the error message for the value of `key`, with a valid value.
    fn message(self, layer: &Layer, key: &str, value: &Value) -> String {
        let mut place = self.place.to_string();
        let mut wrong = self.wrong;
        if let Wrong::Key { found, .. } = &wrong {
            // The unknown key is in the message already, and is not a valid path.
            place.truncate(place.strip_suffix(&format!(".{found}")).unwrap_or(&place).len());
        }
        if is_secret(&place) {
            wrong = wrong.without_value();
        }
        if place != key {
            let entry = self.place.iter().find_map(|segment| match segment {
                Segment::Seq { index } => name_of_entry(value, *index),
                _ => None,
            });
            let of = entry.map(|name| format!(", of `{name}`")).unwrap_or_default();
            return format!("{place}{of}: {wrong}");
        }
        let name = spelled(&layer.source, key);
        if let Some(how) = in_a_file(key) {
            return format!("{name}: {wrong}; {how}");
        }
        let found = match (&wrong, &value.kind) {
            (Wrong::Said(text), ValueKind::String(found))
                if !is_secret(key) && !text.contains(&format!("`{found}`")) =>
            {
                format!("found {found:?}: ")
            }
            _ => String::new(),
        };
        let default = default_of(key).map(|value| format!("; the default is {value}"));
        format!("{name}: {found}{wrong}{}", default.unwrap_or_default())
    }
}

/// Returns whether the value at this path is a secret.
fn is_secret(place: &str) -> bool {
    let name = place.rsplit('.').next().unwrap_or_default();
    let name = name.split('[').next().unwrap_or_default();
    let others = ["signing_key", "hash", "keys", "api_keys", "password", "nkey", "credentials"];
    name.contains("secret") || others.contains(&name)
}

/// Returns the name of a table in a list: the pattern of a rule or a hook, the name of an issuer.
fn name_of_entry(list: &Value, index: usize) -> Option<&str> {
    let ValueKind::Array(items) = &list.kind else { return None };
    let ValueKind::Table(table) = &items.get(index)?.kind else { return None };
    match &table.get("pattern").or_else(|| table.get("name"))?.kind {
        ValueKind::String(name) => Some(name),
        _ => None,
    }
}

/// Returns how to write a setting that cannot be one text.
fn in_a_file(key: &str) -> Option<String> {
    if TABLE_LISTS.contains(&key) {
        Some(format!("it is a list of tables: write `[[{key}]]`, in a file"))
    } else {
        TABLES.contains(&key).then(|| "it is a table: write it in a file".to_owned())
    }
}

/// Returns the default as the commented file has it; `None` if it is empty.
fn default_of(key: &str) -> Option<toml::Value> {
    let (section, name) = key.split_once('.')?;
    let value = toml::from_str::<toml::Table>(DEFAULT).ok()?.get(section)?.get(name)?.clone();
    let is_empty = match &value {
        toml::Value::String(text) => text.is_empty(),
        toml::Value::Array(list) => list.is_empty(),
        toml::Value::Table(table) => table.is_empty(),
        _ => false,
    };
    (!is_empty).then_some(value)
}

/// Returns all settings; of a section that can be repeated, its name.
fn known_keys() -> Vec<String> {
    let defaults = toml::Table::try_from(Config::default()).unwrap_or_default();
    let mut known = Vec::new();
    for (section, settings) in &defaults {
        match settings.as_table() {
            Some(table) => known.extend(table.keys().map(|key| format!("{section}.{key}"))),
            None => known.push(section.clone()),
        }
    }
    // It has no default, and so is not in the loop above.
    known.push("channels.when_unwatched".to_owned());
    known
}

/// Returns the error message for an unknown key.
fn unknown(layer: &Layer, key: &str, known: &[String]) -> String {
    let (section, name) = key.split_once('.').unwrap_or((key, ""));
    let place = spelled(&layer.source, key);
    if let Some(outer) = known.iter().find(|known| key.starts_with(&format!("{known}."))) {
        let how = in_a_file(outer).unwrap_or_else(|| "it is a single value".to_owned());
        return format!("{place}: unknown setting below `{outer}`: {how}");
    }
    let inside = |section: &str| {
        let section = section.to_owned();
        known.iter().filter_map(move |known| known.strip_prefix(&section)?.strip_prefix('.'))
    };
    let settings = inside(section).collect::<Vec<_>>().join(", ");
    if !settings.is_empty() && name.is_empty() {
        return format!("{place}: a section, not a setting; its settings are {settings}");
    }
    let sections = sections(known);
    let near_section = nearest(section, sections.iter().copied());
    let likely = if key.contains('.') {
        let section = if settings.is_empty() { near_section } else { Some(section) };
        let near = section.and_then(|it| Some(format!("{it}.{}", nearest(name, inside(it))?)));
        let same = |known: &&String| known.ends_with(&format!(".{name}"));
        near.or_else(|| known.iter().find(same).cloned())
    } else {
        nearest(key, known.iter().map(String::as_str)).map(str::to_owned)
    };
    if let Some(likely) = likely {
        let likely = spelled(&layer.source, &likely);
        return format!("{place}: unknown setting; did you mean `{likely}`?");
    }
    if !settings.is_empty() {
        return format!("{place}: unknown setting; those of `{section}` are {settings}");
    }
    let there_are = match near_section {
        Some(near) => format!("did you mean `{near}`? There are"),
        None => "there are".into(),
    };
    let place = spelled(&layer.source, section);
    format!("{place}: unknown section; {there_are} {}", sections.join(", "))
}

fn sections(known: &[String]) -> Vec<&str> {
    let mut names: Vec<_> =
        known.iter().map(|key| key.split('.').next().unwrap_or_default()).collect();
    names.sort_unstable();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(key: &str, text: &str) -> String {
        merge(&[flag_layer(&[(key, text.to_owned())])]).unwrap_err().to_string()
    }

    fn of_file(text: &str) -> Result<Loaded, LoadError> {
        let table = File::from_str(text, FileFormat::Toml).collect().unwrap();
        merge(&[Layer { source: "hub.toml".into(), settings: flatten(table) }])
    }

    fn message(text: &str) -> String {
        of_file(text).map_or_else(|error| error.to_string(), |_| "no error".into())
    }

    /// Returns the errors of these environment variables.
    fn of_environment(variables: &[(&str, &str)]) -> String {
        loaded(variables).map_or_else(|error| error.to_string(), |_| "no error".into())
    }

    /// Loads these environment variables, given by the keys of their settings.
    fn loaded(variables: &[(&str, &str)]) -> Result<Loaded, LoadError> {
        let variables = variables
            .iter()
            .map(|(key, value)| (spelled(ENVIRONMENT, key), (*value).to_owned()))
            .collect();
        let environment = Environment::with_prefix(PREFIX).source(Some(variables));
        merge(&[environment_layer(environment)?])
    }

    #[test]
    fn hooks_come_from_a_file() {
        let hook = "[[hooks]]\npattern = \"a/*\"\nurl = \"http://a/\"\n";
        let loaded = of_file(&format!("{hook}attempts = 2\n{hook}timeout = \"1s\"")).unwrap();
        let hooks = &loaded.config.hooks.0;
        assert_eq!((hooks.len(), hooks[0].attempts, hooks[1].attempts), (2, 2, 5));
        assert_eq!(loaded.sources["hooks"], "hub.toml");
        for (wrong, told) in [
            ("attempts = 0", "hub.toml: hooks: `attempts` of the hook for `a/*` must be between"),
            ("secret = \"hunter2\"", "hub.toml: hooks[0].secret, of `a/*`: `secret` is too short"),
            (
                "attempt = 1",
                "hub.toml: hooks[0], of `a/*`: unknown key `attempt`; did you mean `attempts`?",
            ),
        ] {
            let error = message(&format!("{hook}{wrong}"));
            assert!(error.starts_with(told), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_secret_that_is_no_toml_is_not_quoted() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, b"[[hooks]]\nsecret = hunter2\n").unwrap();
        let error = load(Some(file.path()), &[]).unwrap_err().to_string();
        assert!(error.contains("line 2") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn no_error_repeats_what_may_be_a_secret() {
        let issuer = "[[auth.issuers]]\nname = \"a\"\n";
        for text in [
            "[auth]\nsigning_key = \"hunter2\"",
            "[auth]\nsigning_key = [\"hunter2\"]",
            "[auth]\napi_keys = [\"hunter2\"]",
            "[[hooks]]\npattern = \"a\"\nurl = \"http://a/\"\nsecret = { is = \"hunter2\" }",
            "[[auth.api_keys]]\nname = \"a\"\nhash = \"hunter2\"\ngrants = {}",
            "[cluster]\npassword = \"hunter2\"",
            "[cluster]\nnkey = \"hunter2\"",
            "[cluster]\ncredentials = \"hunter2\"",
            "[cluster]\nsecret = [\"hunter2\"]",
            &format!("{issuer}keys = \"hunter2\""),
            &format!("{issuer}keys = {{ secret = \"hunter2\" }}"),
        ] {
            let error = message(text);
            assert!(error != "no error" && !error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn an_address_may_name_this_machine() {
        let loaded = of_file("[server]\nlisten = \"localhost:4300\"").unwrap();
        assert_eq!(loaded.config.server.listen, ([127, 0, 0, 1], 4300).into());
    }

    #[test]
    fn texts_are_what_they_spell() {
        assert_eq!(
            of_environment(&[
                ("server.max_connections", "30"),
                ("server.insecure", "yes"),
                ("channels.max_bytes", "1048576"),
                ("channels.max_age", "90s"),
                ("store.path", "123"),
            ]),
            "no error"
        );
    }

    #[test]
    fn a_text_of_the_environment_stays_as_it_is_written() {
        for path in ["007", "1e3", "true", "TRUE", "inf", "a,b"] {
            let config = loaded(&[("store.path", path)]).unwrap().config;
            assert_eq!(config.store.path.to_str(), Some(path));
        }
        let hosts =
            |text| loaded(&[("server.hosts", text)]).map(|loaded| loaded.config.server.hosts);
        let both = of_file("[server]\nhosts = [\"7\", \"a.test\"]").unwrap().config.server.hosts;
        assert_eq!(hosts("7,a.test"), Ok(both.clone()));
        assert_eq!(hosts("7, a.test"), Ok(both));
        let one = of_file("[server]\nhosts = [\"7\"]").unwrap().config.server.hosts;
        assert_eq!(hosts("7"), Ok(one), "a list of one item that looks like a number");
    }

    #[test]
    fn only_a_secret_is_left_out_of_an_error() {
        for (text, found) in [
            ("[publish]\nmax_idempotency_keys = \"many\"", "found \"many\""),
            ("[tls]\nkey = [\"a.pem\"]", "found a list"),
        ] {
            let error = message(text);
            assert!(error.contains(found), "{error}");
        }
    }

    #[test]
    fn an_error_says_what_is_wrong_and_what_would_be_right() {
        for (text, told) in MISTAKES_IN_A_FILE {
            assert_eq!(message(text), format!("hub.toml: {told}"), "{text}");
        }
        for (key, value, told) in MISTAKES_IN_THE_ENVIRONMENT {
            let error = of_environment(&[(*key, *value)]);
            assert_eq!(error, format!("environment: {told}"), "{key} = {value}");
        }
        let error = wrong("drain.window", "soon");
        assert!(error.starts_with("command line: drain.window: found \"soon\", "), "{error}");
    }

    const MISTAKES_IN_A_FILE: &[(&str, &str)] = &[
        (
            "[server]\nlisten = \":4100\"",
            "server.listen: found \":4100\", expected an address and a port: \"127.0.0.1:4100\" \
             for this machine alone, \"0.0.0.0:4100\" or \"[::]:4100\" for all; the default is \
             \"127.0.0.1:4100\"",
        ),
        (
            "[server]\nlisten = 4100",
            "server.listen: found \"4100\", expected an address and a port: \"127.0.0.1:4100\" \
             for this machine alone, \"0.0.0.0:4100\" or \"[::]:4100\" for all; the default is \
             \"127.0.0.1:4100\"",
        ),
        ("listen = \"127.0.0.1:4100\"", "listen: unknown setting; did you mean `server.listen`?"),
        (
            "[server]\nheartbeat = \"1s\"",
            "server.heartbeat: unknown setting; did you mean `subscribers.heartbeat`?",
        ),
        (
            "[cors]\nnonsense = 1",
            "cors.nonsense: unknown setting; those of `cors` are allow_origins",
        ),
        (
            "[channel]\nmax_age = \"1h\"",
            "channel.max_age: unknown setting; did you mean `channels.max_age`?",
        ),
        (
            "[hook]\nurl = \"x\"",
            "hook: unknown section; did you mean `hooks`? There are auth, channels, cluster, cors, \
             drain, hooks, log, publish, quotas, server, store, subscribers, tls",
        ),
        ("log = \"debug\"", "log: a section, not a setting; its settings are format, level"),
        (
            "[server]\nmax_connections = 1.5",
            "server.max_connections: found 1.5, expected a whole number without a sign; the \
             default is 20000",
        ),
        (
            "[server]\nheader_timeout = 10",
            "server.header_timeout: found \"10\", expected a duration such as \"250ms\", \
             \"15s\" or \"1h\"; the default is \"10s\"",
        ),
        (
            "[server]\nmax_header_bytes = \"32XB\"",
            "server.max_header_bytes: found \"32XB\", expected a size such as \"64KiB\" or \
             \"1MiB\"; the default is \"32KiB\"",
        ),
        ("[server]\nhosts = \"hub\"", "server.hosts: found \"hub\", expected a list: [\"hub\"]"),
        (
            "[subscribers]\non_lag = \"drop\"",
            "subscribers.on_lag: found \"drop\", expected \"disconnect\" or \"skip\"; the \
             default is \"disconnect\"",
        ),
        (
            "[quotas]\npublishes = 100",
            "quotas.publishes: a rate is \"100/s\", \"100/s, burst 500\", \"1MiB/s\" or \
             \"off\", and at least one a second; the default is \"2000/s\"",
        ),
        (
            "[channels]\ncoalesce = \"on\"",
            "channels.coalesce: found \"on\": expected `off`, `adaptive` or a duration from \
             `1ms` to `10s`; the default is \"off\"",
        ),
        (
            "[channels]\nmax_age = \"0s\"",
            "channels.max_age: found \"0s\", expected a duration above \"0s\"; the default is \
             \"1h\"",
        ),
        ("[channels]\nmax_bytes = 0", "channels.max_bytes: must be at least 1"),
        (
            "[channels]\nwhen_unwatched = \"30s\"",
            "channels.when_unwatched: found \"30s\", expected a table: { after = \"30s\", \
             signal = \"stop\" }; it is a table: write it in a file",
        ),
        (
            "[channels]\nwhen_unwatched = { after = \"30s\", signal = \"kill\" }",
            "channels.when_unwatched.signal: found \"kill\", expected \"stop\"",
        ),
        (
            "[channels.rules]\npattern = \"a\"",
            "channels.rules: found a table, expected a list; it is a list of tables: write \
             `[[channels.rules]]`, in a file",
        ),
        (
            "[[channels.rules]]\npatern = \"a/**\"",
            "channels.rules[0]: unknown key `patern`; did you mean `pattern`? There are \
             pattern, durability, max_events, max_bytes, max_age, idle_timeout, producer_grace, \
             coalesce, when_unwatched",
        ),
        (
            "[[channels.rules]]\npattern = \"a\"\n[[channels.rules]]\npattern = \
             \"b/**\"\nmax_age = \"soon\"",
            "channels.rules[1].max_age, of `b/**`: found \"soon\", expected a duration such as \
             \"250ms\", \"15s\" or \"1h\"",
        ),
        ("[[channels.rules]]\nmax_events = 3", "channels.rules[0]: `pattern` is missing"),
        (
            "[[channels.rules]]\npattern = \"a\"\nmax_events = inf",
            "channels.rules[0].max_events, of `a`: found \"inf\", expected a whole number without \
             a sign",
        ),
        (
            "[[channels.rules]]\npattern = \"a\"\nmax_age = -inf",
            "channels.rules[0].max_age, of `a`: found \"-inf\", expected a duration such as \
             \"250ms\", \"15s\" or \"1h\"",
        ),
        (
            "[channels]\nwhen_unwatched = nan",
            "channels.when_unwatched: found \"NaN\", expected a table: { after = \"30s\", \
             signal = \"stop\" }; it is a table: write it in a file",
        ),
        (
            "[[channels.rules]]\npattern = \"a\"\ndurability = \"disk\"",
            "channels.rules[0].durability, of `a`: found \"disk\", expected \"memory\", \
             \"async\" or \"sync\"",
        ),
        (
            "[hooks]\npattern = \"a\"",
            "hooks.pattern: unknown setting below `hooks`: it is a list of tables: write \
             `[[hooks]]`, in a file",
        ),
        ("[[hooks]]\npattern = \"a\"", "hooks[0], of `a`: `url` is missing"),
        (
            "[[auth.issuers]]\nname = \"a\"\nkeys = \"pem\"",
            "auth.issuers[0].keys.pem, of `a`: found a text, expected a table with one key and \
             its value",
        ),
    ];

    const MISTAKES_IN_THE_ENVIRONMENT: &[(&str, &str, &str)] = &[
        (
            "channels_max_age",
            "1h",
            "FANFARE_CHANNELS_MAX_AGE: unknown setting; did you mean \
             `FANFARE_CHANNELS__MAX_AGE`?",
        ),
        (
            "_server.listen",
            "x",
            "FANFARE__SERVER__LISTEN: unknown setting; did you mean `FANFARE_SERVER__LISTEN`?",
        ),
        (
            "server.max_connections",
            "many",
            "FANFARE_SERVER__MAX_CONNECTIONS: found \"many\", expected a whole number without a \
             sign; the default is 20000",
        ),
        (
            "hooks",
            "x",
            "FANFARE_HOOKS: found \"x\", expected a list: [\"x\"]; it is a list of tables: \
             write `[[hooks]]`, in a file",
        ),
        (
            "channels.when_unwatched.after",
            "30s",
            "FANFARE_CHANNELS__WHEN_UNWATCHED__AFTER: unknown setting below \
             `channels.when_unwatched`: it is a table: write it in a file",
        ),
        ("log", "debug", "FANFARE_LOG: a section, not a setting; its settings are format, level"),
        (
            "tls.cert",
            "a.pem",
            "FANFARE_TLS__CERT: `tls.cert` and `tls.key` belong together: set both, or neither",
        ),
    ];

    /// Returns values of every type, each invalid for every setting.
    fn wrong_values() -> Vec<toml::Value> {
        let table = toml::Table::from_iter([("zzz".to_owned(), 1.into()), ("a".into(), 2.into())]);
        let list = toml::Value::Array(vec![toml::Value::Array(Vec::new())]);
        vec![true.into(), (-1).into(), 1.5.into(), "\u{1}".into(), list, table.into()]
    }

    /// Returns files with each setting set to each such value, also in the tables of lists.
    fn wrong_files() -> Vec<toml::Table> {
        let mut files = Vec::new();
        for (key, value) in known_keys()
            .iter()
            .flat_map(|key| wrong_values().into_iter().map(move |value| (key.clone(), value)))
        {
            let inner = key.split('.').rev();
            files.push(inner.fold(value, |value, key| {
                toml::Table::from_iter([(key.to_owned(), value)]).into()
            }));
        }
        for (entry, keys) in [
            ("channels.rules", "durability max_events max_bytes max_age coalesce when_unwatched"),
            ("hooks", "url secret timeout attempts"),
            ("auth.issuers", "issuer audience algorithm require_exp keys at_most"),
            ("auth.api_keys", "hash grants"),
        ] {
            for (key, value) in keys
                .split(' ')
                .flat_map(|key| wrong_values().into_iter().map(move |value| (key, value)))
            {
                let named =
                    [("pattern", "a"), ("name", "a")].map(|(k, v)| (k.to_owned(), v.into()));
                let known = if entry.starts_with("auth") { &named[1] } else { &named[0] };
                let table = toml::Table::from_iter([known.clone(), (key.to_owned(), value)]);
                let list = toml::Value::Array(vec![table.into()]);
                files.push(entry.split('.').rev().fold(list, |value, key| {
                    toml::Table::from_iter([(key.to_owned(), value)]).into()
                }));
            }
        }
        files.into_iter().filter_map(|file| file.as_table().cloned()).collect()
    }

    #[test]
    fn no_error_speaks_of_the_types_of_the_program() {
        let mut wrong = 0;
        for file in wrong_files() {
            let text = toml::to_string(&file).unwrap();
            for line in message(&text).lines().filter(|line| *line != "no error") {
                wrong += 1;
                for word in [
                    "struct",
                    "enum",
                    "variant",
                    "sequence",
                    "map",
                    "u32",
                    "u64",
                    "usize",
                    "-bit",
                    "integer",
                    "string",
                    "invalid type",
                    "invalid value",
                    "parsable",
                    "field",
                ] {
                    assert!(!line.contains(word), "{word:?} in {line:?} of\n{text}");
                }
                assert!(!line.ends_with([' ', ';', ':']), "{line:?}");
                assert!(["hub.toml: ", "default: "].iter().any(|from| line.starts_with(from)));
            }
        }
        assert!(wrong > 300, "only {wrong} errors");
    }
}
