//! Disk operations in flight: what each does when it ends, and what becomes of it in a crash.

use std::time::Duration;

use brick_wire::limits::BLOCK_SIZE;
use brick_wire::{BrickIndex, CoreIndex, ImageUuid, LaneIndex};
use brickd::buffer::Buffer;
use brickd::engine::{DiskError, DiskOutput, DiskRequest, OperationId, SavedDirty};

use super::brick::Brick;
use super::config::{Faults, Moment};
use super::disk::{Covered, Disk, FileKey};
use super::random::Random;
use super::world::World;

/// The slowest disk's slowest operation.
const OPERATION_MAX: Duration = Duration::from_secs(2);
/// Linux's EIO.
const EIO: i32 = 5;

/// What a request becomes once its slot is resolved.
#[derive(Debug)]
pub enum DiskWork {
    /// Opens a file into a slot, creating it.
    Open(u32, FileKey, u64, bool),
    /// Fills the buffer from a block on.
    Read(FileKey, u16, Buffer),
    /// Writes the buffer from a block on.
    Write(FileKey, u16, Buffer),
    /// Makes these durable.
    Sync(FileKey, Covered),
    /// Makes new files durable.
    SyncDirectory(LaneIndex, ImageUuid),
    /// Whatever needs no preparation.
    Other(DiskRequest),
}

impl World {
    /// An engine starts a disk operation.
    pub(super) fn start_disk_work(
        &mut self,
        brick: BrickIndex,
        core: CoreIndex,
        operation: OperationId,
        request: DiskRequest,
    ) {
        let moment = match &request {
            DiskRequest::AppendRegisters { .. } => Some(Moment::Vote),
            DiskRequest::SyncShard { .. } | DiskRequest::SyncDirectory { .. } => Some(Moment::Flush),
            DiskRequest::WriteActivity { .. } | DiskRequest::SaveDirty { .. } => Some(Moment::Table),
            DiskRequest::Write { .. } => Some(Moment::Write),
            _ => None,
        };
        if let Some(moment) = moment {
            self.tempt(brick, moment);
        }
        let latency = self.config.disk_latency;
        let state = &mut self.bricks[usize::from(brick.0)];
        let work = prepare(state, core, request);
        let delay = (self.random.around(latency) * state.slowness).min(OPERATION_MAX);
        let process = state.process.as_mut().expect("engines run in a process");
        process.work.insert((core, operation), work);
        let life = process.life;
        self.disks_busy_until = self.disks_busy_until.max(self.agenda.now() + delay);
        self.agenda.after(delay, super::agenda::Happening::DiskDone(brick, life, core, operation));
    }

    /// A disk operation ends.
    pub(super) fn end_disk_work(
        &mut self,
        brick: BrickIndex,
        core: CoreIndex,
        operation: OperationId,
    ) -> Result<DiskOutput, DiskError> {
        let faults = if self.faulty { self.config.faults } else { Faults::default() };
        let state = &mut self.bricks[usize::from(brick.0)];
        let process = state.process.as_mut().expect("checked by the caller");
        let work = process.work.remove(&(core, operation)).expect("operations end once");
        let text = self.log.is_text().then(|| describe(&work));
        let votes = matches!(work, DiskWork::Other(DiskRequest::AppendRegisters { .. }));
        let result = finish(state, &mut self.random, &faults, core, work);
        if votes {
            self.note_accepted(brick);
        }
        if let (Some(text), outcome) = (text, result.as_ref().err()) {
            let outcome = outcome.map_or("done".to_owned(), |error| error.to_string());
            self.note_brick(brick, format_args!("core {} disk: {text}: {outcome}", core.0));
        }
        result
    }

    /// The process died: each of its operations may have been done or not.
    pub(super) fn abandon_disk_work(&mut self, brick: BrickIndex) {
        let state = &mut self.bricks[usize::from(brick.0)];
        let process = state.process.as_mut().expect("a process dies");
        let unmarked = std::mem::take(&mut process.unmarked);
        for (_, work) in std::mem::take(&mut process.work) {
            let disk = &mut state.disk;
            match work {
                DiskWork::Open(_, key, bytes, true) if self.random.chance(0.5) => disk.create(key, bytes),
                DiskWork::Write(key, first, buffer) => {
                    write_blocks(state, &mut self.random, key, first, &buffer, 0.5);
                }
                DiskWork::Sync(key, mut covered) => {
                    covered.retain(|_| self.random.chance(0.5));
                    disk.end_sync(key, &covered);
                }
                DiskWork::SyncDirectory(lane, image) if self.random.chance(0.5) => disk.link(lane, image),
                DiskWork::Other(DiskRequest::AppendRegisters { entries }) => {
                    let whole = self.random.index(entries.len() + 1);
                    disk.append(&entries[..whole]);
                }
                DiskWork::Other(DiskRequest::WriteIdentity { membership, blank, floors })
                    if self.random.chance(0.5) =>
                {
                    state.write_identity(membership, blank, floors);
                }
                DiskWork::Other(DiskRequest::Adopt { brick, membership, start })
                    if self.random.chance(0.5) =>
                {
                    state.adopt(brick, membership, start);
                }
                DiskWork::Other(request) if is_mark(&request) || self.random.chance(0.5) => {
                    replace_lane_file(disk, request);
                }
                _ => {}
            }
        }
        for (lane, image) in unmarked {
            mark(&mut state.disk, lane, image);
        }
        self.note_accepted(brick);
    }
}

