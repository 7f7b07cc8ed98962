//! The cost of rendering one event: from fields to the bytes in the log, chunk framing included.
#![allow(clippy::unwrap_used, clippy::expect_used)] // a benchmark may, as a test may

use std::hint::black_box;

use criterion::{Criterion, Throughput};
use fanfare_sse::{Text, encode};

/// A typical id of a hub that has run for a while.
const ID: &str = "k7q2xm-1234567";

/// Data of `size` bytes without a line end.
fn plain(size: usize) -> String {
    "What somebody has to say, in so many words. ".chars().cycle().take(size).collect()
}

/// A kilobyte in short lines, like a program's output or pretty-printed JSON.
fn lines() -> String {
    (0..32).map(|number| format!("{number:3}: a line of 32 bytes, LF inc\n")).collect()
}

fn one_event(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("encode");
    for (name, data) in
        [("32 B", plain(32)), ("1 KiB", plain(1024)), ("1 KiB in 32 lines", lines())]
    {
        let event = Text { id: Some(ID), event_type: None, data: data.as_bytes() };
        let mut out = Vec::new();
        group.throughput(Throughput::Bytes(data.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| {
                out.clear();
                encode(&mut out, black_box(&event));
                black_box(&out);
            });
        });
    }
    group.finish();
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    one_event(&mut criterion);
    criterion.final_summary();
}
