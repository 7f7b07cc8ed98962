//! Tests of the hub on a disk, which may hang, fill up and break.

mod damage;
mod ends;
mod holes;
mod order;
mod refusals;
mod remains;
mod retention;
pub(crate) mod support;
mod visibility;
