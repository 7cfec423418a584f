//! What the bricks remember of their last heals.

use std::collections::BTreeMap;
use std::time::Duration;

use brick_wire::body::{FinishedHeal, HealHistory};
use brick_wire::limits::BLOCK_SIZE;
use brick_wire::{Epoch, ImageUuid};

use super::{Volume, VolumeError};
use crate::name::ImageName;

/// A copy that was brought up to date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealMemory {
    /// The image; its id if it has no name any more, or none that could be asked for.
    pub image: String,
    /// `host:port` of the brick whose copy it was.
    pub brick: String,
    /// How long ago it ended, by that brick's clock.
    pub age: Duration,
    /// From the first block until the copy counted as good.
    pub duration: Duration,
    /// Blocks whose hashes were compared.
    pub compared_blocks: u64,
    /// Blocks that differed and were copied.
    pub healed_blocks: u64,
    /// Bytes that moved between the bricks, both ways.
    pub wire_bytes: u64,
}

impl HealMemory {
    /// Bytes of the blocks copied.
    pub fn healed_bytes(&self) -> u64 {
        self.healed_blocks * BLOCK_SIZE as u64
    }
}

impl Volume {
    /// The last heals that the bricks remember, of one image or of all, the latest first. A brick remembers some
    /// dozens, and none from before it was started.
    pub async fn heal_history(&self, name: Option<&ImageName>) -> Result<Vec<HealMemory>, VolumeError> {
        let survey = self.survey_all().await;
        let mut names: BTreeMap<ImageUuid, String> = BTreeMap::new();
        let wanted = match (self.home_of(&survey), name) {
            (home, Some(name)) => {
                let value = self.resolve_in(&home?, name).await?;
                names.insert(value.image, value.name);
                Some(value.image)
            }
            (Ok(home), None) => {
                let (named, _) = self.images_of(&home).await?;
                names.extend(named.into_iter().map(|value| (value.image, value.name)));
                None
            }
            // What the bricks remember may be told without a quorum; names can't.
            (Err(_), None) => None,
        };
        let mut memories = Vec::new();
        for (group, bricks) in survey.histories().await {
            for (brick, cores) in self.group(group).bricks.iter().zip(bricks) {
                let heals = merged(&cores.unwrap_or_default());
                let of_image =
                    heals.into_iter().filter(|heal| wanted.is_none_or(|image| heal.image == image));
                memories.extend(of_image.map(|heal| HealMemory {
                    image: names.get(&heal.image).cloned().unwrap_or_else(|| heal.image.to_string()),
                    brick: brick.address.clone(),
                    age: Duration::from_millis(heal.age_ms),
                    duration: Duration::from_millis(heal.duration_ms),
                    compared_blocks: heal.compared_blocks,
                    healed_blocks: heal.written_blocks,
                    wire_bytes: heal.wire_bytes,
                }));
            }
        }
        memories.sort_by_key(|memory| memory.age);
        Ok(memories)
    }
}

/// Each heal once: its parts on the cores of one brick summed up. They ran at the same time.
fn merged(cores: &[HealHistory]) -> Vec<FinishedHeal> {
    let mut heals: BTreeMap<(ImageUuid, Epoch), FinishedHeal> = BTreeMap::new();
    for part in cores.iter().flat_map(|core| &core.heals) {
        heals
            .entry((part.image, part.epoch))
            .and_modify(|heal| {
                heal.age_ms = heal.age_ms.min(part.age_ms);
                heal.duration_ms = heal.duration_ms.max(part.duration_ms);
                heal.compared_blocks += part.compared_blocks;
                heal.written_blocks += part.written_blocks;
                heal.wire_bytes += part.wire_bytes;
            })
            .or_insert(*part);
    }
    heals.into_values().collect()
}

#[cfg(test)]
mod tests {
    use brick_wire::SessionId;

    use super::*;

    fn part(counter: u64, age_ms: u64, duration_ms: u64, blocks: u64) -> FinishedHeal {
        FinishedHeal {
            image: ImageUuid::NIL,
            epoch: Epoch { counter, session: SessionId(1) },
            age_ms,
            duration_ms,
            compared_blocks: 2 * blocks,
            written_blocks: blocks,
            wire_bytes: 5000 * blocks,
        }
    }

    #[test]
    fn parts_on_several_cores_are_one_heal() {
        let cores = [
            HealHistory { heals: vec![part(3, 900, 10, 1), part(5, 100, 40, 7)] },
            HealHistory { heals: vec![part(5, 101, 50, 2)] },
            HealHistory::default(),
        ];
        assert_eq!(merged(&cores), [part(3, 900, 10, 1), part(5, 100, 50, 9)]);
    }
}
