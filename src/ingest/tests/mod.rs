//! Tests of publishing on the real store, on a disk that holds things up and refuses them.

mod ends;
mod refusals;
