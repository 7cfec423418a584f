//! Which blocks a returning brick needs: the union of what the good bricks and the brick itself say.
//!
//! From the moment a heal starts, new writes go to the brick or onto its list, so nothing is missed while
//! the maps are read page by page. A map is trusted only if its brick lost no bit of it; else every
//! block of every shard is compared. The brick's own map adds nothing if every write it ever saw since
//! it was equal came from this session (then S saw them all) and it hasn't crashed; after a crash its active shards are
//! on its map, because their CRCs are lost with it (see the witness in `REPLICATION.md`).

use std::collections::BTreeMap;

use brick_wire::body::{DirtyPage, ShardPage};
use brick_wire::cursor::Body;
use brick_wire::decode::Frame;
use brick_wire::{BlockRange, BlockSet, BrickIndex, BrickSet, CoreIndex, Flags, Opcode, ShardIndex, Status};

use super::Group;
use super::admit::Kind;
use super::pending::Purpose;

/// Writes that may be in flight to a brick outside S; beyond that they go onto its list.
const FOLLOWED_MAX: usize = 256;

/// The heal of one brick.
#[derive(Debug)]
pub(super) struct Heal {
    /// The good copy.
    pub(super) source: BrickIndex,
    pub(super) stage: Stage,
    /// Blocks that may differ.
    pub(super) list: BTreeMap<ShardIndex, BlockSet>,
    /// Those of them that only the brick itself lists: S has seen no write to them since it was equal, so what it has
    /// there is no older than what S has.
    own: BTreeMap<ShardIndex, BlockSet>,
    /// Pulls under way.
    pub(super) pulls: usize,
    /// Pages asked for by an earlier attempt say nothing about this one.
    attempt: u32,
    /// Writes sent and not answered; one marked stale was overtaken by a write that wasn't sent.
    followed: Vec<Followed>,
}

#[derive(Clone, Copy, Debug)]
struct Followed {
    shard: ShardIndex,
    blocks: BlockRange,
    stale: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Reading maps; `outstanding` pages are asked for. `exact` until a map says that it isn't.
    Gathering { outstanding: u32, exact: bool, lists: bool },
    /// Pulling what is listed.
    Copying,
    /// Flushed before it joins.
    Joining,
}

impl Heal {
    pub(super) fn new(source: BrickIndex, attempt: u32) -> Heal {
        Heal {
            source,
            attempt,
            stage: Stage::Gathering { outstanding: 0, exact: true, lists: false },
            list: BTreeMap::new(),
            own: BTreeMap::new(),
            pulls: 0,
            followed: Vec::new(),
        }
    }

    /// A write is about to go to S. Whether it should go to this brick, too; if not it is listed.
    pub(super) fn note_write(&mut self, shard: ShardIndex, blocks: BlockRange, ready: bool) -> bool {
        // On the list until the brick has acknowledged it.
        self.list.entry(shard).or_default().insert_range(blocks);
        if let Some(own) = self.own.get_mut(&shard) {
            own.remove_range(blocks);
        }
        let mut overlaps = false;
        for followed in &mut self.followed {
            if followed.shard == shard && followed.blocks.overlaps(blocks) {
                followed.stale = true;
                overlaps = true;
            }
        }
        if overlaps || !ready || self.followed.len() >= FOLLOWED_MAX {
            return false;
        }
        self.followed.push(Followed { shard, blocks, stale: false });
        true
    }

    /// A write failed on S, and this brick may have applied it.
    pub(super) fn relist(&mut self, shard: ShardIndex, blocks: BlockRange) {
        self.list.entry(shard).or_default().insert_range(blocks);
        if let Some(own) = self.own.get_mut(&shard) {
            own.remove_range(blocks);
        }
        for followed in &mut self.followed {
            followed.stale |= followed.shard == shard && followed.blocks.overlaps(blocks);
        }
    }

    /// The brick answered a write.
    pub(super) fn note_followed(&mut self, shard: ShardIndex, blocks: BlockRange, applied: bool) {
        let matches = |followed: &Followed| followed.shard == shard && followed.blocks == blocks;
        let index = self.followed.iter().position(matches).expect("answered writes were sent");
        let followed = self.followed.swap_remove(index);
        if applied && !followed.stale {
            self.unlist(shard, &BlockSet::from(blocks));
        }
    }

