//! Which block comes next, and whether it is read or written.
//!
//! Deterministic: job and region decide the whole sequence, whatever completes when.

use crate::job::{Job, Mix, Order};
use crate::random::{Permutation, Random};

/// The part of a target that a job uses: whole blocks from an offset on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Where the first block starts.
    pub offset_bytes: u64,
    /// Size of a block.
    pub block_bytes: u64,
    /// How many; at least one.
    pub blocks: u64,
}

/// A job that doesn't fit its target.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegionError {
    /// Something is left over behind the end.
    #[error(
        "it needs bytes {offset_bytes}+{size_bytes} of a target that has {target_bytes}; lower size or offset"
    )]
    BeyondTarget {
        /// Where the job starts.
        offset_bytes: u64,
        /// How much it wants.
        size_bytes: u64,
        /// How much there is.
        target_bytes: u64,
    },
    /// Not one block.
    #[error(
        "no block of {block_bytes} bytes fits behind offset {offset_bytes} of a target that has {target_bytes} bytes"
    )]
    NoBlock {
        /// Size of a block.
        block_bytes: u64,
        /// Where the job starts.
        offset_bytes: u64,
        /// How much there is.
        target_bytes: u64,
    },
}

impl Region {
    /// What the job uses of a target of that size. A last part of a block is left out, as in fio.
    pub fn new(job: &Job, target_bytes: u64) -> Result<Region, RegionError> {
        let (block_bytes, offset_bytes) = (job.block_bytes, job.offset_bytes);
        let size_bytes = job.size_bytes.unwrap_or(target_bytes.saturating_sub(offset_bytes));
        if offset_bytes.checked_add(size_bytes).is_none_or(|end| end > target_bytes) {
            return Err(RegionError::BeyondTarget { offset_bytes, size_bytes, target_bytes });
        }
        match size_bytes / block_bytes {
            0 => Err(RegionError::NoBlock { block_bytes, offset_bytes, target_bytes }),
            blocks => Ok(Region { offset_bytes, block_bytes, blocks }),
        }
    }
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads a block.
    Read,
    /// Writes a block.
    Write,
    /// Makes completed writes durable.
    Sync,
}

/// One request to a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What it does.
    pub kind: Kind,
    /// Where; 0 for a sync.
    pub offset_bytes: u64,
    /// How much; 0 for a sync.
    pub length_bytes: u64,
}

impl Request {
    /// A sync.
    pub const SYNC: Request = Request { kind: Kind::Sync, offset_bytes: 0, length_bytes: 0 };
}

/// An endless sequence of reads and writes within a region.
#[derive(Clone, Debug)]
pub struct Pattern {
    region: Region,
    mix: Mix,
    chance: Random,
    walk: Walk,
}

/// Where the sequence stands.
#[derive(Clone, Debug)]
enum Walk {
    /// The next block to read, and to write: mixed sequential jobs are two streams, as in fio.
    Sequential { read: u64, write: u64 },
    /// One order for reads and writes: each pass visits every block once.
    Random { seed: u64, pass: u64, index: u64, order: Permutation },
}

impl Pattern {
    /// The sequence of a job in a region.
    pub fn new(job: &Job, region: Region) -> Pattern {
        let walk = match job.order {
            Order::Sequential => Walk::Sequential { read: 0, write: 0 },
            Order::Random => Walk::Random {
                seed: job.seed,
                pass: 0,
                index: 0,
                order: Permutation::new(region.blocks, job.seed),
            },
        };
        // Not the seed itself: directions must not follow from offsets.
        Pattern { region, mix: job.mix, chance: Random::new(!job.seed), walk }
    }

    /// The next request.
    pub fn next_request(&mut self) -> Request {
        let kind = match self.mix {
            Mix::Read => Kind::Read,
            Mix::Write => Kind::Write,
            Mix::Mixed { read_percent } if self.chance.percent(read_percent) => Kind::Read,
            Mix::Mixed { .. } => Kind::Write,
        };
        let Region { offset_bytes, block_bytes, blocks } = self.region;
        let block = self.walk.next_block(kind, blocks);
        assert!(block < blocks, "block {block} of {blocks}");
        Request { kind, offset_bytes: offset_bytes + block * block_bytes, length_bytes: block_bytes }
    }
}

