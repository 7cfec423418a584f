//! What happens to a brick's process: its events in, its actions out.

use std::collections::VecDeque;
use std::time::Duration;

use brick_wire::cursor::Body;
use brick_wire::decode::{Frame as WireFrame, next_frame};
use brick_wire::handshake::{Hello, Welcome};
use brick_wire::{BrickIndex, CoreIndex, Opcode, Status};
use brickd::engine::{Action, ConnectionId, Event, Frame, OperationId};
use bytes::{Bytes, BytesMut};

use super::agenda::{Happening, Life};
use super::brick::Endpoint;
use super::config::Moment;
use super::network::{Caller, ConnectionKey, Packet, Side};
use super::world::World;

impl World {
    /// Starts a brick's process, unless it runs.
    pub fn start_brick(&mut self, brick: BrickIndex) {
        if self.brick(brick).process.is_some() || self.brick(brick).lost {
            return;
        }
        let cores = self.random.within(1..=u64::from(self.config.cores_max)) as u16;
        let copied = self.brick(brick).older.is_some();
        // Rarely a newer one: the older a copy, the more it has forgotten.
        let member = self.brick(brick).disk.membership.is_some();
        if self.config.faults.restore > 0 && member && (!copied || self.random.chance(0.2)) {
            let state = self.brick(brick);
            let mut copy = state.disk.clone();
            let starts = state.starts;
            copy.lose_power(&mut self.random);
            self.brick(brick).older = Some((copy, starts));
        }
        let clean = self.brick(brick).disk.clean;
        let state = &mut self.bricks[usize::from(brick.0)];
        state.start(&self.config, cores);
        let (starts, boots) = (state.starts, state.boots);
        self.log.line(
            self.agenda.now(),
            format_args!("brick {}", brick.0),
            format_args!("starts: start {starts}, boot {boots}, {cores} cores, clean {clean}"),
        );
        for core in 0..cores {
            self.engine_event(brick, CoreIndex(core), Event::Tick);
        }
    }

    /// Feeds an engine, and does what it wants.
    pub(super) fn engine_event(&mut self, brick: BrickIndex, core: CoreIndex, event: Event) {
        let now = self.agenda.now();
        let index = usize::from(core.0);
        let Some(process) = self.bricks[usize::from(brick.0)].process.as_mut() else { return };
        if process.stopped[index].is_some() {
            return;
        }
        let engine = &mut process.engines[index];
        engine.handle_event(now, event);
        let mut actions = std::mem::take(&mut self.actions);
        while let Some(action) = engine.poll_action() {
            actions.push(action);
        }
        let (timeout, life) = (engine.poll_timeout(), process.life);
        if let Some(at) = timeout
            && process.timers[index].is_none_or(|due| due > at || due <= now)
        {
            process.timers[index] = Some(at);
            self.agenda.at(at.max(now + Duration::from_nanos(1)), Happening::EngineTimer(brick, life, core));
        }
        for action in actions.drain(..) {
            self.engine_action(brick, core, action);
        }
        self.actions = actions;
    }

    pub(super) fn engine_timer(&mut self, brick: BrickIndex, life: Life, core: CoreIndex) {
        let now = self.agenda.now();
        let Some(process) = self.brick(brick).process_of(life) else { return };
        let timer = &mut process.timers[usize::from(core.0)];
        if timer.is_some_and(|at| at <= now) {
            *timer = None;
            self.engine_event(brick, core, Event::Tick);
        }
    }

