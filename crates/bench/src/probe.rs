//! Single blocking requests: to create channels, and to check that the server still works.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::clock::{self, SECOND};
use super::response::{self, ResponseHead};
use super::scan::{self, Carry};
use super::template::{From, Template, write_data};

/// The time limit for one response: ample for a healthy server on a busy machine.
const PATIENCE: Duration = Duration::from_secs(5);

/// Creates the channels, on servers that need a request for that.
pub(crate) fn create(template: &Template, channels: &[String]) -> anyhow::Result<()> {
    for channel in channels {
        let Some(request) = template.create(channel) else { return Ok(()) };
        let (status, body) = exchange(template.publish_address(), &request)?;
        if !(200..300).contains(&status) {
            bail!("the server did not create a channel: HTTP {status} {}", body.trim());
        }
    }
    Ok(())
}

/// Checks that a new subscriber of a new channel receives an event.
pub(crate) fn is_healthy(template: &Template, channel: &str) -> anyhow::Result<()> {
    create(template, &[channel.into()])?;
    let mut stream = connect(template.subscribe_address())?;
    stream.write_all(&template.subscription(channel, &From::Now))?;
    let mut received = Vec::new();
    let head = read_head(&mut stream, &mut received)?;
    if head.status != 200 {
        bail!("the subscription was refused: HTTP {}", head.status);
    }
    std::thread::sleep(Duration::from_millis(100));
    let mut data = Vec::new();
    let mut request = Vec::new();
    write_data(&mut data, 0, clock::now(), 32);
    template.publication(channel).post(&mut request, &data);
    let (status, body) = exchange(template.publish_address(), &request)?;
    if !(200..300).contains(&status) {
        bail!("the publish was refused: HTTP {status} {}", body.trim());
    }
    wait_for_payload(&mut stream, head, &received)
}

fn wait_for_payload(
    stream: &mut TcpStream,
    head: ResponseHead,
    received: &[u8],
) -> anyhow::Result<()> {
    let mut body = head.body;
    let mut carry = Carry::EMPTY;
    let mut found = false;
    let mut buffer = [0; 4096];
    let mut bytes = &received[head.len..];
    let until = clock::now() + PATIENCE.as_secs() * SECOND;
    loop {
        loop {
            let run = body.take(&mut bytes);
            if run.is_empty() {
                break;
            }
            carry.tokens(run, |token| found |= scan::payload(token).is_some());
        }
        if found {
            return Ok(());
        }
        let len = stream.read(&mut buffer).context("nothing was delivered")?;
        if len == 0 || clock::now() > until {
            bail!("nothing was delivered");
        }
        bytes = &buffer[..len];
    }
}

fn connect(address: SocketAddr) -> anyhow::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, PATIENCE)
        .with_context(|| format!("cannot reach {address}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn read_head(stream: &mut TcpStream, received: &mut Vec<u8>) -> anyhow::Result<ResponseHead> {
    let mut buffer = [0; 4096];
    loop {
        if let Some(head) = response::head(received)?
            && !received.is_empty()
        {
            return Ok(head);
        }
        let len = stream.read(&mut buffer).context("no answer")?;
        if len == 0 {
            bail!("closed without an answer");
        }
        received.extend_from_slice(&buffer[..len]);
    }
}

/// Sends one request on its own connection and returns the status and the body.
fn exchange(address: SocketAddr, request: &[u8]) -> anyhow::Result<(u16, String)> {
    let mut stream = connect(address)?;
    stream.write_all(request)?;
    let mut received = Vec::new();
    let head = read_head(&mut stream, &mut received)?;
    let mut body = head.body;
    let mut text = Vec::new();
    let mut bytes = &received[head.len..];
    let mut buffer = [0; 4096];
    loop {
        text.extend_from_slice(body.take(&mut bytes));
        if !bytes.is_empty() && !body.is_done() {
            continue;
        }
        if body.is_done() {
            break;
        }
        let len = stream.read(&mut buffer).context("half an answer")?;
        if len == 0 {
            break;
        }
        bytes = &buffer[..len];
    }
    Ok((head.status, String::from_utf8_lossy(&text).into_owned()))
}
