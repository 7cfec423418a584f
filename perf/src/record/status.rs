//! The line that says how a job goes: drawn over and over on a terminal, or printed once a second.
//!
//! `randwrite: 4/10 s, write 16.3k IOPS 63.7MiB/s, p99 4.12ms`
//!
//! Rates are those of the last second, the percentile is of everything so far.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::job::Job;
use crate::report::units::{binary, decimal, time};
use crate::stats::Stats;

/// How progress is shown, on standard error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Display {
    /// Not at all.
    #[default]
    Hidden,
    /// As one line of a terminal.
    Redrawn,
    /// As a line each second, for logs.
    Lines,
}

/// A job's line.
#[derive(Debug)]
pub(super) struct Progress {
    job: String,
    ramp_time: Duration,
    runtime: Option<Duration>,
    display: Display,
    line: ProgressBar,
}

impl Progress {
    pub(super) fn new(job: &Job, display: Display) -> Progress {
        let line = match display {
            Display::Redrawn => ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr()),
            Display::Hidden | Display::Lines => ProgressBar::hidden(),
        };
        let style = ProgressStyle::with_template("{wide_msg}").expect("a constant template");
        let line = line.with_style(style);
        Progress { job: job.name.clone(), ramp_time: job.ramp_time, runtime: job.runtime, display, line }
    }

    /// Nothing counts yet.
    pub(super) fn show_ramp(&self, elapsed: Duration) {
        // Printed lines are for what was measured.
        if self.display == Display::Redrawn && !self.ramp_time.is_zero() {
            let (elapsed, total) = (elapsed.as_secs(), self.ramp_time.as_secs_f64());
            self.line.set_message(format!("{}: ramp {elapsed}/{total} s", self.job));
        }
    }

    /// An interval ended at that time.
    pub(super) fn show(&self, now_ns: u64, length_ns: u64, interval: &Stats, total: &Stats) {
        if self.display == Display::Hidden {
            return;
        }
        let text = self.text(now_ns, length_ns, interval, total);
        match self.display {
            Display::Lines => eprintln!("{text}"),
            Display::Redrawn | Display::Hidden => self.line.set_message(text),
        }
    }

    /// Leaves the terminal as it was.
    pub(super) fn clear(&self) {
        self.line.finish_and_clear();
    }

    fn text(&self, now_ns: u64, length_ns: u64, interval: &Stats, total: &Stats) -> String {
        let elapsed_s = now_ns / 1_000_000_000;
        let of = self.runtime.map_or(String::new(), |runtime| format!("/{}", runtime.as_secs_f64()));
        let mut text = format!("{}: {elapsed_s}{of} s", self.job);
        let per_second = |count: u64| count as f64 * 1e9 / length_ns.max(1) as f64;
        for (name, now, so_far) in
            [("read", &interval.read, &total.read), ("write", &interval.write, &total.write)]
        {
            if so_far.requests() > 0 {
                let iops = decimal(per_second(now.requests()).round());
                let bandwidth = binary(per_second(now.bytes()).round());
                let p99 = time(so_far.latencies_ns().value_at_quantile(0.99) as f64);
                text += &format!(", {name} {iops} IOPS {bandwidth}/s, p99 {p99}");
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job;
    use crate::pattern::{Kind, Request};

    #[test]
    fn the_line_says_what_happens() {
        let text = "[mixed]\nioengine=raw\nfilename=f\nruntime=10s\ntime_based\nramp_time=2s";
        let job = job::parse("test.fio", text).unwrap().remove(0);
        let progress = Progress::new(&job, Display::Hidden);
        let (mut interval, mut total) = (Stats::new(), Stats::new());
        for _ in 0..100 {
            interval.record(Request { kind: Kind::Write, offset_bytes: 0, length_bytes: 4096 }, 800_000);
            total.record(Request { kind: Kind::Read, offset_bytes: 0, length_bytes: 4096 }, 1_000_000);
        }
        total.merge(&interval);
        assert_eq!(
            progress.text(4_000_100_000, 500_000_000, &interval, &total),
            "mixed: 4/10 s, read 0 IOPS 0B/s, p99 1.00ms, write 200 IOPS 800KiB/s, p99 800us",
            "a stall shows"
        );
        let job = job::parse("test.fio", "[all]\nioengine=raw\nfilename=f").unwrap().remove(0);
        let progress = Progress::new(&job, Display::Hidden);
        assert_eq!(progress.text(1_900_000_000, 1, &Stats::new(), &Stats::new()), "all: 1 s");
    }
}
