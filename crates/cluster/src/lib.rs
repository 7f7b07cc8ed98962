//! The shared log of a cluster of hubs.
//!
//! Each hub of a cluster sends what its clients ask for as batches of commands to one log. The log
//! puts the batches of all hubs into one order, and each hub applies all of them in this order with
//! one deterministic state machine. So all hubs have the same channels, events and ids.

pub mod batch;
pub mod command;
#[cfg(feature = "fake")]
pub mod fake;
pub mod log;
pub mod nats;
pub mod offset;
pub mod sender;
pub mod state_machine;
pub mod text;
pub mod viewers;
