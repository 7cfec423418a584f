//! A brick's disk is lost, and an empty brick takes its place, as `brickctl volume replace-brick` has it done: the others
//! learn the floor, the new one adopts the uuid and starts again, the operator teaches it, and a session heals it.
//!
//! Later the lost disk may turn up and be put back in place of the new one, by mistake. It counts fewer starts than the
//! floor, and nobody may count on it, even if no record shows the new one's life yet.

use std::collections::VecDeque;
use std::time::Duration;

use brick_wire::body::{Adopt, Retire, Stamp};
use brick_wire::cursor::Body;
use brick_wire::{BrickIndex, BrickSet, BrickUuid, Opcode, Role, StartCounter, Timestamp};

use super::agenda::Happening;
use super::brick::Brick;
use super::disk::Disk;
use super::operator::ask;
use super::world::{VOLUME, World};

/// More starts than any seed makes.
const START_MARGIN: u64 = 1000;
/// Chance that such a moment is taken, each time that the operator looks.
const TEMPTATION: f64 = 0.5;
/// The uuid of an empty brick, before it takes a place.
const EMPTY: BrickUuid = BrickUuid(uuid::Uuid::from_bytes([0xee; 16]));

impl World {
    /// Loses a brick's disk; or puts one that was lost back in place of its successor.
    pub(super) fn replace_brick(&mut self) {
        let bricks: Vec<BrickIndex> = self.all_bricks().iter().collect();
        let backs: Vec<BrickIndex> =
            bricks.iter().copied().filter(|brick| self.may_come_back(*brick)).collect();
        if !backs.is_empty() && self.random.chance(0.7) {
            let brick = backs[self.random.index(backs.len())];
            self.put_back(brick);
            return;
        }
        let fresh = |brick: &BrickIndex| {
            let others = self.bricks.iter().filter(|other| other.index != *brick);
            // As the command demands: every other one is there, to be told.
            let mut told = others.clone();
            told.all(|other| {
                other.process.as_ref().is_some_and(|process| !process.stopping) && !other.vote_lost
            }) && self.bricks[usize::from(brick.0)].retired.is_none()
                && self.may_lose_disk(*brick)
        };
        let eligible: Vec<BrickIndex> = bricks.iter().copied().filter(fresh).collect();
        if !eligible.is_empty() {
            let brick = eligible[self.random.index(eligible.len())];
            self.lose_disk(brick);
        }
    }

    /// Whether a lost disk may be put back there.
    fn may_come_back(&self, brick: BrickIndex) -> bool {
        self.bricks[usize::from(brick.0)].retired.is_some() && self.may_lose_disk(brick)
    }

    /// The moment at which a lost disk that comes back hurts most: its successor knows a record that another brick
    /// doesn't know. Those that know it go down together with the successor, and the other one is there.
    pub(super) fn tempt_lost_disks(&mut self) {
        if !self.faulty || self.temptations_left == 0 {
            return;
        }
        let Some(newest) = self.records().last().map(|(record, _)| record.epoch) else { return };
        let knows = |world: &World, brick: BrickIndex| {
            world.record_of(brick).is_some_and(|record| record.epoch == newest)
        };
        for brick in self.all_bricks().iter() {
            let others: Vec<BrickIndex> = self.all_bricks().without(brick).iter().collect();
            let tempting = knows(self, brick) && others.iter().any(|other| !knows(self, *other));
            if !tempting || !self.may_come_back(brick) || !self.random.chance(TEMPTATION) {
                continue;
            }
            self.temptations_left -= 1;
            let until = self.put_back(brick);
            for other in others {
                if !knows(self, other) {
                    self.start_brick(other);
                } else if self.brick(other).process.is_some() {
                    self.kill_brick(other);
                    self.agenda.at(until, Happening::Start(other));
                }
            }
            return;
        }
    }

    /// As with a copy that is restored: never the only brick of S, never beside one that needs the operator, never where
    /// the others are no quorum, and a data brick only while no session, nor a message of a dead one, may change S.
    fn may_lose_disk(&self, brick: BrickIndex) -> bool {
        let others = self.all_bricks().without(brick);
        let only_copy = self.records().iter().any(|(record, _)| record.in_sync == BrickSet::only(brick));
        let may_lose = self.bricks[usize::from(brick.0)].role == Role::Data && self.may_change_records();
        let another = self.bricks.iter().any(Brick::needs_operator);
        !only_copy && !may_lose && !another && self.is_quorum(others)
    }

