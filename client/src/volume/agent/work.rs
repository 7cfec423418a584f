//! One job of a heal agent: takes an image under a heal lease, watches the heal, gives the image back.

use std::time::{Duration, Instant};

use brick_wire::register::{ImageState, ImageValue};
use brick_wire::{BrickIndex, BrickSet, Role};
use tokio::sync::watch;

use crate::driver::session::Session;
use crate::replica::{GroupError, Report, State};
use crate::volume::heal::{HealOutcome, POLL_PAUSE, STUCK_AFTER};
use crate::volume::scrub::ScrubOutcome;
use crate::volume::{Volume, VolumeError};

/// How long giving an image back may take; a lease that isn't given back runs out.
const CLOSE_PATIENCE: Duration = Duration::from_secs(10);

/// How a job ended.
pub(super) enum End {
    Healed(HealOutcome),
    Removed,
    Scrubbed(ScrubOutcome),
    /// Somebody else has it, or it is gone: nothing was done.
    Skipped,
    Yielded,
    Interrupted,
}

/// How the watch over a heal ended.
enum Watched {
    Done,
    Interrupted,
}

impl Volume {
    /// Heals an image that nobody holds; says so when it is `taken`.
    pub(super) async fn heal_for_agent(
        &self,
        value: &ImageValue,
        mut stop: watch::Receiver<bool>,
        taken: impl FnOnce(),
    ) -> Result<End, VolumeError> {
        let started = Instant::now();
        let fenced = |error: &VolumeError| {
            matches!(error, VolumeError::Image { source: GroupError::Fenced { .. }, .. })
        };
        let sessions = match self.open_to_heal(value).await {
            Ok(sessions) if sessions.is_empty() => return Ok(End::Skipped),
            Err(error) if fenced(&error) => return Ok(End::Yielded),
            opened => opened?,
        };
        taken();
        let was_healthy = sessions.iter().all(|session| session.report().state == State::Healthy);
        let watched = match self.attributes(value.image).await {
            Ok(Some(current)) if current.state == ImageState::Live => {
                self.watch_sessions(value, &sessions, &mut stop).await
            }
            // It was removed before it was ours; now that it is, it can't be.
            Ok(_) => Ok(Watched::Interrupted),
            Err(error) => Err(error),
        };
        let reports: Vec<Report> = sessions.iter().map(Session::report).collect();
        let closed = self.give_back(value, &sessions).await;
        match watched.and_then(|watched| closed.map(|()| watched)) {
            Ok(Watched::Done) => {
                let outcome = outcome(value, &reports, started.elapsed());
                // Another agent was faster, between our look and our opening.
                let was_done = was_healthy && outcome.compared_blocks == 0;
                Ok(if was_done { End::Skipped } else { End::Healed(outcome) })
            }
            Ok(Watched::Interrupted) => Ok(End::Interrupted),
            Err(error) if fenced(&error) => Ok(End::Yielded),
            Err(error) => Err(error),
        }
    }

    /// Waits until every data brick that answers is in sync in every group, and every arbiter vouches.
    async fn watch_sessions(
        &self,
        value: &ImageValue,
        sessions: &[Session],
        stop: &mut watch::Receiver<bool>,
    ) -> Result<Watched, VolumeError> {
        let opened: Vec<BrickSet> = sessions.iter().map(|session| session.report().in_sync).collect();
        let opened_at = Instant::now();
        let mut last = (0, 0, 0);
        let (mut moved_at, mut stale_at) = (Instant::now(), Instant::now());
        loop {
            if let Some(source) = sessions.iter().find_map(Session::end_reason) {
                return Err(VolumeError::Image { name: value.name.clone(), source });
            }
            let reports: Vec<Report> = sessions.iter().map(Session::report).collect();
            let healthy = reports.iter().all(|report| report.state == State::Healthy);
            if healthy && self.has_caught_up(value, &reports, opened_at) {
                return Ok(Watched::Done);
            }
            if *stop.borrow() {
                return Ok(Watched::Interrupted);
            }
            // Healthy, and not done: an arbiter is being caught up.
            if healthy || self.has_stale(value, &reports) {
                stale_at = Instant::now();
            } else if stale_at.elapsed() >= self.config.brick_timeout {
                // Those that are not in sync are away. If another one joined, that is all there was to do.
                let joined =
                    reports.iter().zip(&opened).any(|(report, before)| !report.in_sync.is_subset_of(*before));
                return if joined { Ok(Watched::Done) } else { Err(self.offline(value, &reports)) };
            }
            let now = (
                sum(&reports, |report| report.healed_blocks),
                sum(&reports, |report| report.compared_blocks),
                sum(&reports, |report| report.blocks_to_heal + report.blocks_to_vouch),
            );
            if last != now {
                (last, moved_at) = (now, Instant::now());
            } else if moved_at.elapsed() > STUCK_AFTER {
                return Err(VolumeError::HealStuck {
                    name: value.name.clone(),
                    seconds: STUCK_AFTER.as_secs(),
                });
            }
            monoio::select! {
                () = monoio::time::sleep(POLL_PAUSE) => {}
                _ = stop.wait_for(|stopped| *stopped) => {}
            }
        }
    }

