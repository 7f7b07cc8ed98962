//! The protocols of the hub, each a module. There is one today.

pub mod native;
