//! Promise 2, compared with a model: "a subscriber sees a contiguous run of events, or exactly one
//! `fanfare.gap` event that says what is missing and why. Never silence, never a duplicate."
//!
//! A random plan is applied twice: to the hub, and to an oracle that is a list of everything that
//! was ever published. A subscriber must get, step by step, the entries of the list after its
//! start; an entry that it does not get must be gone, and announced, once, before any later id is
//! seen. So resuming from every id, of an event, a gap or an end, gives exactly the rest.
//! `model/threads.rs` adds threads.
#![allow(clippy::unwrap_used, clippy::expect_used)] // tests may: helpers are not seen as tests

#[path = "model/oracle.rs"]
mod oracle;
#[path = "model/plan.rs"]
mod plan;
#[path = "model/threads.rs"]
mod threads;
#[path = "model/viewer.rs"]
mod viewer;
#[path = "model/world.rs"]
mod world;

use proptest::prelude::*;

use world::World;

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(1500))]

    #[test]
    fn a_subscriber_gets_all_events_or_a_gap(
        setup in plan::roomy(),
        plan in plan::plan(),
    ) {
        World::new(&setup).live(&plan);
    }

    #[test]
    fn a_subscriber_of_a_hub_without_memory_gets_a_gap_for_what_is_missing(
        setup in plan::cramped(),
        plan in plan::plan(),
    ) {
        World::new(&setup).live(&plan);
    }
}
