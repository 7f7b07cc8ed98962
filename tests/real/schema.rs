//! Requests that a program makes up from `docs/openapi.yaml`: good ones, bad ones, and of methods
//! that are not there. Whatever it asks for, the answer is one that the document has. What it must
//! know besides is in `tests/schema`.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use super::support::HubProcess;

/// Where its settings are.
const SCHEMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/schema");

/// The document, as the hub has it.
const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.yaml");

/// Checks a listener by the document, but for these paths. With an API key each request has it.
fn conforms(listener: SocketAddr, without: &[&str], key: Option<&str>) {
    let program = format!("{SCHEMA}/.venv/bin/schemathesis");
    assert!(Path::new(&program).exists(), "{program} is missing: run scripts/test");
    // A folder of its own: it keeps notes between runs, and each is to be as the first.
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(&program);
    command.args(["--config-file", &format!("{SCHEMA}/schemathesis.toml")]);
    command.args(["run", DOCUMENT, "--url", &format!("http://{listener}")]);
    for path in without {
        command.args(["--exclude-path", path]);
    }
    if let Some(key) = key {
        command.args(["-H", &format!("X-API-Key: {key}")]);
    }
    command.env("SCHEMATHESIS_HOOKS", "hooks").env("PYTHONPATH", SCHEMA);
    command.env("PYTHONDONTWRITEBYTECODE", "1").current_dir(&folder);
    let run = command.output().unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = [run.stdout, run.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(run.status.success(), "{said}");
    let counted = said.lines().find_map(|line| Some(line.trim().split_once(" generated, ")?.0));
    let counted: Option<u32> = counted.and_then(|count| count.parse().ok());
    assert!(counted.unwrap_or(0) >= 50, "hardly a request was made: {said}");
}

#[test]
fn the_public_listener_answers_as_its_document_says() {
    let hub = HubProcess::start(&[("FANFARE_CHANNELS__PRODUCER_GRACE", "300ms")]);
    conforms(hub.addr(), &["/v1/channels", "/metrics"], None);
}

#[test]
fn a_hub_that_asks_for_keys_answers_as_its_document_says() {
    let (key, hash) = fanfare::auth::generate_api_key().expect("randomness");
    let folder = tempfile::tempdir().expect("a folder");
    let grants = "{ publish = true, subscribe = true, signal = true, admin = true }";
    let stanza = format!(
        "[channels]\nproducer_grace = \"300ms\"\n[auth]\nsigning_key = \"env:HUB_SECRET\"\n\
         [[auth.api_keys]]\nname = \"schema\"\nhash = \"{hash}\"\ngrants = {grants}\n"
    );
    std::fs::write(folder.path().join("fanfare.toml"), stanza).expect("a file");
    let secret = "a secret for this test, of more than 32 bytes";
    let hub = HubProcess::start_in(folder.path(), &[("HUB_SECRET", secret)]);
    conforms(hub.addr(), &["/v1/channels", "/metrics"], Some(&key));
}

#[test]
fn the_admin_listener_answers_as_its_document_says() {
    let hub = HubProcess::start(&[]);
    let public =
        ["/v1/channels/{name}", "/v1/signals/{name}", "/v1/events", "/v1/publish", "/v1/tokens"];
    conforms(hub.admin(), &public, None);
}
