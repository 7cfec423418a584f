//! What a loss of power may undo: the checker's side of rules I7 and I12.
//!
//! Completed writes that no flush covers may be lost only where no brick of S kept running on the boot that
//! took them. Which S? A change of it is decided by acceptors one after the other, and whoever opens next
//! may find a proposal that only one of them accepted, and has to go on from it: it may have been decided.
//! So the writes count as kept only if they are kept by *every* S that can still come to rule: the decided
//! one, those accepted by anybody since, and those that were under way when the power went and are accepted
//! later. A record that names a brick's old boot after that boot has ended says that this has happened.

use brick_wire::cursor::Body;
use brick_wire::record::EpochRecord;
use brick_wire::register::RegisterKey;
use brick_wire::{BrickIndex, BrickSet};

use super::checker::{Cell, Checker};
use super::world::{IMAGE, World};

impl World {
    /// The halves whose completed writes the rules allow this loss of power to undo: those that no other
    /// brick of every S has on the boot that its record names.
    pub(super) fn cells_at_risk(&self, brick: BrickIndex) -> Vec<Cell> {
        let records = self.records();
        let keepers = records.iter().map(|(record, _)| self.keepers(record));
        let keepers = keepers.reduce(BrickSet::intersection).unwrap_or_default();
        self.cells_not_kept_by(keepers.without(brick))
    }

    /// The bricks of a record's S that are on the boot that the record names.
    fn keepers(&self, record: &EpochRecord) -> BrickSet {
        let same_boot = |index: &BrickIndex| {
            let boot = self.bricks[usize::from(index.0)].incarnation().boot;
            record.members[usize::from(index.0)].incarnation.boot == boot
        };
        record.in_sync.iter().filter(same_boot).collect()
    }

    fn cells_not_kept_by(&self, keepers: BrickSet) -> Vec<Cell> {
        let mut cells = Vec::new();
        for (cell, history) in self.checker.cells() {
            let (shard, block, half) = *cell;
            let file = self.file(shard);
            let kept = keepers.iter().any(|keeper| {
                let content = self.bricks[usize::from(keeper.0)].disk.intact(file, block);
                Checker::has_certain(history, half, content)
            });
            if !kept && !history.is_settled() {
                cells.push(*cell);
            }
        }
        cells
    }

    /// A brick's registers changed: a record that nobody had accepted before may name boots that have ended
    /// since it was proposed.
    pub(super) fn note_accepted(&mut self, brick: BrickIndex) {
        let Some(record) = self.record_of(brick) else { return };
        if !self.records_seen.insert(record.epoch) {
            return;
        }
        let keepers = self.keepers(&record);
        let ended = |index: &BrickIndex| {
            // A record that has never seen a brick names no boot of it.
            !keepers.contains(*index) && record.members[usize::from(index.0)].incarnation.start.0 > 0
        };
        if record.in_sync.iter().any(|index| ended(&index)) {
            let cells = self.cells_not_kept_by(keepers);
            self.note_brick(
                brick,
                format_args!(
                    "accepts {} with a boot that has ended; {} halves may be undone",
                    record.epoch,
                    cells.len()
                ),
            );
            self.checker.revert(self.agenda.now(), &cells);
        }
    }

    /// The record that a brick accepted last.
    pub(super) fn record_of(&self, brick: BrickIndex) -> Option<EpochRecord> {
        let disk = &self.bricks[usize::from(brick.0)].disk;
        let state = disk.register(&RegisterKey::Epoch(IMAGE))?;
        EpochRecord::from_bytes(&state.value).ok()
    }
}
