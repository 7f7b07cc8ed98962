//! The checks of the fuzz targets, a module for each: an input is bytes, and a violated property is
//! a panic. `README.md` says how to run them.

pub mod batch;
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
pub mod viewers;
