//! The loads, as fio knows them.

use std::fmt;
use std::time::Duration;

/// One load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// fio's `rw`.
    pub rw: &'static str,
    /// fio's `bs`.
    pub block: &'static str,
    /// Requests in flight.
    pub depth: u32,
    /// Further lines of the job.
    pub more: &'static str,
}

/// A sequential or random load without anything special.
const fn case(rw: &'static str, block: &'static str, depth: u32) -> Case {
    Case { rw, block, depth, more: "" }
}

/// 4 KiB random writes, one at a time.
pub const WRITE_1: Case = case("randwrite", "4k", 1);
/// The same, 32 in flight.
pub const WRITE_32: Case = case("randwrite", "4k", 32);
/// 4 KiB random reads, one at a time.
pub const READ_1: Case = case("randread", "4k", 1);
/// The same, 32 in flight.
pub const READ_32: Case = case("randread", "4k", 32);
/// Copying an image to the volume.
pub const WRITE_1M: Case = case("write", "1m", 8);
/// Copying an image from the volume.
pub const READ_1M: Case = case("read", "1m", 8);

/// All of them.
pub const ALL: [Case; 11] = [
    WRITE_1,
    WRITE_32,
    case("randwrite", "4k", 128),
    READ_1,
    READ_32,
    case("randread", "4k", 128),
    case("randwrite", "64k", 16),
    WRITE_1M,
    READ_1M,
    Case { more: "rwmixread=70\n", ..case("randrw", "4k", 32) },
    Case { more: "fsync=1\n", ..case("randwrite", "4k", 1) },
];

/// Writes all data once, before anything is measured.
pub const FILL: Case = case("write", "1m", 8);

/// The cases whose name contains `part` ("depth 1;" is not "depth 16"), or a sentence that names them all.
pub fn named(part: &str) -> Result<Vec<Case>, String> {
    let cases: Vec<Case> = ALL.into_iter().filter(|case| format!("{case};").contains(part)).collect();
    if cases.is_empty() {
        let names: Vec<String> = ALL.iter().map(Case::to_string).collect();
        return Err(format!("no case is called {part:?}; there are: {}", names.join("; ")));
    }
    Ok(cases)
}

impl Case {
    /// Whether bytes a second say more than requests a second.
    pub fn is_bulk(&self) -> bool {
        self.block == "1m"
    }

    /// A job file; `engine` are the lines that say where the load goes. Once over all data if no time is given.
    pub fn job(&self, engine: &str, size_mib: u64, runtime: Option<Duration>) -> String {
        let Case { rw, block, depth, more } = self;
        let time =
            runtime.map_or(String::new(), |time| format!("runtime={}ms\ntime_based\n", time.as_millis()));
        format!(
            "[job]\nrw={rw}\nbs={block}\niodepth={depth}\nsize={size_mib}m\n{time}direct=1\nrandseed=11\n{more}{engine}"
        )
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Case { rw, block, depth, more } = self;
        let what = match *rw {
            "randrw" => "70/30 mix",
            rw if more.is_empty() => rw,
            _ => "randwrite + fsync",
        };
        write!(f, "{block} {what}, depth {depth}")
    }
}
