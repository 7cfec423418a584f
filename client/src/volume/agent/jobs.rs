//! What there is to do for a heal agent, from what the bricks say of themselves. Nothing here opens an image.

use std::time::Duration;

use brick_wire::cursor::Body;
use brick_wire::record::{EpochRecord, RecordKind};
use brick_wire::register::{ImageValue, RegisterKey, RegisterKind, RegisterState, ScrubValue};
use brick_wire::{BrickIndex, BrickSet, Epoch, ImageUuid, Role};

use crate::config::Group;
use crate::volume::scrub::{ScrubOptions, is_scrub_due};
use crate::volume::survey::{Answer, Answers, Survey};
use crate::volume::{Volume, VolumeError};

/// Something to do.
#[derive(Clone, Debug)]
pub(super) enum Job {
    /// Bring an image's copies up to date.
    Heal(ImageValue),
    /// Finish its removal.
    Remove(ImageValue),
    /// Scrub it.
    Scrub(ImageValue, ScrubOptions),
}

impl Job {
    pub(super) fn value(&self) -> &ImageValue {
        match self {
            Job::Heal(value) | Job::Remove(value) | Job::Scrub(value, _) => value,
        }
    }

    pub(super) fn image(&self) -> ImageUuid {
        self.value().image
    }
}

impl Volume {
    /// What there is to do. Registers first, those of all images together; counters only where they give cause.
    pub(super) async fn jobs(&self, survey: &Survey) -> Result<Vec<Job>, VolumeError> {
        let home = self.home_of(survey)?;
        let (named, removing) = self.images_of(&home).await?;
        let epochs = survey.epochs().await;
        let suspects: Vec<ImageValue> =
            named.into_iter().filter(|value| self.is_suspect(&epochs, value, survey.has_blank())).collect();
        let answers = survey.ask(&suspects).await;
        let blank = survey.has_blank();
        let heals =
            suspects.into_iter().filter(|value| self.needs_heal(&answers, value, blank)).map(Job::Heal);
        let removals = removing.into_iter().filter(|value| self.has_all_data_bricks(survey, value));
        Ok(heals.chain(removals.map(Job::Remove)).collect())
    }

    /// The images that have to be scrubbed and whose copies all answer.
    pub(super) async fn scrubs_due(
        &self,
        survey: &Survey,
        period: Duration,
    ) -> Result<Vec<ImageValue>, VolumeError> {
        let home = self.home_of(survey)?;
        let states = home.list(RegisterKind::Scrub).await?;
        let is_due = |value: &ImageValue| {
            let state = states.get(&RegisterKey::Scrub(value.image));
            let state = state.and_then(|state| ScrubValue::from_bytes(&state.value).ok());
            is_scrub_due(value, state.as_ref(), period) && self.has_all_data_bricks(survey, value)
        };
        Ok(self.images_of(&home).await?.0.into_iter().filter(is_due).collect())
    }

    /// Whether nobody holds the image, and some group's records say that a copy is old, that a holder died, or that an
    /// arbiter was away.
    fn is_suspect(&self, epochs: &Answers<RegisterState>, value: &ImageValue, blank: bool) -> bool {
        let mut suspect = false;
        for (index, group) in self.groups_of(value) {
            let votes: Vec<Option<Vote>> = epochs[&index]
                .iter()
                .map(|brick| brick.as_ref()?.get(&value.image).and_then(Vote::of_register))
                .collect();
            match newest(&votes) {
                None => return false,
                Some(newest) if newest.is_held => return false,
                Some(newest) => {
                    let behind = !blank && newest.is_ahead_of_arbiter(group, &votes);
                    suspect |= behind || !newest.is_settled(group);
                }
            }
        }
        suspect
    }

    /// Whether there is something to do that can be done now.
    fn needs_heal(&self, answers: &Answers<Answer>, value: &ImageValue, blank: bool) -> bool {
        let mut needed = false;
        for (index, group) in self.groups_of(value) {
            let answers: Vec<Option<&Answer>> =
                answers[&index].iter().map(|brick| brick.as_ref()?.get(&value.image)).collect();
            match judge(group, &answers, blank) {
                Verdict::Impossible => return false,
                Verdict::Nothing => {}
                Verdict::Needed => needed = true,
            }
        }
        needed
    }

    fn has_all_data_bricks(&self, survey: &Survey, value: &ImageValue) -> bool {
        self.groups_of(value).all(|(index, group)| {
            data_bricks(group).iter().all(|brick| survey.is_online(index, brick.0.into()))
        })
    }

