//! The tests of the module: streams as providers send them, and properties of random ones.

mod dialects;
mod properties;
mod recognised;
mod streams;