    fn engine_action(&mut self, brick: BrickIndex, core: CoreIndex, action: Action) {
        match action {
            Action::Admit { connection, core: to, peer, welcome } => {
                self.answer_hello(brick, connection, Status::Ok, &welcome);
                let delay = self.random.around(Duration::from_micros(5));
                let process = self.brick(brick).process.as_mut().expect("it acts");
                let Some(endpoint) = process.endpoints.get_mut(&connection) else { return };
                endpoint.peer = Some((to, peer));
                let life = process.life;
                self.agenda.after(delay, Happening::Handover(brick, life, connection));
            }
            Action::Refuse { connection, status, welcome } => {
                self.answer_hello(brick, connection, status, &welcome);
                let process = self.brick(brick).process.as_mut().expect("it acts");
                if let Some(endpoint) = process.endpoints.remove(&connection) {
                    self.network.close(&mut self.agenda, &mut self.random, endpoint.key, endpoint.side);
                }
            }
            Action::Send { connection, frame } => self.send_from_brick(brick, connection, frame),
            Action::Close { connection, reason } => {
                self.note_brick(brick, format_args!("core {} closes {connection:?}: {reason}", core.0));
                let process = self.brick(brick).process.as_ref().expect("it acts");
                let life = process.life;
                if let Some(endpoint) = process.endpoints.get(&connection) {
                    let (key, side) = (endpoint.key, endpoint.side);
                    self.network.close(&mut self.agenda, &mut self.random, key, side);
                }
                let delay = self.random.around(Duration::from_micros(20));
                self.agenda.after(delay, Happening::Closed(brick, life, connection));
            }
            Action::Dial { connection, address } => self.dial(brick, core, connection, &address),
            Action::Disk { operation, request } => self.start_disk_work(brick, core, operation, request),
            Action::Core { to, message } => {
                let delay = self.random.around(Duration::from_micros(3));
                let due = self.agenda.now() + delay;
                let process = self.brick(brick).process.as_mut().expect("it acts");
                process.messages.entry((core, to)).or_default().push_back(message);
                let last = process.messages_due.entry((core, to)).or_default();
                *last = due.max(*last);
                let (life, due) = (process.life, *last);
                self.agenda.at(due, Happening::CoreMessage(brick, life, core, to));
            }
            Action::Restart => {
                let life = self.brick(brick).process.as_ref().expect("it acts").life;
                self.agenda.after(Duration::from_micros(1), Happening::Stop(brick, life));
            }
            Action::Stopped { clean } => self.core_stopped(brick, core, clean),
        }
    }

    fn core_stopped(&mut self, brick: BrickIndex, core: CoreIndex, clean: bool) {
        let process = self.brick(brick).process.as_mut().expect("it acts");
        process.stopped[usize::from(core.0)] = Some(clean);
        if process.stopped.iter().all(Option::is_some) {
            let all_clean = process.stopped.iter().all(|stopped| *stopped == Some(true));
            if process.restarts {
                self.agenda.after(Duration::from_micros(1), Happening::StartAgain(brick));
            }
            self.note_brick(brick, format_args!("has stopped, clean {all_clean}"));
            self.end_process(brick);
            if !all_clean {
                self.note_death(brick);
            }
            self.brick(brick).disk.clean = all_clean;
        }
    }

    /// The process is gone: its connections end, its operations were done or not.
    pub(super) fn end_process(&mut self, brick: BrickIndex) {
        self.abandon_disk_work(brick);
        let process = self.brick(brick).process.take().expect("a process ends");
        let slowly = !self.brick(brick).powered;
        for endpoint in process.endpoints.into_values() {
            let patience = if slowly { 3_000_000 } else { 3_000 };
            let delay = Duration::from_micros(self.random.within(1..=patience));
            self.network.close_after(&mut self.agenda, endpoint.key, endpoint.side, delay);
        }
    }

    pub(super) fn core_message(&mut self, brick: BrickIndex, life: Life, from: CoreIndex, to: CoreIndex) {
        let Some(process) = self.brick(brick).process_of(life) else { return };
        let queue = process.messages.get_mut(&(from, to)).expect("sent before");
        let message = queue.pop_front().expect("one per happening");
        self.engine_event(brick, to, Event::Core(message));
    }

    pub(super) fn disk_done(
        &mut self,
        brick: BrickIndex,
        life: Life,
        core: CoreIndex,
        operation: OperationId,
    ) {
        if self.brick(brick).process_of(life).is_none() {
            return;
        }
        let result = self.end_disk_work(brick, core, operation);
        self.engine_event(brick, core, Event::DiskDone { operation, result });
    }

