//! Job files: fio's format, the part of its keys that this tool understands.
//!
//! Text in, [`Job`]s out; nothing here touches a file or a clock. What can't be done is refused with the
//! line it stands on, never ignored: a key that is silently dropped turns a comparison into nonsense.
//!
//! A job holds what its section says over what `[global]` sections above it say, over fio's defaults.
//! fio starts all jobs of a file at once unless they say `stonewall`; here one runs after the other, so
//! every job but the first must say it.

mod draft;
mod error;
mod keys;
mod nbd_uri;
mod section;
mod sizes;
mod units;
mod values;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

use brick_client::ImageName;

use self::draft::Draft;
pub use self::error::{JobError, Problem, UnitError};
pub use self::keys::key_list;
pub use self::nbd_uri::{NbdPlace, NbdUri};
use self::section::Section;
pub use self::sizes::{BlockSizes, Share, Sizes};
pub use self::units::{parse_size, parse_time};
use crate::random::Random;

/// Largest job file: beyond it, somebody named an image by mistake.
pub const FILE_BYTES_MAX: usize = 1 << 20;
/// Most jobs in a file.
pub const JOBS_MAX: usize = 256;
/// Most requests in flight.
pub const DEPTH_MAX: u32 = 4096;
/// Most workers of a job.
pub const WORKERS_MAX: u32 = 256;
/// Highest limit of a rate, in bytes a second; far beyond any target.
pub const RATE_MAX: u64 = 1 << 50;
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
    /// Of a hundred requests of a random job; the others follow the one before.
    pub percent_random: u8,
    /// What is done with them.
    pub mix: Mix,
    /// Bytes of the smallest request; all are multiples of it.
    pub block_bytes: u64,
    /// Bytes of the largest request.
    pub block_bytes_max: u64,
    /// Bytes of requests.
    pub sizes: BlockSizes,
    /// Bytes of the target that are used; `None` for all from the offset on.
    pub size_bytes: Option<u64>,
    /// Where the used part starts.
    pub offset_bytes: u64,
    /// How much further on each worker starts than the one before.
    pub offset_increment_bytes: u64,
    /// Requests in flight, of each worker.
    pub depth: u32,
    /// How many do the job at the same time, each by itself.
    pub workers: u32,
    /// Which of them this is.
    pub worker: u32,
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
    /// An fdatasync follows that many writes; 0 for none.
    pub data_sync_every: u64,
    /// An fsync follows the last write.
    pub sync_at_end: bool,
    /// The most reads and writes that are measured.
    pub requests_max: Option<u64>,
    /// When requests are due.
    pub rates: Rates,
    /// Pauses.
    pub think: Option<Think>,
    /// Blocks carry a header with a checksum, and what is read is checked.
    pub verify: bool,
    /// What was written is read afterwards.
    pub do_verify: bool,
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
    /// `ioengine=brick`: the same on one brick, of a volume that is unreplicated.
    Brick {
        /// Which.
        image: ImageName,
    },
    /// `ioengine=raw`: a file or block device.
    Raw {
        /// Which.
        path: PathBuf,
    },
    /// `ioengine=monoio`: a file or block device through that runtime.
    Monoio {
        /// Which.
        path: PathBuf,
    },
    /// `ioengine=tokio-uring`: a file or block device through that runtime.
    TokioUring {
        /// Which.
        path: PathBuf,
    },
    /// `ioengine=nbd`: an export of an NBD server.
    Nbd {
        /// Which.
        uri: NbdUri,
    },
}

/// Limits on a job, in bytes a second. A request that has one is *due* at a certain moment, and its latency
/// counts from there: a target that falls behind can't hide it by being asked less often.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// On reads.
    pub read: Option<u64>,
    /// On writes.
    pub write: Option<u64>,
}

impl Rates {
    /// Whether there is one.
    pub fn is_limited(&self) -> bool {
        self.read.is_some() || self.write.is_some()
    }
}

/// Pauses of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Think {
    /// How long, counted from the completion of what is in flight.
    pub time: Duration,
    /// How many requests lie between two pauses; at least one.
    pub requests: u64,
}

impl Target {
    /// What a job file calls the engine.
    pub fn engine_name(&self) -> &'static str {
        match self {
            Target::Volume { .. } => "volume",
            Target::Brick { .. } => "brick",
            Target::Raw { .. } => "raw",
            Target::Monoio { .. } => "monoio",
            Target::TokioUring { .. } => "tokio-uring",
            Target::Nbd { .. } => "nbd",
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

    /// Whether anything is made durable before the job ends.
    pub fn syncs(&self) -> bool {
        self.fsync_every > 0 || self.data_sync_every > 0 || self.sync_at_end
    }

    /// The job of one of its workers: fio's meaning of `numjobs` and `offset_increment`. Each has a seed of
    /// its own; the first has the job's.
    pub fn of_worker(&self, worker: u32) -> Job {
        assert!(worker < self.workers, "worker {worker} of {}", self.workers);
        let mut job = self.clone();
        job.worker = worker;
        job.offset_bytes =
            self.offset_bytes.saturating_add(self.offset_increment_bytes.saturating_mul(u64::from(worker)));
        if worker > 0 {
            job.seed = Random::new(self.seed.wrapping_add(u64::from(worker))).next_u64();
        }
        job
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
