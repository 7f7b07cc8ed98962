//! Tests of the whole module: tokens, keys that are added and removed, minting.

mod keys;
mod reload;
mod support;
mod tokens;