    fn groups_of<'a>(&'a self, value: &'a ImageValue) -> impl Iterator<Item = (usize, &'a Group)> {
        value.groups.iter().map(|index| (usize::from(*index), self.group(usize::from(*index))))
    }
}

/// What an agent can do for an image in one group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Somebody holds it, or too few bricks answer, or none with a good copy.
    Impossible,
    /// It is as good as it can be now.
    Nothing,
    /// See the table in [`super`].
    Needed,
}

/// With a `blank` brick about, one whose record is old may be that one, which is to be taught first.
fn judge(group: &Group, answers: &[Option<&Answer>], blank: bool) -> Verdict {
    let votes: Vec<Option<Vote>> = answers.iter().map(|answer| Vote::of_answer(answer.as_ref()?)).collect();
    let online: BrickSet =
        indexes(answers.len()).filter(|brick| answers[usize::from(brick.0)].is_some()).collect();
    let Some(newest) = newest(&votes) else { return Verdict::Impossible };
    let (in_sync, data) = (newest.record.in_sync, data_bricks(group));
    let quorum = group.quorum.is_reached_by(online, group.bricks.len());
    if newest.is_held || !quorum || in_sync.intersection(online).is_empty() {
        return Verdict::Impossible;
    }
    if !data.intersection(online).is_subset_of(in_sync) {
        return Verdict::Needed;
    }
    let complete = data.is_subset_of(online);
    if complete && !blank && newest.is_ahead_of_arbiter(group, &votes) {
        return Verdict::Needed;
    }
    // The holder died. A recovery leaves out the copies that aren't there, so it waits until all of them are.
    let unsettled = newest.record.kind != RecordKind::Closed && complete;
    let differs = |answer: &&Answer| answer.counters.dirty_blocks > 0 || !answer.exact;
    if unsettled && answers.iter().flatten().any(differs) { Verdict::Needed } else { Verdict::Nothing }
}

/// What a brick's epoch register says.
#[derive(Clone, Debug)]
struct Vote {
    record: EpochRecord,
    accepted: Epoch,
    lease_left_ms: u32,
}

impl Vote {
    fn of_register(state: &RegisterState) -> Option<Vote> {
        let record = EpochRecord::from_bytes(&state.value).ok()?;
        Some(Vote { record, accepted: state.accepted, lease_left_ms: state.lease_left_ms })
    }

    fn of_answer(answer: &Answer) -> Option<Vote> {
        let record = answer.record.clone()?;
        Some(Vote { record, accepted: answer.accepted, lease_left_ms: answer.lease_left_ms })
    }
}

/// The newest record that anybody accepted.
struct Newest<'a> {
    record: &'a EpochRecord,
    accepted: Epoch,
    /// Its holder renews. A brick that was restarted shows more of the lease than the others (rule I8), so the
    /// least that one of them shows counts.
    is_held: bool,
}

impl Newest<'_> {
    /// Closed, and every copy is good.
    fn is_settled(&self, group: &Group) -> bool {
        self.record.kind == RecordKind::Closed && data_bricks(group).is_subset_of(self.record.in_sync)
    }

    /// Whether an arbiter that answers missed it: then it missed writes, too, for all that is known.
    fn is_ahead_of_arbiter(&self, group: &Group, votes: &[Option<Vote>]) -> bool {
        let arbiters = indexes(votes.len()).filter(|brick| !data_bricks(group).contains(*brick));
        let mut votes = arbiters.filter_map(|brick| votes[usize::from(brick.0)].as_ref());
        votes.any(|vote| vote.accepted < self.accepted)
    }
}

fn newest(votes: &[Option<Vote>]) -> Option<Newest<'_>> {
    let best = votes.iter().flatten().max_by_key(|vote| vote.accepted)?;
    let same = votes.iter().flatten().filter(|vote| vote.accepted == best.accepted);
    let is_held = same.map(|vote| vote.lease_left_ms).min().is_some_and(|left_ms| left_ms > 0);
    Some(Newest { record: &best.record, accepted: best.accepted, is_held })
}

fn data_bricks(group: &Group) -> BrickSet {
    indexes(group.bricks.len())
        .filter(|brick| group.bricks[usize::from(brick.0)].role == Role::Data)
        .collect()
}

fn indexes(count: usize) -> impl Iterator<Item = BrickIndex> {
    (0..count).map(|index| BrickIndex(index as u8))
}

#[cfg(test)]
mod tests;
