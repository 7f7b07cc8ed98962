//! The official client libraries of LLM providers, as separate processes: they must read from a
//! channel what they read from the provider. The experiment is in `tests/sdk`.

use std::path::Path;
use std::process::Command;

use super::support::start_hub;

/// The folder of the clients.
const SDK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sdk");

/// Runs a program of `tests/sdk` against a hub and prints its output if it fails. The hub closes
/// the channels by the providers' own end marks, and the clients read them bare.
fn passes(program: &str, arguments: &[&str], more: &[&str], needs: &str) {
    assert!(Path::new(SDK).join(needs).exists(), "tests/sdk/{needs} is missing: run scripts/test");
    let hub = start_hub(&[
        ("FANFARE_CHANNELS__PRODUCER_GRACE", "300ms"),
        // Some prompts are silent for longer than three heartbeats.
        ("FANFARE_SUBSCRIBERS__HEARTBEAT", "250ms"),
    ]);
    let run = Command::new(program)
        .args(arguments)
        .arg(hub.url())
        .args(["--read", "bare"])
        .args(more)
        .current_dir(SDK)
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}: run scripts/test"));
    let said = [run.stdout, run.stderr].concat();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&said));
}

fn javascript(more: &[&str]) {
    passes("node", &["--test-reporter=spec", "run.mjs"], more, "node_modules/.installed");
}

#[test]
fn javascript_clients_read_from_a_channel_what_they_read_from_the_provider() {
    javascript(&[]);
}

#[test]
fn javascript_clients_come_to_the_same_result_when_deltas_are_merged() {
    javascript(&["--coalesce", "40ms"]);
}

#[test]
fn python_clients_read_from_a_channel_what_they_read_from_the_provider() {
    let python = format!("{SDK}/python/.venv/bin/python");
    passes(&python, &["python/run.py"], &[], "python/.venv/.installed");
}