fn prepare(brick: &mut Brick, core: CoreIndex, request: DiskRequest) -> DiskWork {
    let process = brick.process.as_mut().expect("engines run in a process");
    let file = |slot: u32| *process.slots.get(&(core, slot)).expect("slots in use are open");
    match request {
        DiskRequest::OpenShard { slot, lane, image, shard, file_bytes, create } => {
            DiskWork::Open(slot.0, (lane, image, shard), file_bytes, create)
        }
        DiskRequest::Read { slot, offset_bytes, buffer } => {
            DiskWork::Read(file(slot.0), (offset_bytes / BLOCK_SIZE as u64) as u16, buffer)
        }
        DiskRequest::Write { slot, offset_bytes, buffer } => {
            DiskWork::Write(file(slot.0), (offset_bytes / BLOCK_SIZE as u64) as u16, buffer)
        }
        DiskRequest::SyncShard { slot } => {
            let key = file(slot.0);
            DiskWork::Sync(key, brick.disk.begin_sync(key))
        }
        DiskRequest::SyncDirectory { lane, image } => DiskWork::SyncDirectory(lane, image),
        // Without a mark, if what was lost has been written again.
        DiskRequest::SaveDirty { lane, .. } => {
            process.unmarked.retain(|(other, _)| *other != lane);
            DiskWork::Other(request)
        }
        other => DiskWork::Other(other),
    }
}

fn finish(
    brick: &mut Brick,
    random: &mut Random,
    faults: &Faults,
    core: CoreIndex,
    work: DiskWork,
) -> Result<DiskOutput, DiskError> {
    match work {
        DiskWork::Open(slot, key, file_bytes, create) => {
            open(brick, key, file_bytes, create)?;
            let process = brick.process.as_mut().expect("operations end in a process");
            let taken = process.slots.insert((core, slot), key);
            assert!(taken.is_none(), "a slot is free before a file is opened into it");
            Ok(DiskOutput::Done)
        }
        DiskWork::Read(key, first, mut buffer) => {
            if random.chance(faults.read_error) {
                return Err(DiskError::Errno(EIO));
            }
            for (index, block) in buffer.chunks_exact_mut(BLOCK_SIZE).enumerate() {
                brick.disk.fill(block, brick.disk.read(key, first + index as u16));
            }
            Ok(DiskOutput::Buffer(buffer))
        }
        DiskWork::Write(key, first, buffer) => {
            if random.chance(faults.write_error) {
                write_blocks(brick, random, key, first, &buffer, 0.5);
                return Err(DiskError::Errno(EIO));
            }
            write_blocks(brick, random, key, first, &buffer, 1.0);
            Ok(DiskOutput::Buffer(buffer))
        }
        DiskWork::Sync(key, covered) => {
            if random.chance(faults.sync_error) {
                if brick.disk.fail_sync(key, &covered) {
                    let process = brick.process.as_mut().expect("operations end in a process");
                    process.unmarked.insert((key.0, key.1));
                }
                return Err(DiskError::Errno(EIO));
            }
            brick.disk.end_sync(key, &covered);
            Ok(DiskOutput::Done)
        }
        DiskWork::SyncDirectory(lane, image) => {
            brick.disk.link(lane, image);
            Ok(DiskOutput::Done)
        }
        DiskWork::Other(request) => finish_other(brick, random, faults, core, request),
    }
}

fn open(brick: &mut Brick, key: FileKey, file_bytes: u64, create: bool) -> Result<(), DiskError> {
    match brick.disk.file_bytes(key) {
        Some(found) if found == file_bytes => Ok(()),
        Some(found) => Err(DiskError::Length { found, expected: file_bytes }),
        None if !create => Err(DiskError::Errno(2)),
        None if brick.full => Err(DiskError::NoSpace),
        None => {
            brick.disk.create(key, file_bytes);
            Ok(())
        }
    }
}

