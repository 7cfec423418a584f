//! The operator: gives a brick that was restored from an older copy its registers back (rule R2).
//!
//! Such a brick has forgotten promises. The others' record knows more starts of it than it counts itself, so
//! the first session that looks declares it blank; then the operator teaches it what a quorum without it
//! holds, and restarts it until it counts more starts than anybody has seen. A brick that took a lost one's place counts
//! enough from the start, and is taught in the same way.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use brick_wire::body::Retire;
use brick_wire::cursor::Body;
use brick_wire::decode::Frame;
use brick_wire::handshake::{Hello, PeerKind};
use brick_wire::limits::PROTOCOL_VERSION;
use brick_wire::register::{RegisterEntry, RegisterKey, RegisterState};
use brick_wire::{
    BrickIndex, BrickSet, BrickUuid, ConnectionGeneration, CoreIndex, Floors, Header, Opcode, RequestId,
    Role, SessionId, Status, VolumeUuid,
};
use brickd::engine::DiskRequest;
use bytes::Bytes;

use super::agenda::Happening;
use super::brick::{Brick, brick_uuid};
use super::disk_work::DiskWork;
use super::network::{Caller, ConnectionKey, Packet, Side};
use super::world::{VOLUME, World};

/// How often the operator looks.
const INSPECTION_PAUSE: Duration = Duration::from_millis(100);

/// A connection of the operator, and what is left to be said on it.
#[derive(Debug)]
pub struct Visit {
    brick: BrickIndex,
    frames: VecDeque<Frame>,
    /// It gives a blank brick its registers back.
    teaches: bool,
}

impl World {
    /// A brick is replaced by the copy of itself that was made before an earlier start, together with its
    /// machine. What a copy forgets is only bearable where the rules can see it, so: never the only brick of S
    /// (its flushed blocks would be gone), never beside a second one, never where the others are no quorum
    /// without it, and only if each of them knows a later start of it than the copy will count.
    pub(super) fn restore_brick(&mut self) {
        let eligible: Vec<BrickIndex> =
            self.all_bricks().iter().filter(|brick| self.is_dispensable(*brick)).collect();
        if eligible.is_empty() {
            return;
        }
        let brick = eligible[self.random.index(eligible.len())];
        let (disk, starts) = self.brick(brick).older.clone().expect("dispensable bricks have a copy");
        let was_running = self.brick(brick).process.is_some();
        if self.brick(brick).powered {
            self.lose_power(brick);
        }
        self.note_brick(brick, format_args!("is restored from a copy made before start {}", starts + 1));
        let now = self.agenda.now();
        let state = self.brick(brick);
        (state.disk, state.starts, state.restored_at) = (disk, starts, now);
        (state.restored, state.taught, state.fresh) = (true, false, false);
        if was_running {
            let downtime = self.downtime();
            self.agenda.after(downtime, Happening::Start(brick));
        }
    }

    fn is_dispensable(&self, brick: BrickIndex) -> bool {
        let Some((_, starts)) = &self.bricks[usize::from(brick.0)].older else { return false };
        let others = self.all_bricks().without(brick);
        let only_copy = self.records().iter().any(|(record, _)| record.in_sync == BrickSet::only(brick));
        let another = self.bricks.iter().any(Brick::needs_operator);
        let known = others.iter().all(|other| self.starts_known(other, brick) > *starts);
        // A session may be changing S, or a message of one that died may: a data brick's join, or the leaving
        // of the other copy, would be decided after the brick has forgotten what it held.
        let may_lose = self.bricks[usize::from(brick.0)].role == Role::Data && self.may_change_records();
        known && !only_copy && !may_lose && !another && self.is_quorum(others)
    }

    /// Whether a session may change a record, or what one that died has set on its way: in the network, or in a brick
    /// whose disk is slow.
    pub(super) fn may_change_records(&self) -> bool {
        let votes = |work: &DiskWork| matches!(work, DiskWork::Other(DiskRequest::AppendRegisters { .. }));
        let processes = self.bricks.iter().filter_map(|brick| brick.process.as_ref());
        self.sessions.values().any(|session| !session.is_over())
            || !self.network.keys().is_empty()
            || processes.flat_map(|process| process.work.values()).any(votes)
    }

