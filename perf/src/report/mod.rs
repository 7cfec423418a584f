//! Results for people and for programs, and what becomes of them: [`figures`] reads reports again, [`compare`]
//! sets two side by side, [`plot`] draws them.

pub mod compare;
pub mod figures;
mod json;
mod normal;
pub mod plot;
mod seconds;
pub(crate) mod units;

#[cfg(test)]
mod tests;

pub use self::json::{Detail, json};
pub use self::normal::normal;

/// The percentiles that fio prints.
const PERCENTILES: [f64; 17] =
    [1.0, 5.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.95, 99.99];

/// How many a second.
fn rate(count: u64, elapsed_ns: u64) -> f64 {
    if elapsed_ns == 0 { 0.0 } else { count as f64 * 1e9 / elapsed_ns as f64 }
}

/// A part of a whole, in hundredths.
fn percent(part: std::time::Duration, elapsed_ns: u64) -> f64 {
    if elapsed_ns == 0 { 0.0 } else { part.as_nanos() as f64 * 100.0 / elapsed_ns as f64 }
}
