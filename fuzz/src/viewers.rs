//! Reports of viewers: what is read is written in one way only and takes no more memory than the
//! input; totals are those that were reported as changes, and are zero when all sessions are over.
//!
//! The input: reports without their first two bytes, each after its length in two bytes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use fanfare_cluster::batch::Codec;
use fanfare_cluster::text::Text;
use fanfare_cluster::viewers::{RemoteViewers, Report, Totals};

/// The first byte of a report, and its version.
const HEAD: [u8; 2] = [0xFB, 1];

/// Checks one input.
///
/// # Panics
/// If a property does not hold.
pub fn check(input: &[u8]) {
    let codec = Codec::default();
    assert!(Report::decode(&codec, &Bytes::copy_from_slice(input)).is_err(), "a checksum");
    let mut viewers: Option<RemoteViewers> = None;
    let mut known: BTreeMap<Text, u64> = BTreeMap::new();
    let mut sessions = BTreeSet::new();
    for part in parts(input) {
        let mut content = BytesMut::from(&HEAD[..]);
        content.extend_from_slice(part);
        let broadcast = codec.sign(content);
        let Ok(report) = Report::decode(&codec, &broadcast) else { continue };
        assert!(report.counts.len() * 2 <= part.len(), "more counts than bytes");
        assert_eq!(report.encode(&codec), broadcast);
        assert!(Report::decode(&Codec::new(Some(b"secret")), &broadcast).is_err(), "a signature");
        let viewers =
            viewers.get_or_insert_with(|| RemoteViewers::new(codec.clone(), report.epoch.clone()));
        let Ok(changed) = viewers.receive(&broadcast, |_| true, Duration::ZERO) else { continue };
        sessions.insert(report.session);
        note(&mut known, changed, viewers);
    }
    let Some(mut viewers) = viewers else { return };
    for session in sessions {
        let changed = viewers.end_session(session);
        note(&mut known, changed, &viewers);
    }
    assert!(known.values().all(|total| *total == 0), "viewers of no session");
}

/// Compares the totals with the changes that were reported.
fn note(known: &mut BTreeMap<Text, u64>, changed: Totals, viewers: &RemoteViewers) {
    known.extend(changed);
    for (channel, total) in known {
        assert_eq!(viewers.total(channel.as_str()), *total, "{channel:?}");
    }
}

fn parts(mut input: &[u8]) -> Vec<&[u8]> {
    let mut parts = Vec::new();
    while let Some((length, rest)) = input.split_first_chunk() {
        let (part, rest) = rest.split_at(rest.len().min(u16::from_le_bytes(*length).into()));
        parts.push(part);
        input = rest;
    }
    parts
}
