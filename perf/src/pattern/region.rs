//! The part of a target that a job uses.

use crate::job::Job;
use crate::verify::UNITS_MAX;

/// The part of a target that a job uses: whole units from an offset on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Region {
    /// Where the first unit starts.
    pub offset_bytes: u64,
    /// Size of a unit, which is the job's smallest request.
    pub unit_bytes: u64,
    /// How many; enough for the largest request.
    pub units: u64,
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
    /// Notes about each of them would take too much memory.
    #[error(
        "it would verify {units} blocks, but notes are kept of {UNITS_MAX} at most; lower size or raise bs"
    )]
    TooMuchToVerify {
        /// How many there are.
        units: u64,
    },
}

impl Region {
    /// What the job uses of a target of that size. A last part of a unit is left out, as in fio.
    pub fn new(job: &Job, target_bytes: u64) -> Result<Region, RegionError> {
        let (unit_bytes, offset_bytes) = (job.block_bytes, job.offset_bytes);
        let size_bytes = job.size_bytes.unwrap_or(target_bytes.saturating_sub(offset_bytes));
        if offset_bytes.checked_add(size_bytes).is_none_or(|end| end > target_bytes) {
            return Err(RegionError::BeyondTarget { offset_bytes, size_bytes, target_bytes });
        }
        let units = size_bytes / unit_bytes;
        if units * unit_bytes < job.block_bytes_max {
            return Err(RegionError::NoBlock {
                block_bytes: job.block_bytes_max,
                offset_bytes,
                target_bytes,
            });
        }
        if job.verify && units > UNITS_MAX {
            return Err(RegionError::TooMuchToVerify { units });
        }
        Ok(Region { offset_bytes, unit_bytes, units })
    }

    /// How much it is.
    pub fn size_bytes(&self) -> u64 {
        self.units * self.unit_bytes
    }
}
