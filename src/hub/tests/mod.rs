//! Tests of the hub on a disk, which may hang, fill up and break.

pub(crate) mod cluster;
mod damage;
mod ends;
mod holes;
mod order;
mod pending_deletes;
mod refusals;
mod retention;
pub(crate) mod support;
mod visibility;
