//! Tasks: operations on the blocks of one shard, from arrival to the answer.
//!
//! A task claims its blocks (rule I13), then passes its conditions in order: fence, activity log (writers,
//! rule I2), buffer, file, witness page. Where one isn't met it waits to be woken, and checks them all again then; so the
//! fence is checked a last time in the same step that issues the disk operation (rule I1). Whatever ends a
//! task gives everything back.

use std::time::Duration;

use brick_wire::body::Crcs;
use brick_wire::overlap::Access;
use brick_wire::{BlockRange, Status};

use super::data::{ReadTask, WriteTask};
use super::files::Acquired;
use super::pull::PullRun;
use super::pull_source::SourceRead;
use super::witness::PageSave;
use super::{DiskError, DiskOutput, DiskRequest, Engine, FileSlot, Purpose, ShardKey, Token};
use crate::buffer::Buffer;

/// How long a task that found no buffer waits at most before it tries again without an event.
pub(super) const BUFFER_RETRY: Duration = Duration::from_millis(1);

/// Blocks of one shard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target {
    pub(super) key: ShardKey,
    pub(super) shard_bytes: u64,
    pub(super) blocks: BlockRange,
}

/// What a task does with its blocks. What is large and isn't a client's request is boxed.
#[derive(Debug)]
pub(super) enum Work {
    Write(WriteTask),
    /// See `dummy`; with its CRCs.
    DummyWrite(Crcs),
    Read(ReadTask),
    SourceRead(Box<SourceRead>),
    PullRun(Box<PullRun>),
    /// See `scrub`; with its buffer when it has one.
    Verify(Option<Buffer>),
    /// Nobody's request: see `recheck`; with its buffer when it has one.
    Recheck(Option<Buffer>),
    /// Nobody's request: see `witness`.
    PageSave(PageSave),
}

/// One operation on blocks.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) target: Target,
    /// The blocks are ours.
    claimed: bool,
    /// The shard is held in the activity log.
    pub(super) active: bool,
    /// The file is held.
    pub(super) slot: Option<FileSlot>,
    /// The shard's page of CRCs is held.
    pub(super) page: bool,
    /// The operation in flight reads the page, on behalf of all who wait for it.
    pub(super) loading: bool,
    /// A disk operation of ours is in flight: nothing else happens before it is done.
    pub(super) in_flight: bool,
    pub(super) work: Work,
}

impl Engine {
    /// Claims the blocks and goes on as soon as they are free.
    pub(super) fn start_task(&mut self, token: Token, target: Target, access: Access, work: Work) {
        let claimed = self.claims.claim(target.key, token, target.blocks, access);
        let task = Task {
            target,
            claimed,
            active: false,
            slot: None,
            page: false,
            loading: false,
            in_flight: false,
            work,
        };
        self.tasks.insert(token, task);
        if claimed {
            self.ready.push_back(token);
        }
    }

    /// Goes as far as possible with a task. Does nothing if it ended or waits for the disk or its blocks.
    pub(super) fn advance_task(&mut self, token: Token) {
        let Some(task) = self.tasks.get(&token) else { return };
        if task.in_flight || !task.claimed {
            return;
        }
        match &task.work {
            Work::Write(_) => self.advance_write(token),
            Work::DummyWrite(_) => self.advance_dummy_write(token),
            Work::Read(_) => self.advance_read(token),
            Work::SourceRead(_) => self.advance_source_read(token),
            Work::PullRun(_) => self.advance_pull_run(token),
            Work::Verify(_) => self.advance_verify(token),
            Work::Recheck(_) => self.advance_recheck(token),
            Work::PageSave(_) => self.advance_page_save(token),
        }
    }

    /// A disk operation of a task ended.
    pub(super) fn task_done(&mut self, token: Token, result: Result<DiskOutput, DiskError>) {
        let task = self.tasks.get_mut(&token).expect("tasks outlive their disk operations");
        assert!(std::mem::replace(&mut task.in_flight, false), "one operation at a time");
        let result = result.map(|output| match output {
            DiskOutput::Buffer(buffer) => buffer,
            other => panic!("reads and writes return their buffer, not {other:?}"),
        });
        let result = result.map_err(data_status);
        if std::mem::take(&mut task.loading) {
            return self.page_block_read(token, result);
        }
        match &task.work {
            Work::Write(_) => self.write_done(token, result),
            Work::DummyWrite(_) => unreachable!("an arbiter has no data to transfer"),
            Work::Read(_) => self.read_done(token, result),
            Work::SourceRead(_) => self.source_read_done(token, result),
            Work::PullRun(_) => self.pull_io_done(token, result),
            Work::Verify(_) => self.verify_done(token, result),
            Work::Recheck(_) => self.recheck_read(token, result),
            Work::PageSave(_) => self.page_block_written(token, result),
        }
    }

