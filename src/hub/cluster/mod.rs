//! The hub in a cluster: its operations go through a log that all hubs of the cluster share.
//!
//! An operation becomes a command, and the sender puts commands into batches for the log. Each hub
//! reads the whole log, and applies every batch in the order of the log: [`applier`] lets the state
//! machine decide, and applies its decisions to the channels. Nothing is visible, and no operation
//! is acknowledged, before that.

mod applier;
mod commands;
mod keyed_request;
mod operations;
mod renewals;
mod replica;
mod viewers;

pub use applier::Applier;
pub use fanfare_cluster::command::Lines;
pub use keyed_request::{ClusterKey, KeyedRequest};
pub(super) use operations::{NotProduced, SoleHold};
pub use replica::{Node, Phase, Replica, ReplicaConfig};