    fn dial(&mut self, brick: BrickIndex, core: CoreIndex, id: ConnectionId, address: &str) {
        let target = address.strip_prefix("brick-").and_then(|index| index.parse().ok()).map(BrickIndex);
        let target = target.expect("clients name bricks of the group");
        self.tempt(brick, Moment::Heal);
        let life = self.brick(brick).process.as_ref().expect("it acts").life;
        let caller = Caller::Brick { brick, life, core, id };
        let key = self.network.connect(&mut self.agenda, &mut self.random, caller, target);
        let endpoint = Endpoint { core: Some(core), ..Endpoint::new(key, Side::Caller) };
        let process = self.brick(brick).process.as_mut().expect("it acts");
        process.endpoints.insert(id, endpoint);
    }

    /// A connection that this brick dialled is there, or isn't.
    pub(super) fn dial_ended(&mut self, brick: BrickIndex, life: Life, id: ConnectionId, good: bool) -> bool {
        let Some(process) = self.brick(brick).process_of(life) else { return false };
        let Some(endpoint) = process.endpoints.get(&id) else { return false };
        let core = endpoint.core.expect("dialled by a core");
        if good {
            self.engine_event(brick, core, Event::Dialed { connection: id });
        } else {
            process.endpoints.remove(&id);
            self.engine_event(brick, core, Event::Disconnected { connection: id });
        }
        true
    }

    /// Somebody connected.
    pub(super) fn accept(&mut self, brick: BrickIndex, key: ConnectionKey) {
        let process = self.brick(brick).process.as_mut().expect("checked by the caller");
        process.endpoints.insert(ConnectionId(key.0), Endpoint::new(key, Side::Called));
    }

    /// A packet reached this brick.
    pub(super) fn brick_packet(&mut self, brick: BrickIndex, id: ConnectionId, packet: Packet) {
        let Some(process) = self.brick(brick).process.as_mut() else { return };
        let Some(endpoint) = process.endpoints.get_mut(&id) else { return };
        match (packet, endpoint.core) {
            (Packet::Frame(frame), Some(core)) => self.frame_to_engine(brick, core, id, frame),
            (Packet::Frame(frame), None) if endpoint.hello.is_some() => endpoint.held.push_back(frame),
            (Packet::Frame(frame), None) => {
                assert_eq!(frame.header.opcode, Opcode::Hello, "every caller says hello first");
                let hello = Hello::from_bytes(&frame.aux).expect("callers say a hello that can be read");
                endpoint.hello = Some(frame.header);
                self.engine_event(brick, CoreIndex(0), Event::Hello { connection: id, hello });
            }
            (Packet::End, None) if endpoint.peer.is_some() => endpoint.ended = true,
            (Packet::End, core) => {
                let known = core.is_some() || endpoint.hello.is_some();
                process.endpoints.remove(&id);
                if known {
                    let core = core.unwrap_or(CoreIndex(0));
                    self.engine_event(brick, core, Event::Disconnected { connection: id });
                }
            }
        }
    }

    fn frame_to_engine(&mut self, brick: BrickIndex, core: CoreIndex, id: ConnectionId, frame: WireFrame) {
        let frame = self.through_codec(frame);
        let mut data = None;
        if !frame.data.is_empty() {
            let Some(mut buffer) = self.brick(brick).pool().allocate(frame.data.len()) else {
                let process = self.brick(brick).process.as_ref().expect("checked by the caller");
                let endpoint = &process.endpoints[&id];
                let (key, side) = (endpoint.key, endpoint.side);
                self.network.put_back(&mut self.agenda, key, side, frame);
                return;
            };
            buffer.copy_from_slice(&frame.data);
            if self.faulty && self.random.chance(self.config.faults.bit_flip) {
                let bit = self.random.index(buffer.len() * 8);
                buffer[bit / 8] ^= 1 << (bit % 8);
            }
            data = Some(buffer);
        }
        if self.log.is_text() {
            self.note_brick(brick, format_args!("core {} {}", core.0, describe(&frame)));
        }
        let frame = Frame { header: frame.header, aux: frame.aux.to_vec(), data };
        self.engine_event(brick, core, Event::Frame { connection: id, frame });
    }

