//! The viewers: real subscribers on real connections, which follow orders.

use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::stage::DemoPart;
use crate::cli::client::HttpClient;
use crate::cli::source::{SourceSignal, SseSource};
use crate::event::{END, GAP};
use crate::sse::ParsedEvent;

/// The index of a viewer and the queue of its orders.
pub(super) struct DemoSeat {
    pub(super) number: usize,
    pub(super) orders: mpsc::Sender<Order>,
}

/// An order to a viewer.
#[derive(Debug)]
pub(super) enum Order {
    /// Close the connection, like a network failure.
    Leave,
    /// Connect again.
    Return,
}

/// An event at the viewer of this number, and its time.
pub(super) struct Beat(pub(super) usize, pub(super) Instant, pub(super) Happening);

pub(super) enum Happening {
    Connected(Option<String>),
    Event(ParsedEvent),
    Closed,
    Ended(String),
    Failed(String),
}

impl DemoSeat {
    /// Starts a viewer, which ends when the seat is dropped. `channel` is the path of its channel.
    pub(super) fn take(
        number: usize,
        client: &HttpClient,
        channel: String,
        beats: mpsc::Sender<Beat>,
    ) -> Self {
        let (orders, ordered) = mpsc::channel(1);
        let source = SseSource::new(client.clone(), channel, DemoPart::start(number), Some(1));
        tokio::spawn(view(number, source, ordered, beats));
        Self { number, orders }
    }
}

/// Runs a viewer until the channel ends, the director ends, or an error occurs.
async fn view(
    seat: usize,
    mut source: SseSource,
    mut orders: mpsc::Receiver<Order>,
    beats: mpsc::Sender<Beat>,
) {
    loop {
        let happening = tokio::select! {
            biased;
            order = orders.recv() => match order {
                Some(Order::Leave) => {
                    source.disconnect();
                    Happening::Closed
                }
                Some(Order::Return) => continue,
                None => return,
            },
            signal = source.next() => match signal {
                Ok(signal) => happening(signal),
                Err(error) => Happening::Failed(error.to_string()),
            },
        };
        let last = matches!(happening, Happening::Ended(_) | Happening::Failed(_));
        let closed = matches!(happening, Happening::Closed);
        if beats.send(Beat(seat, Instant::now(), happening)).await.is_err() || last {
            return;
        }
        if closed && orders.recv().await.is_none() {
            return;
        }
    }
}

fn happening(signal: SourceSignal) -> Happening {
    match signal {
        SourceSignal::Connected(id) => Happening::Connected(id),
        SourceSignal::Event(event) => match event.event_type.as_deref() {
            Some(END) => Happening::Ended(end_state(&event.data)),
            Some(GAP) => Happening::Failed(format!("there is a gap: {}", event.data)),
            _ => Happening::Event(event),
        },
        SourceSignal::Lost(why, _) => Happening::Failed(why),
        SourceSignal::Ended => Happening::Failed("the stream ended without saying how".into()),
    }
}

fn end_state(data: &str) -> String {
    #[derive(Deserialize)]
    struct DemoEnd {
        state: String,
    }
    serde_json::from_str(data).map_or_else(|_| "unknown".into(), |end: DemoEnd| end.state)
}
