//! Tests of the store on disk.

mod basics;
mod clock;
mod damage;
pub(crate) mod fake;
mod faults;
pub(crate) mod gated;
mod golden;
mod lives;
mod model;
mod options;
mod shortage;
mod superblock;
mod support;