    /// From now on the brick stays down, so no session can make it the only one of S any more.
    pub(super) fn lose_disk(&mut self, brick: BrickIndex) {
        let known = self.all_bricks().iter().map(|other| self.starts_known(other, brick)).max();
        let starts = self.brick(brick).starts.max(known.unwrap_or(0));
        let floor = StartCounter(starts + 1 + START_MARGIN);
        self.note_brick(brick, format_args!("loses its disk; starts from {} on will count", floor.0));
        if self.brick(brick).powered {
            self.lose_power(brick);
        }
        self.brick(brick).lost = true;
        self.replacing = Some((brick, floor));
    }

    /// The next step of the operator who replaces a brick: tell the others, or put the empty one in place.
    pub(super) fn go_on_replacing(&mut self) {
        let Some((brick, floor)) = self.replacing else { return };
        let member = self.member(brick);
        let mut everybody_knows = true;
        for other in self.all_bricks().without(brick).iter() {
            let state = &self.bricks[usize::from(other.0)];
            if state.disk.floors.of(member) >= floor {
                continue;
            }
            everybody_knows = false;
            if state.process.is_some() && !self.is_visited(other) {
                let retire = ask(Opcode::Retire, Retire { brick: member, floor }.to_bytes());
                self.visit(other, VecDeque::from([retire]), false);
            }
        }
        if !everybody_knows {
            return;
        }
        self.note_brick(brick, format_args!("is an empty one now"));
        self.replacing = None;
        let state = self.brick(brick);
        let lost = std::mem::replace(&mut state.disk, Disk::formatted(EMPTY));
        state.retired = Some((lost, state.starts));
        (state.starts, state.older, state.lost) = (0, None, false);
        (state.restored, state.taught, state.fresh) = (true, false, true);
        self.start_brick(brick);
    }

    /// An empty brick is told whose place it takes.
    pub(super) fn have_adopted(&mut self, brick: BrickIndex) {
        let floors = self.bricks.iter().map(|other| other.disk.floors.of(self.member(brick)));
        let start = floors.max().unwrap_or_default();
        let members = self.all_bricks().iter().map(|index| self.member(index)).collect();
        let role = self.bricks[usize::from(brick.0)].role;
        let stamp = Stamp { volume: VOLUME, group: 0, role, members };
        let adopt = Adopt { brick: self.member(brick), start, stamp };
        self.visit(brick, VecDeque::from([ask(Opcode::Adopt, adopt.to_bytes())]), false);
    }

    /// The new brick votes. It is soon to know what another one doesn't.
    pub(super) fn tempt_fresh_brick(&mut self, brick: BrickIndex) {
        if self.faulty && self.temptations_left > 0 && self.random.chance(0.7) {
            let others: Vec<BrickIndex> = self.all_bricks().without(brick).iter().collect();
            let other = others[self.random.index(others.len())];
            self.fail_brick(other, false);
        }
    }

    /// The lost disk is back, in place of its successor, until the time that is returned.
    pub(super) fn put_back(&mut self, brick: BrickIndex) -> Timestamp {
        if self.brick(brick).powered {
            self.lose_power(brick);
        }
        let time = Duration::from_millis(self.random.pick(&[50, 500, 4000]));
        let until = self.agenda.now() + self.random.around(time);
        let state = self.brick(brick);
        let (lost, starts) = state.retired.take().expect("asked for");
        let right = std::mem::replace(&mut state.disk, lost);
        state.mistaken = Some((right, std::mem::replace(&mut state.starts, starts), until));
        self.note_brick(brick, format_args!("is the lost disk again, after {starts} starts"));
        self.agenda.after(Duration::from_millis(1), Happening::Start(brick));
        until
    }

    /// The operator notices, in the end.
    pub(super) fn undo_mistakes(&mut self) {
        let now = self.agenda.now();
        for index in 0..self.bricks.len() {
            let brick = BrickIndex(index as u8);
            let due = self.brick(brick).mistaken.as_ref().is_some_and(|(.., until)| *until <= now);
            if !due || self.is_visited(brick) {
                continue;
            }
            if self.brick(brick).process.is_some() {
                self.kill_brick(brick);
            }
            let state = self.brick(brick);
            let (right, starts, _) = state.mistaken.take().expect("looked at above");
            let lost = std::mem::replace(&mut state.disk, right);
            state.retired = Some((lost, std::mem::replace(&mut state.starts, starts)));
            self.note_brick(brick, format_args!("is the right disk again, after {starts} starts"));
            self.start_brick(brick);
        }
    }
}
