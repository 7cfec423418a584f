//! What breaks: the scheduler of faults, and each fault.

use std::time::Duration;

use brick_client::replica::State;
use brick_wire::record::EpochRecord;
use brick_wire::{BrickIndex, BrickSet, CoreIndex};
use brickd::engine::Event;

use super::agenda::Happening;
use super::checker::{Cell, Checker};
use super::world::World;

impl World {
    /// Starts the phase with faults.
    pub fn begin_faults(&mut self) {
        self.faulty = true;
        for client in 0..self.clients.len() {
            let delay = self.random.around(Duration::from_millis(20));
            self.agenda.after(delay, Happening::Open(client));
        }
        self.agenda.after(self.config.faults.pause, Happening::Fault);
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
        let weights = [
            faults.kill,
            faults.power_loss,
            faults.restart,
            faults.reset,
            faults.partition,
            faults.slow_disk,
            faults.full_disk,
            faults.pause_client,
            faults.kill_client,
        ];
        let sum: u32 = weights.iter().sum();
        if sum == 0 {
            return;
        }
        let mut draw = self.random.below(u64::from(sum)) as u32;
        let mut kind = 0;
        while draw >= weights[kind] {
            draw -= weights[kind];
            kind += 1;
        }
        let brick = BrickIndex(self.random.index(self.bricks.len()) as u8);
        let client = self.random.index(self.clients.len());
        match kind {
            0 => self.fail_brick(brick, false),
            1 => self.fail_brick(brick, true),
            2 => self.stop_brick(brick),
            3 => self.break_connection(),
            4 => self.partition(),
            5 => self.slow_disk(brick),
            6 => self.fill_disk(),
            7 => self.pause_client(client),
            _ => self.kill_client(client),
        }
    }

    fn downtime(&mut self) -> Duration {
        let mean = self.random.pick(&[1, 20, 200, 1500]);
        self.random.around(Duration::from_millis(mean))
    }

    fn fail_brick(&mut self, brick: BrickIndex, power: bool) {
        let is_down = self.brick(brick).process.is_none();
        if is_down && (!power || !self.brick(brick).powered) {
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

    /// The process of a brick dies; its disk, volatile cache included, is as it was.
    pub fn kill_brick(&mut self, brick: BrickIndex) {
        self.note_brick(brick, format_args!("is killed"));
        self.end_process(brick);
    }

    /// The host of a brick loses power.
    pub fn lose_power(&mut self, brick: BrickIndex) {
        let cells = self.cells_at_risk(brick);
        self.note_brick(brick, format_args!("loses power; {} halves may be undone", cells.len()));
        let now = self.agenda.now();
        self.brick(brick).powered = false;
        if self.brick(brick).process.is_some() {
            self.end_process(brick);
        }
        let state = &mut self.bricks[usize::from(brick.0)];
        state.boots += 1;
        state.booted_at = now;
        state.disk.clean = false;
        state.disk.lose_power(&mut self.random);
        self.checker.revert(now, &cells);
    }

    /// The halves whose completed writes the rules allow this loss of power to undo (I7, I12): those that no
    /// other brick of S has on the boot that the record names.
    fn cells_at_risk(&self, brick: BrickIndex) -> Vec<Cell> {
        let others = self.witnesses(brick);
        let mut cells = Vec::new();
        for (cell, history) in self.checker.cells() {
            let (shard, block, half) = *cell;
            let file = self.file(shard);
            let kept = others.iter().any(|other| {
                let content = self.bricks[usize::from(other.0)].disk.read(file, block);
                Checker::has_certain(history, half, content)
            });
            if !kept && !history.is_settled() {
                cells.push(*cell);
            }
        }
        cells
    }

    /// The other bricks of S that keep completed writes alive. While an S is proposed, both count; while
    /// a holder lives, a brick that it has lost sight of counts no more, as it is about to leave S.
    fn witnesses(&self, brick: BrickIndex) -> BrickSet {
        let records = self.records();
        let running = |(record, _): &(EpochRecord, BrickSet)| -> BrickSet {
            let named = |index: &BrickIndex| {
                let boot = self.bricks[usize::from(index.0)].incarnation().boot;
                record.members[usize::from(index.0)].incarnation.boot == boot
            };
            record.in_sync.iter().filter(named).collect()
        };
        let both = |set: BrickSet, other: BrickSet| set.intersection(other);
        let mut witnesses = records.iter().map(running).reduce(both).unwrap_or_default().without(brick);
        let holder = records.first().and_then(|(record, _)| self.sessions.get(&record.holder));
        if let Some(session) = holder {
            let report = session.group.report();
            if report.state != State::Fenced {
                witnesses = witnesses.intersection(report.connected);
            }
        }
        witnesses
    }

    /// A brick is stopped in order; it starts again later.
    pub(super) fn stop_brick(&mut self, brick: BrickIndex) {
        if self.shut_down(brick) {
            let downtime = self.downtime() + Duration::from_millis(50);
            self.agenda.after(downtime, Happening::Start(brick));
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
        let time = self.random.around(self.config.lease);
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
            // What an operator does about a brick whose register log failed, and about one that hangs.
            let process = self.brick(brick).process.as_ref();
            let stopping = process.is_some_and(|process| process.stopping);
            if stopping || (process.is_some() && self.brick(brick).vote_lost) {
                self.kill_brick(brick);
            }
            self.start_brick(brick);
        }
    }
}
