//! Defaults < file < environment < flags. Every error says which source and which key.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use config::{Environment, File, FileFormat, Map, Source, Value, ValueKind};

use super::Config;

/// Where a file is looked for when none is named.
const USUAL_FILES: [&str; 2] = ["fanfare.toml", "/etc/fanfare/fanfare.toml"];

/// What environment variables of the hub begin with.
const PREFIX: &str = "FANFARE";

/// Settings that are lists: in the environment, their items stand between commas.
const LISTS: [&str; 3] = ["cors.allow_origins", "server.hosts", "server.trusted_proxies"];

/// A configuration, and where each setting that is no default came from.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The settings.
    pub config: Config,
    /// Sources by key.
    pub sources: BTreeMap<String, String>,
    /// The file, if there is one.
    pub file: Option<PathBuf>,
}

/// What the clients of the command line read: no settings of the hub.
const OF_CLIENTS: [&str; 2] = ["token", "url"];

/// An environment variable: where secrets may be, which the configuration only names.
#[must_use]
#[expect(clippy::disallowed_methods, reason = "this is the place that reads the environment")]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Everything that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadError(Vec<String>);

impl fmt::Display for LoadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("\n"))
    }
}

impl std::error::Error for LoadError {}

/// One source with its settings, each whole section deep: `server.listen`.
struct Layer {
    source: String,
    settings: Vec<(String, Value)>,
}

/// Loads the configuration: a file, which is looked for if none is named, the environment, and
/// what was set by flags.
///
/// # Errors
/// All that is wrong, one line each: source, key, and what would be right.
pub fn load(file: Option<&Path>, flags: &[(&str, String)]) -> Result<Loaded, LoadError> {
    let mut layers = Vec::new();
    let file = file.map(PathBuf::from).or_else(usual_file);
    if let Some(path) = &file {
        layers.push(file_layer(path)?);
    }
    layers.push(environment_layer()?);
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
        .map_err(|error| LoadError(vec![format!("{name}: {error}")]))?;
    let table = File::from_str(&text, FileFormat::Toml).collect().map_err(wrong)?;
    Ok(Layer { source: name, settings: flatten(table) })
}

/// A message of the TOML parser quotes the line that it cannot read: not if that is a secret.
fn without_secrets(message: &str) -> String {
    let hidden = |line: &str| match line.split_once('|') {
        Some((number, quoted)) if quoted.contains("secret") => {
            format!("{number}| secret = (hidden)")
        }
        _ => line.to_owned(),
    };
    message.lines().map(hidden).collect::<Vec<_>>().join("\n")
}

fn environment_layer() -> Result<Layer, LoadError> {
    let mut source = Environment::with_prefix(PREFIX)
        .prefix_separator("_")
        .separator("__")
        .ignore_empty(true)
        .try_parsing(true)
        .list_separator(",");
    for key in LISTS {
        source = source.with_list_parse_key(key);
    }
    let mut table =
        source.collect().map_err(|error| LoadError(vec![format!("environment: {error}")]))?;
    table.retain(|key, _| !OF_CLIENTS.contains(&key.as_str()) && !is_of_kubernetes(key));
    Ok(Layer { source: "environment".into(), settings: flatten(table) })
}

/// What Kubernetes tells each pod of a Service that is called `fanfare`: `FANFARE_PORT`,
/// `FANFARE_PORT_4100_TCP`, `FANFARE_SERVICE_HOST` and so on.
fn is_of_kubernetes(key: &str) -> bool {
    key == "port" || ["port_", "service_"].iter().any(|start| key.starts_with(start))
}

fn flag_layer(flags: &[(&str, String)]) -> Layer {
    let value = |text: &String| Value::new(None, ValueKind::String(text.clone()));
    let settings = flags.iter().map(|(key, text)| ((*key).to_owned(), value(text))).collect();
    Layer { source: "command line".into(), settings }
}

/// The sections' tables as one list: a section is the only level that there is.
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
            if !known.contains(key) {
                wrong.push(unknown(&layer.source, key, &known));
            } else if let Err(error) = build(&[(key, value)]) {
                wrong.push(format!("{}: {key}: {error}; {}", layer.source, right(key)));
            } else {
                accepted.push((key, value));
                sources.insert(key.clone(), layer.source.clone());
            }
        }
    }
    let config = build(&accepted).map_err(|error| LoadError(vec![error]))?;
    for invalid in config.validate() {
        let source = sources.get(invalid.key).map_or("default", String::as_str);
        wrong.push(format!("{source}: {}: {}", invalid.key, invalid.message));
    }
    if wrong.is_empty() {
        Ok(Loaded { config, sources, file: None })
    } else {
        Err(LoadError(wrong))
    }
}

/// A configuration of these settings; what is not among them has its default.
fn build(settings: &[(&str, &Value)]) -> Result<Config, String> {
    let mut builder = config::Config::builder();
    for (key, value) in settings {
        builder = builder.set_override(*key, (*value).clone()).map_err(|e| e.to_string())?;
    }
    let built = builder.build().and_then(config::Config::try_deserialize::<Config>);
    built.map_err(|error| plain(&error))
}

/// The words for what a channel outlives.
const DURABILITIES: &str = "\"memory\", \"async\" or \"sync\"";

/// What would be right for a setting: the words that it knows, or what it is by default.
fn right(key: &str) -> String {
    match key {
        "subscribers.on_lag" => "expected \"disconnect\" or \"skip\"".into(),
        "server.forwarded_header" => "expected \"x-forwarded-for\" or \"forwarded\"".into(),
        "log.format" => "expected \"text\" or \"json\"".into(),
        "store.durability" => format!("expected {DURABILITIES}"),
        "channels.rules" => {
            format!("`durability` is {DURABILITIES}; see `fanfare config default` for an example")
        }
        "hooks" => "see `fanfare config default` for an example".into(),
        _ => default_of(key).map_or_else(String::new, |value| format!("the default is {value}")),
    }
}

