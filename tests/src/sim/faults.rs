//! What breaks: the scheduler of faults, and each fault.

use std::time::Duration;

use brick_wire::{BrickIndex, BrickSet, CoreIndex};
use brickd::engine::Event;

use super::agenda::{Happening, Life};
use super::config::Moment;
use super::world::World;

/// Marks content that nobody wrote.
const ROT: u64 = 0x526f_7400_0000_0000 << 1;

/// A fault.
type Strike = fn(&mut World);
/// A fault at a brick.
type StrikeAt = fn(&mut World, BrickIndex);

impl World {
    /// Starts the phase with faults.
    pub fn begin_faults(&mut self) {
        self.faulty = true;
        for client in 0..self.clients.len() {
            let delay = self.random.around(Duration::from_millis(20));
            self.agenda.after(delay, Happening::Open(client));
        }
        self.agenda.after(self.config.faults.pause, Happening::Fault);
        if self.config.faults.restore > 0 || self.config.faults.replace > 0 {
            self.inspect();
        }
    }

    /// One more fault, and the time of the next.
    pub(super) fn fault(&mut self) {
        if !self.faulty || self.faults_left == 0 {
            return;
        }
        self.faults_left -= 1;
        let pause = self.random.around(self.config.faults.pause);
        self.agenda.after(pause, Happening::Fault);
        let faults = self.config.faults;
        let kinds: [(u32, Strike); 15] = [
            (faults.kill, |world| {
                let brick = world.any_brick();
                world.fail_brick(brick, false);
            }),
            (faults.power_loss, |world| {
                let brick = world.any_brick();
                world.fail_brick(brick, true);
            }),
            (faults.kill_all, |world| world.fail_all(false)),
            (faults.power_cut, |world| world.fail_all(true)),
            (faults.restore, World::restore_brick),
            (faults.replace, World::replace_brick),
            (faults.restart, |world| {
                let brick = world.any_brick();
                world.stop_brick(brick);
            }),
            (faults.reset, World::break_connection),
            (faults.partition, World::partition),
            (faults.isolate, World::isolate),
            (faults.slow_disk, |world| {
                let brick = world.any_brick();
                world.slow_disk(brick);
            }),
            (faults.full_disk, World::fill_disk),
            (faults.rot, World::rot_block),
            (faults.pause_client, |world| {
                let client = world.any_client();
                world.pause_client(client);
            }),
            (faults.kill_client, |world| {
                let client = world.any_client();
                world.kill_client(client);
            }),
        ];
        let sum: u32 = kinds.iter().map(|(weight, _)| weight).sum();
        if sum == 0 {
            return;
        }
        let mut draw = self.random.below(u64::from(sum)) as u32;
        for (weight, fault) in kinds {
            if draw < weight {
                return fault(self);
            }
            draw -= weight;
        }
    }

    /// A block of a good copy, or a page of its CRCs, reads as something that nobody wrote. Never the same block of
    /// two copies. And never on a brick that has died, or beside failing reads and writes: there a slot may be
    /// unknown, and the block is taken as it is found. For the same reason a brick that dies is cured.
    pub(super) fn rot_block(&mut self) {
        let good: BrickSet = match self.records().last() {
            Some((record, _)) if record.in_sync.count() > 1 => record.in_sync,
            _ => return,
        };
        let candidates: Vec<BrickIndex> =
            good.iter().filter(|brick| !self.bricks[usize::from(brick.0)].died).collect();
        if candidates.is_empty() {
            return;
        }
        let brick = candidates[self.random.index(candidates.len())];
        let files: Vec<_> = self.brick(brick).disk.files().collect();
        if files.is_empty() {
            return;
        }
        let key = files[self.random.index(files.len())];
        let blocks = self.brick(brick).disk.written_blocks(key);
        if blocks.is_empty() {
            return;
        }
        let block = blocks[self.random.index(blocks.len())];
        if self.bricks.iter().any(|other| other.disk.is_rotten(key, block)) {
            return;
        }
        let garbage = [ROT | self.random.below(1 << 32), ROT | self.random.below(1 << 32)];
        self.note_brick(brick, format_args!("shard {} block {block} rots", key.2));
        self.brick(brick).disk.rot(key, block, garbage);
    }

