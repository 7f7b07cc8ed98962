//! What the fuzz targets hold the hub to, a module for each: bytes come in, and what does not hold
//! panics. `README.md` says how they are run.

pub mod channel_pattern;
pub mod config;
pub mod connection;
pub mod credential;
pub mod event_stream;
pub mod generation;
mod hub;
pub mod last_event_id;
mod log;
pub mod publish;
pub mod request;
