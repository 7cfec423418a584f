//! Which blocks come next, and whether they are read or written.
//!
//! Deterministic: job and region decide the whole sequence, whatever completes when; only where reads and
//! writes have rates of their own, what is due decides which of both comes next.

mod region;
mod walk;

#[cfg(test)]
mod tests;

pub use self::region::{Region, RegionError};
use self::walk::Walk;
use crate::job::{BlockSizes, Job, Mix};
use crate::random::Random;

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads a block.
    Read,
    /// Writes a block.
    Write,
    /// Makes completed writes durable.
    Sync,
    /// The same, without what isn't needed to read them back, such as times of a file.
    DataSync,
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
    /// A sync of data only.
    pub const DATA_SYNC: Request = Request { kind: Kind::DataSync, offset_bytes: 0, length_bytes: 0 };
}

/// An endless sequence of reads and writes within a region.
#[derive(Clone, Debug)]
pub struct Pattern {
    region: Region,
    mix: Mix,
    sizes: BlockSizes,
    directions: Random,
    lengths: Random,
    walk: Walk,
}

impl Pattern {
    /// The sequence of a job in a region.
    pub fn new(job: &Job, region: Region) -> Pattern {
        Pattern {
            region,
            mix: job.mix,
            sizes: job.sizes.clone(),
            // Not the seed itself: directions and lengths must not follow from offsets.
            directions: Random::new(!job.seed),
            lengths: Random::new(job.seed.rotate_left(32)),
            walk: Walk::new(job, region.units),
        }
    }

    /// Whether the next request reads or writes.
    pub fn next_kind(&mut self) -> Kind {
        match self.mix {
            Mix::Read => Kind::Read,
            Mix::Write => Kind::Write,
            Mix::Mixed { read_percent } if self.directions.percent(read_percent) => Kind::Read,
            Mix::Mixed { .. } => Kind::Write,
        }
    }

    /// The next read or write.
    pub fn next_request(&mut self, kind: Kind) -> Request {
        let Region { offset_bytes, unit_bytes, units } = self.region;
        let wanted = self.sizes.of(kind).pick(&mut self.lengths) / unit_bytes;
        let (unit, length) = self.walk.next(kind, wanted, units);
        assert!(length > 0 && unit + length <= units, "units {unit}+{length} of {units}");
        Request { kind, offset_bytes: offset_bytes + unit * unit_bytes, length_bytes: length * unit_bytes }
    }
}