impl Walk {
    fn next_block(&mut self, kind: Kind, blocks: u64) -> u64 {
        match self {
            Walk::Sequential { read, write } => {
                let next = if kind == Kind::Read { read } else { write };
                let block = *next;
                *next = (block + 1) % blocks;
                block
            }
            Walk::Random { seed, pass, index, order } => {
                if *index == blocks {
                    *pass += 1;
                    *index = 0;
                    *order = Permutation::new(blocks, seed.wrapping_add(*pass));
                }
                *index += 1;
                order.at(*index - 1)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::job;

    fn job(text: &str) -> Job {
        let text = format!("[job]\nioengine=raw\nfilename=f\n{text}");
        job::parse("test.fio", &text).expect("a good job").remove(0)
    }

    fn requests(job: &Job, target_bytes: u64, count: usize) -> Vec<Request> {
        let mut pattern = Pattern::new(job, Region::new(job, target_bytes).expect("it fits"));
        (0..count).map(|_| pattern.next_request()).collect()
    }

    proptest! {
        /// Whatever the job, requests are whole aligned blocks of its part of the target.
        #[test]
        fn requests_stay_within_the_region(
            rw in proptest::sample::select(vec!["read", "write", "rw", "randread", "randwrite", "randrw"]),
            sectors in 1u64..64, blocks in 1u64..200, rest in 0u64..512, offset in 0u64..100, seed: u64,
        ) {
            let (bs, offset) = (sectors * 512, offset * 512);
            let size = blocks * bs + rest.min(bs - 1);
            let job = job(&format!("rw={rw}\nbs={bs}\nsize={size}\noffset={offset}\nrandseed={seed}"));
            let requests = requests(&job, offset + size, 600);
            for request in &requests {
                prop_assert!(request.offset_bytes >= offset);
                prop_assert!(request.offset_bytes + request.length_bytes <= offset + size);
                prop_assert_eq!((request.offset_bytes - offset) % bs, 0);
                prop_assert_eq!(request.length_bytes, bs);
            }
            if job.order == Order::Random {
                let mut pass: Vec<u64> = requests.iter().take(blocks as usize).map(|r| r.offset_bytes).collect();
                pass.sort_unstable();
                pass.dedup();
                prop_assert_eq!(pass.len() as u64, blocks, "a pass visits every block");
            }
        }

        #[test]
        fn the_share_of_reads_is_what_was_asked(percent in 0u64..=100, seed: u64) {
            let job = job(&format!("rw=randrw\nrwmixread={percent}\nrandseed={seed}"));
            let requests = requests(&job, 1 << 20, 10_000);
            let reads = requests.iter().filter(|request| request.kind == Kind::Read).count() as u64;
            prop_assert!(reads.abs_diff(percent * 100) < 300, "{} of 10000 are reads", reads);
            prop_assert!(percent > 0 || reads == 0);
            prop_assert!(percent < 100 || reads == 10_000);
        }
    }

    #[test]
    fn the_seed_decides_everything() {
        let sequence = |seed: u64| requests(&job(&format!("rw=randrw\nrandseed={seed}")), 64 << 20, 1000);
        assert_eq!(sequence(5), sequence(5));
        assert_ne!(sequence(5), sequence(6));
    }

    #[test]
    fn sequential_requests_follow_each_other_and_wrap() {
        let offsets = |requests: Vec<Request>| requests.iter().map(|r| r.offset_bytes).collect::<Vec<_>>();
        let job_read = job("rw=read\nbs=1m\noffset=1m\nsize=3m");
        assert_eq!(offsets(requests(&job_read, 4 << 20, 4)), [1 << 20, 2 << 20, 3 << 20, 1 << 20]);
        for kind in [Kind::Read, Kind::Write] {
            let mut mixed = requests(&job("rw=rw"), 1 << 20, 100);
            mixed.retain(|request| request.kind == kind);
            let expected: Vec<u64> = (0..mixed.len() as u64).map(|block| block * 4096).collect();
            assert_eq!(offsets(mixed), expected, "{kind:?} is a stream of its own");
        }
    }

    #[test]
    fn a_job_beyond_its_target_is_refused() {
        assert!(matches!(Region::new(&job("size=1m"), 1000), Err(RegionError::BeyondTarget { .. })));
        assert!(matches!(
            Region::new(&job("size=1m\noffset=16777215t"), 1 << 20),
            Err(RegionError::BeyondTarget { .. })
        ));
        assert!(matches!(Region::new(&job("offset=4k"), 4096), Err(RegionError::NoBlock { .. })));
        assert!(matches!(Region::new(&job("offset=8k"), 4096), Err(RegionError::BeyondTarget { .. })));
        let whole = Region::new(&job("offset=4k"), 10_000).expect("it fits");
        assert_eq!(whole, Region { offset_bytes: 4096, block_bytes: 4096, blocks: 1 });
    }
}
