//! Sizes and times as fio reads them.
//!
//! fio's `k` is 1024 and its `kib` is 1000 (its `kb_base=1024`, which is the default). Nobody means 1000
//! by that, so those are refused instead of being read in either way. Arithmetic and fractions aren't read.

use std::time::Duration;

use super::{TIME_MAX, UnitError};

/// Bytes: `4096`, `4k`, `4kb`, `1m`, `2G`.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let (number, unit) = split(text).ok_or(UnitError::NotASize)?;
    let unit = unit.to_ascii_lowercase();
    let letter = unit.strip_suffix('b').unwrap_or(&unit);
    if letter.ends_with('i') {
        return Err(UnitError::InvertedUnit);
    }
    let power = SIZE_UNITS.iter().position(|known| *known == letter).ok_or(UnitError::NotASize)?;
    number.checked_mul(1 << (10 * power)).ok_or(OUT_OF_RANGE)
}

/// A span of time: `30`, `30s`, `500ms`, `2m`, `1h`.
pub fn parse_time(text: &str) -> Result<Duration, UnitError> {
    time(text, "s")
}

/// A span of time that is microseconds without a unit.
pub fn parse_time_us(text: &str) -> Result<Duration, UnitError> {
    time(text, "us")
}

fn time(text: &str, default_unit: &str) -> Result<Duration, UnitError> {
    let (number, unit) = split(text).ok_or(UnitError::NotATime)?;
    let unit = if unit.is_empty() { default_unit.to_owned() } else { unit.to_ascii_lowercase() };
    let (_, microseconds) = TIME_UNITS.iter().find(|(name, _)| *name == unit).ok_or(UnitError::NotATime)?;
    let time = number.checked_mul(*microseconds).map(Duration::from_micros);
    let max = TIME_MAX.as_secs();
    time.filter(|time| *time <= TIME_MAX).ok_or(UnitError::OutOfRange { min: 0, max })
}

/// A whole number within bounds.
pub(super) fn parse_number(text: &str, min: u64, max: u64) -> Result<u64, UnitError> {
    let number = text.parse().ok().filter(|number| (min..=max).contains(number));
    number.ok_or(UnitError::OutOfRange { min, max })
}

fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..digits].parse().ok()?, &text[digits..]))
}

/// What each unit is worth; the position in the list is the power of 1024.
const SIZE_UNITS: [&str; 5] = ["", "k", "m", "g", "t"];
/// What each unit is worth in microseconds.
const TIME_UNITS: [(&str, u64); 5] =
    [("s", 1_000_000), ("us", 1), ("ms", 1000), ("m", 60_000_000), ("h", 3_600_000_000)];
const OUT_OF_RANGE: UnitError = UnitError::OutOfRange { min: 0, max: u64::MAX };
