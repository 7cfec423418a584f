//! The keys of a job, one row each, and the job that they add up to.

use std::path::PathBuf;
use std::time::Duration;

use brick_client::ImageName;

use super::error::{Problem, UnitError};
use super::units::{parse_number, parse_size, parse_time};
use super::{BLOCK_BYTES_MAX, DEPTH_MAX, IN_FLIGHT_BYTES_MAX, Job, Mix, Order, Target};

/// A job of which more keys may follow. Starts with fio's defaults.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    /// Runs after the jobs above it.
    pub stonewall: bool,
    engine: Option<EngineName>,
    image: Option<ImageName>,
    path: Option<PathBuf>,
    name: Option<String>,
    order: Order,
    direction: Direction,
    read_percent: u8,
    block_bytes: u64,
    size_bytes: Option<u64>,
    offset_bytes: u64,
    depth: u32,
    runtime: Option<Duration>,
    time_based: bool,
    ramp_time: Duration,
    seed: u64,
    fsync_every: u64,
    requests_max: Option<u64>,
    options: Vec<(String, String)>,
}

#[derive(Clone, Copy, Debug)]
enum EngineName {
    Volume,
    Raw,
}

#[derive(Clone, Copy, Debug)]
enum Direction {
    Read,
    Write,
    Mixed,
}

/// A key that a job file may hold.
struct Key {
    name: &'static str,
    set: fn(&mut Draft, &str) -> Result<(), ValueError>,
}

