//! Tests of the store on disk.

mod basics;
mod damage;
mod fake;
mod faults;
mod golden;
mod lives;
mod model;
mod support;