    fn any_brick(&mut self) -> BrickIndex {
        BrickIndex(self.random.index(self.bricks.len()) as u8)
    }

    fn any_client(&mut self) -> usize {
        self.random.index(self.clients.len())
    }

    /// A moment at which a failure hurts most: something may break right now, or as soon as a few more
    /// messages have passed. Blind chance hits these moments once in thousands of seeds.
    pub(super) fn tempt(&mut self, brick: BrickIndex, moment: Moment) {
        let chance = self.config.faults.ambush[moment as usize];
        if chance > 0.0 && self.faulty && self.faults_left > 0 && self.random.chance(chance) {
            self.faults_left -= 1;
            let delay = if self.random.chance(0.5) {
                Duration::from_nanos(1)
            } else {
                self.random.around(self.config.disk_latency.max(self.config.network.latency))
            };
            self.log.line(
                self.agenda.now(),
                format_args!("brick {}", brick.0),
                format_args!("{moment:?}: something breaks in {delay:?}"),
            );
            self.agenda.after(delay, Happening::Ambush(brick));
        }
    }

    /// Something breaks at or around a brick that was doing something delicate: by kinds that this seed has.
    pub(super) fn ambush(&mut self, brick: BrickIndex) {
        if !self.faulty {
            return;
        }
        let victim = if self.random.chance(0.6) { brick } else { self.any_brick() };
        let faults = self.config.faults;
        let kinds: [(u32, StrikeAt); 7] = [
            (faults.kill, |world, brick| world.fail_brick(brick, false)),
            (faults.power_loss, |world, brick| world.fail_brick(brick, true)),
            (faults.kill_all, |world, _| world.fail_all(false)),
            (faults.power_cut, |world, _| world.fail_all(true)),
            (faults.isolate, |world, brick| world.isolate_host(usize::from(brick.0))),
            (faults.kill_client, |world, _| {
                let client = world.any_client();
                world.kill_client(client);
            }),
            (faults.reset, |world, _| world.break_connection()),
        ];
        let sum: u32 = kinds.iter().map(|(weight, _)| weight).sum();
        if sum == 0 {
            return;
        }
        let mut draw = self.random.below(u64::from(sum)) as u32;
        for (weight, fault) in kinds {
            if draw < weight {
                return fault(self, victim);
            }
            draw -= weight;
        }
    }

    pub(super) fn downtime(&mut self) -> Duration {
        let mean = self.random.pick(&[1, 20, 200, 1500]);
        self.random.around(Duration::from_millis(mean))
    }

    pub(super) fn fail_brick(&mut self, brick: BrickIndex, power: bool) {
        let is_down = self.brick(brick).process.is_none();
        if (is_down && (!power || !self.brick(brick).powered)) || !self.may_restart(brick) {
            return;
        }
        if power {
            self.lose_power(brick);
        } else {
            self.kill_brick(brick);
        }
        let downtime = self.downtime();
        if !is_down {
            self.agenda.after(downtime, Happening::Start(brick));
        }
    }

    /// Every brick fails at one instant: a whole rack loses its power, or the same mistake kills every
    /// process. They are back one by one. What only completed may be gone after a power cut (rule I7); what
    /// was flushed may not, nor may anything after the kill.
    fn fail_all(&mut self, power: bool) {
        for index in 0..self.bricks.len() {
            self.fail_brick(BrickIndex(index as u8), power);
        }
    }

    /// The process of a brick dies; its disk, volatile cache included, is as it was.
    pub fn kill_brick(&mut self, brick: BrickIndex) {
        self.note_brick(brick, format_args!("is killed"));
        self.end_process(brick);
        self.note_death(brick);
    }

