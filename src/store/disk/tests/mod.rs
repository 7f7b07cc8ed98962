//! Tests of the store on disk.

mod basics;
mod damage;
mod fake;
mod faults;
mod model;
mod support;
