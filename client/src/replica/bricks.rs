//! What the core knows of one brick of its group.

use std::collections::BTreeMap;

use brick_wire::{BrickIndex, BrickSet, CoreIndex, Epoch, Incarnation, Timestamp};

use super::dummy::Untold;
use super::gather::Heal;
use super::interface::LinkInfo;
use super::vouch::Vouch;

/// One brick as this session sees it.
#[derive(Debug, Default)]
pub(super) struct Brick {
    /// The link, if it is up.
    pub(super) link: Option<LinkInfo>,
    /// A first attempt to connect has ended, one way or the other.
    pub(super) attempted: bool,
    /// The life last seen: a link that comes back with another one is a restart (rule I12).
    pub(super) seen: Option<Incarnation>,
    /// A member of S that came back on another boot: completed unflushed writes are gone there.
    pub(super) lost_memory: bool,
    /// The epoch whose record the brick is known to have accepted; data goes to it under that one only.
    pub(super) accepted: Epoch,
    /// A catch-up to this epoch is under way.
    pub(super) catching_up: Option<Epoch>,
    /// When the last answered lease renewal was sent.
    pub(super) renewed_at: Option<Timestamp>,
    /// Being brought back.
    pub(super) heal: Option<Heal>,
    /// An arbiter's: what its CRCs are worth.
    pub(super) vouch: Vouch,
    /// An arbiter's: what its cores are yet to be told.
    pub(super) untold: BTreeMap<CoreIndex, Untold>,
    /// Not before this is a new attempt to heal it made.
    pub(super) heal_after: Timestamp,
    /// Consecutive attempts that failed; the pause doubles with each.
    pub(super) heal_failures: u32,
}

impl Brick {
    /// The cores of the brick, each with a connection; none without a link.
    pub(super) fn cores(&self) -> impl Iterator<Item = CoreIndex> + use<> {
        (0..self.link.map_or(0, |link| link.cores)).map(CoreIndex)
    }
}

impl super::Group {
    pub(super) fn brick(&self, brick: BrickIndex) -> &Brick {
        &self.bricks[usize::from(brick.0)]
    }

    pub(super) fn brick_mut(&mut self, brick: BrickIndex) -> &mut Brick {
        &mut self.bricks[usize::from(brick.0)]
    }

    /// Bricks that match.
    pub(super) fn bricks_where(&self, matches: impl Fn(&Brick) -> bool) -> BrickSet {
        let indexes = (0..self.bricks.len()).filter(|index| matches(&self.bricks[*index]));
        indexes.map(|index| BrickIndex(index as u8)).collect()
    }

    /// Bricks whose link is up and that may vote.
    pub(super) fn linked(&self) -> BrickSet {
        self.bricks_where(|brick| brick.link.is_some_and(|link| !link.blank))
    }

    /// S of the decided record; empty before there is one.
    pub(super) fn in_sync(&self) -> BrickSet {
        self.record.as_ref().map_or(BrickSet::EMPTY, |record| record.in_sync)
    }

    /// Copies of S that can be asked and are to stay.
    pub(super) fn usable_copies(&self) -> BrickSet {
        self.in_sync().intersection(self.ready()).difference(self.dropping)
    }

    /// Linked bricks that are at the decided epoch: data requests may go to these.
    pub(super) fn ready(&self) -> BrickSet {
        let Some(record) = &self.record else { return BrickSet::EMPTY };
        let at_epoch = self.bricks_where(|brick| brick.accepted == record.epoch && !brick.lost_memory);
        self.linked().intersection(at_epoch)
    }
}
