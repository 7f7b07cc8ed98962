//! The queries of Prometheus and Grafana in `deploy/`: each metric, label and value exists.
//! `tests/schema/monitoring.py` reads the queries.

use fanfare_testing::http::get;

use super::schema::{SCHEMA, installed, run};
use super::support::start_hub;

#[tokio::test]
async fn the_dashboard_and_the_alerts_ask_for_metrics_that_a_hub_has() {
    let folder = tempfile::tempdir().expect("a folder");
    let cert = folder.path().join("cert.pem");
    let key = folder.path().join("key.pem");
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    std::fs::write(&cert, made.cert.pem()).expect("a file");
    std::fs::write(&key, made.signing_key.serialize_pem()).expect("a file");
    let hub = start_hub(&[
        ("FANFARE_TLS__CERT", cert.to_str().expect("text")),
        ("FANFARE_TLS__KEY", key.to_str().expect("text")),
    ]);
    let answer = get(hub.admin(), "/metrics").await;
    let (_, text) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let metrics = folder.path().join("metrics.txt");
    std::fs::write(&metrics, text).expect("a file");
    let mut program = installed(".venv/bin/python");
    program.arg(format!("{SCHEMA}/monitoring.py")).arg(&metrics);
    run(program.arg(env!("CARGO_MANIFEST_DIR")));
}
