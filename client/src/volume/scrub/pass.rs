//! Scrubs on a schedule. An image's register says when it was scrubbed last, and how far the pass is that runs; so any
//! number of heal agents share the work without talking to each other, and a pass that was interrupted goes on where it
//! was, whoever takes it up. Nothing depends on it: an agent that lost its pass to another one reads some shards twice.

use std::time::{Duration, SystemTime};

use brick_wire::cursor::Body;
use brick_wire::register::{ImageValue, RegisterKey, ScrubValue};
use brick_wire::{OperationUuid, SessionId};
use tokio::sync::watch;

use super::{CHUNK_SHARDS, ScrubOptions, ScrubOutcome};
use crate::name::ImageName;
use crate::volume::images::unix_seconds;
use crate::volume::{Volume, VolumeError};

/// A pass without a sign of life for this long is anybody's.
const ABANDONED_AFTER: Duration = Duration::from_secs(600);

/// When an image was scrubbed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScrubState {
    /// When a pass last ended.
    pub finished: Option<SystemTime>,
    /// Shards that the pass has done which runs, or was interrupted, and of how many.
    pub under_way: Option<(u32, u32)>,
    /// What that pass has found so far, or the last one found.
    pub outcome: ScrubOutcome,
}

/// How an agent's part in a pass ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::volume) enum PassEnd {
    /// All shards are done.
    Finished(ScrubOutcome),
    /// Told to stop; the rest is for whoever comes next.
    Interrupted,
    /// Another agent is at it.
    Taken,
}

impl Volume {
    /// When an image was scrubbed, and how far the pass is that runs.
    pub async fn scrub_state(&self, name: &ImageName) -> Result<ScrubState, VolumeError> {
        let value = self.resolve(name).await?;
        let home = self.reach_quorum(0).await?;
        let state = home.read(&RegisterKey::Scrub(value.image)).await?;
        let state = state.as_deref().map(ScrubValue::from_bytes).transpose()?;
        let time = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        Ok(ScrubState {
            finished: state.map(|state| state.finished_seconds).filter(|seconds| *seconds > 0).map(time),
            under_way: state.filter(|state| !is_over(state)).map(|state| (state.next_shard, state.shards)),
            outcome: state.map(|state| outcome(&state)).unwrap_or_default(),
        })
    }

