//! Requests to the API of JetStream, as an operator sends them.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use fanfare_testing::eventually;
use fanfare_testing::nats::NatsCluster;

/// The time limit of one request: servers without a leader do not answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Sends a request until a server answers it, and returns the reply.
pub(crate) async fn request(nats: &NatsCluster, subject: &str) -> Value {
    let ports: Vec<u16> = nats.servers.iter().map(|server| server.port()).collect();
    eventually(subject, async || {
        for port in &ports {
            if let Ok(Ok(reply)) = timeout(PATIENCE, once(*port, subject)).await
                && reply.get("error").is_none()
            {
                return Some(reply);
            }
        }
        None
    })
    .await
}

/// Returns the name of the server that leads the stream.
pub(crate) async fn leader(nats: &NatsCluster, stream: &str) -> String {
    let subject = format!("$JS.API.STREAM.INFO.{stream}");
    eventually("a leader", async || {
        let info = request(nats, &subject).await;
        info["cluster"]["leader"].as_str().filter(|name| !name.is_empty()).map(str::to_owned)
    })
    .await
}

/// Waits until all servers have the whole stream.
pub(crate) async fn in_sync(nats: &NatsCluster, stream: &str) {
    let subject = format!("$JS.API.STREAM.INFO.{stream}");
    eventually("servers in sync", async || {
        let info = request(nats, &subject).await;
        let others = info["cluster"]["replicas"].as_array()?;
        let all = others.len() + 1 == nats.servers.len();
        (all && others.iter().all(|other| other["current"] == true)).then_some(())
    })
    .await;
}

async fn once(port: u16, subject: &str) -> io::Result<Value> {
    let mut tcp = BufReader::new(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?);
    let text =
        format!("CONNECT {{\"verbose\":false}}\r\nSUB reply 1\r\nPUB {subject} reply 0\r\n\r\n");
    tcp.write_all(text.as_bytes()).await?;
    loop {
        let mut line = String::new();
        if tcp.read_line(&mut line).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if line.starts_with("PING") {
            tcp.write_all(b"PONG\r\n").await?;
        } else if line.starts_with("MSG ") {
            let length = line.trim_end().rsplit(' ').next().and_then(|text| text.parse().ok());
            let mut body = vec![0; length.expect("a length")];
            tcp.read_exact(&mut body).await?;
            return Ok(serde_json::from_slice(&body).expect("JSON"));
        }
    }
}
