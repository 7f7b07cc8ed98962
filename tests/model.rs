//! Promise 2, held against a model: "a subscriber sees a contiguous run of events, or exactly one
//! `fanfare.gap` event that says what is missing and why. Never silence, never a duplicate."
//!
//! Random lives of a hub are lived twice: by the hub, and by an oracle that is no more than a list
//! of everything that was ever published. What a subscriber is given, step by step, must be what
//! lies in the list after its start; what is not, must be gone, and announced, once, before any
//! id is seen that lies after it. So resuming from every id, of an event, a gap or an end, gives
//! exactly the rest. Threads come in `model/threads.rs`.
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
    fn a_subscriber_sees_all_or_is_told_what_is_missing(
        setup in plan::roomy(),
        plan in plan::plan(),
    ) {
        World::new(&setup).live(&plan);
    }

    #[test]
    fn a_subscriber_of_a_hub_without_memory_is_told_what_is_missing(
        setup in plan::cramped(),
        plan in plan::plan(),
    ) {
        World::new(&setup).live(&plan);
    }
}
