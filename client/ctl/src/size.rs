//! Sizes as people write them: `20G`, `4M`, `512MiB`, `4096`.
//!
//! Units are binary, as in qemu-img and truncate(1): `K` and `KiB` are both 1024. `KB` and its like are
//! refused, because half of the world reads them as 1000.

/// What each unit is worth; the position in the list is the power of 1024.
const UNITS: [&str; 6] = ["", "K", "M", "G", "T", "P"];

/// Why a text isn't a size.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// No digits where they must be.
    #[error("{text:?} is not a size: it must start with a whole number; write for example 20G, 512M or 4096")]
    NoNumber {
        /// What was written.
        text: String,
    },
    /// A unit we don't know.
    #[error(
        "{text:?} is not a size: unknown unit {unit:?}; use K, M, G, T or P (powers of 1024), or none for bytes"
    )]
    UnknownUnit {
        /// What was written.
        text: String,
        /// The part that isn't understood.
        unit: String,
    },
    /// More than 64 bits.
    #[error("{text:?} is too large: sizes end below 16 EiB")]
    TooLarge {
        /// What was written.
        text: String,
    },
}

/// Parses a size into bytes; fits clap's `value_parser`.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let trimmed = text.trim();
    let digits_end = trimmed.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(trimmed.len());
    let (digits, unit) = trimmed.split_at(digits_end);
    if digits.is_empty() || unit.starts_with(['.', ',']) {
        return Err(SizeError::NoNumber { text: text.to_owned() });
    }
    let too_large = || SizeError::TooLarge { text: text.to_owned() };
    let number: u64 = digits.parse().map_err(|_| too_large())?;
    let power = unit_power(unit.trim_start())
        .ok_or_else(|| SizeError::UnknownUnit { text: text.to_owned(), unit: unit.trim().to_owned() })?;
    number.checked_mul(1 << (10 * power)).ok_or_else(too_large)
}

/// Formats bytes in the largest unit that leaves at most one digit behind the point.
pub fn format_size(bytes: u64) -> String {
    let power = (1..UNITS.len()).rev().find(|power| bytes >> (10 * power) > 0).unwrap_or(0);
    if power == 0 {
        return format!("{bytes} B");
    }
    let unit_bytes = 1u128 << (10 * power);
    let tenths = u128::from(bytes) * 10 / unit_bytes;
    match tenths % 10 {
        0 => format!("{} {}iB", tenths / 10, UNITS[power]),
        tenth => format!("{}.{tenth} {}iB", tenths / 10, UNITS[power]),
    }
}

fn unit_power(unit: &str) -> Option<usize> {
    let unit = unit.to_ascii_uppercase();
    if unit == "B" {
        return Some(0);
    }
    let letter = unit.strip_suffix("IB").unwrap_or(&unit);
    UNITS.iter().position(|known| *known == letter).filter(|power| *power > 0 || unit.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("4096B", 4096),
            ("1k", 1 << 10),
            ("4M", 4 << 20),
            ("512MiB", 512 << 20),
            ("20G", 20 << 30),
            ("20 gib", 20 << 30),
            (" 2T ", 2 << 40),
            ("1P", 1 << 50),
            ("16383P", 16383 << 50),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_refused_and_why() {
        for text in ["", "G", "-1", "1.5G", "1,5G", "x1"] {
            assert!(matches!(parse_size(text), Err(SizeError::NoNumber { .. })), "{text}");
        }
        for (text, expected) in [("20GB", "GB"), ("5X", "X"), ("1e3", "e3"), ("7iB", "iB"), ("1 000", "000")]
        {
            match parse_size(text) {
                Err(SizeError::UnknownUnit { unit, .. }) => assert_eq!(unit, expected),
                other => panic!("{text}: {other:?}"),
            }
        }
        for text in ["16384P", "18446744073709551616", "99999999999999999999999G"] {
            assert!(matches!(parse_size(text), Err(SizeError::TooLarge { .. })), "{text}");
        }
        let sentence = parse_size("20GB").unwrap_err().to_string();
        assert!(sentence.contains("\"20GB\"") && sentence.contains("use K, M, G"), "{sentence}");
    }

    #[test]
    fn formatted_for_people() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (20 << 30, "20 GiB"),
            ((20 << 30) + (1 << 20), "20 GiB"),
            (u64::MAX, "16383.9 PiB"),
        ] {
            assert_eq!(format_size(bytes), text);
        }
    }
}
