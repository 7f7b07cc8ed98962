//! Fanfare: an SSE hub. Producers publish events into named channels over HTTP; the hub delivers
//! each channel to any number of viewers, live and from where they left off.
//!
//! A program can run a hub as a part of itself: a [`Server`] with a [`Config`]. Its [`Hub`]
//! publishes and subscribes without HTTP. For other programs there is the crate `fanfare-client`.
//!
//! ```
//! use fanfare::{Config, Server};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = Config::from_toml(
//!     r#"
//!     server.listen = "127.0.0.1:0"
//!     server.admin_listen = "127.0.0.1:0"
//!     drain.window = "1s"
//!     "#,
//! )?;
//! let server = Server::bind(config).await?;
//! println!("listening on {}", server.addr());
//!
//! let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
//! let running = tokio::spawn(server.run(async { drop(stopped.await) }));
//! // The program does what it does, and ends the hub with itself.
//! drop(stop);
//! running.await??;
//! # Ok(())
//! # }
//! ```
//!
//! # Layout
//!
//! A module imports from lower floors only. Modules of one floor do not import each other, except
//! on floors 0 and 7, where a module may import those before it. `tests/tidy.rs` checks it;
//! `docs/ARCHITECTURE.md` has a diagram.
//!
//! | floor | modules |
//! |---|---|
//! | 0 types | word_enum, limits, clock, position, channel, json, event |
//! | 0 utilities | shutdown, lease, telemetry, value |
//! | 1 formats | `sse`: the grammar; `generation`: events of models; `outbound`: HTTP calls |
//! | 2 services | `store`: logs; `auth`: permissions; `quota`: rates and shares |
//! | 3 core | `hub`: channels and subscriptions |
//! | 4 data paths | `ingest`: publishing; `egress`: delivery; `hooks`: HTTP calls; `backplane` |
//! | 5 transport | `http`: connections, routes, problems |
//! | 6 API | `protocol`, `admin` |
//! | 7 process | `config`, `embed`, `server`, `cli` |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]
// A module also re-exports what only tests name.
#![cfg_attr(not(feature = "internals"), allow(unused_imports))]

mod admin;
mod auth;
mod backplane;
mod channel;
#[doc(hidden)]
pub mod cli;
mod clock;
mod config;
mod egress;
mod embed;
mod event;
mod generation;
mod hooks;
mod http;
mod hub;
mod ingest;
mod json;
mod lease;
mod limits;
mod outbound;
mod position;
mod protocol;
mod quota;
mod server;
mod shutdown;
mod store;
mod telemetry;
mod value;
mod word_enum;

pub use channel::{ChannelName, InvalidChannelName};
pub use config::Config;
pub use embed::{CloseState, Event, Hub, PublishError, SubscribeError, Subscription};
pub use event::{ChannelState, EventType, InvalidEventType, NewEvent, Payload};
pub use position::StartFrom;
pub use server::{Reloader, RunError, Server, StartError};

use fanfare_sse as sse;

/// The modules, for the tests and benchmarks of this repository. Nothing here is stable.
#[cfg(feature = "internals")]
#[doc(hidden)]
pub mod internals {
    macro_rules! open {
        ($($module:ident)*) => { $(pub mod $module { pub use crate::$module::*; })* };
    }
    open! {
        auth backplane channel clock config egress event generation http
        hub ingest lease position quota shutdown store telemetry
    }
}
