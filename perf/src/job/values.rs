//! What stands behind a key: lists for reads and writes, block sizes, rates, flags.

use super::error::UnitError;
use super::sizes::{Share, Sizes};
use super::units::{parse_number, parse_size};
use super::{BLOCK_BYTES_MAX, RATE_MAX};

/// Why a value isn't taken.
pub(super) enum ValueError {
    Possible(&'static str),
    Unit(UnitError),
}

impl From<UnitError> for ValueError {
    fn from(error: UnitError) -> ValueError {
        ValueError::Unit(error)
    }
}

/// fio's `read,write`: one value is for both, and what is left out keeps its default.
pub(super) fn parse_both<T: Clone>(
    text: &str,
    parse: impl Fn(&str) -> Result<T, ValueError>,
) -> Result<[Option<T>; 2], ValueError> {
    let some = |text: &str| if text.is_empty() { Ok(None) } else { parse(text).map(Some) };
    match text.split(',').collect::<Vec<_>>()[..] {
        [both] => {
            let value = parse(both)?;
            Ok([Some(value.clone()), Some(value)])
        }
        [read, write] => Ok([some(read)?, some(write)?]),
        _ => Err(ValueError::Possible("one value, or two with a comma between: for reads and for writes")),
    }
}

/// `4k`
pub(super) fn parse_block_size(text: &str) -> Result<Sizes, ValueError> {
    Ok(Sizes::one(block_bytes(text)?))
}

/// `4k-64k`
pub(super) fn parse_block_range(text: &str) -> Result<Sizes, ValueError> {
    let (min, max) = text.split_once('-').ok_or(RANGE)?;
    let (min_bytes, max_bytes) = (block_bytes(min)?, block_bytes(max)?);
    if min_bytes > max_bytes {
        return Err(RANGE);
    }
    Ok(Sizes::Range { min_bytes, max_bytes })
}

/// `4k/70:64k/30`; sizes without a share divide what the others leave.
pub(super) fn parse_block_split(text: &str) -> Result<Sizes, ValueError> {
    let mut entries: Vec<(u64, Option<u64>)> = Vec::new();
    for entry in text.split(':') {
        let (size, percent) = entry.split_once('/').unwrap_or((entry, ""));
        let percent = if percent.is_empty() { None } else { Some(parse_number(percent, 0, 100)?) };
        entries.push((block_bytes(size)?, percent));
    }
    if entries.len() > SHARES_MAX {
        return Err(SPLIT);
    }
    let given: u64 = entries.iter().filter_map(|(_, percent)| *percent).sum();
    let rest = 100u64.checked_sub(given).ok_or(SPLIT)?;
    let open = entries.iter().filter(|(_, percent)| percent.is_none()).count() as u64;
    if open == 0 && rest > 0 {
        return Err(SPLIT);
    }
    let mut place = 0;
    let shares = entries.iter().map(|(bytes, percent)| {
        let percent = percent.unwrap_or_else(|| {
            place += 1;
            // The first ones take what doesn't divide.
            rest / open + u64::from(place <= rest % open)
        });
        Share { bytes: *bytes, percent: percent as u8 }
    });
    Ok(Sizes::Split(shares.collect()))
}

/// Bytes a second; 0 for no limit, as fio has it.
pub(super) fn parse_rate(text: &str) -> Result<u64, ValueError> {
    let bytes_per_second = parse_size(text)?;
    if bytes_per_second > RATE_MAX {
        return Err(UnitError::OutOfRange { min: 0, max: RATE_MAX }.into());
    }
    Ok(bytes_per_second)
}

/// Requests a second; 0 for no limit.
pub(super) fn parse_request_rate(text: &str) -> Result<u64, ValueError> {
    Ok(parse_number(text, 0, RATE_MAX / BLOCK_BYTES_MAX)?)
}

pub(super) fn parse_flag(text: &str) -> Result<bool, ValueError> {
    match text {
        "0" => Ok(false),
        "1" => Ok(true),
        _ => Err(ValueError::Possible("0, 1 or no value, which is 1")),
    }
}

/// What a target may be asked to start at.
pub(super) fn parse_offset(text: &str) -> Result<u64, ValueError> {
    let bytes = parse_size(text)?;
    if bytes.is_multiple_of(SECTOR_BYTES) { Ok(bytes) } else { Err(OFFSET) }
}

fn block_bytes(text: &str) -> Result<u64, ValueError> {
    let bytes = parse_size(text)?;
    if bytes == 0 || bytes > BLOCK_BYTES_MAX || !bytes.is_multiple_of(SECTOR_BYTES) {
        return Err(UnitError::NotSectors.into());
    }
    Ok(bytes)
}

const RANGE: ValueError = ValueError::Possible("a smallest and a largest size, such as 4k-64k");
const SPLIT: ValueError = ValueError::Possible(
    "up to 64 sizes with their shares, which add up to 100, such as 4k/70:64k/30; a share may be left out",
);
const OFFSET: ValueError = ValueError::Possible("a multiple of 512 bytes");
/// As many as fio has.
const SHARES_MAX: usize = 64;
/// The least that any device reads or writes.
const SECTOR_BYTES: u64 = 512;
