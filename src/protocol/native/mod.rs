//! The native API: one URL per channel; POST writes, GET reads.

mod channels;
mod publish;
mod signals;
mod subscribe;

use crate::channel::ChannelName;
use crate::egress::Egress;
use crate::http::{Method, Problem, Route, decode_path, handler};
use crate::hub::Hub;
use crate::ingest::Ingest;
use crate::shutdown::Shutdown;

/// What the handlers work with: cheap handles.
#[derive(Clone)]
pub struct Native {
    /// The channels.
    pub hub: Hub,
    /// The way in.
    pub ingest: Ingest,
    /// The way out.
    pub egress: Egress,
    /// Whether the hub is going down.
    pub shutdown: Shutdown,
}

impl Native {
    /// Every route of this protocol.
    #[must_use]
    pub fn routes(&self) -> Vec<Route> {
        let channel = vec![
            (Method::GET, handler(self, subscribe::one)),
            (Method::HEAD, handler(self, channels::head)),
            (Method::POST, handler(self, publish::one)),
            (Method::PUT, handler(self, channels::put)),
            (Method::DELETE, handler(self, channels::delete)),
        ];
        let signals = vec![
            (Method::GET, handler(self, signals::feed)),
            (Method::POST, handler(self, signals::send)),
        ];
        vec![
            Route { path: "/v1/signals/{*name}", methods: signals.clone() },
            Route { path: "/v1/signals/", methods: signals },
            Route { path: "/v1/channels/{*name}", methods: channel.clone() },
            // A name that is empty is a bad name, not a path that is not there.
            Route { path: "/v1/channels/", methods: channel },
            Route {
                path: "/v1/events",
                methods: vec![(Method::GET, handler(self, subscribe::many))],
            },
            Route {
                path: "/v1/publish",
                methods: vec![(Method::POST, handler(self, publish::many))],
            },
        ]
    }
}

fn channel_name(path: &str) -> Result<ChannelName, Problem> {
    Ok(decode_path(path)?.parse()?)
}