    /// Begins a pass, or takes an abandoned one up, and goes on until it has ended or `stop` says so.
    pub(in crate::volume) async fn scrub_for_agent(
        &self,
        value: &ImageValue,
        options: ScrubOptions,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<PassEnd, VolumeError> {
        let Ok(name) = value.name.parse::<ImageName>() else { return Ok(PassEnd::Taken) };
        let shards = self.shard_count(&name).await?;
        let agent = Volume::fresh_session();
        let Some(mut state) = self.take_pass(value, agent, shards).await? else { return Ok(PassEnd::Taken) };
        while !is_over(&state) {
            if *stop.borrow() {
                return Ok(PassEnd::Interrupted);
            }
            let chunk = state.next_shard..(state.next_shard + chunk_shards(value, options)).min(state.shards);
            let end = chunk.end;
            let part = monoio::select! {
                part = self.scrub_shards(value, chunk, options, |_| {}) => part?,
                _ = stop.wait_for(|stopped| *stopped) => return Ok(PassEnd::Interrupted),
            };
            let mut sum = outcome(&state);
            sum.add(part);
            state = ScrubValue { next_shard: end, ..with_outcome(state, sum) };
            if !self.note_pass(value, &mut state).await? {
                return Ok(PassEnd::Taken);
            }
        }
        Ok(PassEnd::Finished(outcome(&state)))
    }

    /// A scrub by hand has read everything: the schedule counts from now, unless an agent is just at it.
    pub(super) async fn note_scrub(
        &self,
        value: &ImageValue,
        begun_seconds: u64,
        shards: u32,
        found: ScrubOutcome,
    ) -> Result<(), VolumeError> {
        let agent = Volume::fresh_session();
        let Some(state) = self.take_pass(value, agent, shards).await? else { return Ok(()) };
        let state = ScrubValue { begun_seconds, next_shard: shards, shards, ..state };
        self.note_pass(value, &mut with_outcome(state, found)).await.map(drop)
    }

    /// The pass, if it is nobody else's.
    async fn take_pass(
        &self,
        value: &ImageValue,
        agent: SessionId,
        shards: u32,
    ) -> Result<Option<ScrubValue>, VolumeError> {
        let operation = OperationUuid(uuid::Uuid::new_v4());
        let (home, key) = (self.reach_quorum(0).await?, RegisterKey::Scrub(value.image));
        let decided = home.change(&key, |current, _| {
            let now = unix_seconds();
            let current =
                current.filter(|bytes| !bytes.is_empty()).map(ScrubValue::from_bytes).transpose()?;
            let next = match current {
                Some(state) if !is_over(&state) && is_alive(&state, now) && state.agent != agent => state,
                Some(state) if !is_over(&state) && state.shards == shards => {
                    ScrubValue { operation, agent, touched_seconds: now, ..state }
                }
                other => ScrubValue {
                    finished_seconds: other.map_or(0, |state| state.finished_seconds),
                    ..fresh_pass(operation, agent, now, shards)
                },
            };
            Ok(next.to_bytes())
        });
        let state = ScrubValue::from_bytes(&decided.await?)?;
        Ok((state.agent == agent).then_some(state))
    }

    /// Writes down how far the pass is; false if another agent has taken it.
    async fn note_pass(&self, value: &ImageValue, state: &mut ScrubValue) -> Result<bool, VolumeError> {
        state.operation = OperationUuid(uuid::Uuid::new_v4());
        state.touched_seconds = unix_seconds();
        if is_over(state) {
            state.finished_seconds = state.touched_seconds;
        }
        let (home, key) = (self.reach_quorum(0).await?, RegisterKey::Scrub(value.image));
        let decided = home.change(&key, |current, _| {
            let current =
                current.filter(|bytes| !bytes.is_empty()).map(ScrubValue::from_bytes).transpose()?;
            let next = current.filter(|current| current.agent != state.agent).unwrap_or(*state);
            Ok(next.to_bytes())
        });
        Ok(ScrubValue::from_bytes(&decided.await?)?.agent == state.agent)
    }
}

/// Whether an image has to be scrubbed: nobody is at it, and the last pass was interrupted or is `period` ago.
pub(in crate::volume) fn is_due(value: &ImageValue, state: Option<&ScrubValue>, period: Duration) -> bool {
    let now = unix_seconds();
    match state {
        Some(state) if !is_over(state) => !is_alive(state, now),
        _ => {
            let last = state.map_or(0, |state| state.finished_seconds).max(value.created_seconds);
            now.saturating_sub(last) >= period.as_secs()
        }
    }
}

fn fresh_pass(operation: OperationUuid, agent: SessionId, now: u64, shards: u32) -> ScrubValue {
    ScrubValue {
        operation,
        agent,
        begun_seconds: now,
        touched_seconds: now,
        finished_seconds: 0,
        next_shard: 0,
        shards,
        checked_blocks: 0,
        bad_blocks: 0,
        repaired_blocks: 0,
        unrepairable_blocks: 0,
    }
}

/// Shards that are read before the next sign of life: a pass is given up long after that.
fn chunk_shards(value: &ImageValue, options: ScrubOptions) -> u32 {
    let in_time =
        options.bytes_per_second.saturating_mul(ABANDONED_AFTER.as_secs() / 10) >> value.shard_shift;
    let shards = if options.bytes_per_second == 0 { CHUNK_SHARDS.into() } else { in_time };
    shards.clamp(1, CHUNK_SHARDS.into()) as u32
}

fn is_over(state: &ScrubValue) -> bool {
    state.next_shard == state.shards
}

/// By clocks that may differ: a sign of life from the future is one, too.
fn is_alive(state: &ScrubValue, now: u64) -> bool {
    now.abs_diff(state.touched_seconds) < ABANDONED_AFTER.as_secs()
}

fn outcome(state: &ScrubValue) -> ScrubOutcome {
    ScrubOutcome {
        checked_blocks: state.checked_blocks,
        bad_blocks: state.bad_blocks,
        repaired_blocks: state.repaired_blocks,
        unrepairable_blocks: state.unrepairable_blocks,
    }
}

fn with_outcome(state: ScrubValue, outcome: ScrubOutcome) -> ScrubValue {
    ScrubValue {
        checked_blocks: outcome.checked_blocks,
        bad_blocks: outcome.bad_blocks,
        repaired_blocks: outcome.repaired_blocks,
        unrepairable_blocks: outcome.unrepairable_blocks,
        ..state
    }
}

#[cfg(test)]
mod tests {
    use brick_wire::ImageUuid;
    use brick_wire::register::ImageState;

    use super::*;

    const DAY: Duration = Duration::from_secs(86400);

    fn image(created_seconds: u64) -> ImageValue {
        ImageValue {
            operation: OperationUuid::NIL,
            image: ImageUuid::NIL,
            state: ImageState::Live,
            shard_shift: 22,
            groups: vec![0],
            created_seconds,
            name: "vm".into(),
        }
    }

    #[test]
    fn an_image_is_due_a_period_after_its_creation_or_its_last_pass() {
        let now = unix_seconds();
        let old = now - 3 * DAY.as_secs();
        assert!(!is_due(&image(now), None, DAY) && is_due(&image(old), None, DAY));
        let pass = fresh_pass(OperationUuid::NIL, SessionId(1), old, 9);
        let finished = ScrubValue { next_shard: 9, finished_seconds: now, ..pass };
        assert!(!is_due(&image(old), Some(&finished), DAY));
        assert!(is_due(&image(old), Some(&ScrubValue { finished_seconds: old, ..finished }), DAY));
    }

    #[test]
    fn a_pass_belongs_to_its_agent_until_it_falls_silent() {
        let now = unix_seconds();
        let pass = ScrubValue { next_shard: 3, ..fresh_pass(OperationUuid::NIL, SessionId(1), now, 9) };
        assert!(!is_due(&image(0), Some(&pass), DAY));
        let silent = ScrubValue { touched_seconds: now - ABANDONED_AFTER.as_secs(), ..pass };
        assert!(is_due(&image(0), Some(&silent), DAY), "and then at once");
    }
}
