//! What can be wrong with a job file, each as one sentence with its place.

use super::{BLOCK_BYTES_MAX, FILE_BYTES_MAX, IN_FLIGHT_BYTES_MAX, JOBS_MAX};

/// A job file that can't be run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {problem}")]
pub struct JobError {
    /// Which file.
    pub file: String,
    /// Which line, from 1.
    pub line: usize,
    /// What is wrong there.
    pub problem: Problem,
}

/// What is wrong with a line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Neither a section, nor a setting, nor a comment.
    #[error(
        "{0:?} is not understood; possible are a [section], key=value, and comments that start with # or ;"
    )]
    NotUnderstood(String),
    /// A setting before the first section.
    #[error("{0:?} belongs to no section; put [global] or [the job's name] above it")]
    NoSection(String),
    /// A key that we don't know.
    #[error("key {key:?} is unknown; possible are {possible}")]
    UnknownKey {
        /// What was written.
        key: String,
        /// All keys.
        possible: String,
    },
    /// A value that its key doesn't take.
    #[error("{key}={value:?} is not possible; {key} takes {possible}")]
    BadValue {
        /// The key.
        key: String,
        /// What was written.
        value: String,
        /// What the key takes.
        possible: &'static str,
    },
    /// A size or time that its key doesn't take.
    #[error("{key}={value:?} is not possible: {source}")]
    BadUnit {
        /// The key.
        key: String,
        /// What was written.
        value: String,
        /// Why.
        source: UnitError,
    },
    /// A job lacks something.
    #[error("job {job:?} lacks {key}; give {possible}")]
    Missing {
        /// Which job.
        job: String,
        /// Which key.
        key: &'static str,
        /// What to write.
        possible: &'static str,
    },
    /// Blocks that are larger than what they are taken from.
    #[error(
        "job {job:?} has bs={block_bytes} and size={size_bytes}, so not one block fits; lower bs or raise size"
    )]
    BlockBeyondSize {
        /// Which job.
        job: String,
        /// Size of a block.
        block_bytes: u64,
        /// Size of the used part.
        size_bytes: u64,
    },
    /// Too much memory.
    #[error(
        "job {job:?} has more than {max} bytes in flight (bs times iodepth times numjobs); lower one of them",
        max = IN_FLIGHT_BYTES_MAX
    )]
    TooMuchInFlight {
        /// Which job.
        job: String,
    },
    /// Sizes without a common unit.
    #[error(
        "job {job:?} has block sizes that aren't multiples of its smallest one, {unit_bytes} bytes; choose such"
    )]
    UnevenSizes {
        /// Which job.
        job: String,
        /// The smallest.
        unit_bytes: u64,
    },
    /// Workers that would be reported each by itself.
    #[error(
        "job {job:?} has numjobs, whose figures are reported together only; add group_reporting to say so"
    )]
    WorkersApart {
        /// Which job.
        job: String,
    },
    /// Writers of one image.
    #[error(
        "job {job:?} has numjobs on an image, which only one client at a time may hold; raise iodepth instead"
    )]
    WorkersOfImage {
        /// Which job.
        job: String,
    },
    /// Workers that overwrite each other's blocks.
    #[error(
        "job {job:?} verifies what several workers write to the same blocks; give a size, and an offset_increment \
         that is at least as large"
    )]
    WorkersOverlap {
        /// Which job.
        job: String,
    },
    /// Two limits on one thing.
    #[error("job {job:?} has rate and rate_iops for the same direction; choose one")]
    TwoRates {
        /// Which job.
        job: String,
    },
    /// Jobs that would run together.
    #[error(
        "job {job:?} would run at the same time as {previous:?}, which isn't possible yet; add stonewall to run it after"
    )]
    AtTheSameTime {
        /// Which job.
        job: String,
        /// The one before.
        previous: String,
    },
    /// Nothing to run.
    #[error("the file holds no job; add a section such as [randread]")]
    NoJobs,
    /// More jobs than anybody reads.
    #[error("the file holds more than {JOBS_MAX} jobs; split it")]
    TooManyJobs,
    /// No job file at all.
    #[error("the file is larger than {FILE_BYTES_MAX} bytes; is it a job file?")]
    FileTooLarge,
}

/// Why a text isn't a size or a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// No size.
    #[error("a size is a whole number with k, m, g or t (powers of 1024) or nothing behind it, such as 4k")]
    NotASize,
    /// A unit that fio reads in the other way.
    #[error("fio reads ki, mi, gi and ti as powers of 1000; write k, m, g or t, which are powers of 1024")]
    InvertedUnit,
    /// No time.
    #[error("a time is a whole number with us, ms, s, m or h behind it, such as 30s")]
    NotATime,
    /// Too large or too small.
    #[error("it must be from {min} to {max}")]
    OutOfRange {
        /// The least.
        min: u64,
        /// The most.
        max: u64,
    },
    /// A block that no device takes.
    #[error("blocks are multiples of 512 bytes, up to {BLOCK_BYTES_MAX}")]
    NotSectors,
}