    pub(super) fn unlist(&mut self, shard: ShardIndex, blocks: &BlockSet) {
        if let Some(set) = self.list.get_mut(&shard) {
            set.remove_all(blocks);
            if set.is_empty() {
                self.list.remove(&shard);
            }
        }
    }

    /// All maps were read: what only the brick itself lists is told apart, and listed with the rest.
    fn merge_lists(&mut self) {
        for (shard, own) in &mut self.own {
            let listed = self.list.entry(*shard).or_default();
            own.remove_all(listed);
            listed.insert_all(own);
        }
        self.list.retain(|_, blocks| !blocks.is_empty());
    }

    /// The source can't vouch for these blocks; those that only the brick itself lists are left as they are there.
    /// Whether that is all of them.
    pub(super) fn settle_unvouched(&mut self, shard: ShardIndex, unvouched: &BlockSet) -> bool {
        let others = self.listed_by_others(shard, unvouched);
        let mut settled = unvouched.clone();
        settled.remove_all(&others);
        self.unlist(shard, &settled);
        others.is_empty()
    }

    /// Whether only the brick itself lists all of these.
    pub(super) fn is_own(&self, shard: ShardIndex, blocks: &BlockSet) -> bool {
        self.listed_by_others(shard, blocks).is_empty()
    }

    /// Those of the blocks that others list, too; or all, if there are none of these.
    pub(super) fn others_first(&self, shard: ShardIndex, blocks: BlockSet) -> BlockSet {
        let others = self.listed_by_others(shard, &blocks);
        if others.is_empty() { blocks } else { others }
    }

    fn listed_by_others(&self, shard: ShardIndex, blocks: &BlockSet) -> BlockSet {
        let mut others = blocks.clone();
        self.own.get(&shard).into_iter().for_each(|own| others.remove_all(own));
        others
    }

    pub(super) fn listed_blocks(&self) -> u64 {
        self.list.values().map(|set| set.count() as u64).sum()
    }

    /// Blocks of a shard with a write that the brick hasn't answered.
    pub(super) fn unanswered(&self, shard: ShardIndex) -> impl Iterator<Item = BlockRange> {
        self.followed.iter().filter(move |followed| followed.shard == shard).map(|followed| followed.blocks)
    }

    /// Nothing listed, nothing in flight: it has every completed write.
    pub(super) fn is_equal(&self) -> bool {
        self.list.is_empty() && self.followed.is_empty() && self.pulls == 0
    }
}

impl Group {
    /// The heal of a brick, or what catches an arbiter up: both begin with what may differ.
    fn heal_mut(&mut self, target: BrickIndex) -> Option<&mut Heal> {
        let arbiter = self.config.arbiters().contains(target);
        let brick = self.brick_mut(target);
        if arbiter { brick.vouch.catching_up.as_mut() } else { brick.heal.as_mut() }
    }

    /// Starts the heal of `target` from `source`: from now on its list is kept.
    pub(super) fn start_heal(&mut self, target: BrickIndex, source: BrickIndex) {
        self.heal_attempts += 1;
        let mut heal = Heal::new(source, self.heal_attempts);
        // Writes that were sent before tracking began, and those that may be unfinished for long.
        for operation in self.operations.values() {
            if let Kind::Write(write) = &operation.kind
                && write.was_sent()
            {
                heal.list.entry(operation.shard).or_default().insert_range(operation.blocks);
            }
        }
        if self.config.arbiters().contains(target) {
            self.brick_mut(target).vouch.catching_up = Some(heal);
        } else {
            self.forget_pulls(target);
            self.brick_mut(target).heal = Some(heal);
        }
        let in_sync = self.record.as_ref().expect("heals run under a record").in_sync;
        for brick in in_sync.intersection(self.ready()).with(target).iter() {
            self.gather_page(target, brick, None, ShardIndex(0), false);
        }
        self.progress_gather(target);
    }

