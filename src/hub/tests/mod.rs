//! Tests of the hub on a disk that hangs, fills up and breaks.

mod ends;
mod holes;
mod refusals;
mod remains;
pub(crate) mod support;
mod visibility;
