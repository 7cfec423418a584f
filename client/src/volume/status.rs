//! Status from counters: nothing here opens an image or crawls a store.

use brick_wire::body::{BrickStatus, ImageStatus};
use brick_wire::cursor::Body;
use brick_wire::limits::{BLOCK_SHIFT, BLOCK_SIZE};
use brick_wire::record::RecordKind;
use brick_wire::register::ImageValue;
use brick_wire::{BrickIndex, BrickSet, BrickUuid, Epoch, Opcode, Role, Status};

use super::survey::{Answer, Answers, Survey};
use super::{Volume, VolumeError};
use crate::driver::control::Control;
use crate::name::ImageName;

/// State of a volume's bricks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeUsage {
    /// One per group.
    pub groups: Vec<GroupUsage>,
}

/// State of a group's bricks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupUsage {
    /// One per brick.
    pub bricks: Vec<BrickUsage>,
}

/// State of a brick.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrickUsage {
    /// `host:port`.
    pub address: String,
    /// What it keeps.
    pub role: Role,
    /// Which brick.
    pub uuid: BrickUuid,
    /// What it said, or why it isn't there.
    pub status: Result<BrickStatus, String>,
}

/// How an image is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HealthState {
    /// Every brick is there and every copy is good.
    Healthy,
    /// A brick is missing or out of sync.
    Degraded,
    /// A brick is being brought back right now.
    Healing,
    /// Too few bricks.
    NoQuorum,
    /// A quorum, but not the good copy.
    NoGoodCopy,
}

/// How a brick's copy of an image is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BrickState {
    /// Good.
    InSync,
    /// Needs heal.
    Stale,
    /// Not there.
    Offline,
}

/// A brick's part in an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrickHealth {
    /// `host:port`.
    pub address: String,
    /// What it keeps.
    pub role: Role,
    /// See [`BrickState`].
    pub state: BrickState,
    /// Blocks that may differ from the good copy.
    pub dirty_blocks: u64,
    /// Counters of this life of the brick.
    pub counters: ImageStatus,
}

impl BrickHealth {
    /// Bytes that may differ from the good copy.
    pub fn dirty_bytes(&self) -> u64 {
        self.dirty_blocks * BLOCK_SIZE as u64
    }
}

/// An image's state over all its groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageHealth {
    /// Its name.
    pub name: String,
    /// The worst state of its groups.
    pub state: HealthState,
    /// The newest epoch of its groups.
    pub epoch: Epoch,
    /// Its bricks, group after group.
    pub bricks: Vec<BrickHealth>,
    /// In plain words what is wrong; empty if nothing is.
    pub reason: String,
}

impl Volume {
    /// Asks every brick how it is.
    pub async fn status(&self) -> VolumeUsage {
        let mut groups = Vec::new();
        for group in &self.config.groups {
            let controls = self.reach(group, Volume::fresh_session()).await;
            let mut bricks = Vec::new();
            for (brick, control) in group.bricks.iter().zip(controls) {
                let status = match control {
                    Ok(control) => brick_status(&control).await,
                    Err(error) => Err(error.to_string()),
                };
                let address = brick.address.clone();
                bricks.push(BrickUsage { address, role: brick.role, uuid: brick.brick, status });
            }
            groups.push(GroupUsage { bricks });
        }
        VolumeUsage { groups }
    }

    /// State of one image, or of all. However many bricks are silent, it takes a few times `brick_timeout` at most.
    pub async fn heal_status(&self, name: Option<&ImageName>) -> Result<Vec<ImageHealth>, VolumeError> {
        let survey = self.survey_all().await;
        let values = match (self.home_of(&survey), name) {
            // Which image that is can't be told without a quorum; that there is none can.
            (Err(VolumeError::NoQuorum { .. }), Some(name)) => {
                return Ok(vec![self.health_unknown(&survey, name)]);
            }
            (home, None) => self.images_of(&home?).await?.0,
            (home, Some(name)) => vec![self.resolve_in(&home?, name).await?],
        };
        let answers = survey.ask(&values).await;
        Ok(values.iter().map(|value| self.health_in(&answers, value)).collect())
    }

    fn health_unknown(&self, survey: &Survey, name: &ImageName) -> ImageHealth {
        let bricks = self.home().bricks.iter().enumerate().map(|(index, brick)| BrickHealth {
            address: brick.address.clone(),
            role: brick.role,
            state: if survey.is_online(0, index) { BrickState::Stale } else { BrickState::Offline },
            dirty_blocks: 0,
            counters: ImageStatus::default(),
        });
        ImageHealth {
            name: name.as_str().to_owned(),
            state: HealthState::NoQuorum,
            epoch: Epoch::ZERO,
            bricks: bricks.collect(),
            reason: "too few bricks answer to know which copy is good".to_owned(),
        }
    }

    pub(super) async fn image_health(&self, value: &ImageValue) -> ImageHealth {
        let survey = self.survey(value.groups.iter().map(|group| usize::from(*group))).await;
        self.health_in(&survey.ask(std::slice::from_ref(value)).await, value)
    }