    pub(super) fn note_death(&mut self, brick: BrickIndex) {
        let state = self.brick(brick);
        state.died = true;
        state.disk.cure();
    }

    /// The host of a brick loses power.
    pub fn lose_power(&mut self, brick: BrickIndex) {
        let now = self.agenda.now();
        self.brick(brick).powered = false;
        if self.brick(brick).process.is_some() {
            self.end_process(brick);
        }
        self.note_death(brick);
        // After the end: an accept that was under way may have made it to the disk.
        let cells = self.cells_at_risk(brick);
        self.note_brick(brick, format_args!("loses power; {} halves may be undone", cells.len()));
        let state = &mut self.bricks[usize::from(brick.0)];
        state.boots += 1;
        state.booted_at = now;
        state.disk.clean = false;
        state.disk.lose_power(&mut self.random);
        self.checker.revert(now, &cells);
    }

    /// A brick is stopped in order; it starts again later.
    pub(super) fn stop_brick(&mut self, brick: BrickIndex) {
        if self.may_restart(brick) && self.shut_down(brick) {
            let downtime = self.downtime() + Duration::from_millis(50);
            self.agenda.after(downtime, Happening::Start(brick));
        }
    }

    /// A brick that has become another one stops in order, and starts at once.
    pub(super) fn restart_brick(&mut self, brick: BrickIndex, life: Life) {
        if let Some(process) = self.brick(brick).process_of(life) {
            process.restarts = true;
            self.shut_down(brick);
        }
    }

    /// Tells a brick to stop; false if it doesn't run.
    pub fn shut_down(&mut self, brick: BrickIndex) -> bool {
        let Some(process) = self.brick(brick).process.as_mut().filter(|process| !process.stopping) else {
            return false;
        };
        process.stopping = true;
        let cores = process.engines.len();
        self.note_brick(brick, format_args!("is told to stop"));
        for core in 0..cores {
            self.engine_event(brick, CoreIndex(core as u16), Event::Shutdown);
        }
        true
    }

    fn break_connection(&mut self) {
        let keys = self.network.keys();
        if !keys.is_empty() {
            let key = keys[self.random.index(keys.len())];
            self.log.line(self.agenda.now(), format_args!("network"), format_args!("{key:?} breaks"));
            self.network.reset(&mut self.agenda, &mut self.random, key);
        }
    }

    fn partition(&mut self) {
        let hosts = self.network.host_count();
        let (one, other) = (self.random.index(hosts), self.random.index(hosts));
        let time = self.downtime();
        let both = self.random.chance(0.7);
        let now = self.agenda.now();
        let what = format_args!("host {one} can't reach host {other} for {time:?}, both ways: {both}");
        self.log.line(now, format_args!("network"), what);
        self.network.set_blocked(one, other, true);
        self.agenda.after(time, Happening::Reunite(one, other));
        if both {
            self.network.set_blocked(other, one, true);
            self.agenda.after(time, Happening::Reunite(other, one));
        }
    }

    fn isolate(&mut self) {
        let host = self.random.index(self.network.host_count());
        self.isolate_host(host);
    }

    /// A host reaches nobody, or nobody reaches it, or both. Nothing is lost, so nothing is allowed that
    /// wasn't before: who is cut off may complete nothing that needs the others.
    fn isolate_host(&mut self, host: usize) {
        let (outward, inward) = self.random.pick(&[(true, true), (true, false), (false, true)]);
        let time = self.downtime();
        let now = self.agenda.now();
        let what = format_args!("host {host} is cut off for {time:?}: outward {outward}, inward {inward}");
        self.log.line(now, format_args!("network"), what);
        for other in (0..self.network.host_count()).filter(|other| *other != host) {
            for (from, to, cut) in [(host, other, outward), (other, host, inward)] {
                if cut {
                    self.network.set_blocked(from, to, true);
                    self.agenda.after(time, Happening::Reunite(from, to));
                }
            }
        }
    }

