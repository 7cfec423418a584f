//! Two sides of reports, job by job: what was, what is, and the ratio.
//!
//! A side may be several reports of the same jobs; each of its figures is the median of those that have it.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use super::figures::{JobFigures, KindFigures, Report};
use super::units::{binary, decimal, time};

/// What is to be said about two sides.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Jobs that both have, in the order of the base.
    pub jobs: Vec<JobComparison>,
    /// Names of jobs that only the base has.
    pub only_base: Vec<String>,
    /// Names of jobs that only the other side has.
    pub only_new: Vec<String>,
}

/// One job on both sides.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct JobComparison {
    /// Its name.
    pub job: String,
    /// A row for each figure that a side has.
    pub figures: Vec<Row>,
}

/// One figure on both sides.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Of `read`, `write`, `trim` or `sync`; not of what is the whole job's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    /// Which.
    pub figure: Figure,
    /// Of the base.
    pub base: Option<f64>,
    /// Of what is compared with it.
    pub new: Option<f64>,
    /// `new` divided by `base`.
    pub ratio: Option<f64>,
}

/// What is compared, in the order of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Figure {
    /// Requests a second.
    Iops,
    /// Bytes a second.
    BytesPerSecond,
    /// Mean latency.
    MeanNs,
    /// Percentiles of the latency.
    P50Ns,
    /// All but one of a hundred.
    P99Ns,
    /// All but one of a thousand.
    #[serde(rename = "p99_9_ns")]
    P999Ns,
    /// CPU time for each request.
    CpuNsPerIo,
}

impl Comparison {
    /// Of two sides, each with at least one report.
    pub fn new(base: &[Report], new: &[Report]) -> Comparison {
        let (base_names, new_names) = (names(base), names(new));
        let (both, only_base) = base_names.iter().cloned().partition(|name| new_names.contains(name));
        let only_new = new_names.into_iter().filter(|name| !base_names.contains(name)).collect();
        let both: Vec<String> = both;
        let jobs = both.into_iter().map(|name| JobComparison::new(&of(base, &name), &of(new, &name), name));
        Comparison { jobs: jobs.collect(), only_base, only_new }
    }

    /// As a document for programs.
    pub fn json(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).expect("strings and numbers are JSON");
        text.push('\n');
        text
    }
}

impl JobComparison {
    fn new(base: &[&JobFigures], new: &[&JobFigures], job: String) -> JobComparison {
        let mut figures = Vec::new();
        for kind in KINDS {
            let of_kind = |side: &[&JobFigures], figure: Figure| {
                let kinds = side.iter().flat_map(|job| &job.kinds).filter(|figures| figures.kind == kind);
                median(kinds.filter_map(|figures| figure.of_kind(figures)))
            };
            for figure in Figure::OF_KINDS {
                figures.extend(Row::new(Some(kind), figure, of_kind(base, figure), of_kind(new, figure)));
            }
        }
        let cpu = |side: &[&JobFigures]| median(side.iter().filter_map(|job| job.cpu_ns_per_io));
        figures.extend(Row::new(None, Figure::CpuNsPerIo, cpu(base), cpu(new)));
        JobComparison { job, figures }
    }
}

impl Row {
    /// `None` if no side has it.
    fn new(kind: Option<&'static str>, figure: Figure, base: Option<f64>, new: Option<f64>) -> Option<Row> {
        let ratio = match (base, new) {
            (None, None) => return None,
            (Some(base), Some(new)) if base > 0.0 => Some(new / base),
            _ => None,
        };
        Some(Row { kind, figure, base, new, ratio })
    }
}

impl Figure {
    const OF_KINDS: [Figure; 6] =
        [Figure::Iops, Figure::BytesPerSecond, Figure::MeanNs, Figure::P50Ns, Figure::P99Ns, Figure::P999Ns];

    fn of_kind(self, figures: &KindFigures) -> Option<f64> {
        match self {
            Figure::Iops => figures.iops,
            Figure::BytesPerSecond => figures.bytes_per_second,
            Figure::MeanNs => figures.mean_ns,
            Figure::P50Ns => figures.percentile_ns(50.0),
            Figure::P99Ns => figures.percentile_ns(99.0),
            Figure::P999Ns => figures.percentile_ns(99.9),
            Figure::CpuNsPerIo => None,
        }
    }