    /// Whether the arbiters vouch; one that isn't connected a moment after the opening is away.
    pub(in crate::volume) fn has_caught_up(
        &self,
        value: &ImageValue,
        reports: &[Report],
        opened_at: Instant,
    ) -> bool {
        let settled = opened_at.elapsed() >= self.config.brick_timeout;
        reports.iter().zip(&value.groups).all(|(report, group)| {
            let bricks =
                (0..self.group(usize::from(*group)).bricks.len()).map(|index| BrickIndex(index as u8));
            let there = report.connected.difference(report.blank);
            let awaited =
                |brick: &BrickIndex| there.contains(*brick) || (!settled && !report.blank.contains(*brick));
            let mut arbiters = bricks.filter(|brick| !self.is_data(*group, *brick)).filter(awaited);
            arbiters.all(|arbiter| report.vouching.contains(arbiter))
        })
    }

    /// Whether a data brick is connected and not in sync.
    fn has_stale(&self, value: &ImageValue, reports: &[Report]) -> bool {
        let stale = |report: &Report, group: u16| {
            let bricks = report.connected.difference(report.in_sync);
            bricks.iter().any(|brick| self.is_data(group, brick))
        };
        reports.iter().zip(&value.groups).any(|(report, group)| stale(report, *group))
    }

    fn offline(&self, value: &ImageValue, reports: &[Report]) -> VolumeError {
        let mut bricks = Vec::new();
        for (report, group) in reports.iter().zip(&value.groups) {
            for (index, brick) in self.group(usize::from(*group)).bricks.iter().enumerate() {
                let place = BrickIndex(index as u8);
                if brick.role == Role::Data && !report.in_sync.contains(place) {
                    bricks.push(brick.address.as_str());
                }
            }
        }
        VolumeError::Offline { name: value.name.clone(), bricks: bricks.join(", ") }
    }

    fn is_data(&self, group: u16, brick: BrickIndex) -> bool {
        self.group(usize::from(group)).bricks[usize::from(brick.0)].role == Role::Data
    }

    async fn give_back(&self, value: &ImageValue, sessions: &[Session]) -> Result<(), VolumeError> {
        let mut result = Ok(());
        for session in sessions {
            let closed = match monoio::time::timeout(CLOSE_PATIENCE, session.close()).await {
                Ok(closed) => closed,
                Err(_) => Err(GroupError::Closed),
            };
            if let Err(source) = closed {
                result = Err(VolumeError::Image { name: value.name.clone(), source });
            }
        }
        result
    }
}

fn outcome(value: &ImageValue, reports: &[Report], elapsed: Duration) -> HealOutcome {
    HealOutcome {
        name: value.name.clone(),
        healed_blocks: sum(reports, |report| report.healed_blocks),
        compared_blocks: sum(reports, |report| report.compared_blocks),
        wire_bytes: sum(reports, |report| report.heal_wire_bytes),
        seconds: elapsed.as_secs_f64(),
    }
}

fn sum(reports: &[Report], figure: impl Fn(&Report) -> u64) -> u64 {
    reports.iter().map(figure).sum()
}
