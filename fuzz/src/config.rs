//! Configuration files: an accepted one can be written and read again, the error of a refused one
//! names its source, and no error contains a secret.
//!
//! The input: the file.

use std::path::PathBuf;
use std::sync::LazyLock;

use bytesize::ByteSize;
use fanfare::internals::config::{Config, load};

/// Lines whose secret must not be printed, in any section.
const KEPT: [&str; 2] = ["secret = \"hunter2\"", "secret = hunter2"];

/// One file for all inputs, in memory where the machine has a memory file system.
static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let folder = if memory.is_dir() { memory } else { std::env::temp_dir() };
    folder.join(format!("fanfare-fuzz-{}.toml", std::process::id()))
});

/// Checks one input.
///
/// # Panics
/// If a property does not hold.
pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    std::fs::write(&*FILE, text).expect("the file can be written");
    let loaded = load(Some(&FILE), &[]);
    std::fs::remove_file(&*FILE).expect("the file is there");
    match loaded {
        Ok(loaded) => {
            assert!(loaded.config.validate().is_empty(), "accepted, and not valid");
            let written = toml::to_string(&loaded.config).expect("a configuration is TOML");
            // The secret of a hook is not written, so another one is put in its place.
            let written = written.replace("\"(hidden)\"", "\"sixteen bytes, or more\"");
            let again = Config::from_toml(&written).expect("what was written is read");
            let [before, after] = [&loaded.config, &again]
                .map(|config| toml::Value::try_from(config).expect("a configuration is TOML"));
            assert!(same(&before, &after), "{after} of\n{written}");
        }
        Err(error) => tells(text, &error.to_string()),
    }
}

/// Returns whether two values are equal. A size is written with one digit after the point.
fn same(one: &toml::Value, other: &toml::Value) -> bool {
    use toml::Value as V;
    match (one, other) {
        (V::Table(one), V::Table(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .all(|(key, value)| other.get(key).is_some_and(|other| same(value, other)))
        }
        (V::Array(one), V::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (V::String(one), V::String(other)) if one != other => {
            let sizes = [one, other].map(|text| text.parse::<ByteSize>());
            let [Ok(one), Ok(other)] = sizes else { return false };
            one.0.abs_diff(other.0) <= one.0 / 1000 + 1
        }
        (one, other) => one == other,
    }
}

fn tells(text: &str, error: &str) {
    let file = FILE.display().to_string();
    assert!(!error.is_empty(), "refused without a word");
    let sources = [file.as_str(), "default"];
    assert!(sources.iter().any(|source| error.starts_with(source)), "no source: {error}");
    // Only where the secret is in no other kind of line.
    let mut lines = text.lines().filter(|line| line.contains("hunter2"));
    let kept = lines.all(|line| KEPT.contains(&line)) && !text.contains(['\'', '\\']);
    if kept && !text.contains("\"\"") {
        assert!(!error.contains("hunter2"), "a secret is shown: {error}");
    }
}
