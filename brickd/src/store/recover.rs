//! What a start knows of the blocks that may be dirty: the saved maps and the activity log of each lane.
//!
//! Both files live on until they are replaced, whatever ends the brick: the saved maps are the durable base,
//! the tables add what may have been written since. A file that can't be trusted (it doesn't check, or is
//! missing) is replaced here, before the brick serves, by one that says so: maps in which every known image
//! is inexact, or an empty table beside such maps. The maps come first: an empty table makes the loss
//! invisible. So a crash at any point in between finds either the damage or its record.

use std::collections::BTreeSet;
use std::path::Path;

use brick_wire::register::{RegisterEntry, RegisterKey};
use brick_wire::{BootUuid, ImageUuid, Incarnation, LaneIndex, ShardIndex};
use tracing::warn;

use super::activity::ActivityFile;
use super::dirty;
use super::error::StoreError;
use crate::engine::{ActiveShard, SavedDirty};

/// What the lanes' files say.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    pub(super) dirty: Vec<(LaneIndex, Vec<SavedDirty>)>,
    pub(super) active: Vec<(LaneIndex, Vec<ActiveShard>)>,
    pub(super) activity: Vec<ActivityFile>,
}

/// Loads the files of all lanes. After a clean stop the saved maps say it all, and if there are none, none was
/// ever written (as by a version without an activity log).
pub(super) fn load(
    path: &Path,
    lanes: u16,
    boot: BootUuid,
    clean_start: bool,
    images: &BTreeSet<ImageUuid>,
) -> Result<Lanes, StoreError> {
    let mut found = Lanes::default();
    for lane in (0..lanes).map(LaneIndex) {
        let saved = dirty::load(path, lane, boot);
        let table = ActivityFile::open(path, lane, lanes);
        let saved_lost = saved.as_ref().err().filter(|error| !(clean_start && error.is_not_found()));
        let table_lost = table.as_ref().err().filter(|_| !clean_start);
        let lost: Vec<&StoreError> = saved_lost.into_iter().chain(table_lost).collect();
        lost.iter().for_each(|error| warn!("{error}"));
        let (is_lost, is_replaced) = (!lost.is_empty(), !lost.is_empty() || saved.is_err());
        let mut maps = saved.unwrap_or_default();
        if is_lost {
            forget_exactness(&mut maps, images);
        }
        if is_replaced {
            dirty::save(path, lane, Incarnation { boot, ..Incarnation::default() }, &maps)?;
        }
        let (file, entries) = match table {
            Ok(table) => table,
            Err(_) => (ActivityFile::create(path, lane, lanes)?, Vec::new()),
        };
        found.activity.push(file);
        found.dirty.push((lane, maps));
        found.active.push((lane, entries));
    }
    Ok(found)
}

/// Every image that may have dirty bits: bits come with a write, which takes a promised epoch.
pub(super) fn known_images(
    registers: &[RegisterEntry],
    shards: &[(LaneIndex, ImageUuid, ShardIndex)],
) -> BTreeSet<ImageUuid> {
    let with_epoch = registers.iter().filter_map(|entry| match &entry.key {
        RegisterKey::Epoch(image) => Some(*image),
        _ => None,
    });
    with_epoch.chain(shards.iter().map(|(_, image, _)| *image)).collect()
}

fn forget_exactness(maps: &mut Vec<SavedDirty>, images: &BTreeSet<ImageUuid>) {
    maps.iter_mut().for_each(|map| map.exact = false);
    for image in images {
        if !maps.iter().any(|map| map.image == *image) {
            maps.push(SavedDirty { image: *image, exact: false, unsynced: false, shards: Vec::new() });
        }
    }
}
