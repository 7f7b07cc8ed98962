//! A producer with a streamed request body.

use super::{Response, TestHub, Wire};

/// A `POST` with a chunked body that is still open.
pub(crate) struct Publisher {
    wire: Wire,
}

impl Publisher {
    /// Begins to publish an event stream to the channel.
    pub(crate) async fn events(hub: &TestHub, channel: &str) -> Self {
        let to = format!("/v1/channels/{channel}");
        Self::begin(hub, &to, "text/event-stream", &[]).await
    }

    /// Begins a `POST` to this target, with this content type.
    pub(crate) async fn begin(
        hub: &TestHub,
        to: &str,
        content_type: &str,
        headers: &[(&str, &str)],
    ) -> Self {
        let mut all = vec![("Content-Type", content_type), ("Transfer-Encoding", "chunked")];
        all.extend_from_slice(headers);
        let mut wire = Wire::connect(hub.addr()).await;
        wire.send_head("POST", to, &all).await;
        Self { wire }
    }

    /// Waits for the interim response to `Expect: 100-continue`: the hub reads the body.
    pub(crate) async fn until_continue(&mut self) {
        assert_eq!(self.wire.head().await.status, 100);
    }

    /// Sends a part of the body.
    pub(crate) async fn send(&mut self, part: impl AsRef<[u8]>) {
        let part = part.as_ref();
        if part.is_empty() {
            return; // an empty chunk would be the end of the body
        }
        let mut chunk = format!("{:x}\r\n", part.len()).into_bytes();
        chunk.extend_from_slice(part);
        chunk.extend_from_slice(b"\r\n");
        self.wire.send(chunk).await;
    }

    /// Ends the body and reads the reply.
    pub(crate) async fn finish(mut self) -> Response {
        self.wire.send("0\r\n\r\n").await;
        self.wire.response().await
    }

    /// Reads the reply without ending the body: the hub answered early.
    pub(crate) async fn early_reply(mut self) -> Response {
        self.wire.response().await
    }

    /// Closes the connection in the middle of the body.
    pub(crate) fn break_off(self) {}
}
