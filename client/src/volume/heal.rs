//! `heal run`: brings every copy of an image up to date and says what that took.
//!
//! If nobody has the image open it is opened here under a `heal` epoch, which an opening client may
//! preempt. If a client has it open, that client heals by itself, and this only watches. Either way the
//! figures are differences of the bricks' own counters.

use std::time::{Duration, Instant};

use brick_wire::Role;
use brick_wire::body::ImageStatus;
use brick_wire::limits::BLOCK_SIZE;
use brick_wire::register::ImageValue;

use super::images::OpenOptions;
use super::status::{BrickState, HealthState, ImageHealth};
use super::{Volume, VolumeError};
use crate::driver::session::Session;
use crate::name::ImageName;
use crate::replica::{GroupError, Purpose};

/// How often progress is looked at.
pub(super) const POLL_PAUSE: Duration = Duration::from_millis(100);
/// How often it is tried to take an image that somebody holds: its holder may be dead.
const TRY_PAUSE: Duration = Duration::from_secs(1);
/// Without any progress for this long the heal is called stuck.
pub(super) const STUCK_AFTER: Duration = Duration::from_secs(60);

/// What a heal took.
#[derive(Clone, Debug, PartialEq)]
pub struct HealOutcome {
    /// The image.
    pub name: String,
    /// Blocks that differed and were copied.
    pub healed_blocks: u64,
    /// Blocks whose hashes were compared.
    pub compared_blocks: u64,
    /// Bytes that moved between bricks, both ways, hashes and headers included.
    pub wire_bytes: u64,
    /// Wall-clock seconds.
    pub seconds: f64,
}

impl HealOutcome {
    /// Bytes of the blocks copied.
    pub fn healed_bytes(&self) -> u64 {
        self.healed_blocks * BLOCK_SIZE as u64
    }
}

/// Where a running heal is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealProgress {
    /// The image.
    pub name: String,
    /// Blocks copied so far.
    pub healed_blocks: u64,
    /// Blocks that may still differ.
    pub left_blocks: u64,
}

impl Volume {
    /// Heals one image, or all; `watch` is told about progress.
    pub async fn heal_run(
        &self,
        name: Option<&ImageName>,
        mut watch: impl FnMut(&HealProgress),
    ) -> Result<Vec<HealOutcome>, VolumeError> {
        self.learn_blank_bricks().await?;
        self.finish_removals().await?;
        let names = match name {
            Some(name) => vec![name.clone()],
            None => {
                let infos = self.list_images().await?;
                infos.iter().filter_map(|info| info.name.parse().ok()).collect()
            }
        };
        let mut outcomes = Vec::new();
        for name in &names {
            outcomes.push(self.heal_image(name, &mut watch).await?);
        }
        Ok(outcomes)
    }

    pub(super) async fn heal_image(
        &self,
        name: &ImageName,
        watch: &mut impl FnMut(&HealProgress),
    ) -> Result<HealOutcome, VolumeError> {
        let started = Instant::now();
        let value = self.resolve(name).await?;
        let before = self.image_health(&value).await;
        let mut sessions = Vec::new();
        let result = self.watch_heal(&value, &before, &mut sessions, watch).await;
        for session in &sessions {
            match session.close().await {
                // A client that opened the image meanwhile heals it by itself.
                Ok(()) | Err(GroupError::Fenced { .. }) => {}
                Err(_) if result.is_err() => {}
                Err(source) => return Err(VolumeError::Image { name: value.name.clone(), source }),
            }
        }
        let after = result?;
        Ok(outcome(name, &before, &after, started.elapsed()))
    }

    /// Takes the image for healing; no sessions if a live client has it and so heals it.
    pub(super) async fn open_to_heal(&self, value: &ImageValue) -> Result<Vec<Session>, VolumeError> {
        match self.open_sessions(value, Purpose::Heal, OpenOptions::default()).await {
            Err(VolumeError::Image { source: GroupError::Held { .. }, .. }) => Ok(Vec::new()),
            other => other,
        }
    }

