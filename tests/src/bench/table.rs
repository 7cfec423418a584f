//! Medians and ratios, as a Markdown table and as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use super::bar::Bar;
use super::case::Case;
use super::sample::Sample;
use super::target::Target;

/// What was measured: every sample of every target in every case.
#[derive(Debug, Default)]
pub struct Results {
    cells: Vec<(Case, Target, Vec<Sample>)>,
}

impl Results {
    /// Notes a run.
    pub fn add(&mut self, case: Case, target: Target, sample: Sample) {
        let known = self.cells.iter_mut().find(|(other, at, _)| (*other, *at) == (case, target));
        match known {
            Some((_, _, samples)) => samples.push(sample),
            None => self.cells.push((case, target, vec![sample])),
        }
    }

    /// The median of a target in a case, if it ran.
    pub fn median(&self, case: Case, target: Target) -> Option<Sample> {
        self.rows().find(|(other, at, _)| (*other, *at) == (case, target)).map(|(.., median)| median)
    }

    /// Case and target of every cell with its median, in the order of the first runs.
    pub fn rows(&self) -> impl Iterator<Item = (Case, Target, Sample)> {
        self.cells.iter().map(|(case, target, samples)| (*case, *target, Sample::median(samples)))
    }

    /// The cases that ran.
    pub fn cases(&self) -> Vec<Case> {
        let mut cases: Vec<Case> = Vec::new();
        for (case, ..) in &self.cells {
            if !cases.contains(case) {
                cases.push(*case);
            }
        }
        cases
    }

    /// A table for each case, and one of the bars.
    pub fn markdown(&self, bars: &[Bar]) -> String {
        let mut text = String::new();
        for case in self.cases() {
            text += &self.case_table(case);
        }
        text += &bar_table(bars);
        text
    }

    fn case_table(&self, case: Case) -> String {
        let mut text = format!(
            "### {case}\n\n| | {} | mean us | p99 us | of the raw file | CPU us each | switches each |\n|---|---|---|---|---|---|---|\n",
            if case.is_bulk() { "MB/s" } else { "IOPS" }
        );
        let raw = self.median(case, Target::Raw).unwrap_or_default();
        for (_, target, sample) in self.rows().filter(|(other, ..)| *other == case) {
            let rate = if case.is_bulk() { sample.bytes_per_second / 1e6 } else { sample.iops };
            let share = sample.iops / raw.iops * 100.0;
            let optional = |value: Option<f64>| value.map_or(String::new(), |value| format!("{value:.1}"));
            let _written = writeln!(
                text,
                "| {} | {rate:.0} | {:.0} | {:.0} | {share:.0}% | {} | {} |",
                target.name(),
                sample.mean_us,
                sample.p99_us,
                optional(sample.cpu_us),
                optional(sample.switches),
            );
        }
        text.push('\n');
        text
    }

    /// Everything, for programs.
    pub fn json(&self, bars: &[Bar]) -> Value {
        let figures = |sample: &Sample| {
            json!({
                "iops": sample.iops,
                "bytes_per_second": sample.bytes_per_second,
                "mean_us": sample.mean_us,
                "p99_us": sample.p99_us,
                "cpu_us": sample.cpu_us,
                "switches": sample.switches,
            })
        };
        let cell = |(case, target, samples): &(Case, Target, Vec<Sample>)| {
            json!({
                "case": case.to_string(),
                "target": target.name(),
                "median": figures(&Sample::median(samples)),
                "runs": samples.iter().map(figures).collect::<Vec<_>>(),
            })
        };
        let bar = |bar: &Bar| {
            json!({
                "case": bar.case.to_string(),
                "what": bar.what,
                "reached": bar.reached,
                "limit": bar.limit,
                "at_most": bar.at_most,
                "met": bar.is_met(),
            })
        };
        json!({
            "cells": self.cells.iter().map(cell).collect::<Vec<_>>(),
            "bars": bars.iter().map(bar).collect::<Vec<_>>(),
        })
    }
}

fn bar_table(bars: &[Bar]) -> String {
    let mut text = "### Bars\n\n| case | ratio | measured | bar | |\n|---|---|---|---|---|\n".to_owned();
    for bar in bars {
        let reached = bar.reached.map_or("not measured".to_owned(), |reached| format!("{reached:.2}"));
        let side = if bar.at_most { "at most" } else { "at least" };
        let verdict = match bar.is_met() {
            Some(true) => "met",
            Some(false) => "**missed**",
            None => "",
        };
        let _written =
            writeln!(text, "| {} | {} | {reached} | {side} {} | {verdict} |", bar.case, bar.what, bar.limit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::case;
    use super::*;

    #[test]
    fn tables_have_a_row_for_each_target() {
        let mut results = Results::default();
        for iops in [10.0, 30.0, 20.0] {
            results.add(case::READ_1, Target::Raw, Sample { iops, ..Sample::default() });
        }
        results.add(
            case::READ_1,
            Target::Volume,
            Sample { iops: 5.0, cpu_us: Some(7.0), ..Sample::default() },
        );
        results.add(case::READ_1, Target::Brick, Sample { iops: 8.0, ..Sample::default() });
        let text = results.markdown(&[]);
        assert!(text.contains("| raw file | 20 | 0 | 0 | 100% |  |  |"), "{text}");
        assert!(text.contains("| brick, in process | 5 | 0 | 0 | 25% | 7.0 |  |"), "{text}");
        assert!(text.contains("| one brick | 8 | 0 | 0 | 40% |  |  |"), "{text}");
        assert_eq!(results.json(&[])["cells"][2]["target"], "one brick");
        assert_eq!(results.json(&[])["cells"][0]["runs"].as_array().map(Vec::len), Some(3));
    }
}