fn default_of(key: &str) -> Option<toml::Value> {
    let (section, name) = key.split_once('.')?;
    toml::Table::try_from(Config::default()).ok()?.get(section)?.get(name).cloned()
}

/// The message without the key that the caller names anyway, and without the names of our types.
fn plain(error: &config::ConfigError) -> String {
    match error {
        config::ConfigError::Message(text) if text.starts_with("enum ") => {
            let given = text.rsplit(' ').next().unwrap_or_default();
            format!("`{given}` is none of its values")
        }
        config::ConfigError::At { error, .. } => plain(error),
        config::ConfigError::Type { unexpected, expected, .. } => {
            format!("found {unexpected}, expected {expected}")
        }
        other => other.to_string(),
    }
}

/// Every setting there is; of a section that can stand several times, its name.
fn known_keys() -> Vec<String> {
    let defaults = toml::Table::try_from(Config::default()).unwrap_or_default();
    let mut known = Vec::new();
    for (section, settings) in &defaults {
        match settings.as_table() {
            Some(table) => known.extend(table.keys().map(|key| format!("{section}.{key}"))),
            None => known.push(section.clone()),
        }
    }
    // What has no default is not among the defaults.
    known.push("channels.when_unwatched".to_owned());
    known
}

fn unknown(source: &str, key: &str, known: &[String]) -> String {
    let section = key.split_once('.').map_or(key, |(section, _)| section);
    if known.iter().any(|known| known == section) {
        return format!("{source}: {section}: a list: write `[[{section}]]`, in a file");
    }
    let close = known.iter().filter(|known| known.starts_with(&format!("{section}.")));
    match close.min_by_key(|known| distance(known, key)) {
        Some(likely) => format!("{source}: {key}: unknown setting; did you mean `{likely}`?"),
        None => format!("{source}: {section}: unknown section; there are {}", sections(known)),
    }
}

fn sections(known: &[String]) -> String {
    let section = |key: &'_ String| key.split('.').next().unwrap_or_default().to_owned();
    let mut names: Vec<_> = known.iter().map(section).collect();
    names.sort_unstable();
    names.dedup();
    names.join(", ")
}

/// How many letters differ at the front and the back: enough to find a misspelt neighbour.
fn distance(a: &str, b: &str) -> usize {
    let same = |x: &mut dyn Iterator<Item = (char, char)>| x.take_while(|(x, y)| x == y).count();
    let front = same(&mut a.chars().zip(b.chars()));
    let back = same(&mut a.chars().rev().zip(b.chars().rev()));
    a.len().max(b.len()).saturating_sub(front + back)
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

    #[test]
    fn hooks_come_from_a_file() {
        let hook = "[[hooks]]\npattern = \"a/*\"\nurl = \"http://a/\"\n";
        let loaded = of_file(&format!("{hook}attempts = 2\n{hook}timeout = \"1s\"")).unwrap();
        let hooks = &loaded.config.hooks.0;
        assert_eq!((hooks.len(), hooks[0].attempts, hooks[1].attempts), (2, 2, 5));
        assert_eq!(loaded.sources["hooks"], "hub.toml");
        for (wrong, message) in [
            ("attempts = 0", "hub.toml: hooks: `attempts` of the hook for `a/*` must be between"),
            ("secret = \"hunter2\"", "hub.toml: hooks: `secret` is too short"),
            ("attempt = 1", "hub.toml: hooks: unknown field `attempt`"),
        ] {
            let error = of_file(&format!("{hook}{wrong}")).unwrap_err().to_string();
            assert!(error.starts_with(message), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn a_list_that_is_written_as_one_section_is_told_so() {
        let error = of_file("[hooks]\npattern = \"a\"").unwrap_err().to_string();
        assert_eq!(error, "hub.toml: hooks: a list: write `[[hooks]]`, in a file");
    }

    #[test]
    fn a_secret_that_is_no_toml_is_not_quoted() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        std::io::Write::write_all(&mut file, b"[[hooks]]\nsecret = hunter2\n").unwrap();
        let error = load(Some(file.path()), &[]).unwrap_err().to_string();
        assert!(error.contains("line 2") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn an_unknown_section_is_told_which_there_are() {
        let error = of_file("[hook]\nurl = \"x\"").unwrap_err().to_string();
        assert!(error.contains("hook: unknown section; there are"), "{error}");
        assert!(error.contains("drain, hooks, log"), "{error}");
    }

    #[test]
    fn a_bad_value_is_told_what_would_be_right() {
        assert_eq!(
            wrong("subscribers.on_lag", "drop"),
            "command line: subscribers.on_lag: `drop` is none of its values; \
             expected \"disconnect\" or \"skip\""
        );
        assert_eq!(
            wrong("server.listen", "here"),
            "command line: server.listen: invalid socket address syntax; \
             the default is \"127.0.0.1:4100\""
        );
        let format = wrong("log.format", "yaml");
        assert!(format.ends_with("expected \"text\" or \"json\""), "{format}");
        let durability = wrong("store.durability", "durable");
        assert!(durability.ends_with("expected \"memory\", \"async\" or \"sync\""), "{durability}");
        let rule = "[[channels.rules]]\npattern = \"*\"\ndurability = \"durable\"";
        let rule = of_file(rule).unwrap_err().to_string();
        assert!(rule.contains("`durability` is \"memory\", \"async\" or \"sync\""), "{rule}");
        let window = wrong("drain.window", "soon");
        assert!(window.ends_with("the default is \"10s\""), "{window}");
    }
}