    /// Ends a task: its blocks, file and buffers are free again. Nothing happens if there is none.
    pub(super) fn end_task(&mut self, token: Token) {
        let Some(task) = self.tasks.remove(&token) else { return };
        assert!(!task.in_flight, "a task in flight can't end");
        if task.slot.is_some() {
            self.files.release(task.target.key);
        }
        if task.page {
            self.witness.release(task.target.key);
        }
        if task.active {
            let lane = self.lane_of(task.target.key);
            self.activity.release(lane, task.target.key);
        }
        match &task.work {
            Work::SourceRead(read) => self.source_read_ended(read),
            Work::PullRun(_) => self.pull_run_ended(task.target.blocks),
            Work::Recheck(_) => self.recheck_ended(),
            Work::Write(_) | Work::DummyWrite(_) | Work::Read(_) | Work::Verify(_) | Work::PageSave(_) => {}
        }
        for woken in self.claims.release(task.target.key, token) {
            self.tasks.get_mut(&woken).expect("claims belong to tasks").claimed = true;
            self.ready.push_back(woken);
        }
    }

    /// Ends a task without success and answers its request. Nothing happens if it has ended.
    pub(super) fn fail_task(&mut self, token: Token, status: Status) {
        let Some(task) = self.tasks.get(&token) else { return };
        match &task.work {
            Work::PullRun(run) => {
                let job = run.job;
                self.end_task(token);
                self.pull_run_failed(job, token, status);
            }
            Work::Recheck(_) => self.recheck_failed(token, status),
            Work::PageSave(_) => {
                let lane = self.lane_of(task.target.key);
                self.end_task(token);
                self.page_save_ended(lane, false);
            }
            Work::Write(_) | Work::DummyWrite(_) | Work::Read(_) | Work::Verify(_) | Work::SourceRead(_) => {
                self.end_task(token);
                self.answer(token, status.into());
            }
        }
    }

    /// The task's file, held for it; `None` if it has to wait (or has failed).
    pub(super) fn task_file(&mut self, token: Token) -> Option<FileSlot> {
        let task = &self.tasks[&token];
        if task.slot.is_some() {
            return task.slot;
        }
        let Target { key, shard_bytes, .. } = task.target;
        match self.acquire_file(token, key, shard_bytes) {
            Acquired::Ready(slot) => {
                self.task(token).slot = Some(slot);
                Some(slot)
            }
            Acquired::Waiting => None,
            Acquired::OtherSize => {
                self.fail_task(token, Status::Invalid);
                None
            }
        }
    }

    /// A buffer for a task; `None` if it has to wait.
    pub(super) fn task_buffer(&mut self, token: Token, blocks: usize) -> Option<Buffer> {
        let buffer = self.pool.allocate(blocks * brick_wire::limits::BLOCK_SIZE);
        if buffer.is_none() {
            self.buffer_waiters.push_back(token);
        }
        buffer
    }

    /// Reads all blocks of a task.
    pub(super) fn task_read(&mut self, token: Token, slot: FileSlot, buffer: Buffer) {
        let offset_bytes = self.tasks[&token].target.blocks.offset_bytes();
        self.task_disk(token, DiskRequest::Read { slot, offset_bytes, buffer });
    }

    /// Issues a task's read or write.
    pub(super) fn task_disk(&mut self, token: Token, request: DiskRequest) {
        let task = self.task(token);
        assert!(task.claimed && task.slot.is_some() && !task.in_flight);
        task.in_flight = true;
        self.disk(Purpose::Task(token), request);
    }

    /// Whether the task wants its file for reading.
    pub(super) fn only_reads(&self, token: Token) -> bool {
        self.tasks.get(&token).is_some_and(|task| match &task.work {
            Work::Write(_) | Work::DummyWrite(_) | Work::PageSave(_) => false,
            Work::Read(_) | Work::Verify(_) | Work::Recheck(_) | Work::SourceRead(_) => true,
            Work::PullRun(run) => run.is_hashing(),
        })
    }

    pub(super) fn task(&mut self, token: Token) -> &mut Task {
        self.tasks.get_mut(&token).expect("the task exists")
    }

    /// Checks the fence for a task's request, and the lease if a client asked; `false` if it was refused by that.
    pub(super) fn passes_fence(&mut self, token: Token) -> bool {
        let task = &self.tasks[&token];
        let image = task.target.key.0;
        let epoch = self.requests.open[&token].header.epoch;
        let is_clients = matches!(task.work, Work::Write(_) | Work::Read(_));
        let lease = || if is_clients { self.check_lease(image, epoch.session) } else { Ok(()) };
        match self.check_epoch(image, epoch).and_then(|()| lease()) {
            Ok(()) => true,
            Err(status) => {
                self.fail_task(token, status);
                false
            }
        }
    }
}

/// What a requester is told about a failed disk operation.
pub(super) fn data_status(error: DiskError) -> Status {
    match error {
        DiskError::NoSpace => Status::NoSpace,
        DiskError::Errno(_) | DiskError::Length { .. } | DiskError::Short => Status::Io,
    }
}
