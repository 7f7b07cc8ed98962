//! The protocols that the hub speaks, each a room of its own. Today one.

pub mod native;
