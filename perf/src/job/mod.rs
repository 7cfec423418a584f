//! Job files: fio's format, the part of its keys that this tool understands.
//!
//! Text in, [`Job`]s out; nothing here touches a file or a clock. What can't be done is refused with the
//! line it stands on, never ignored: a key that is silently dropped turns a comparison into nonsense.
//!
//! A job holds what its section says over what `[global]` sections above it say, over fio's defaults.
//! fio starts all jobs of a file at once unless they say `stonewall`; here one runs after the other, so
//! every job but the first must say it.

mod error;
mod keys;
mod section;
mod units;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use brick_client::ImageName;

pub use self::error::{JobError, Problem, UnitError};
use self::keys::Draft;
use self::section::Section;
pub use self::units::{parse_size, parse_time};

/// Largest job file: beyond it, somebody named an image by mistake.
pub const FILE_BYTES_MAX: usize = 1 << 20;
/// Most jobs in a file.
pub const JOBS_MAX: usize = 256;
/// Most requests in flight.
pub const DEPTH_MAX: u64 = 4096;
/// Largest block.
pub const BLOCK_BYTES_MAX: u64 = 64 << 20;
/// Most memory for the blocks in flight; also what one registered buffer may hold.
pub const IN_FLIGHT_BYTES_MAX: u64 = 1 << 30;
/// Longest runtime and ramp, so that times in nanoseconds stay far from the end of 64 bits.
pub const TIME_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

const _: () = assert!(BLOCK_BYTES_MAX <= IN_FLIGHT_BYTES_MAX);

/// One job, complete and checked as far as that is possible without its target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its section's name, or its `name`.
    pub name: String,
    /// What is read and written, and through what.
    pub target: Target,
    /// In which order blocks are visited.
    pub order: Order,
    /// What is done with them.
    pub mix: Mix,
    /// Bytes of a request.
    pub block_bytes: u64,
    /// Bytes of the target that are used; `None` for all from the offset on.
    pub size_bytes: Option<u64>,
    /// Where the used part starts.
    pub offset_bytes: u64,
    /// Requests in flight.
    pub depth: u32,
    /// The longest that is measured.
    pub runtime: Option<Duration>,
    /// Start over until the runtime ends.
    pub time_based: bool,
    /// Load before the measurement starts.
    pub ramp_time: Duration,
    /// Decides offsets and directions.
    pub seed: u64,
    /// An fsync follows that many writes; 0 for none.
    pub fsync_every: u64,
    /// The most reads and writes that are measured.
    pub requests_max: Option<u64>,
    /// The keys and values that made this job, for the report.
    pub options: Vec<(String, String)>,
}

/// What a job reads and writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// `ioengine=volume`: a replicated image, in this process.
    Volume {
        /// Which.
        image: ImageName,
    },
    /// `ioengine=raw`: a file or block device.
    Raw {
        /// Which.
        path: PathBuf,
    },
}

impl Target {
    /// What a job file calls the engine.
    pub fn engine_name(&self) -> &'static str {
        match self {
            Target::Volume { .. } => "volume",
            Target::Raw { .. } => "raw",
        }
    }
}

/// In which order blocks are visited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// One after the other, reads and writes each for themselves.
    Sequential,
    /// In a random order that visits each once before it visits one twice.
    Random,
}

/// What is done with blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// All are read.
    Read,
    /// All are written.
    Write,
    /// Chance decides.
    Mixed {
        /// Reads of a hundred requests.
        read_percent: u8,
    },
}

impl Job {
    /// Whether anything is written.
    pub fn writes(&self) -> bool {
        self.mix != Mix::Read
    }

    /// The value of `rw` that says this order and mix.
    pub fn rw(&self) -> &'static str {
        match (self.order, self.mix) {
            (Order::Sequential, Mix::Read) => "read",
            (Order::Sequential, Mix::Write) => "write",
            (Order::Sequential, Mix::Mixed { .. }) => "rw",
            (Order::Random, Mix::Read) => "randread",
            (Order::Random, Mix::Write) => "randwrite",
            (Order::Random, Mix::Mixed { .. }) => "randrw",
        }
    }
}

/// The jobs of a file with this content. `file` is its name in errors.
pub fn parse(file: &str, text: &str) -> Result<Vec<Job>, JobError> {
    let at = |line: usize| move |problem: Problem| JobError { file: file.to_owned(), line, problem };
    if text.len() > FILE_BYTES_MAX {
        return Err(at(1)(Problem::FileTooLarge));
    }
    let mut global = Draft::default();
    let mut jobs: Vec<Job> = Vec::new();
    for section in section::parse(text).map_err(|(line, problem)| at(line)(problem))? {
        if section.name == GLOBAL {
            apply(&section, &mut global).map_err(|(line, problem)| at(line)(problem))?;
            continue;
        }
        let mut draft = global.clone();
        apply(&section, &mut draft).map_err(|(line, problem)| at(line)(problem))?;
        let job = draft.finish(&section.name).map_err(at(section.line))?;
        if let Some(previous) = jobs.last()
            && !draft.stonewall
        {
            return Err(at(section.line)(Problem::AtTheSameTime {
                job: job.name,
                previous: previous.name.clone(),
            }));
        }
        if jobs.len() == JOBS_MAX {
            return Err(at(section.line)(Problem::TooManyJobs));
        }
        jobs.push(job);
    }
    if jobs.is_empty() { Err(at(text.lines().count().max(1))(Problem::NoJobs)) } else { Ok(jobs) }
}

fn apply(section: &Section, draft: &mut Draft) -> Result<(), (usize, Problem)> {
    for setting in &section.settings {
        draft.set(&setting.key, &setting.value).map_err(|problem| (setting.line, problem))?;
    }
    Ok(())
}

/// The section whose keys are defaults of the jobs below it.
const GLOBAL: &str = "global";