    /// Asks for a page of a dirty map (or shard list) of `brick`, on one core or on all.
    fn gather_page(
        &mut self,
        target: BrickIndex,
        brick: BrickIndex,
        core: Option<CoreIndex>,
        start: ShardIndex,
        shards: bool,
    ) {
        let attempt = self.heal_mut(target).map_or(0, |heal| heal.attempt);
        let mut header = self.data_header(if shards { Opcode::ShardList } else { Opcode::DirtyRead });
        header.shard = start;
        let cores: Vec<CoreIndex> = match core {
            Some(core) => vec![core],
            None => self.brick(brick).cores().collect(),
        };
        for core in cores {
            self.send(brick, core, header, Purpose::Gather { target, shards, attempt });
            if let Some(Heal { stage: Stage::Gathering { outstanding, .. }, .. }) = self.heal_mut(target) {
                *outstanding += 1;
            }
        }
    }

    pub(super) fn handle_gathered(
        &mut self,
        brick: BrickIndex,
        core: CoreIndex,
        (target, shards, attempt): (BrickIndex, bool, u32),
        reply: &Frame,
    ) {
        let needs_own = !self.continuous.contains(target);
        let full = BlockSet::full(usize::from(self.config.shard_blocks()));
        let Some(heal) = self.heal_mut(target) else { return };
        if heal.attempt != attempt {
            return;
        }
        let Stage::Gathering { outstanding, exact, .. } = &mut heal.stage else { return };
        *outstanding -= 1;
        if reply.header.status != Status::Ok {
            return self.stop_heal(target);
        }
        let mut last = None;
        if shards {
            let Ok(page) = ShardPage::from_bytes(&reply.aux) else {
                return self.reset_link(brick, "its shard list can't be read");
            };
            for shard in page.shards {
                heal.list.insert(shard, full.clone());
                last = Some(shard);
            }
        } else {
            // Inexact is a map that is damaged, or as old as a copy that was restored.
            *exact &= reply.header.flags.contains(Flags::EXACT);
            if brick == target && !needs_own && !reply.header.flags.contains(Flags::REWRITE) {
                // It may list more than S knows to have been written.
                return self.progress_gather(target);
            }
            let Ok(page) = DirtyPage::from_bytes(&reply.aux) else {
                return self.reset_link(brick, "its dirty map can't be read");
            };
            let lists = if brick == target { &mut heal.own } else { &mut heal.list };
            for (shard, blocks) in page.shards {
                lists.entry(shard).or_default().insert_all(&blocks);
                last = Some(shard);
            }
        }
        if reply.header.flags.contains(Flags::MORE)
            && let Some(next) = last.and_then(|last| last.0.checked_add(1))
        {
            self.gather_page(target, brick, Some(core), ShardIndex(next), shards);
        }
        self.progress_gather(target);
    }

    /// All pages are there: copy what they list, or first list everything if a map isn't exact.
    fn progress_gather(&mut self, target: BrickIndex) {
        let Some(heal) = self.heal_mut(target) else { return };
        let Stage::Gathering { outstanding: 0, exact, lists } = heal.stage else { return };
        if exact || lists {
            heal.stage = Stage::Copying;
            heal.merge_lists();
            return;
        }
        heal.stage = Stage::Gathering { outstanding: 0, exact, lists: true };
        let in_sync = self.record.as_ref().expect("heals run under a record").in_sync;
        for brick in in_sync.intersection(self.ready()).with(target).iter() {
            self.gather_page(target, brick, None, ShardIndex(0), true);
        }
    }

    /// Gives a heal up. What it had in flight on the target is drained with the link.
    pub(super) fn stop_heal(&mut self, target: BrickIndex) {
        if self.config.arbiters().contains(target) {
            return self.stop_vouching(target);
        }
        if self.brick_mut(target).heal.take().is_none() {
            return;
        }
        self.postpone_heal(target);
        self.forget_pulls(target);
        if let Some(joining) = self.joining
            && joining.brick == target
        {
            self.dropping.insert(target);
        }
        self.reset_link(target, "its heal starts over");
    }

    /// The source is gone or left S: what was pulled from it counts for nothing until it is compared with
    /// a brick of S again.
    pub(super) fn stop_heals_from(&mut self, source: BrickIndex) {
        let targets =
            self.bricks_where(|brick| brick.heal.as_ref().is_some_and(|heal| heal.source == source));
        for target in targets.iter() {
            self.stop_heal(target);
        }
        self.stop_vouching_from(source);
    }

    pub(super) fn heal_targets(&self) -> BrickSet {
        self.bricks_where(|brick| brick.heal.is_some())
    }
}
