//! The viewers: real subscribers on real connections, who do as they are told.

use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::stage::DemoPart;
use crate::cli::client::HttpClient;
use crate::cli::source::{SourceSignal, SseSource};
use crate::event::{END, GAP};
use crate::sse::ParsedEvent;

/// A viewer's place, and how to reach whoever sits there.
pub(super) struct DemoSeat {
    pub(super) number: usize,
    pub(super) orders: mpsc::Sender<Order>,
}

/// What a viewer is told to do.
#[derive(Debug)]
pub(super) enum Order {
    /// Close the connection, as a network would.
    Leave,
    /// Connect again.
    Return,
}

/// Something that happened to the viewer in this seat, and when.
pub(super) struct Beat(pub(super) usize, pub(super) Instant, pub(super) Happening);

pub(super) enum Happening {
    Connected(Option<String>),
    Event(ParsedEvent),
    Closed,
    Ended(String),
    Failed(String),
}

impl DemoSeat {
    /// A viewer begins to watch. It leaves when the seat is dropped.
    /// `channel` is the path of what it watches.
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

/// A viewer's life. It ends with the channel, with the director, or when something goes wrong.
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