    fn slow_disk(&mut self, brick: BrickIndex) {
        let slowness = self.random.pick(&[10, 100, 2000]);
        self.note_brick(brick, format_args!("has a disk {slowness} times slower"));
        self.brick(brick).slowness = slowness;
        let time = self.downtime();
        self.agenda.after(time, Happening::DiskRecovers(brick));
    }

    fn fill_disk(&mut self) {
        let all = self.random.chance(0.3);
        let time = self.downtime();
        let chosen = self.random.index(self.bricks.len());
        for index in 0..self.bricks.len() {
            if all || index == chosen {
                let brick = BrickIndex(index as u8);
                self.note_brick(brick, format_args!("is full"));
                self.brick(brick).full = true;
                self.agenda.after(time, Happening::DiskRecovers(brick));
            }
        }
    }

    fn pause_client(&mut self, client: usize) {
        if self.clients[client].paused {
            return;
        }
        // A quarter of them to twice the lease: it must not matter whether it has run out meanwhile.
        let lease = self.config.lease.as_nanos() as u64;
        let time = Duration::from_nanos(self.random.within(lease / 4..=lease * 2));
        self.stand_still(client, time);
    }

    /// A client's process is stopped for some time.
    pub(super) fn stand_still(&mut self, client: usize, time: Duration) {
        let now = self.agenda.now();
        self.log.line(now, format_args!("client {client}"), format_args!("stands still for {time:?}"));
        self.clients[client].paused = true;
        let host = self.network.client_host(client);
        self.network.set_frozen(host, true);
        self.agenda.after(time, Happening::Resume(client));
    }

    /// A paused client goes on: with its timers first, or with what arrived meanwhile.
    pub(super) fn resume(&mut self, client: usize) {
        if !std::mem::take(&mut self.clients[client].paused) {
            return;
        }
        let host = self.network.client_host(client);
        self.network.set_frozen(host, false);
        let deferred = std::mem::take(&mut self.clients[client].deferred);
        let delay = Duration::from_micros(self.random.pick(&[1, 50]));
        for what in deferred {
            self.agenda.after(delay, what);
        }
        self.network.release(&mut self.agenda);
    }

    fn kill_client(&mut self, client: usize) {
        if let Some(id) = self.clients[client].session {
            self.note_session(id, format_args!("dies"));
            self.drop_session(id, true);
            let pause = self.downtime();
            self.agenda.after(pause, Happening::Open(client));
        }
    }

    /// Ends all faults: every host runs, every road is open, every disk works.
    pub fn end_faults(&mut self) {
        let now = self.agenda.now();
        self.log.line(now, format_args!("world"), format_args!("all faults end"));
        self.faulty = false;
        self.requests_left = 0;
        for client in 0..self.clients.len() {
            self.clients[client].paused = false;
            self.clients[client].deferred.clear();
            if let Some(id) = self.clients[client].session {
                self.drop_session(id, true);
            }
        }
        self.network.heal(&mut self.agenda);
        for index in 0..self.bricks.len() {
            let brick = BrickIndex(index as u8);
            self.brick(brick).slowness = 1;
            self.brick(brick).full = false;
            self.brick(brick).disk.cure();
            // What an operator does about a brick whose register log failed, and about one that hangs.
            let process = self.brick(brick).process.as_ref();
            let stopping = process.is_some_and(|process| process.stopping);
            let vote_lost = process.is_some() && self.brick(brick).vote_lost;
            if stopping || vote_lost {
                if !self.may_restart(brick) {
                    // Nobody has looked at it since it was restored, and another start would hide that.
                    self.brick(brick).disk.blank = true;
                }
                self.kill_brick(brick);
            }
            self.start_brick(brick);
        }
    }
}