    /// An image's state, from what the bricks of its groups said.
    pub(super) fn health_in(&self, answers: &Answers<Answer>, value: &ImageValue) -> ImageHealth {
        let mut health = ImageHealth {
            name: value.name.clone(),
            state: HealthState::Healthy,
            epoch: Epoch::ZERO,
            bricks: Vec::new(),
            reason: String::new(),
        };
        for group in value.groups.iter().map(|group| usize::from(*group)) {
            let answers: Vec<Option<&Answer>> =
                answers[&group].iter().map(|brick| brick.as_ref()?.get(&value.image)).collect();
            self.add_group_health(&mut health, group, value, &answers);
        }
        health
    }

    fn add_group_health(
        &self,
        health: &mut ImageHealth,
        index: usize,
        value: &ImageValue,
        answers: &[Option<&Answer>],
    ) {
        let group = &self.config.groups[index];
        let online = answers.iter().flatten().count();
        let newest = answers.iter().flatten().max_by_key(|answer| answer.accepted);
        let record = newest.and_then(|answer| answer.record.clone());
        let in_sync = |index: usize| {
            record.as_ref().is_some_and(|record| record.in_sync.contains(BrickIndex(index as u8)))
        };
        // What a stale brick misses is what the good ones have marked.
        let good =
            answers.iter().enumerate().filter(|(index, _)| in_sync(*index)).filter_map(|(_, answer)| *answer);
        let missing = good.map(|answer| missing_blocks(answer, value.shard_shift)).max().unwrap_or(0);
        let held = record.as_ref().is_some_and(|record| record.kind != RecordKind::Closed);
        // An arbiter that missed the record missed writes, too. A holder catches it up by itself.
        let accepted = newest.map(|answer| answer.accepted);
        let is_behind = |answer: &Answer| !held && Some(answer.accepted) < accepted;
        let (mut stale_online, mut arbiter_behind) = (false, false);
        for (index, (brick, answer)) in group.bricks.iter().zip(answers).enumerate() {
            let arbiter = brick.role == Role::Arbiter;
            let behind = arbiter
                && record.is_some()
                && answer.is_some_and(|answer| answer.record.is_none() || is_behind(answer));
            arbiter_behind |= behind;
            let good = !behind && (in_sync(index) || arbiter);
            let state = match answer {
                None => BrickState::Offline,
                Some(_) if good => BrickState::InSync,
                Some(_) => BrickState::Stale,
            };
            stale_online |= state == BrickState::Stale && brick.role == Role::Data;
            health.bricks.push(BrickHealth {
                address: brick.address.clone(),
                role: brick.role,
                state,
                dirty_blocks: if good { 0 } else { missing.saturating_sub(compared(*answer)) },
                counters: answer.map(|answer| answer.counters).unwrap_or_default(),
            });
        }
        let good_online = (0..answers.len()).any(|index| in_sync(index) && answers[index].is_some());
        let all_in_sync = group
            .bricks
            .iter()
            .enumerate()
            .all(|(index, brick)| brick.role == Role::Arbiter || in_sync(index));
        let reachable: BrickSet = (0..answers.len())
            .filter(|index| answers[*index].is_some())
            .map(|index| BrickIndex(index as u8))
            .collect();
        let (state, reason) = if !group.quorum.is_reached_by(reachable, group.bricks.len()) {
            (
                HealthState::NoQuorum,
                format!("{online} of {} bricks of group {index} answer", group.bricks.len()),
            )
        } else if !good_online {
            let addresses = (0..answers.len()).filter(|index| in_sync(*index));
            let addresses: Vec<_> = addresses.map(|index| group.bricks[index].address.clone()).collect();
            (HealthState::NoGoodCopy, format!("the only good copy is on {}", addresses.join(", ")))
        } else if stale_online && held {
            (HealthState::Healing, format!("{missing} blocks may still differ"))
        } else if !all_in_sync || online < group.bricks.len() {
            (HealthState::Degraded, "a brick is offline or out of sync".to_owned())
        } else if arbiter_behind {
            (HealthState::Degraded, "an arbiter was away and lacks checksums".to_owned())
        } else {
            (HealthState::Healthy, String::new())
        };
        if severity(state) > severity(health.state) {
            health.state = state;
            health.reason = reason;
        }
        health.epoch = health.epoch.max(record.map_or(Epoch::ZERO, |record| record.epoch));
    }
}

async fn brick_status(control: &Control) -> Result<BrickStatus, String> {
    let reply = control.ask(Opcode::BrickStatus, Vec::new()).await.map_err(|error| error.to_string())?;
    if reply.header.status != Status::Ok {
        return Err(format!("it answered {:?}", reply.header.status));
    }
    BrickStatus::from_bytes(&reply.aux).map_err(|error| error.to_string())
}

/// Blocks that a stale brick may miss, as a good one knows it: the marked ones, or everything there is if
/// the good one lost marks in a crash.
fn missing_blocks(answer: &Answer, shard_shift: u8) -> u64 {
    if answer.exact {
        answer.counters.dirty_blocks
    } else {
        answer.counters.shards << (u32::from(shard_shift) - BLOCK_SHIFT)
    }
}

/// What the heal that runs has been through: the good copies keep their marks until every copy is good.
fn compared(answer: Option<&Answer>) -> u64 {
    answer.map_or(0, |answer| answer.counters.heal_compared_blocks)
}

fn severity(state: HealthState) -> u8 {
    match state {
        HealthState::Healthy => 0,
        HealthState::Healing => 1,
        HealthState::Degraded => 2,
        HealthState::NoGoodCopy => 3,
        HealthState::NoQuorum => 4,
    }
}
