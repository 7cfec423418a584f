//! The keys of a job file, one row each.

use std::fmt::Write;

use super::draft::{Direction, Draft, EngineName};
use super::units::{parse_number, parse_size, parse_time, parse_time_us};
use super::values::{
    ValueError, parse_block_range, parse_block_size, parse_block_split, parse_both, parse_flag, parse_offset,
    parse_rate, parse_request_rate,
};
use super::{DEPTH_MAX, Order, WORKERS_MAX};

/// A key that a job file may hold.
pub(super) struct Key {
    pub name: &'static str,
    /// Under what help lists it.
    group: &'static str,
    pub set: fn(&mut Draft, &str) -> Result<(), ValueError>,
}

/// All keys by groups, a line for each, for help.
pub fn key_list() -> String {
    let mut text = String::new();
    let mut group = "";
    for key in &KEYS {
        if key.group != group {
            group = key.group;
            let separator = if text.is_empty() { "" } else { "\n" };
            // Nothing fails to be appended to a string.
            let _appended = write!(text, "{separator}  {group:<8} ");
        } else {
            text.push(' ');
        }
        text.push_str(key.name);
    }
    text
}

/// Keys of a group stand together.
pub(super) const KEYS: [Key; 33] = [
    Key { name: "name", group: JOB, set: set_name },
    Key { name: "numjobs", group: JOB, set: |draft, text| number(&mut draft.workers, text, 1, WORKERS_MAX) },
    Key { name: "group_reporting", group: JOB, set: |draft, text| flag(&mut draft.group_reporting, text) },
    Key { name: "stonewall", group: JOB, set: |draft, text| flag(&mut draft.stonewall, text) },
    Key { name: "ioengine", group: TARGET, set: set_engine },
    Key { name: "image", group: TARGET, set: set_image },
    Key { name: "filename", group: TARGET, set: set_path },
    Key { name: "uri", group: TARGET, set: set_uri },
    Key { name: "direct", group: TARGET, set: set_direct },
    Key {
        name: "size",
        group: TARGET,
        set: |draft, text| assign(&mut draft.size_bytes, Some(parse_size(text)?)),
    },
    Key {
        name: "offset",
        group: TARGET,
        set: |draft, text| assign(&mut draft.offset_bytes, parse_offset(text)?),
    },
    Key {
        name: "offset_increment",
        group: TARGET,
        set: |draft, text| assign(&mut draft.offset_increment_bytes, parse_offset(text)?),
    },
    Key { name: "rw", group: PATTERN, set: set_rw },
    Key { name: "rwmixread", group: PATTERN, set: |draft, text| percent(&mut draft.read_percent, text) },
    Key {
        name: "percentage_random",
        group: PATTERN,
        set: |draft, text| percent(&mut draft.percent_random, text),
    },
    Key { name: "bs", group: PATTERN, set: |draft, text| sizes(draft, text, parse_block_size) },
    Key { name: "bsrange", group: PATTERN, set: |draft, text| sizes(draft, text, parse_block_range) },
    Key { name: "bssplit", group: PATTERN, set: |draft, text| sizes(draft, text, parse_block_split) },
    Key {
        name: "randseed",
        group: PATTERN,
        set: |draft, text| assign(&mut draft.seed, parse_number(text, 0, u64::MAX)?),
    },
    Key { name: "iodepth", group: PACE, set: |draft, text| number(&mut draft.depth, text, 1, DEPTH_MAX) },
    Key { name: "rate", group: PACE, set: |draft, text| rates(&mut draft.rate, text, parse_rate) },
    Key {
        name: "rate_iops",
        group: PACE,
        set: |draft, text| rates(&mut draft.rate_iops, text, parse_request_rate),
    },
    Key {
        name: "thinktime",
        group: PACE,
        set: |draft, text| assign(&mut draft.think_time, parse_time_us(text)?),
    },
    Key {
        name: "thinktime_blocks",
        group: PACE,
        set: |draft, text| assign(&mut draft.think_requests, parse_number(text, 1, u64::MAX)?),
    },
    Key {
        name: "runtime",
        group: LENGTH,
        set: |draft, text| assign(&mut draft.runtime, Some(parse_time(text)?)),
    },
    Key { name: "time_based", group: LENGTH, set: |draft, text| flag(&mut draft.time_based, text) },
    Key {
        name: "ramp_time",
        group: LENGTH,
        set: |draft, text| assign(&mut draft.ramp_time, parse_time(text)?),
    },
    Key {
        name: "number_ios",
        group: LENGTH,
        set: |draft, text| assign(&mut draft.requests_max, Some(parse_number(text, 1, u64::MAX)?)),
    },
    Key { name: "fsync", group: SYNC, set: |draft, text| count(&mut draft.fsync_every, text) },
    Key { name: "fdatasync", group: SYNC, set: |draft, text| count(&mut draft.data_sync_every, text) },
    Key { name: "end_fsync", group: SYNC, set: |draft, text| flag(&mut draft.sync_at_end, text) },
    Key { name: "verify", group: VERIFY, set: set_verify },
    Key { name: "do_verify", group: VERIFY, set: |draft, text| flag(&mut draft.do_verify, text) },
];