    /// Whether another start of the brick leaves it recognisable. An older copy that counts as many starts
    /// as the record knows before any session has looked can't be told from a brick that only went on; no
    /// rule covers that, and so the faults stay clear of it.
    pub(super) fn may_restart(&mut self, brick: BrickIndex) -> bool {
        let others = self.all_bricks().without(brick);
        let known = others.iter().map(|other| self.starts_known(other, brick)).min();
        let state = self.brick(brick);
        !state.restored || state.disk.blank || known.is_some_and(|known| state.starts < known)
    }

    /// The starts of `brick` that the record of `other` knows.
    pub(super) fn starts_known(&self, other: BrickIndex, brick: BrickIndex) -> u64 {
        let record = self.record_of(other);
        record.map_or(0, |record| record.members[usize::from(brick.0)].incarnation.start.0)
    }

    pub(super) fn all_bricks(&self) -> BrickSet {
        self.bricks.iter().map(|brick| brick.index).collect()
    }

    /// The operator looks, again and again, for the brick that was restored.
    pub(super) fn inspect(&mut self) {
        let is_busy = self.replacing.is_some() || self.bricks.iter().any(|brick| brick.fresh);
        let pause = if is_busy { INSPECTION_PAUSE / 10 } else { INSPECTION_PAUSE };
        self.agenda.after(pause, Happening::Inspect);
        self.go_on_replacing();
        self.undo_mistakes();
        self.tempt_lost_disks();
        let needy = self.bricks.iter().find(|brick| brick.needs_operator());
        let Some(brick) = needy.map(|brick| brick.index) else { return };
        let state = &self.bricks[usize::from(brick.0)];
        if state.process.is_none() || self.is_visited(brick) || state.mistaken.is_some() {
            return;
        }
        if state.disk.membership.is_none() {
            return self.have_adopted(brick);
        }
        if !state.disk.blank {
            // Nobody has looked at it yet; or the last answer to the operator was lost, and all is well.
            self.raise_starts(brick);
            return;
        }
        if self.records().iter().any(|(record, _)| record.in_sync.contains(brick)) {
            // The next session leaves it out; once it is restored, nobody could tell that its copy is older.
            return;
        }
        let Some(registers) = self.registers_without(brick) else { return };
        let mut frames: VecDeque<Frame> = VecDeque::new();
        for (key, state) in registers {
            let entry = RegisterEntry { key, state };
            frames.push_back(ask(Opcode::RegisterLearn, entry.to_bytes()));
        }
        for (other, floor) in self.floors_without(brick).iter() {
            frames.push_back(ask(Opcode::Retire, Retire { brick: other, floor }.to_bytes()));
        }
        frames.push_back(ask(Opcode::BlankClear, Vec::new()));
        self.visit(brick, frames, true);
    }

    /// Goes to a brick, to say these things.
    pub(super) fn visit(&mut self, brick: BrickIndex, frames: VecDeque<Frame>, teaches: bool) {
        let key = self.network.connect(&mut self.agenda, &mut self.random, Caller::Operator, brick);
        self.visits.insert(key, Visit { brick, frames, teaches });
    }

    pub(super) fn is_visited(&self, brick: BrickIndex) -> bool {
        self.visits.values().any(|visit| visit.brick == brick)
    }

    /// The floors that the voters other than `brick` know, but its own.
    fn floors_without(&self, brick: BrickIndex) -> Floors {
        let mut floors = Floors::default();
        for other in self.bricks.iter().filter(|other| other.index != brick && !other.disk.blank) {
            for (member, floor) in
                other.disk.floors.iter().filter(|(member, _)| *member != self.member(brick))
            {
                floors.raise(member, floor);
            }
        }
        floors
    }

    /// The uuid of the place.
    pub(super) fn member(&self, brick: BrickIndex) -> BrickUuid {
        brick_uuid(usize::from(brick.0))
    }

