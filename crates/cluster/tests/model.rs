//! The model test of the shared log: hubs that send to a log with faults, and apply it. Each run
//! depends on its seed alone: `SEED=7 cargo test -p fanfare-cluster --test model` runs one, and
//! `TIMES=3` three times as many as usual.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)] // a test may

#[path = "model/hub.rs"]
mod hub;
#[path = "model/publisher.rs"]
mod publisher;
#[path = "model/world.rs"]
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use world::{Kind, World};

/// Runs a model for each seed, and names the seed that fails.
fn run(kind: Kind, seeds: u64) {
    let number = |name| std::env::var(name).ok().map(|value| value.parse().unwrap());
    let seeds = match (number("SEED"), number("TIMES")) {
        (Some(seed), _) => seed..seed + 1,
        (None, times) => 0..seeds * times.unwrap_or(1),
    };
    for seed in seeds {
        let result = catch_unwind(AssertUnwindSafe(|| {
            let mut world = World::new(kind, seed);
            world.run(if kind == Kind::Trimmed { 600 } else { 300 });
            world.heal();
            world.check();
        }));
        if let Err(panic) = result {
            eprintln!("{kind:?}: seed {seed} failed");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn each_command_is_applied_once_on_all_hubs_or_on_none() {
    run(Kind::Complete, 1000);
}

#[test]
fn hubs_that_begin_after_the_front_of_the_log_agree_with_the_others() {
    run(Kind::Trimmed, 150);
}

#[test]
fn a_log_that_loses_its_tail_leaves_hubs_that_agree() {
    run(Kind::Truncated, 500);
}
