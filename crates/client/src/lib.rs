//! A client of the SSE hub Fanfare.
//!
//! A [`Client`] publishes events, follows channels and stops generations. It opens connections when
//! they are needed, and reuses those that are idle. A subscription is a [`Stream`]: it reconnects
//! when its connection breaks, resumes after the last event that it returned, and ends when its
//! channel has ended.
//!
//! [`Stream`]: tokio_stream::Stream
//!
//! ```
//! use fanfare_client::{Client, Close, Start};
//! use tokio_stream::StreamExt as _;
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let url = hub().await?;
//! // let url = "http://127.0.0.1:4100";
//! let client = Client::new(url.parse()?)?;
//!
//! let words = tokio_stream::iter(["once", "upon", "a time"]);
//! let receipt = client.publish("story").close(Close::Complete).texts(words).await?;
//! assert_eq!((receipt.events, receipt.state.as_str()), (3, "complete"));
//!
//! let mut events = client.subscribe("story").from(Start::Earliest);
//! let mut story = Vec::new();
//! while let Some(event) = events.next().await.transpose()? {
//!     match event.end() {
//!         Some(end) => assert_eq!(end.state, "complete"),
//!         None => story.push(event.data),
//!     }
//! }
//! assert_eq!(story, ["once", "upon", "a time"]);
//! # Ok(())
//! # }
//! #
//! # async fn hub() -> Result<String, Box<dyn std::error::Error>> {
//! #     let mut config = fanfare::Config::default();
//! #     config.server.listen = ([127, 0, 0, 1], 0).into();
//! #     config.server.admin_listen = ([127, 0, 0, 1], 0).into();
//! #     let server = fanfare::Server::bind(config).await?;
//! #     let url = format!("http://{}", server.addr());
//! #     tokio::spawn(server.run(std::future::pending()));
//! #     Ok(url)
//! # }
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

mod client;
mod error;
mod event;
mod publish;
mod reply;
mod subscription;
mod tls;
mod url;

pub use client::{Builder, Client, RequestBody, channel_path, full};
pub use error::{Error, Problem};
pub use event::{End, Envelope, Event, Gap};
pub use publish::{Close, Publish, Receipt};
pub use reply::Reply;
pub use subscription::{Signal, Start, Subscription};
pub use tls::InvalidCertificates;
pub use url::{DEFAULT_URL, HubUrl, InvalidHubUrl};
