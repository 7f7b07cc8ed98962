//! `fanfare demo --cluster`.

use std::process::{Command, Output};

use fanfare_testing::nats;

fn demo(server: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fanfare"));
    command.args(["demo", "--cluster", "--exit", "--rate", "200", "--nats-server", server]);
    command.output().unwrap()
}

#[test]
fn a_viewer_whose_hub_is_killed_continues_at_the_other() {
    let server = nats::program();
    let output = demo(server.to_str().unwrap());
    let shown = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{shown}{}", String::from_utf8_lossy(&output.stderr));
    assert!(shown.contains("✓ B") && shown.contains("from hub 2, and then from hub 1"), "{shown}");
}

#[test]
fn a_server_that_is_not_there_is_named() {
    let output = demo("/no/nats-server");
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.starts_with("error: there is no file /no/nats-server"), "{error}");
}
