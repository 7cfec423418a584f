//! `heal watch`: the images that aren't healthy, again and again, with how fast they heal and how long that will take.
//!
//! On a terminal one bar an image; elsewhere a line an image, when something about it changed; with `--json` a line of
//! JSON at every interval. What is shown are counters of the bricks (as `heal status`): looking costs them next to
//! nothing, and rates are differences between two looks, smoothed.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

use brick_client::{HealthState, ImageHealth, ImageName, Volume};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget};
use serde::Serialize;

use super::heal::{ImageJson, brick_state, image_state};
use crate::error::Error;
use crate::output::{bytes, image_bar, print_json, summary_bar};
use crate::signals;

/// Weight of the newest rate among those before, in the smoothed one.
const NEWEST_SHARE: f64 = 0.3;
const BLOCK_BYTES: u64 = 4096;

pub async fn run(
    volume: &Volume,
    name: Option<&ImageName>,
    interval: Duration,
    json: bool,
) -> Result<(), Error> {
    let mut stop = std::pin::pin!(signals::stop_requested());
    let mut view = View::new(json);
    let mut meters: BTreeMap<String, Meter> = BTreeMap::new();
    loop {
        let status = monoio::select! {
            status = volume.heal_status(name) => status,
            () = &mut stop => break,
        };
        match status {
            Ok(images) => view.show(&follow(&mut meters, images)),
            // It may come back; whoever watches wants to see that, too.
            Err(error @ brick_client::VolumeError::NoQuorum { .. }) => view.complain(&error),
            Err(error) => {
                view.clear();
                return Err(error.into());
            }
        }
        monoio::select! {
            () = monoio::time::sleep(interval) => {}
            () = &mut stop => break,
        }
    }
    view.clear();
    Ok(())
}

/// What is shown of an image.
struct Sight {
    health: ImageHealth,
    progress: Progress,
}

/// Measures those that aren't healthy, and forgets the others.
fn follow(meters: &mut BTreeMap<String, Meter>, images: Vec<ImageHealth>) -> Sights {
    let now = Instant::now();
    let total = images.len();
    let sick: Vec<ImageHealth> =
        images.into_iter().filter(|image| image.state != HealthState::Healthy).collect();
    meters.retain(|name, _| sick.iter().any(|image| image.name == *name));
    let sights: Vec<Sight> = sick
        .into_iter()
        .map(|health| {
            let meter = meters.entry(health.name.clone()).or_default();
            let progress = meter.measure(now, &Figures::of(&health));
            Sight { health, progress }
        })
        .collect();
    Sights { healthy: total - sights.len(), sights }
}

struct Sights {
    healthy: usize,
    sights: Vec<Sight>,
}

/// An image's counters, summed over its bricks.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Figures {
    /// Blocks that may still differ.
    left_blocks: u64,
    /// Compared by the heal that runs.
    done_blocks: u64,
    /// Compared, and copied, since the bricks started.
    compared_blocks: u64,
    copied_blocks: u64,
}

impl Figures {
    fn of(health: &ImageHealth) -> Figures {
        let mut figures = Figures::default();
        for brick in &health.bricks {
            figures.left_blocks += brick.dirty_blocks;
            figures.done_blocks += brick.counters.heal_compared_blocks;
            figures.compared_blocks += brick.counters.compared_blocks;
            figures.copied_blocks += brick.counters.pulled_blocks;
        }
        figures
    }
}

/// How a heal goes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Progress {
    left_blocks: u64,
    done_blocks: u64,
    /// Copied.
    bytes_per_second: f64,
    /// `None` while nothing moves.
    seconds_left: Option<f64>,
}

/// The rates of one image, from look to look.
#[derive(Debug, Default)]
struct Meter {
    last: Option<(Instant, Figures)>,
    compared_per_second: f64,
    copied_per_second: f64,
}

impl Meter {
    fn measure(&mut self, now: Instant, figures: &Figures) -> Progress {
        if let Some((at, before)) = self.last {
            let seconds = (now - at).as_secs_f64().max(0.001);
            // A brick that was restarted counts from zero.
            let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
            let smooth =
                |old: &mut f64, new: f64| *old += (new - *old) * if *old == 0.0 { 1.0 } else { NEWEST_SHARE };
            smooth(&mut self.compared_per_second, rate(figures.compared_blocks, before.compared_blocks));
            smooth(&mut self.copied_per_second, rate(figures.copied_blocks, before.copied_blocks));
        }
        self.last = Some((now, *figures));
        let moves = self.compared_per_second >= 1.0;
        Progress {
            left_blocks: figures.left_blocks,
            done_blocks: figures.done_blocks,
            bytes_per_second: self.copied_per_second * BLOCK_BYTES as f64,
            seconds_left: moves.then(|| figures.left_blocks as f64 / self.compared_per_second),
        }
    }
}

/// Where it is shown.
enum View {
    Json,
    Bars {
        all: MultiProgress,
        bars: BTreeMap<String, ProgressBar>,
        summary: ProgressBar,
    },
    /// The last line of each image.
    Lines(BTreeMap<String, String>),
}