    fn label(self) -> &'static str {
        match self {
            Figure::Iops => "IOPS",
            Figure::BytesPerSecond => "bandwidth",
            Figure::MeanNs => "mean",
            Figure::P50Ns => "p50",
            Figure::P99Ns => "p99",
            Figure::P999Ns => "p99.9",
            Figure::CpuNsPerIo => "CPU per I/O",
        }
    }

    fn text(self, value: Option<f64>) -> String {
        let Some(value) = value else { return "-".into() };
        match self {
            // Whole ones, so that small numbers aren't printed with their fractions.
            Figure::Iops => decimal(value.round()),
            Figure::BytesPerSecond => format!("{}/s", binary(value.round())),
            _ => time(value),
        }
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, job) in self.jobs.iter().enumerate() {
            let separator = if index > 0 { "\n" } else { "" };
            write!(f, "{separator}{job}")?;
        }
        for (side, names) in [("A", &self.only_base), ("B", &self.only_new)] {
            if !names.is_empty() {
                writeln!(f, "only in {side}: {}", names.join(", "))?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for JobComparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<20} {:>12} {:>12} {:>7}", self.job, "A", "B", "B/A")?;
        for Row { kind, figure, base, new, ratio } in &self.figures {
            let label = [kind.unwrap_or_default(), figure.label()].join(" ");
            let ratio = ratio.map_or("-".into(), |ratio| format!("{ratio:.2}"));
            let (base, new) = (figure.text(*base), figure.text(*new));
            writeln!(f, "  {:<18} {base:>12} {new:>12} {ratio:>7}", label.trim_start())?;
        }
        Ok(())
    }
}

/// Each name once, in the order of the reports.
fn names(side: &[Report]) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let jobs = side.iter().flat_map(|report| &report.jobs);
    jobs.map(|job| job.name.clone()).filter(|name| seen.insert(name.clone())).collect()
}

fn of<'a>(side: &'a [Report], name: &str) -> Vec<&'a JobFigures> {
    side.iter().flat_map(|report| &report.jobs).filter(|job| job.name == name).collect()
}

fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = values[(values.len() - 1) / 2];
    Some(f64::midpoint(lower, upper))
}

/// Kinds of requests, in the order of the table.
const KINDS: [&str; 4] = ["read", "write", "trim", "sync"];

#[cfg(test)]
mod tests {
    use super::*;

    fn job(name: &str, iops: f64) -> JobFigures {
        let write = KindFigures {
            kind: "write",
            iops: Some(iops),
            bytes_per_second: Some(iops * 4096.0),
            mean_ns: Some(1e6),
            percentiles: vec![(50.0, 2e9 / iops), (99.0, 4e9 / iops)],
            seconds: Vec::new(),
        };
        JobFigures { name: name.into(), kinds: vec![write], cpu_ns_per_io: Some(0.0) }
    }

    fn report(jobs: Vec<JobFigures>) -> Report {
        Report { name: "r".into(), jobs }
    }

    #[test]
    fn jobs_are_matched_by_name_and_others_are_named() {
        let base = report(vec![job("a", 1000.0), job("b", 1.0)]);
        let new = report(vec![job("c", 1.0), job("a", 1500.0)]);
        let comparison = Comparison::new(&[base], &[new]);
        assert_eq!((&comparison.only_base, &comparison.only_new), (&vec!["b".into()], &vec!["c".into()]));
        let text = comparison.to_string();
        let expected = "\
a                               A            B     B/A
  write IOPS                   1k         1.5k    1.50
  write bandwidth        3.9MiB/s     5.9MiB/s    1.50
  write mean               1.00ms       1.00ms    1.00
  write p50                2.00ms       1.33ms    0.67
  write p99                4.00ms       2.67ms    0.67
  CPU per I/O                 0ns          0ns       -
only in A: b
only in B: c
";
        assert_eq!(text, expected);
        let json: serde_json::Value = serde_json::from_str(&comparison.json()).unwrap();
        let first = serde_json::json!(
            {"kind": "write", "figure": "iops", "base": 1000.0, "new": 1500.0, "ratio": 1.5}
        );
        assert_eq!(json["jobs"][0]["figures"][0], first);
    }

    #[test]
    fn what_one_side_lacks_is_a_dash() {
        let (base, mut new) = (report(vec![job("a", 1000.0)]), report(vec![job("a", 1000.0)]));
        new.jobs[0].kinds[0].percentiles.truncate(1);
        new.jobs[0].kinds[0].kind = "read";
        let text = Comparison::new(&[base], &[new]).to_string();
        assert!(text.contains("  write p99                4.00ms            -       -\n"), "{text}");
        assert!(text.contains("  read IOPS                     -           1k       -\n"), "{text}");
    }

    #[test]
    fn several_reports_are_their_medians() {
        let reports =
            |iops: &[f64]| iops.iter().map(|iops| report(vec![job("a", *iops)])).collect::<Vec<_>>();
        let comparison = Comparison::new(&reports(&[9.0, 1.0, 2.0]), &reports(&[1.0, 4.0, 8.0, 100.0]));
        let row = &comparison.jobs[0].figures[0];
        assert_eq!((row.base, row.new, row.ratio), (Some(2.0), Some(6.0), Some(3.0)));
        assert_eq!(median(std::iter::empty()), None);
    }
}
