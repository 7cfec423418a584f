//! What heal moved, from the bricks' own counters. Those start at zero with each life of a brick, so they are
//! taken before a brick is killed; what it heals between that and its death isn't counted.

use std::path::Path;

use brick_client::{ImageHealth, Volume, VolumeConfig};

/// What returning bricks compared and copied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Healed {
    /// Lives of bricks in which an image's blocks were compared or copied.
    pub heals: u64,
    /// Blocks whose hashes were compared.
    pub compared_blocks: u64,
    /// Blocks that differed and were copied.
    pub copied_blocks: u64,
    /// Bytes between bricks, both ways, hashes and headers included.
    pub wire_bytes: u64,
}

impl Healed {
    /// Adds what others healed.
    pub fn add(&mut self, other: Healed) {
        self.heals += other.heals;
        self.compared_blocks += other.compared_blocks;
        self.copied_blocks += other.copied_blocks;
        self.wire_bytes += other.wire_bytes;
    }
}

/// What the bricks at `addresses` healed in their present lives.
pub fn healed_by(volume: &Path, addresses: &[String]) -> Healed {
    let mut healed = Healed::default();
    let bricks = health(volume).into_iter().flat_map(|image| image.bricks);
    for brick in bricks.filter(|brick| addresses.contains(&brick.address)) {
        let counters = brick.counters;
        healed.add(Healed {
            heals: u64::from(counters.compared_blocks + counters.pulled_blocks > 0),
            compared_blocks: counters.compared_blocks,
            copied_blocks: counters.pulled_blocks,
            wire_bytes: counters.pulled_wire_bytes,
        });
    }
    healed
}

/// As `heal status` has it; nothing where no quorum answers.
fn health(volume: &Path) -> Vec<ImageHealth> {
    let config = VolumeConfig::load(volume).expect("the volume file is good");
    let mut runtime = brick_client::start_runtime(256).expect("the kernel gives a ring or epoll");
    runtime.block_on(async { Volume::new(config, "crash").heal_status(None).await.unwrap_or_default() })
}
