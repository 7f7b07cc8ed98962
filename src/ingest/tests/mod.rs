//! Tests of publishing: on the real store, whose disk blocks and refuses writes, and in memory.

mod cluster;
mod ends;
mod parses;
mod refusals;
