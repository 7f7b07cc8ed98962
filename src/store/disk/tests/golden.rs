//! A directory written by version 1 of the store; `tests/real/golden.rs` describes how.

use std::path::Path;

use super::support::read;
use crate::store::LogPosition;
use crate::store::disk::{Config, Disk, DiskRead, OpenError, OpenOptions, Seek, StoredStream};
use crate::telemetry::Metrics;
use std::sync::Arc;

const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/store-v1");

fn copy() -> (tempfile::TempDir, Config) {
    let folder = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(GOLDEN).unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
    }
    let path = folder.path().to_owned();
    (folder, Config { path, ..super::support::config() })
}

fn open(config: &Config) -> Result<(Disk, Vec<StoredStream>, usize), OpenError> {
    let (disk, found) = Disk::open(config, OpenOptions::default(), Arc::new(Metrics::new()))?;
    assert!(!found.power_cut);
    Ok((disk, found.streams, found.receipts.len()))
}

/// Returns all frames of a stream as one text.
fn text(disk: &Disk, stream: &StoredStream) -> String {
    let mut text = String::new();
    let mut at = LogPosition::default();
    while let DiskRead::Batch(batch) = read(disk, stream.id, Seek::Seq(at.seq)) {
        assert_eq!(batch.start(), at);
        batch.events().for_each(|(_, frame)| text.push_str(std::str::from_utf8(frame).unwrap()));
        at = batch.end();
    }
    assert_eq!(at, stream.end);
    text
}

#[test]
fn everything_is_found_in_a_directory_of_version_1() {
    let names: Vec<_> = std::fs::read_dir(GOLDEN).unwrap().collect();
    let has = |ending: &str| {
        let names = names.iter().map(|it| it.as_ref().unwrap().file_name());
        names.filter(|name| name.to_string_lossy().ends_with(ending)).count()
    };
    assert!(has(".seg") == 1 && has(".log") > 0 && has(".cat") == 2 && has(".store") == 1);
    let (_folder, config) = copy();
    let (disk, streams, receipts) = open(&config).unwrap();
    assert_eq!(receipts, 1);
    let of: Vec<_> = streams.iter().map(|it| (it.name.as_str(), it.end.seq)).collect();
    assert_eq!(of, [("chat/42", 31), ("done", 4), ("café 語", 2)]);
    assert!(streams[0].options.contains(r#""max_events":500"#), "{:?}", streams[0].options);
    assert!(streams[0].state.is_none() && streams[1].state.as_ref().unwrap().contains("complete"));
    let chat = text(&disk, &streams[0]);
    for number in 0..30 {
        assert!(chat.contains(&format!("{{\"n\":{number}}}")), "{number}: {chat}");
    }
    assert!(chat.contains("one") && chat.contains("two"), "{chat}");
    for stream in &streams[1..] {
        assert!(text(&disk, stream).contains("{\"n\":1}"));
    }
}

#[test]
fn a_directory_of_version_2_is_refused_and_left_as_it_is() {
    let (folder, config) = copy();
    let superblock = folder.path().join("fanfare.store");
    let text = std::fs::read_to_string(&superblock).unwrap();
    std::fs::write(&superblock, text.replace("\"version\": 1", "\"version\": 2")).unwrap();
    let contents = || {
        let paths = std::fs::read_dir(folder.path()).unwrap().map(|it| it.unwrap().path());
        let mut files: Vec<_> = paths.filter(|path| !path.ends_with("lock")).collect();
        files.sort();
        let read = |path: &std::path::PathBuf| std::fs::read(Path::new(path)).unwrap();
        files.iter().map(|path| (path.clone(), read(path))).collect::<Vec<_>>()
    };
    let before = contents();
    let error = open(&config).unwrap_err();
    assert!(matches!(error, OpenError::Newer { found: 2, known: 1, .. }), "{error}");
    assert!(error.to_string().contains("or give it another `store.path`"), "{error}");
    assert!(contents() == before);
}
