//! What has to be reached: ratios between medians of one run.

use super::case::{self, Case};
use super::sample::Sample;
use super::target::Target;

/// A ratio that has to be reached.
#[derive(Clone, Debug)]
pub struct Bar {
    /// The load.
    pub case: Case,
    /// What is compared, in words.
    pub what: String,
    /// What was measured, if both sides were.
    pub reached: Option<f64>,
    /// The bar.
    pub limit: f64,
    /// Whether it is an upper limit.
    pub at_most: bool,
}

impl Bar {
    /// Whether it was reached; `None` if it wasn't measured.
    pub fn is_met(&self) -> Option<bool> {
        self.reached.map(|reached| if self.at_most { reached <= self.limit } else { reached >= self.limit })
    }
}

/// All bars; `find` gives the median of a target in a case.
pub fn all(find: impl Fn(Case, Target) -> Option<Sample>) -> Vec<Bar> {
    use Target::{GlusterLibrary, Nbd, Raw, RawPair, Volume};
    let iops = |sample: Sample| sample.iops;
    let bytes = |sample: Sample| sample.bytes_per_second;
    let latency = |sample: Sample| sample.mean_us;
    // Two copies share what the disk takes.
    let half_iops = |sample: Sample| sample.iops / 2.0;
    let half_bytes = |sample: Sample| sample.bytes_per_second / 2.0;
    let ratio = |case, (target, of): Side, (base, base_of): Side| {
        Some(of(find(case, target)?) / base_of(find(case, base)?)).filter(|ratio| ratio.is_finite())
    };
    let bar = |case: Case, ours: Side, base: Side, limit: f64, at_most: bool, unit: &str| Bar {
        case,
        what: format!("{} / {}, {unit}", ours.0.name(), base.0.name()),
        reached: ratio(case, ours, base),
        limit,
        at_most,
    };
    let least = |case, ours, base, limit, unit| bar(case, ours, base, limit, false, unit);
    let most = |case, ours, base, limit| bar(case, ours, base, limit, true, "mean latency");
    let cpu = |case| Bar {
        case,
        what: "processor time of all our processes for each, us".to_owned(),
        reached: find(case, Volume).and_then(|sample| sample.cpu_us),
        limit: 30.0,
        at_most: true,
    };
    vec![
        least(case::WRITE_32, (Volume, iops), (GlusterLibrary, iops), 12.0, "IOPS"),
        least(case::WRITE_32, (Volume, iops), (RawPair, half_iops), 0.5, "half of its IOPS"),
        least(case::WRITE_1, (Volume, iops), (GlusterLibrary, iops), 5.0, "IOPS"),
        most(case::WRITE_1, (Volume, latency), (RawPair, latency), 1.7),
        least(case::READ_32, (Volume, iops), (GlusterLibrary, iops), 5.0, "IOPS"),
        least(case::READ_32, (Volume, iops), (Raw, iops), 0.6, "IOPS"),
        least(case::READ_1, (Volume, iops), (GlusterLibrary, iops), 4.0, "IOPS"),
        most(case::READ_1, (Volume, latency), (Raw, latency), 1.5),
        least(case::WRITE_1M, (Volume, bytes), (GlusterLibrary, bytes), 1.8, "bytes"),
        least(case::WRITE_1M, (Volume, bytes), (RawPair, half_bytes), 0.85, "half of its bytes"),
        least(case::READ_1M, (Volume, bytes), (GlusterLibrary, bytes), 1.3, "bytes"),
        least(case::READ_1M, (Volume, bytes), (Raw, bytes), 0.85, "bytes"),
        least(case::WRITE_32, (Nbd, iops), (GlusterLibrary, iops), 12.0, "IOPS"),
        least(case::WRITE_32, (Nbd, iops), (Volume, iops), 0.75, "IOPS"),
        least(case::READ_32, (Nbd, iops), (GlusterLibrary, iops), 4.0, "IOPS"),
        least(case::READ_32, (Nbd, iops), (Volume, iops), 0.75, "IOPS"),
        cpu(case::WRITE_32),
    ]
}

type Side = (Target, fn(Sample) -> f64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_compare_what_was_measured() {
        let bars = all(|case, target| {
            let iops = match target {
                Target::RawPair => 100.0,
                Target::Volume if case == case::WRITE_32 => 24.0,
                Target::Volume => 30.0,
                _ => return None,
            };
            Some(Sample { iops, mean_us: 1e6 / iops, ..Sample::default() })
        });
        let against_pair: Vec<_> =
            bars.iter().filter(|bar| bar.reached.is_some() && bar.what.contains("IOPS")).collect();
        assert_eq!(against_pair.len(), 1);
        assert_eq!((against_pair[0].reached, against_pair[0].is_met()), (Some(0.48), Some(false)));
        assert!(bars.iter().any(|bar| bar.at_most && bar.is_met() == Some(false)));
        assert!(bars.iter().any(|bar| bar.is_met().is_none()), "nothing was measured on GlusterFS");
    }
}
