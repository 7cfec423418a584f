//! A picture of the medians: for each case a bar for each target, as SVG.

use std::fmt::Write as _;

use super::table::Results;
use super::target::Target;

const BAR_PX: usize = 16;
const GAP_PX: usize = 34;
const LABEL_PX: usize = 150;
const BARS_PX: usize = 520;
const WIDTH_PX: usize = LABEL_PX + BARS_PX + 110;

/// Bars that are as long as requests a second (bytes a second for large blocks), each case for itself: the longest is as
/// wide as the picture.
pub fn svg(results: &Results) -> String {
    let mut body = String::new();
    let mut y = 8;
    for case in results.cases() {
        let rate = |iops: f64, bytes: f64| if case.is_bulk() { bytes / 1e6 } else { iops };
        let rows: Vec<(Target, f64)> = results
            .rows()
            .filter(|(other, ..)| *other == case)
            .map(|(_, target, sample)| (target, rate(sample.iops, sample.bytes_per_second)))
            .collect();
        let longest = rows.iter().map(|(_, rate)| *rate).fold(1.0, f64::max);
        let unit = if case.is_bulk() { "MB/s" } else { "IOPS" };
        y += 16;
        let _written = writeln!(body, "<text x=\"4\" y=\"{y}\" class=\"case\">{case} ({unit})</text>");
        y += 6;
        for (target, rate) in rows {
            let width = (rate / longest * BARS_PX as f64).round();
            let middle = y + BAR_PX - 4;
            let _written = writeln!(
                body,
                "<text x=\"{}\" y=\"{middle}\" text-anchor=\"end\">{}</text>\
                 <rect x=\"{LABEL_PX}\" y=\"{y}\" width=\"{width}\" height=\"{}\" fill=\"{}\"/>\
                 <text x=\"{}\" y=\"{middle}\">{rate:.0}</text>",
                LABEL_PX - 6,
                target.name(),
                BAR_PX - 3,
                colour(target),
                LABEL_PX + width as usize + 6,
            );
            y += BAR_PX;
        }
        y += GAP_PX - BAR_PX;
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH_PX}\" height=\"{}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<style>.case {{ font-weight: bold; font-size: 12px }}</style>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n{body}</svg>\n",
        y + 8
    )
}

fn colour(target: Target) -> &'static str {
    match target {
        Target::Raw | Target::RawPair => "#9aa0a6",
        Target::Brick | Target::Volume | Target::Nbd => "#c0392b",
        Target::Qemu => "#e0a030",
        Target::GlusterLibrary | Target::GlusterMount => "#4a78b5",
    }
}
