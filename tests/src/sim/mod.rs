//! The deterministic simulator: a whole cluster in one thread, from one seed.
//!
//! What runs is real: the bricks' engines and the clients' replica cores, with everything they say to each
//! other. What is simulated is what they stand on: [`agenda`] is the clock, [`network`] the connections,
//! [`disk`] the storage, [`session`] and [`user`] the programs above. [`checker`] knows what every half
//! block may hold and complains about anything else.
//!
//! A run has two halves (TigerBeetle's VOPR): with faults, nothing wrong may happen; after them, everything
//! good must. The same seed does the same, event for event: nothing here iterates a hash map or looks at
//! a real clock.

pub mod agenda;
pub mod brick;
mod brick_events;
pub mod checker;
pub mod config;
pub mod content;
pub mod disk;
pub mod disk_work;
pub mod faults;
pub mod finale;
pub mod history;
pub mod link;
pub mod log;
mod losses;
pub mod network;
pub mod operator;
pub mod random;
mod replace;
pub mod scenario;
pub mod session;
pub mod user;
pub mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use config::{Config, Length, Switches};
use log::{Log, Recording};
use random::Random;
use world::World;

/// How to run a seed.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How much the users do.
    pub length: Length,
    /// What becomes of the log.
    pub recording: Recording,
    /// Faults that wait for a feature.
    pub switches: Switches,
}

impl Default for Options {
    fn default() -> Options {
        Options { length: Length::Mixed, recording: Recording::Hash, switches: Switches::default() }
    }
}

/// What a run came to.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Which.
    pub seed: u64,
    /// The hash of its log; two runs of a seed have the same.
    pub hash: u64,
    /// Happenings.
    pub events: u64,
    /// Requests that completed well.
    pub completed: u64,
    /// What was wrong, if anything was.
    pub failure: Option<String>,
}

/// Runs one seed. A panic of the code under test is a failure like any other.
pub fn run(seed: u64, options: Options) -> Summary {
    let outcome = catch_unwind(AssertUnwindSafe(|| run_world(seed, options)));
    outcome.unwrap_or_else(|payload| {
        let text = payload.downcast_ref::<String>().cloned();
        let text = text.or_else(|| payload.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let failure = Some(format!("panic: {}", text.unwrap_or_default()));
        Summary { seed, hash: Log::new(Recording::Hash).hash(), events: 0, completed: 0, failure }
    })
}

fn run_world(seed: u64, options: Options) -> Summary {
    let mut random = Random::new(seed);
    let config = Config::draw(&mut random, options.length, options.switches);
    if options.recording == Recording::Print {
        println!("{config:#?}");
    }
    let mut world = World::new(config, random, options.recording);
    let outcome = world.fault_phase().and_then(|()| world.finale());
    Summary {
        seed,
        hash: world.log.hash(),
        events: world.events,
        completed: world.checker.completed,
        failure: outcome.err(),
    }
}
