//! The native API: one URL per channel; POST writes, GET reads.

mod body_reader;
mod channels;
mod publish;
mod signals;
mod subscribe;
mod tokens;

use std::sync::Arc;
use std::time::Duration;

use humantime::format_duration;

use crate::auth::Operation;
use crate::channel::ChannelName;
use crate::egress::Egress;
use crate::http::{Caller, Endpoint, Method, Problem, Query, Route, handler};
use crate::hub::{ClaimPurpose, Hub};
use crate::ingest::Ingest;
use crate::shutdown::Shutdown;

/// The media types of NDJSON: the preferred one, then its aliases.
const NDJSON: [&str; 9] = [
    "application/x-ndjson",
    "application/ndjson",
    "application/jsonl",
    "application/x-jsonl",
    "application/jsonlines",
    "application/x-jsonlines",
    "application/json-lines",
    "application/ldjson",
    "application/x-ldjson",
];

/// The state of the handlers.
pub struct Native {
    /// The hub, with its channels.
    pub hub: Hub,
    /// The part that publishes.
    pub ingest: Ingest,
    /// The part that delivers.
    pub egress: Egress,
    /// Signals whether the hub is shutting down.
    pub shutdown: Shutdown,
}

impl AsRef<Ingest> for Native {
    fn as_ref(&self) -> &Ingest {
        &self.ingest
    }
}

impl Native {
    /// Returns every route of this protocol.
    #[must_use]
    pub fn routes(self) -> Vec<Route> {
        use Operation::{Admin, Publish, Signal, Subscribe};
        // One handle per request, and not one of each part, because threads share their reference
        // counts.
        let me = &Arc::new(self);
        let channel = vec![
            (Method::GET, Endpoint::OnChannel(&[Subscribe], handler(me, subscribe::one))),
            (Method::HEAD, Endpoint::OnChannel(&[Subscribe, Publish], handler(me, channels::head))),
            (Method::POST, Endpoint::OnChannel(&[Publish], handler(me, publish::one))),
            (Method::PUT, Endpoint::OnChannel(&[Admin], handler(me, channels::put))),
            (Method::DELETE, Endpoint::OnChannel(&[Admin], handler(me, channels::delete))),
        ];
        let signals = vec![
            (Method::GET, Endpoint::OnChannel(signals::FEED, handler(me, signals::feed))),
            (Method::POST, Endpoint::OnChannel(&[Signal], handler(me, signals::send))),
        ];
        let events = (Method::GET, Endpoint::OnSome(&[Subscribe], handler(me, subscribe::many)));
        let publish = (Method::POST, Endpoint::OnSome(&[Publish], handler(me, publish::many)));
        let tokens = (Method::POST, Endpoint::OnSome(&Operation::ALL, handler(me, tokens::mint)));
        vec![
            Route { path: "/v1/signals/{*name}", methods: signals.clone() },
            Route { path: "/v1/signals/", methods: signals },
            Route { path: "/v1/channels/{*name}", methods: channel.clone() },
            // An empty name is an invalid name, and not an unknown path.
            Route { path: "/v1/channels/", methods: channel },
            Route { path: "/v1/events", methods: vec![events] },
            Route { path: "/v1/publish", methods: vec![publish] },
            Route { path: "/v1/tokens", methods: vec![tokens] },
        ]
    }
}

/// Counts a channel towards its creator's quota, if this request is going to create it.
fn claim(
    native: &Native,
    caller: &Caller,
    name: &ChannelName,
    why: ClaimPurpose,
) -> Result<(), Problem> {
    match caller.payer().account() {
        Some(account) => Ok(native.hub.claim(name, account, why)?),
        None => Ok(()),
    }
}

/// Returns a subscriber's heartbeat interval: that of the setting, or a shorter one that it asked
/// for, because some clients give up sooner.
fn heartbeat(native: &Native, query: &Query) -> Result<Duration, Problem> {
    let config = native.egress.config();
    let Some(text) = query.get("heartbeat") else { return Ok(config.heartbeat) };
    let allowed = config.min_heartbeat()..=config.heartbeat;
    match humantime::parse_duration(text) {
        Ok(heartbeat) if allowed.contains(&heartbeat) => Ok(heartbeat),
        _ => {
            let [least, most] = [allowed.start(), allowed.end()].map(|d| format_duration(*d));
            let right = format!("expected `{least}` to `{most}` (`subscribers.heartbeat`)");
            Err(Problem::parameter("heartbeat", text, &right))
        }
    }
}