impl View {
    fn new(json: bool) -> View {
        if json {
            View::Json
        } else if std::io::stdout().is_terminal() {
            let all = MultiProgress::with_draw_target(ProgressDrawTarget::stdout());
            let summary = all.add(summary_bar());
            View::Bars { all, bars: BTreeMap::new(), summary }
        } else {
            View::Lines(BTreeMap::new())
        }
    }

    fn show(&mut self, seen: &Sights) {
        match self {
            View::Json => print_json(&WatchJson::from(seen)),
            View::Bars { all, bars, summary } => {
                bars.retain(|name, bar| {
                    let shown = seen.sights.iter().any(|sight| sight.health.name == *name);
                    if !shown {
                        bar.finish_and_clear();
                        all.remove(bar);
                    }
                    shown
                });
                for sight in &seen.sights {
                    let bar = bars
                        .entry(sight.health.name.clone())
                        .or_insert_with(|| all.insert_before(summary, image_bar()));
                    let progress = sight.progress;
                    bar.set_length((progress.done_blocks + progress.left_blocks).max(1));
                    bar.set_position(progress.done_blocks);
                    bar.set_message(line(sight));
                }
                summary.set_message(summary_line(seen));
            }
            View::Lines(last) => {
                last.retain(|name, _| seen.sights.iter().any(|sight| sight.health.name == *name));
                for sight in &seen.sights {
                    let line = line(sight);
                    if last.get(&sight.health.name) != Some(&line) {
                        println!("{line}");
                        last.insert(sight.health.name.clone(), line);
                    }
                }
                let line = summary_line(seen);
                if last.get("") != Some(&line) {
                    println!("{line}");
                }
                // No image has an empty name.
                last.insert(String::new(), line);
            }
        }
    }

    fn complain(&mut self, error: &brick_client::VolumeError) {
        match self {
            View::Bars { summary, .. } => summary.set_message(error.to_string()),
            View::Json | View::Lines(_) => tracing::warn!("{error}"),
        }
    }

    fn clear(&self) {
        if let View::Bars { all, .. } = self {
            // The terminal is gone, and with it who could be told.
            let _gone = all.clear();
        }
    }
}

fn summary_line(seen: &Sights) -> String {
    match seen.sights.len() {
        0 => format!("all {} images are healthy", seen.healthy),
        sick => format!("{sick} of {} images are not healthy", seen.healthy + sick),
    }
}

fn line(sight: &Sight) -> String {
    let Sight { health, progress } = sight;
    let mut text = format!("{} {}", health.name, image_state(health.state));
    for brick in health.bricks.iter().filter(|brick| brick.dirty_blocks > 0) {
        let state = brick_state(brick.state);
        text += &format!(", {} {state} {}", brick.address, bytes(brick.dirty_bytes()));
    }
    if progress.bytes_per_second >= 1.0 {
        text += &format!(", {}/s", bytes(progress.bytes_per_second as u64));
    }
    if let Some(seconds) = progress.seconds_left.filter(|_| progress.left_blocks > 0) {
        text += &format!(", {} left", indicatif::HumanDuration(Duration::from_secs_f64(seconds.min(1e9))));
    }
    text
}

#[derive(Serialize)]
struct WatchJson {
    healthy: usize,
    images: Vec<SightJson>,
}

#[derive(Serialize)]
struct SightJson {
    #[serde(flatten)]
    image: ImageJson,
    left_blocks: u64,
    done_blocks: u64,
    bytes_per_second: u64,
    seconds_left: Option<u64>,
}

impl From<&Sights> for WatchJson {
    fn from(seen: &Sights) -> WatchJson {
        let image = |sight: &Sight| SightJson {
            image: ImageJson::from(&sight.health),
            left_blocks: sight.progress.left_blocks,
            done_blocks: sight.progress.done_blocks,
            bytes_per_second: sight.progress.bytes_per_second as u64,
            seconds_left: sight.progress.seconds_left.map(|seconds| seconds as u64),
        };
        WatchJson { healthy: seen.healthy, images: seen.sights.iter().map(image).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(left_blocks: u64, done: u64) -> Figures {
        Figures { left_blocks, done_blocks: done, compared_blocks: 1000 + done, copied_blocks: done / 2 }
    }

    #[test]
    fn rates_are_smoothed_and_tell_the_time_left() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut meter = Meter::default();
        let first = meter.measure(at(0), &figures(1000, 0));
        assert_eq!((first.bytes_per_second, first.seconds_left), (0.0, None), "one look has no rate");
        let second = meter.measure(at(1), &figures(800, 200));
        assert_eq!((second.bytes_per_second, second.seconds_left), (100.0 * 4096.0, Some(4.0)));
        let third = meter.measure(at(2), &figures(800, 200));
        assert_eq!(third.bytes_per_second, 70.0 * 4096.0, "a pause doesn't stop the figure at once");
        // The brick was restarted: its counters start over.
        let restarted = Figures { compared_blocks: 0, copied_blocks: 0, ..figures(800, 0) };
        assert!(meter.measure(at(3), &restarted).bytes_per_second < third.bytes_per_second);
    }
}