fn assign<T>(place: &mut T, value: T) -> Result<(), ValueError> {
    *place = value;
    Ok(())
}

fn flag(place: &mut bool, text: &str) -> Result<(), ValueError> {
    assign(place, parse_flag(text)?)
}

fn percent(place: &mut u8, text: &str) -> Result<(), ValueError> {
    assign(place, parse_number(text, 0, 100)? as u8)
}

fn count(place: &mut u64, text: &str) -> Result<(), ValueError> {
    assign(place, parse_number(text, 0, u64::MAX)?)
}

fn number(place: &mut u32, text: &str, min: u32, max: u32) -> Result<(), ValueError> {
    assign(place, parse_number(text, u64::from(min), u64::from(max))? as u32)
}

fn rates(
    place: &mut [u64; 2],
    text: &str,
    parse: fn(&str) -> Result<u64, ValueError>,
) -> Result<(), ValueError> {
    // fio's default: no limit.
    assign(place, parse_both(text, parse)?.map(Option::unwrap_or_default))
}

fn sizes(
    draft: &mut Draft,
    text: &str,
    parse: fn(&str) -> Result<super::Sizes, ValueError>,
) -> Result<(), ValueError> {
    draft.set_sizes(parse_both(text, parse)?);
    Ok(())
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
        "brick" => EngineName::Brick,
        "raw" => EngineName::Raw,
        "monoio" => EngineName::Monoio,
        "tokio-uring" => EngineName::TokioUring,
        "nbd" => EngineName::Nbd,
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

fn set_uri(draft: &mut Draft, text: &str) -> Result<(), ValueError> {
    let uri = text.parse().map_err(|_| {
        ValueError::Possible("nbd://HOST[:PORT]/[EXPORT] or nbd+unix:///[EXPORT]?socket=PATH")
    })?;
    assign(&mut draft.uri, Some(uri))
}

fn set_direct(_: &mut Draft, text: &str) -> Result<(), ValueError> {
    // Accepted because files for fio say it.
    if text == "1" { Ok(()) } else { Err(ValueError::Possible("1: no engine uses the page cache")) }
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

fn set_verify(draft: &mut Draft, text: &str) -> Result<(), ValueError> {
    match text {
        "0" => assign(&mut draft.verify, false),
        "crc32c" => assign(&mut draft.verify, true),
        _ => Err(ValueError::Possible("crc32c, or 0 for no verification")),
    }
}

pub(super) const ENGINES: &str = "volume (a replicated image), brick (an image of an unreplicated volume), raw, \
                                  monoio or tokio-uring (a file or block device), or nbd (an NBD server)";
const JOB: &str = "job";
const TARGET: &str = "target";
const PATTERN: &str = "pattern";
const PACE: &str = "pace";
const LENGTH: &str = "length";
const SYNC: &str = "sync";
const VERIFY: &str = "verify";
