//! Tests of publishing on the real store, whose disk blocks and refuses writes.

mod ends;
mod refusals;
