//! Tests of the whole: tokens, keys that come and go, what is minted.

mod keys;
mod reload;
mod support;
mod tokens;
