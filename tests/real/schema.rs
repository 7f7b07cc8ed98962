//! `docs/openapi.yaml`, checked by programs. It is valid, client generators accept it, and it has
//! every event that a hub sends. Requests generated from it, valid ones, invalid ones, and those
//! with undefined methods, get only answers that the document has. The settings of these programs
//! are in `tests/schema`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use fanfare_testing::HubProcess;
use fanfare_testing::http::get;

use super::support::{start_hub, start_hub_in};

/// The folder of the programs and their settings.
pub(super) const SCHEMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/schema");

/// The document, as the hub serves it.
const DOCUMENT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/openapi.yaml");

/// The versions in which a hub serves it.
const VERSIONS: [&str; 2] = ["openapi.yaml", "openapi-3.1.yaml"];

/// Returns a program of `tests/schema`, from one of the folders into which `scripts/test` installs
/// them.
pub(super) fn installed(program: &str) -> Command {
    let path = format!("{SCHEMA}/{program}");
    assert!(Path::new(&path).exists(), "{path} is missing: run scripts/test");
    Command::new(path)
}

/// Runs a program that is expected to succeed, and returns what it prints.
pub(super) fn run(command: &mut Command) -> String {
    let run = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let printed = [run.stdout, run.stderr].concat();
    let printed = String::from_utf8_lossy(&printed).into_owned();
    assert!(run.status.success(), "{command:?}: {printed}");
    printed
}

/// Saves the documents that a hub serves, and returns their paths.
async fn documents(hub: &HubProcess, folder: &Path) -> [PathBuf; 2] {
    let mut paths = Vec::new();
    for name in VERSIONS {
        let answer = get(hub.addr(), &format!("/{name}")).await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.1 200"), "{name}: {head}");
        paths.push(folder.join(name));
        std::fs::write(folder.join(name), body).expect("a file");
    }
    paths.try_into().expect("two documents")
}

/// The environment variable with the key that the hub signs tokens with.
const SIGNING_KEY: (&str, &str) = ("HUB_SECRET", "a secret for this test, of more than 32 bytes");

/// Returns an API key that grants everything, and a folder with the configuration of it.
fn hub_with_a_key(settings: &str) -> (String, TempDir) {
    let (key, hash) = fanfare::internals::auth::generate_api_key().expect("randomness");
    let folder = tempfile::tempdir().expect("a folder");
    let grants = "{ publish = true, subscribe = true, signal = true, admin = true }";
    let stanza = format!(
        "{settings}[auth]\nsigning_key = \"env:HUB_SECRET\"\n\
         [[auth.api_keys]]\nname = \"schema\"\nhash = \"{hash}\"\ngrants = {grants}\n"
    );
    std::fs::write(folder.path().join("fanfare.toml"), stanza).expect("a file");
    (key, folder)
}

/// Checks a listener against the document, except for these paths. With an API key each request has
/// it.
fn conforms(listener: SocketAddr, without: &[&str], key: Option<&str>) {
    // A separate folder, because the program keeps notes between runs, and each is to be as the
    // first.
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = installed(".venv/bin/schemathesis");
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
    let said = run(&mut command);
    let counted = said.lines().find_map(|line| Some(line.trim().split_once(" generated, ")?.0));
    let counted: Option<u32> = counted.and_then(|count| count.parse().ok());
    assert!(counted.unwrap_or(0) >= 50, "hardly a request was made: {said}");
}

#[tokio::test]
async fn two_validators_find_nothing_wrong_with_either_version_of_the_document() {
    let hub = start_hub(&[]);
    let folder = tempfile::tempdir().expect("a folder");
    for document in documents(&hub, folder.path()).await {
        run(installed(".venv/bin/openapi-spec-validator").arg(&document));
        let rules = format!("--config={SCHEMA}/redocly.yaml");
        run(installed("node_modules/.bin/redocly").arg("lint").arg(rules).arg(&document));
    }
}

#[tokio::test]
async fn two_generators_make_clients_of_the_document_in_version_3_1() {
    let hub = start_hub(&[]);
    let folder = tempfile::tempdir().expect("a folder");
    let [_, document] = documents(&hub, folder.path()).await;

    let types = folder.path().join("openapi.d.ts");
    run(installed("node_modules/.bin/openapi-typescript").arg(&document).arg("-o").arg(types));
    let program = folder.path().join("client.ts");
    std::fs::copy(format!("{SCHEMA}/client.ts"), &program).expect("a file");
    run(installed("node_modules/.bin/tsc").args(["--strict", "--noEmit"]).arg(&program));

    let client = folder.path().join("client");
    let mut generator = installed(".venv/bin/openapi-python-client");
    generator.arg("generate").arg(format!("--config={SCHEMA}/generator.yaml"));
    generator.arg("--path").arg(&document).arg("--output-path").arg(&client);
    let printed = run(&mut generator);
    assert!(!printed.contains("removal of"), "schemas were left out: {printed}");
    let mut program = installed(".venv/bin/python");
    program.arg(format!("{SCHEMA}/client.py")).arg(hub.url());
    program.arg(format!("http://{}", hub.admin())).env("PYTHONPATH", &client);
    run(&mut program);
}

#[test]
fn every_event_that_the_hub_sends_is_in_the_document() {
    let (key, folder) = hub_with_a_key("[quotas]\nmax_subscriptions = 3\n");
    let hub = start_hub_in(folder.path(), &[SIGNING_KEY]);
    let mut program = installed(".venv/bin/python");
    program.arg(format!("{SCHEMA}/events.py"));
    program.args([hub.url().as_str(), &key, env!("CARGO_MANIFEST_DIR")]);
    run(&mut program);
}

#[test]
fn the_public_listener_answers_as_its_document_says() {
    let hub = start_hub(&[("FANFARE_CHANNELS__PRODUCER_GRACE", "300ms")]);
    conforms(hub.addr(), &["/v1/channels", "/v1/cluster", "/metrics"], None);
}

#[test]
fn a_hub_that_asks_for_keys_answers_as_its_document_says() {
    let (key, folder) = hub_with_a_key("[channels]\nproducer_grace = \"300ms\"\n");
    let hub = start_hub_in(folder.path(), &[SIGNING_KEY]);
    conforms(hub.addr(), &["/v1/channels", "/v1/cluster", "/metrics"], Some(&key));
}

#[test]
fn the_admin_listener_answers_as_its_document_says() {
    let hub = start_hub(&[]);
    let public =
        ["/v1/channels/{name}", "/v1/signals/{name}", "/v1/events", "/v1/publish", "/v1/tokens"];
    conforms(hub.admin(), &public, None);
}
