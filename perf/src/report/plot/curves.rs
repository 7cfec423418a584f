//! What is drawn of reports: points of lines, in the units of the axes.

use crate::report::figures::{KindFigures, Report, Second};

/// The lines of one kind of requests of one job.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Curve {
    pub(super) label: String,
    /// Nines (see [`nines`]) and microseconds.
    pub(super) percentiles: Vec<(f64, f64)>,
    /// Seconds and requests a second.
    pub(super) iops: Vec<(f64, f64)>,
    /// Seconds and bytes a second.
    pub(super) bytes_per_second: Vec<(f64, f64)>,
}

/// Each kind of each job of each report, unless it has nothing to draw.
pub(super) fn curves(reports: &[Report]) -> Vec<Curve> {
    let mut curves = Vec::new();
    for report in reports {
        for job in &report.jobs {
            for kind in &job.kinds {
                let of_file = if reports.len() > 1 { format!("{} ", report.name) } else { String::new() };
                let curve = Curve::new(format!("{of_file}{} {}", job.name, kind.kind), kind);
                if !curve.percentiles.is_empty() || !curve.iops.is_empty() {
                    curves.push(curve);
                }
            }
        }
    }
    curves
}

/// How many nines a percentile has: 90 % is 1, 99 % is 2, so that each has the same room on an axis.
pub(super) fn nines(percentile: f64) -> f64 {
    -(1.0 - percentile / 100.0).log10()
}

/// Whether requests are so large that bytes say more than their number.
pub(super) fn is_bulk(curves: &[Curve]) -> bool {
    let sum = |points: fn(&Curve) -> &Vec<(f64, f64)>| -> f64 {
        curves.iter().flat_map(points).map(|(_, rate)| rate).sum()
    };
    sum(|curve| &curve.bytes_per_second) >= sum(|curve| &curve.iops) * BULK_BYTES
}

impl Curve {
    fn new(label: String, figures: &KindFigures) -> Curve {
        // On an axis of nines 100 % is infinitely far away, and on one of logarithms 0 is.
        let percentiles =
            figures.percentiles.iter().filter(|(at, latency_ns)| *at < 100.0 && *latency_ns > 0.0);
        let seconds = whole_seconds(&figures.seconds);
        Curve {
            label: shortened(&label),
            percentiles: percentiles.map(|(at, latency_ns)| (nines(*at), latency_ns / 1000.0)).collect(),
            iops: from_the_start(seconds.iter().map(|second| (second.time_s, second.iops))),
            bytes_per_second: from_the_start(seconds.iter().map(|s| (s.time_s, s.bytes_per_second))),
        }
    }
}

/// Without a last one that was too short for its rate to mean something.
fn whole_seconds(seconds: &[Second]) -> &[Second] {
    match seconds {
        [rest @ .., before, last] if last.time_s - before.time_s < SECOND_MIN => &seconds[..rest.len() + 1],
        all => all,
    }
}

/// A rate is that of the time before its point.
fn from_the_start(points: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    let mut points = points.peekable();
    let start = points.peek().map(|(_, rate)| (0.0, *rate));
    start.into_iter().chain(points).collect()
}

/// Names come from files: what a legend has no room for, and what no XML may hold, is left out.
fn shortened(label: &str) -> String {
    let mut letters = label.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut text: String = letters.by_ref().take(LABEL_LETTERS_MAX).collect();
    if letters.next().is_some() {
        text.push('…');
    }
    text
}

/// Requests of that size and more are bulk.
const BULK_BYTES: f64 = 65_536.0;
/// A part of a second that is drawn.
const SECOND_MIN: f64 = 0.5;
/// What half the width of the picture holds.
const LABEL_LETTERS_MAX: usize = 56;