    /// The highest promise and the last accepted value of every register of a quorum without `brick`, if
    /// one runs.
    fn registers_without(&self, brick: BrickIndex) -> Option<BTreeMap<RegisterKey, RegisterState>> {
        let voters = self.bricks.iter().filter(|state| {
            state.index != brick && state.process.is_some() && !state.disk.blank && !state.vote_lost
        });
        let voters: Vec<_> = voters.collect();
        if !self.is_quorum(voters.iter().map(|state| state.index).collect()) {
            return None;
        }
        let mut registers: BTreeMap<RegisterKey, RegisterState> = BTreeMap::new();
        for RegisterEntry { key, state } in voters.iter().flat_map(|voter| voter.disk.registers()) {
            let known = registers.entry(key).or_default();
            known.promised = known.promised.max(state.promised);
            if state.accepted > known.accepted {
                (known.accepted, known.value) = (state.accepted, state.value);
            }
        }
        Some(registers)
    }

    /// The operator's connection is there: say hello.
    pub(super) fn visit_begins(&mut self, key: ConnectionKey, brick: BrickIndex) {
        let session = SessionId(self.next_session);
        self.next_session += 1;
        let is_member = self.bricks[usize::from(brick.0)].disk.membership.is_some();
        let hello = Hello {
            versions: (PROTOCOL_VERSION, PROTOCOL_VERSION),
            features: 0,
            kind: PeerKind::Operator,
            core: CoreIndex(0),
            volume: if is_member { VOLUME } else { VolumeUuid::NIL },
            brick: if is_member { self.member(brick) } else { BrickUuid::NIL },
            session,
            generation: ConnectionGeneration(1),
            name: String::new(),
        };
        let header = Header::request(Opcode::Hello, RequestId(0));
        let frame = Frame::new(header, hello.to_bytes(), Bytes::new());
        self.network.send(&mut self.agenda, &mut self.random, key, Side::Caller, frame);
    }

    /// An answer to the operator: the next request, or the end.
    pub(super) fn visit_goes_on(&mut self, key: ConnectionKey, packet: Packet) {
        let Some(visit) = self.visits.get_mut(&key) else { return };
        let (brick, teaches) = (visit.brick, visit.teaches);
        let good = matches!(&packet, Packet::Frame(frame) if frame.header.status == Status::Ok);
        if good && let Some(frame) = visit.frames.pop_front() {
            self.network.send(&mut self.agenda, &mut self.random, key, Side::Caller, frame);
            return;
        }
        self.visits.remove(&key);
        self.network.close(&mut self.agenda, &mut self.random, key, Side::Caller);
        if !good || !teaches {
            return;
        }
        self.note_brick(brick, format_args!("has its registers back"));
        self.raise_starts(brick);
    }

    /// A brick that was taught is restarted until it counts more starts than the others' records know. (One
    /// that is on its way may know more: then it is declared blank again, and this starts over.)
    fn raise_starts(&mut self, brick: BrickIndex) {
        if self.brick(brick).fresh {
            // Who took a lost one's place counts more from the start, and every session connected anew when it was taught.
            let state = self.brick(brick);
            (state.restored, state.taught, state.fresh) = (false, false, false);
            return self.tempt_fresh_brick(brick);
        }
        let others = self.all_bricks().without(brick);
        let known = others.iter().map(|other| self.starts_known(other, brick)).max().unwrap_or(0);
        if !self.brick(brick).taught {
            return;
        }
        // Once at least: a session whose link came up while the brick was blank doesn't count it until the
        // link is another.
        loop {
            if self.brick(brick).process.is_some() {
                self.kill_brick(brick);
            }
            self.start_brick(brick);
            if self.brick(brick).starts > known {
                break;
            }
        }
        (self.brick(brick).restored, self.brick(brick).taught) = (false, false);
    }

    /// The operator's connection never came about.
    pub(super) fn visit_fails(&mut self, key: ConnectionKey) {
        self.visits.remove(&key);
    }
}

/// A request of the operator's.
pub(super) fn ask(opcode: Opcode, aux: Vec<u8>) -> Frame {
    Frame::new(Header::request(opcode, RequestId(0)), aux, Bytes::new())
}
