//! Arbitrary bytes on a connection, in pieces of sizes from the input: every answer is HTTP, with
//! none of the statuses that stand for a defect, and the hub accepts the next connection.
//!
//! The input: a byte that selects the listener and the number of pieces, and the bytes.

use std::net::Shutdown;
use std::time::{Duration, Instant};

use crate::hub::{self, HASTY, Look};

/// The connection preface of HTTP/2.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Checks one input.
///
/// # Panics
/// If a property does not hold.
pub fn check(input: &[u8]) {
    let Some((&how, bytes)) = input.split_first() else { return };
    let listener = if how & 0x80 == 0 { HASTY.public } else { HASTY.admin };
    let mut tcp = hub::connect(listener);
    let pieces = 1 + usize::from(how & 3);
    for piece in bytes.chunks(bytes.len().div_ceil(pieces).max(1)) {
        hub::write(&mut tcp, piece);
    }
    // A client that closes its side still gets its answer, and then the end.
    let _ = tcp.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let began = Instant::now();
    loop {
        match hub::read(&mut tcp, &mut answer, Duration::from_millis(500)) {
            Look::End => break,
            // A client that closes its side can still read: its stream continues.
            Look::Nothing if is_stream(&answer) => break,
            Look::Bytes | Look::Nothing => {
                assert!(began.elapsed() < hub::PATIENCE, "the hub does not let go");
            }
        }
    }
    if bytes.starts_with(PREFACE) {
        frames(&answer);
    } else {
        answers(&answer);
    }
}

fn is_stream(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer).to_ascii_lowercase();
    ["text/event-stream", "application/x-ndjson"]
        .iter()
        .any(|media_type| text.contains(&format!("content-type: {media_type}")))
}

/// Checks HTTP/2: whole frames, and an error code that names no defect of the hub.
fn frames(mut answer: &[u8]) {
    const GOAWAY: u8 = 7;
    const INTERNAL_ERROR: u32 = 2;
    // The last frame may be incomplete.
    while let Some((head, rest)) = answer.split_at_checked(9) {
        let size = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        assert!(head[3] <= 9, "no frame of HTTP/2 has type {}", head[3]);
        let Some((body, rest)) = rest.split_at_checked(size) else { return };
        if head[3] == GOAWAY && body.len() >= 8 {
            let code = u32::from_be_bytes([body[4], body[5], body[6], body[7]]);
            assert_ne!(code, INTERNAL_ERROR, "the hub says that it has a defect");
        }
        answer = rest;
    }
}

/// Checks HTTP/1: the answer begins with a head.
fn answers(answer: &[u8]) {
    if answer.is_empty() {
        return;
    }
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut headers);
    let parsed = head.parse(answer);
    assert!(parsed.is_ok(), "no HTTP: {:?}", String::from_utf8_lossy(answer));
    let Some(status) = head.code else { return };
    assert!(status < 500 || status == 503 || status == 505, "status {status}");
}