    /// Waits until every copy is in sync and every arbiter has caught up. Nobody may hold the image, or a client that heals it by
    /// itself, or one that died: so it is tried to be taken until somebody is at work.
    async fn watch_heal(
        &self,
        value: &ImageValue,
        before: &ImageHealth,
        sessions: &mut Vec<Session>,
        watch: &mut impl FnMut(&HealProgress),
    ) -> Result<ImageHealth, VolumeError> {
        let mut last = (0, u64::MAX, 0);
        let mut moved_at = Instant::now();
        let mut tried_at = None;
        loop {
            let health = self.image_health(value).await;
            let healed = counters(&health).pulled_blocks.saturating_sub(counters(before).pulled_blocks);
            let left = health.bricks.iter().map(|brick| brick.dirty_blocks).sum();
            watch(&HealProgress { name: value.name.clone(), healed_blocks: healed, left_blocks: left });
            let of_state = |state| health.bricks.iter().filter(move |brick| brick.state == state);
            let reports: Vec<_> = sessions.iter().map(Session::report).collect();
            let caught_up = tried_at.is_none_or(|at| self.has_caught_up(value, &reports, at));
            let stale = |role| of_state(BrickState::Stale).filter(move |brick| brick.role == role).count();
            // A session catches arbiters up; one that may not vote can't be.
            let arbiters_done = caught_up && (tried_at.is_some() || stale(Role::Arbiter) == 0);
            if stale(Role::Data) == 0 && arbiters_done {
                let offline: Vec<&str> = of_state(BrickState::Offline)
                    .filter(|brick| brick.dirty_blocks > 0 || health.state != HealthState::Healthy)
                    .map(|brick| brick.address.as_str())
                    .collect();
                if !offline.is_empty() {
                    return Err(VolumeError::Offline {
                        name: value.name.clone(),
                        bricks: offline.join(", "),
                    });
                }
                return Ok(health);
            }
            if sessions.iter().any(|session| session.end_reason().is_some()) {
                // A client opened the image. Should it go before all is healed, it is our turn again.
                sessions.clear();
            }
            if sessions.is_empty() && tried_at.is_none_or(|at: Instant| at.elapsed() >= TRY_PAUSE) {
                *sessions = self.open_to_heal(value).await?;
                tried_at = Some(Instant::now());
            }
            let to_vouch: u64 = reports.iter().map(|report| report.blocks_to_vouch).sum();
            if last != (healed, left, to_vouch) {
                last = (healed, left, to_vouch);
                moved_at = Instant::now();
            } else if moved_at.elapsed() > STUCK_AFTER {
                let seconds = STUCK_AFTER.as_secs();
                return Err(VolumeError::HealStuck { name: value.name.clone(), seconds });
            }
            monoio::time::sleep(POLL_PAUSE).await;
        }
    }

    /// Bricks that were away while an image was removed delete their shards now.
    async fn finish_removals(&self) -> Result<(), VolumeError> {
        for value in self.images_being_removed().await? {
            self.finish_removal(&value).await?;
        }
        Ok(())
    }

    /// Finishes a removal, unless somebody else is at it.
    pub(super) async fn finish_removal(&self, value: &ImageValue) -> Result<bool, VolumeError> {
        let sessions = self.open_to_heal(value).await?;
        if sessions.is_empty() {
            return Ok(false);
        }
        self.remove_shards(value, sessions).await?;
        Ok(true)
    }
}

fn counters(health: &ImageHealth) -> ImageStatus {
    let mut total = ImageStatus::default();
    for brick in &health.bricks {
        total.pulled_blocks += brick.counters.pulled_blocks;
        total.compared_blocks += brick.counters.compared_blocks;
        total.pulled_wire_bytes += brick.counters.pulled_wire_bytes;
    }
    total
}

fn outcome(name: &ImageName, before: &ImageHealth, after: &ImageHealth, elapsed: Duration) -> HealOutcome {
    let (before, after) = (counters(before), counters(after));
    HealOutcome {
        name: name.as_str().to_owned(),
        healed_blocks: after.pulled_blocks.saturating_sub(before.pulled_blocks),
        compared_blocks: after.compared_blocks.saturating_sub(before.compared_blocks),
        wire_bytes: after.pulled_wire_bytes.saturating_sub(before.pulled_wire_bytes),
        seconds: elapsed.as_secs_f64(),
    }
}
