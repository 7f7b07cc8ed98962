//! The viewers: real subscribers on real connections, which follow orders.

use fanfare_client::{Event, Signal, Subscription};
use tokio::sync::mpsc;
use tokio::time::Instant;

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
    Event(Event),
    Closed,
    Ended(String),
    Failed(String),
}

impl DemoSeat {
    /// Starts a viewer, which ends when the seat is dropped.
    pub(super) fn take(number: usize, events: Subscription, beats: mpsc::Sender<Beat>) -> Self {
        let (orders, ordered) = mpsc::channel(1);
        tokio::spawn(view(number, events, ordered, beats));
        Self { number, orders }
    }
}

/// Runs a viewer until the channel ends, the director ends, or an error occurs.
async fn view(
    seat: usize,
    mut events: Subscription,
    mut orders: mpsc::Receiver<Order>,
    beats: mpsc::Sender<Beat>,
) {
    loop {
        let happening = tokio::select! {
            biased;
            order = orders.recv() => match order {
                Some(Order::Leave) => {
                    events.disconnect();
                    Happening::Closed
                }
                Some(Order::Return) => continue,
                None => return,
            },
            signal = events.signal() => match signal {
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

fn happening(signal: Signal) -> Happening {
    match signal {
        Signal::Connected(id) => Happening::Connected(id),
        Signal::Event(event) => {
            if let Some(end) = event.end() {
                Happening::Ended(end.state)
            } else if event.gap().is_some() {
                Happening::Failed(format!("there is a gap: {}", event.data))
            } else {
                Happening::Event(event)
            }
        }
        Signal::Lost(why, _) => Happening::Failed(why),
        Signal::Ended => Happening::Failed("the stream ended without saying how".into()),
    }
}