/// Why a value isn't taken.
enum ValueError {
    Possible(&'static str),
    Unit(UnitError),
}

impl From<UnitError> for ValueError {
    fn from(error: UnitError) -> ValueError {
        ValueError::Unit(error)
    }
}

impl Default for Draft {
    fn default() -> Draft {
        Draft {
            stonewall: false,
            engine: None,
            image: None,
            path: None,
            name: None,
            order: Order::Sequential,
            direction: Direction::Read,
            read_percent: 50,
            block_bytes: 4096,
            size_bytes: None,
            offset_bytes: 0,
            depth: 1,
            runtime: None,
            time_based: false,
            ramp_time: Duration::ZERO,
            seed: SEED_DEFAULT,
            fsync_every: 0,
            requests_max: None,
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

    /// The job, whose section is called `section`.
    pub fn finish(&self, section: &str) -> Result<Job, Problem> {
        let draft = self.clone();
        let name = draft.name.unwrap_or_else(|| section.to_owned());
        let missing = |key, possible| Problem::Missing { job: name.clone(), key, possible };
        let target = match draft.engine.ok_or_else(|| missing("ioengine", ENGINES))? {
            EngineName::Volume => {
                let image =
                    draft.image.ok_or_else(|| missing("image", "the name of an image of the volume"))?;
                Target::Volume { image }
            }
            EngineName::Raw => {
                let path =
                    draft.path.ok_or_else(|| missing("filename", "the path of a file or block device"))?;
                Target::Raw { path }
            }
        };
        if draft.time_based && draft.runtime.is_none_or(|runtime| runtime.is_zero()) {
            return Err(missing("runtime", "how long it runs, because it is time_based"));
        }
        if let Some(size_bytes) = draft.size_bytes.filter(|size_bytes| *size_bytes < draft.block_bytes) {
            return Err(Problem::BlockBeyondSize { job: name, block_bytes: draft.block_bytes, size_bytes });
        }
        if draft.block_bytes * u64::from(draft.depth) > IN_FLIGHT_BYTES_MAX {
            return Err(Problem::TooMuchInFlight { job: name });
        }
        let mix = match draft.direction {
            Direction::Read => Mix::Read,
            Direction::Write => Mix::Write,
            Direction::Mixed => Mix::Mixed { read_percent: draft.read_percent },
        };
        Ok(Job {
            name,
            target,
            order: draft.order,
            mix,
            block_bytes: draft.block_bytes,
            size_bytes: draft.size_bytes,
            offset_bytes: draft.offset_bytes,
            depth: draft.depth,
            // fio: no limit.
            runtime: draft.runtime.filter(|runtime| !runtime.is_zero()),
            time_based: draft.time_based,
            ramp_time: draft.ramp_time,
            seed: draft.seed,
            fsync_every: draft.fsync_every,
            requests_max: draft.requests_max,
            options: draft.options,
        })
    }
}

const KEYS: [Key; 19] = [
    Key { name: "name", set: set_name },
    Key { name: "ioengine", set: set_engine },
    Key { name: "image", set: set_image },
    Key { name: "filename", set: set_path },
    Key { name: "direct", set: set_direct },
    Key { name: "rw", set: set_rw },
    Key {
        name: "rwmixread",
        set: |draft, text| assign(&mut draft.read_percent, parse_number(text, 0, 100)? as u8),
    },
    Key { name: "bs", set: set_block_size },
    Key { name: "size", set: |draft, text| assign(&mut draft.size_bytes, Some(parse_size(text)?)) },
    Key { name: "offset", set: set_offset },
    Key {
        name: "iodepth",
        set: |draft, text| assign(&mut draft.depth, parse_number(text, 1, DEPTH_MAX)? as u32),
    },
    Key { name: "numjobs", set: set_job_count },
    Key { name: "runtime", set: |draft, text| assign(&mut draft.runtime, Some(parse_time(text)?)) },
    Key { name: "time_based", set: |draft, text| assign(&mut draft.time_based, parse_flag(text)?) },
    Key { name: "ramp_time", set: |draft, text| assign(&mut draft.ramp_time, parse_time(text)?) },
    Key { name: "randseed", set: |draft, text| assign(&mut draft.seed, parse_number(text, 0, u64::MAX)?) },
    Key {
        name: "fsync",
        set: |draft, text| assign(&mut draft.fsync_every, parse_number(text, 0, u64::MAX)?),
    },
    Key { name: "number_ios", set: set_request_count },
    Key { name: "stonewall", set: |draft, text| assign(&mut draft.stonewall, parse_flag(text)?) },
];

fn assign<T>(place: &mut T, value: T) -> Result<(), ValueError> {
    *place = value;
    Ok(())
}

fn parse_flag(text: &str) -> Result<bool, ValueError> {
    match text {
        "0" => Ok(false),
        "1" => Ok(true),
        _ => Err(ValueError::Possible("0, 1 or no value, which is 1")),
    }
}

fn set_name(draft: &mut Draft, text: &str) -> Result<(), ValueError> {
    if text.is_empty() {
        return Err(ValueError::Possible("a name"));
    }
    assign(&mut draft.name, Some(text.to_owned()))
}

fn set_engine(draft: &mut Draft, text: &str) -> Result<(), ValueError> {
    let engine = match text {
        "volume" => EngineName::Volume,
        "raw" => EngineName::Raw,
        _ => return Err(ValueError::Possible(ENGINES)),
    };
    assign(&mut draft.engine, Some(engine))
}

fn set_image(draft: &mut Draft, text: &str) -> Result<(), ValueError> {
    let image = text
        .parse()
        .map_err(|_| ValueError::Possible("the name of an image; brickctl image ls lists them"))?;
    assign(&mut draft.image, Some(image))
}

fn set_path(draft: &mut Draft, text: &str) -> Result<(), ValueError> {
    // fio's list of files; a name with a colon in it would be one file here and two there.
    if text.is_empty() || text.contains(':') {
        return Err(ValueError::Possible("the path of one file or block device, without a colon"));
    }
    assign(&mut draft.path, Some(text.into()))
}

fn set_direct(_: &mut Draft, text: &str) -> Result<(), ValueError> {
    // Accepted because files for fio say it.
    if text == "1" { Ok(()) } else { Err(ValueError::Possible("1: neither engine uses the page cache")) }
}

fn set_rw(draft: &mut Draft, text: &str) -> Result<(), ValueError> {
    let (order, direction) = match text {
        "read" => (Order::Sequential, Direction::Read),
        "write" => (Order::Sequential, Direction::Write),
        "rw" | "readwrite" => (Order::Sequential, Direction::Mixed),
        "randread" => (Order::Random, Direction::Read),
        "randwrite" => (Order::Random, Direction::Write),
        "randrw" => (Order::Random, Direction::Mixed),
        _ => return Err(ValueError::Possible("read, write, rw, randread, randwrite or randrw")),
    };
    draft.order = order;
    assign(&mut draft.direction, direction)
}

fn set_block_size(draft: &mut Draft, text: &str) -> Result<(), ValueError> {
    let bytes = parse_size(text)?;
    if bytes == 0 || bytes > BLOCK_BYTES_MAX || !bytes.is_multiple_of(SECTOR_BYTES) {
        return Err(UnitError::NotSectors.into());
    }
    assign(&mut draft.block_bytes, bytes)
}

fn set_offset(draft: &mut Draft, text: &str) -> Result<(), ValueError> {
    let bytes = parse_size(text)?;
    if !bytes.is_multiple_of(SECTOR_BYTES) {
        return Err(ValueError::Possible("a multiple of 512 bytes"));
    }
    assign(&mut draft.offset_bytes, bytes)
}

fn set_job_count(_: &mut Draft, text: &str) -> Result<(), ValueError> {
    if text == "1" {
        Ok(())
    } else {
        Err(ValueError::Possible("1: several workers of a job aren't possible yet"))
    }
}

fn set_request_count(draft: &mut Draft, text: &str) -> Result<(), ValueError> {
    assign(&mut draft.requests_max, Some(parse_number(text, 1, u64::MAX)?))
}

const ENGINES: &str = "volume (a replicated image) or raw (a file or block device)";
/// The least that any device reads or writes.
const SECTOR_BYTES: u64 = 512;
/// Without `randseed` runs repeat each other, as fio's do.
const SEED_DEFAULT: u64 = 0x6272_6963_6b00_0001;
