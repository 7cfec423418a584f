//! A healthy image in the simulator under single requests, one after the other: the same instructions in every run, for
//! whoever counts them.

use brick_tests::sim::scenario::{ARBITERED, Scenario};
use clap::Parser;

/// Writes and reads blocks of a simulated image.
///
/// Example: valgrind --tool=callgrind --toggle-collect='*Engine*handle_event*' brick-scripted-load --writes 1000
#[derive(Debug, Parser)]
struct Arguments {
    /// Blocks that are written
    #[arg(long, default_value_t = 0)]
    writes: u32,
    /// Blocks that are read after that
    #[arg(long, default_value_t = 0)]
    reads: u32,
}

/// Blocks in use: of two shards.
const BLOCKS: u32 = 400;
/// Of the simulator's shards.
const SHARD_BLOCKS: u32 = 256;

fn main() {
    let arguments = Arguments::parse();
    let mut scenario = Scenario::new(&ARBITERED);
    let id = scenario.open();
    let place = |number: u32| (number % BLOCKS / SHARD_BLOCKS, (number % BLOCKS % SHARD_BLOCKS) as u16);
    for (shard, block) in (0..BLOCKS + arguments.writes).map(place) {
        scenario.write(id, shard, block);
    }
    for (shard, block) in (0..arguments.reads).map(place) {
        scenario.read(id, shard, block);
    }
    scenario.end(id);
}
