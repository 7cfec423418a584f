//! A job of which more keys may follow, and the checks that take more than one key.

use std::path::PathBuf;
use std::time::Duration;

use brick_client::ImageName;

use super::error::Problem;
use super::keys::{ENGINES, KEYS};
use super::nbd_uri::NbdUri;
use super::sizes::{BlockSizes, Sizes};
use super::values::ValueError;
use super::{IN_FLIGHT_BYTES_MAX, Job, Mix, Order, Rates, Target, Think};

/// What the keys so far say. Starts with fio's defaults.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    /// Runs after the jobs above it.
    pub stonewall: bool,
    pub engine: Option<EngineName>,
    pub image: Option<ImageName>,
    pub path: Option<PathBuf>,
    pub uri: Option<NbdUri>,
    pub name: Option<String>,
    pub order: Order,
    pub percent_random: u8,
    pub direction: Direction,
    pub read_percent: u8,
    pub sizes: BlockSizes,
    pub size_bytes: Option<u64>,
    pub offset_bytes: u64,
    pub offset_increment_bytes: u64,
    pub depth: u32,
    pub workers: u32,
    pub group_reporting: bool,
    pub runtime: Option<Duration>,
    pub time_based: bool,
    pub ramp_time: Duration,
    pub seed: u64,
    pub fsync_every: u64,
    pub data_sync_every: u64,
    pub sync_at_end: bool,
    pub requests_max: Option<u64>,
    /// Bytes a second of reads and writes; 0 for no limit.
    pub rate: [u64; 2],
    /// Requests a second of reads and writes; 0 for no limit.
    pub rate_iops: [u64; 2],
    pub think_time: Duration,
    pub think_requests: u64,
    pub verify: bool,
    pub do_verify: bool,
    options: Vec<(String, String)>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum EngineName {
    Volume,
    Brick,
    Raw,
    Monoio,
    TokioUring,
    Nbd,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Direction {
    Read,
    Write,
    Mixed,
}

impl Default for Draft {
    fn default() -> Draft {
        Draft {
            stonewall: false,
            engine: None,
            image: None,
            path: None,
            uri: None,
            name: None,
            order: Order::Sequential,
            percent_random: 100,
            direction: Direction::Read,
            read_percent: 50,
            sizes: BlockSizes::one(BLOCK_BYTES_DEFAULT),
            size_bytes: None,
            offset_bytes: 0,
            offset_increment_bytes: 0,
            depth: 1,
            workers: 1,
            group_reporting: false,
            runtime: None,
            time_based: false,
            ramp_time: Duration::ZERO,
            seed: SEED_DEFAULT,
            fsync_every: 0,
            data_sync_every: 0,
            sync_at_end: false,
            requests_max: None,
            rate: [0; 2],
            rate_iops: [0; 2],
            think_time: Duration::ZERO,
            think_requests: 1,
            verify: false,
            do_verify: true,
            options: Vec::new(),
        }
    }
}

impl Draft {
    /// Takes one setting; a later one wins.
    pub fn set(&mut self, key: &str, value: &str) -> Result<(), Problem> {
        let Some(known) = KEYS.iter().find(|known| known.name == key) else {
            let names: Vec<_> = KEYS.iter().map(|known| known.name).collect();
            return Err(Problem::UnknownKey { key: key.to_owned(), possible: names.join(", ") });
        };
        (known.set)(self, value).map_err(|error| {
            let (key, value) = (key.to_owned(), value.to_owned());
            match error {
                ValueError::Possible(possible) => Problem::BadValue { key, value, possible },
                ValueError::Unit(source) => Problem::BadUnit { key, value, source },
            }
        })?;
        self.options.retain(|(earlier, _)| earlier != key);
        self.options.push((key.to_owned(), value.to_owned()));
        Ok(())
    }

    /// Takes sizes; what wasn't given goes back to the default.
    pub fn set_sizes(&mut self, [read, write]: [Option<Sizes>; 2]) {
        let default = || Sizes::one(BLOCK_BYTES_DEFAULT);
        self.sizes = BlockSizes { read: read.unwrap_or_else(default), write: write.unwrap_or_else(default) };
    }

    /// The job, whose section is called `section`.
    pub fn finish(&self, section: &str) -> Result<Job, Problem> {
        let draft = self.clone();
        let name = draft.name.clone().unwrap_or_else(|| section.to_owned());
        let target = draft.target(&name)?;
        if draft.time_based && draft.runtime.is_none_or(|runtime| runtime.is_zero()) {
            let possible = "how long it runs, because it is time_based";
            return Err(Problem::Missing { job: name, key: "runtime", possible });
        }
        let mix = match draft.direction {
            Direction::Read => Mix::Read,
            Direction::Write => Mix::Write,
            Direction::Mixed => Mix::Mixed { read_percent: draft.read_percent },
        };
        let (block_bytes, block_bytes_max) = draft.block_bounds(&name, mix)?;
        draft.check_workers(&name, &target, mix)?;
        if block_bytes_max * u64::from(draft.depth) * u64::from(draft.workers) > IN_FLIGHT_BYTES_MAX {
            return Err(Problem::TooMuchInFlight { job: name });
        }
        let rates = draft.rates(&name)?;
        let think = Think { time: draft.think_time, requests: draft.think_requests };
        Ok(Job {
            name,
            target,
            order: draft.order,
            percent_random: draft.percent_random,
            mix,
            block_bytes,
            block_bytes_max,
            sizes: draft.sizes,
            size_bytes: draft.size_bytes,
            offset_bytes: draft.offset_bytes,
            offset_increment_bytes: draft.offset_increment_bytes,
            depth: draft.depth,
            workers: draft.workers,
            worker: 0,
            // fio: no limit.
            runtime: draft.runtime.filter(|runtime| !runtime.is_zero()),
            time_based: draft.time_based,
            ramp_time: draft.ramp_time,
            seed: draft.seed,
            fsync_every: draft.fsync_every,
            data_sync_every: draft.data_sync_every,
            sync_at_end: draft.sync_at_end,
            requests_max: draft.requests_max,
            rates,
            think: Some(think).filter(|think| !think.time.is_zero()),
            verify: draft.verify,
            do_verify: draft.verify && draft.do_verify,
            options: draft.options,
        })
    }

    fn target(&self, job: &str) -> Result<Target, Problem> {
        let missing = |key, possible| Problem::Missing { job: job.to_owned(), key, possible };
        let path =
            || self.path.clone().ok_or_else(|| missing("filename", "the path of a file or block device"));
        let image =
            || self.image.clone().ok_or_else(|| missing("image", "the name of an image of the volume"));
        Ok(match self.engine.ok_or_else(|| missing("ioengine", ENGINES))? {
            EngineName::Volume => Target::Volume { image: image()? },
            EngineName::Brick => Target::Brick { image: image()? },
            EngineName::Raw => Target::Raw { path: path()? },
            EngineName::Monoio => Target::Monoio { path: path()? },
            EngineName::TokioUring => Target::TokioUring { path: path()? },
            EngineName::Nbd => {
                let uri = self.uri.clone();
                Target::Nbd { uri: uri.ok_or_else(|| missing("uri", "where the NBD server listens"))? }
            }
        })
    }

    /// The smallest and the largest request that the job makes.
    fn block_bounds(&self, job: &str, mix: Mix) -> Result<(u64, u64), Problem> {
        let used: &[&Sizes] = match mix {
            Mix::Read => &[&self.sizes.read],
            Mix::Write => &[&self.sizes.write],
            Mix::Mixed { .. } => &[&self.sizes.read, &self.sizes.write],
        };
        let min_bytes = used.iter().map(|sizes| sizes.min_bytes()).min().expect("at least one direction");
        let max_bytes = used.iter().map(|sizes| sizes.max_bytes()).max().expect("at least one direction");
        if let Some(size_bytes) = self.size_bytes.filter(|size_bytes| *size_bytes < max_bytes) {
            return Err(Problem::BlockBeyondSize { job: job.to_owned(), block_bytes: max_bytes, size_bytes });
        }
        if !used.iter().all(|sizes| sizes.are_multiples_of(min_bytes)) {
            return Err(Problem::UnevenSizes { job: job.to_owned(), unit_bytes: min_bytes });
        }
        Ok((min_bytes, max_bytes))
    }

    fn check_workers(&self, job: &str, target: &Target, mix: Mix) -> Result<(), Problem> {
        if self.workers == 1 {
            return Ok(());
        }
        let job = job.to_owned();
        if !self.group_reporting {
            return Err(Problem::WorkersApart { job });
        }
        if matches!(target, Target::Volume { .. } | Target::Brick { .. }) {
            return Err(Problem::WorkersOfImage { job });
        }
        let apart = self.size_bytes.is_some_and(|size_bytes| self.offset_increment_bytes >= size_bytes);
        if self.verify && mix != Mix::Read && !apart {
            return Err(Problem::WorkersOverlap { job });
        }
        Ok(())
    }

    /// fio's meaning: requests a second are bytes a second, of the smallest block of that direction.
    fn rates(&self, job: &str) -> Result<Rates, Problem> {
        let both = |index: usize| self.rate[index] > 0 && self.rate_iops[index] > 0;
        if both(0) || both(1) {
            return Err(Problem::TwoRates { job: job.to_owned() });
        }
        let rate = |index: usize, sizes: &Sizes| {
            Some(self.rate[index] + self.rate_iops[index] * sizes.min_bytes()).filter(|rate| *rate > 0)
        };
        Ok(Rates { read: rate(0, &self.sizes.read), write: rate(1, &self.sizes.write) })
    }
}

const BLOCK_BYTES_DEFAULT: u64 = 4096;
/// Without `randseed` runs repeat each other, as fio's do.
const SEED_DEFAULT: u64 = 0x6272_6963_6b00_0001;