    /// An admitted connection reaches its core.
    pub(super) fn handover(&mut self, brick: BrickIndex, life: Life, id: ConnectionId) {
        let Some(process) = self.brick(brick).process_of(life) else { return };
        let Some(endpoint) = process.endpoints.get_mut(&id) else { return };
        let (core, peer) = endpoint.peer.take().expect("handed over once");
        endpoint.core = Some(core);
        let held = std::mem::take(&mut endpoint.held);
        let ended = endpoint.ended;
        self.engine_event(brick, core, Event::Admitted { connection: id, peer });
        for frame in held {
            self.brick_packet(brick, id, Packet::Frame(frame));
        }
        if ended {
            self.brick_packet(brick, id, Packet::End);
        }
    }

    /// A connection that an engine closed is closed.
    pub(super) fn closed(&mut self, brick: BrickIndex, life: Life, id: ConnectionId) {
        let Some(process) = self.brick(brick).process_of(life) else { return };
        let Some(endpoint) = process.endpoints.remove(&id) else { return };
        let core = endpoint.core.expect("engines close what they were given");
        self.engine_event(brick, core, Event::Disconnected { connection: id });
    }

    fn send_from_brick(&mut self, brick: BrickIndex, id: ConnectionId, frame: Frame) {
        let process = self.brick(brick).process.as_ref().expect("it acts");
        let Some(endpoint) = process.endpoints.get(&id) else { return };
        let (key, side) = (endpoint.key, endpoint.side);
        let data = frame.data.map_or(Bytes::new(), |buffer| Bytes::copy_from_slice(&buffer));
        let frame = WireFrame::new(frame.header, frame.aux, data);
        self.network.send(&mut self.agenda, &mut self.random, key, side, frame);
    }

    fn answer_hello(&mut self, brick: BrickIndex, id: ConnectionId, status: Status, welcome: &Welcome) {
        let process = self.brick(brick).process.as_ref().expect("it acts");
        let Some(endpoint) = process.endpoints.get(&id) else { return };
        let (key, side) = (endpoint.key, endpoint.side);
        let header = endpoint.hello.expect("answers follow a hello").reply(status);
        let frame = WireFrame::new(header, welcome.to_bytes(), Bytes::new());
        self.network.send(&mut self.agenda, &mut self.random, key, side, frame);
    }

    /// The frame as it comes out of the codec, in seeds that go through it.
    pub(super) fn through_codec(&mut self, frame: WireFrame) -> WireFrame {
        if !self.config.codec {
            return frame;
        }
        let mut bytes = BytesMut::from(frame.head_bytes().as_slice());
        bytes.extend_from_slice(&frame.data);
        let decoded = next_frame(&mut bytes).expect("own frames can be read").expect("and are whole");
        assert!(bytes.is_empty() && decoded == frame, "a frame survives the wire");
        decoded
    }

    pub(super) fn note_brick(&mut self, brick: BrickIndex, what: std::fmt::Arguments<'_>) {
        self.log.line(self.agenda.now(), format_args!("brick {}", brick.0), what);
    }
}

impl Endpoint {
    pub(super) fn new(key: ConnectionKey, side: Side) -> Endpoint {
        Endpoint { key, side, core: None, hello: None, peer: None, held: VecDeque::new(), ended: false }
    }
}

/// A frame in a few words.
pub fn describe(frame: &WireFrame) -> String {
    let header = &frame.header;
    let mut text = format!("{:?} {}", header.opcode, header.request.0);
    if header.is_reply() {
        text += &format!(" -> {:?}", header.status);
    }
    if header.blocks.count > 0 || header.shard.0 > 0 {
        text += &format!(" shard {} blocks {:?}", header.shard, header.blocks);
    }
    if header.epoch.counter > 0 {
        text += &format!(" epoch {}.{}", header.epoch.counter, header.epoch.session.0);
    }
    if header.generation.0 > 0 {
        text += &format!(" generation {}", header.generation.0);
    }
    text
}
