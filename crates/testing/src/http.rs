//! Single requests, each on its own connection, whose answers are text with the head.

use std::io::{Read, Write};
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::wait::{PATIENCE, within};

/// Sends a body, and returns the whole answer.
pub async fn post(addr: SocketAddr, path: &str, body: &str) -> String {
    let length = body.len();
    request(addr, &format!("POST {path} HTTP/1.1\r\nContent-Length: {length}"), body).await
}

/// Requests JSON, and returns the whole answer.
pub async fn get(addr: SocketAddr, path: &str) -> String {
    request(addr, &format!("GET {path} HTTP/1.1\r\nAccept: application/json"), "").await
}

/// Returns the head of the answer.
pub async fn head(addr: SocketAddr, path: &str) -> String {
    request(addr, &format!("HEAD {path} HTTP/1.1"), "").await
}

/// Sends a request with this head, which has no `Host`, and returns the whole answer.
pub async fn request(addr: SocketAddr, head: &str, body: &str) -> String {
    let mut tcp = TcpStream::connect(addr).await.expect("a connection");
    tcp.write_all(whole(addr, head, body).as_bytes()).await.expect("a request");
    let mut answer = String::new();
    within("an answer", tcp.read_to_string(&mut answer)).await.expect("an answer");
    answer
}

/// Sends a request like [`request`], and blocks the thread meanwhile.
pub fn request_blocking(addr: SocketAddr, head: &str, body: &str) -> String {
    let mut tcp = std::net::TcpStream::connect(addr).expect("a connection");
    tcp.set_read_timeout(Some(PATIENCE)).expect("a time limit");
    tcp.write_all(whole(addr, head, body).as_bytes()).expect("a request");
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).expect("an answer");
    answer
}

fn whole(addr: SocketAddr, head: &str, body: &str) -> String {
    format!("{head}\r\nHost: {addr}\r\nConnection: close\r\n\r\n{body}")
}
