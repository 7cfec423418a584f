//! `image declare-good`: the operator says that a copy counts although the record says that it doesn't.
//!
//! This is for the day on which the good copies are gone for good. It is the one operation that may lose
//! completed writes, so it is split in two: [`Volume::what_declaring_loses`] looks and changes nothing,
//! [`Volume::declare_good`] decides a record whose in-sync set is that one brick. By that record every other
//! copy is stale: if a lost brick returns after all it is healed like any other, never believed (rule I10).

use brick_wire::record::{EpochRecord, RecordKind};
use brick_wire::register::ImageValue;
use brick_wire::{BrickIndex, Role};

use super::images::OpenOptions;
use super::{Volume, VolumeError};
use crate::name::ImageName;
use crate::replica::Purpose;

/// What is known about the price of declaring a copy good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclarePrice {
    /// The group that the brick is in.
    pub group: usize,
    /// Where the record says that the good copies are.
    pub in_sync: Vec<String>,
    /// Whether the brick is one of them; then only completed writes that were never flushed are at stake.
    pub is_in_sync: bool,
    /// Whether the image was closed in order, so that nothing unflushed is at stake.
    pub closed: bool,
    /// Blocks that were written while the brick missed them, as far as a brick that answers knows; `None` if
    /// nobody who answers has kept count.
    pub missed_blocks: Option<u64>,
    /// Images whose only good copy is on the same brick, if that was restored from an older copy of itself: those
    /// older copies will count, too.
    pub older_copies: Vec<String>,
}

impl Volume {
    /// What may be lost if the copy on `address` is declared good. Changes nothing.
    pub async fn what_declaring_loses(
        &self,
        name: &ImageName,
        address: &str,
    ) -> Result<DeclarePrice, VolumeError> {
        let value = self.resolve(name).await?;
        let (group, brick) = self.find_brick(&value, address)?;
        let bricks = &self.config.groups[group].bricks;
        let mut record: Option<EpochRecord> = None;
        let mut missed_blocks = None;
        let answers = self.survey([group]).await.ask(std::slice::from_ref(&value)).await;
        for (index, answer) in answers[&group].iter().enumerate() {
            let Some(answer) = answer.as_ref().and_then(|images| images.get(&value.image)) else { continue };
            // The brick itself doesn't know what it missed; what it wrote alone stays.
            if index != usize::from(brick.0) && answer.exact {
                missed_blocks = missed_blocks.max(Some(answer.counters.dirty_blocks));
            }
            if record.as_ref().is_none_or(|best| answer.accepted > best.epoch) {
                record = answer.record.clone().or(record);
            }
        }
        let record = record.ok_or_else(|| VolumeError::UnknownImage(name.clone()))?;
        let is_in_sync = record.in_sync.contains(brick);
        Ok(DeclarePrice {
            group,
            in_sync: record
                .in_sync
                .iter()
                .map(|index| bricks[usize::from(index.0)].address.clone())
                .collect(),
            is_in_sync,
            closed: record.kind == RecordKind::Closed,
            missed_blocks: if is_in_sync { Some(0) } else { missed_blocks },
            older_copies: self.only_good_on(group, brick).await?,
        })
    }

    /// Makes the copy on `address` the only good one, durably, and gives the image back.
    pub async fn declare_good(&self, name: &ImageName, address: &str) -> Result<(), VolumeError> {
        let value = self.resolve(name).await?;
        let (group, brick) = self.find_brick(&value, address)?;
        let alone = ImageValue { groups: vec![group as u16], ..value.clone() };
        self.restore_to_declare(group, brick).await?;
        let purpose = Purpose::DeclareGood(brick);
        for session in self.open_sessions(&alone, purpose, OpenOptions::default()).await? {
            let failed = |source| VolumeError::Image { name: value.name.clone(), source };
            session.close().await.map_err(failed)?;
        }
        Ok(())
    }

    /// The data brick at `address` among the groups that hold the image.
    fn find_brick(&self, value: &ImageValue, address: &str) -> Result<(usize, BrickIndex), VolumeError> {
        for group in value.groups.iter().map(|group| usize::from(*group)) {
            let bricks = &self.config.groups[group].bricks;
            let at_address = |brick: &crate::replica::BrickConfig| brick.address == address;
            if let Some(index) = bricks.iter().position(at_address) {
                if bricks[index].role == Role::Arbiter {
                    return Err(VolumeError::NoCopyThere(address.to_owned()));
                }
                return Ok((group, BrickIndex(index as u8)));
            }
        }
        Err(VolumeError::UnknownBrick { address: address.to_owned(), name: value.name.clone() })
    }
}