fn finish_other(
    brick: &mut Brick,
    random: &mut Random,
    faults: &Faults,
    core: CoreIndex,
    request: DiskRequest,
) -> Result<DiskOutput, DiskError> {
    match request {
        DiskRequest::CloseShard { slot } => {
            let process = brick.process.as_mut().expect("operations end in a process");
            process.slots.remove(&(core, slot.0)).expect("closed files are open");
        }
        DiskRequest::RemoveImage { lane, image } => brick.disk.remove(lane, image),
        DiskRequest::AppendRegisters { entries } => {
            if random.chance(faults.append_error) {
                let whole = random.index(entries.len() + 1);
                brick.disk.append(&entries[..whole]);
                brick.vote_lost = true;
                return Err(DiskError::Errno(EIO));
            }
            brick.disk.append(&entries);
        }
        DiskRequest::WriteIdentity { membership, blank, floors } => {
            brick.write_identity(membership, blank, floors);
        }
        DiskRequest::Adopt { brick: uuid, membership, start } => brick.adopt(uuid, membership, start),
        DiskRequest::SaveDirty { .. } if is_mark(&request) => replace_lane_file(&mut brick.disk, request),
        DiskRequest::SaveDirty { .. } if brick.full => return Err(DiskError::NoSpace),
        DiskRequest::WriteActivity { .. } | DiskRequest::SaveDirty { .. } => {
            let failed = random.chance(faults.write_error);
            if !failed || random.chance(0.5) {
                replace_lane_file(&mut brick.disk, request);
            }
            if failed {
                return Err(DiskError::Errno(EIO));
            }
        }
        DiskRequest::Space => return Ok(DiskOutput::Space { free_bytes: 1 << 40, used_bytes: 0 }),
        _ => unreachable!("prepared above"),
    }
    Ok(DiskOutput::Done)
}

/// Whether these are maps that note a failed sync. A process that dies before such a note is durable, or whose
/// disk refuses it, forgets the failure: the engine's `marks` says that this is not covered, so it never happens.
fn is_mark(request: &DiskRequest) -> bool {
    matches!(request, DiskRequest::SaveDirty { maps, .. } if maps.iter().any(|map| map.unsynced))
}

/// The same for a process that dies before it could even ask for the note: because its lane was being saved.
fn mark(disk: &mut Disk, lane: LaneIndex, image: ImageUuid) {
    let maps = disk.saved.entry(lane).or_default();
    match maps.iter_mut().find(|map| map.image == image) {
        Some(map) => map.unsynced = true,
        // The blocks are in active shards.
        None => maps.push(SavedDirty { image, exact: true, unsynced: true, shards: Vec::new() }),
    }
}

/// An operation in a few words.
fn describe(work: &DiskWork) -> String {
    let blocks = |buffer: &Buffer| buffer.len() / BLOCK_SIZE;
    match work {
        DiskWork::Open(slot, key, _, create) => format!("open shard {} in {slot}, create {create}", key.2),
        DiskWork::Read(key, first, buffer) => {
            format!("read shard {} blocks {first}+{}", key.2, blocks(buffer))
        }
        DiskWork::Write(key, first, buffer) => {
            format!("write shard {} blocks {first}+{}", key.2, blocks(buffer))
        }
        DiskWork::Sync(key, covered) => format!("sync shard {}, {} blocks", key.2, covered.len()),
        DiskWork::SyncDirectory(lane, _) => format!("sync the directory of lane {}", lane.0),
        DiskWork::Other(DiskRequest::AppendRegisters { entries }) => {
            format!("append {} registers", entries.len())
        }
        DiskWork::Other(other) => format!("{other:?}"),
    }
}

/// The activity log or the saved maps of a lane are replaced, whole.
fn replace_lane_file(disk: &mut Disk, request: DiskRequest) {
    match request {
        DiskRequest::WriteActivity { lane, entries } => {
            disk.active.insert(lane, entries);
        }
        DiskRequest::SaveDirty { lane, maps } => {
            disk.saved.insert(lane, maps);
        }
        _ => {}
    }
}

/// Writes each block with `probability`; a block is atomic.
fn write_blocks(
    brick: &mut Brick,
    random: &mut Random,
    key: FileKey,
    first: u16,
    buffer: &Buffer,
    probability: f64,
) {
    for (index, block) in buffer.chunks_exact(BLOCK_SIZE).enumerate() {
        let content = brick.disk.content_of(block);
        if probability >= 1.0 || random.chance(probability) {
            brick.disk.write(random, key, first + index as u16, content);
        }
    }
}
