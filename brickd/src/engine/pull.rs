//! `Pull`, on the stale brick: fetch from a good brick those blocks that differ (the target's half of heal).
//!
//! A pull is cut into runs of consecutive blocks. Each run holds its blocks exclusively from the moment it
//! hashes them until what differs is written, so that a client's write to them can't be overwritten with
//! older bytes (rule I13). Fetched blocks get dirty bits before they are written. Runs bound their buffers
//! apart from the clients' credits, and hold none while they wait for the source: two bricks that pull from
//! each other never wait for each other's memory.
//!
//! Where the blocks can only have rotted, because nobody wrote them since they were equal, nothing is read: the run adopts
//! the source's CRCs, as if the blocks had been written with them, and they are read later (`recheck`).
//!
//! A fence, a lost connection and a stop abort a pull: runs without a disk operation end at once, the
//! others at its end. Peers: the source's blocks are checked against their CRCs and fetched again a few
//! times if they don't match.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use brick_wire::body::{Pull, PullRead, PullReadReply, PullReport};
use brick_wire::checksum::{block_crcs, block_hash};
use brick_wire::cursor::Body;
use brick_wire::limits::{BLOCK_SIZE, DATA_BLOCKS_MAX, HEADER_SIZE};
use brick_wire::overlap::Access;
use brick_wire::{BlockRange, BlockSet, Flags, Header, ImageUuid, Role, SessionId, Status};

use super::pull_source::SOURCE_BLOCKS_MAX;
use super::recheck::RECHECK_BLOCKS_MAX;
use super::requests::{Outcome, Reply};
use super::tasks::{Target, Work};
use super::{ConnectionId, DiskRequest, Engine, Frame, Token};
use crate::buffer::Buffer;

/// Runs of one core in flight. Small runs are bound by round trips, so there are many.
const RUNS_MAX: usize = 64;
/// Blocks of one core's runs in flight.
const RUN_BLOCKS_MAX: usize = 1024;
/// How often blocks that don't match their CRCs are fetched again.
const RETRIES_MAX: u8 = 3;
/// What heal takes from a core's pool at most, as target and as source, and after it. Add it to the clients' credits.
pub const PULL_POOL_BYTES: usize =
    (RUN_BLOCKS_MAX + SOURCE_BLOCKS_MAX + RECHECK_BLOCKS_MAX as usize) * BLOCK_SIZE;

const _: () = assert!(RUN_BLOCKS_MAX >= DATA_BLOCKS_MAX as usize, "the largest run fits");

#[derive(Debug)]
struct Job {
    target: Target,
    pull: Pull,
    waiting: VecDeque<BlockRange>,
    runs: BTreeSet<Token>,
    report: PullReport,
    failed: Option<Status>,
}

/// Where a run is.
#[derive(Debug)]
enum Step {
    /// Reads and hashes what is here.
    Hash(Option<Buffer>),
    /// Looks for a link.
    Link,
    /// Waits for the source's answer.
    Called,
    /// Writes the pieces that differ, one after the other; each with its first block's place in `data`, which is
    /// `None` while it is at the disk's.
    Write { data: Option<Buffer>, pieces: VecDeque<(BlockRange, usize)> },
}

/// How a run gets equal to the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Nothing was read yet.
    Undecided,
    /// By the source's CRCs alone.
    Adopt,
    /// By comparing blocks.
    Compare,
}

/// One run of a pull.
#[derive(Debug)]
pub(super) struct PullRun {
    /// The pull.
    pub(super) job: Token,
    step: Step,
    way: Way,
    hashes: Vec<u64>,
    /// CRCs of what was hashed; none if there is nothing, or it can't be read.
    crcs: Vec<u32>,
    /// Blocks that can't be read, or aren't what was last written here.
    bad: BlockSet,
    retries: u8,
}

/// What an image has pulled since start.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pulled {
    pub(super) written_blocks: u64,
    pub(super) compared_blocks: u64,
    pub(super) wire_bytes: u64,
}

impl Pulled {
    /// What came since `before`. An image that was removed in between counts from zero.
    pub(super) fn since(self, before: Pulled) -> Pulled {
        Pulled {
            written_blocks: self.written_blocks.saturating_sub(before.written_blocks),
            compared_blocks: self.compared_blocks.saturating_sub(before.compared_blocks),
            wire_bytes: self.wire_bytes.saturating_sub(before.wire_bytes),
        }
    }
}

/// The pulls of a core.
#[derive(Debug, Default)]
pub(super) struct Pulls {
    jobs: BTreeMap<Token, Job>,
    run_count: usize,
    run_blocks: usize,
    pulled: BTreeMap<ImageUuid, Pulled>,
}

impl PullRun {
    /// Whether it wants the file for reading.
    pub(super) fn is_hashing(&self) -> bool {
        matches!(self.step, Step::Hash(_))
    }
}

impl Pulls {
    /// Whether the request is a pull.
    pub(super) fn contains(&self, token: Token) -> bool {
        self.jobs.contains_key(&token)
    }

    /// Whether none is under way.
    pub(super) fn is_idle(&self) -> bool {
        self.jobs.is_empty()
    }

    /// What the image has pulled since start.
    pub(super) fn report(&self, image: ImageUuid) -> Pulled {
        self.pulled.get(&image).copied().unwrap_or_default()
    }

    /// The image is removed.
    pub(super) fn forget(&mut self, image: ImageUuid) {
        self.pulled.remove(&image);
    }

    fn count(&mut self, job: Token, compared_blocks: u32, written_blocks: u32, wire_bytes: u64) {
        let job = self.jobs.get_mut(&job).expect("runs belong to a pull");
        job.report.compared_blocks += compared_blocks;
        job.report.written_blocks += written_blocks;
        job.report.wire_bytes += wire_bytes;
        let pulled = self.pulled.entry(job.target.key.0).or_default();
        pulled.compared_blocks += u64::from(compared_blocks);
        pulled.written_blocks += u64::from(written_blocks);
        pulled.wire_bytes += wire_bytes;
    }
}

impl Engine {
    /// `Pull`.
    pub(super) fn pull(&mut self, id: ConnectionId, header: Header, pull: Pull) -> Outcome {
        self.require_role(Role::Data)?;
        let target = Target { blocks: BlockRange::EMPTY, ..self.fenced_shard(id, &header)? };
        let shard_blocks = target.shard_bytes / BLOCK_SIZE as u64;
        if pull.blocks.end() as u64 > shard_blocks || pull.source == self.own_brick() {
            return Err(Status::Invalid);
        }
        self.note_heal(target.key.0, header.epoch.session);
        let token = self.open_issued(id, header, Some(target.key.0));
        let waiting = pull.blocks.runs(DATA_BLOCKS_MAX).collect();
        let (runs, report) = (BTreeSet::new(), PullReport::default());
        self.pulls.jobs.insert(token, Job { target, pull, waiting, runs, report, failed: None });
        self.finish_pull(token);
        Ok(None)
    }

    /// A pull for a copy that isn't in S is part of its heal.
    fn note_heal(&mut self, image: ImageUuid, holder: SessionId) {
        let brick = self.own_brick();
        if self.fences.record(image).is_some_and(|record| !record.is_in_sync(brick)) {
            self.joins.pull_began(image, holder, self.pulls.report(image), self.now);
        }
    }

    /// Starts runs as far as the budget goes, oldest pull first.
    pub(super) fn start_pull_runs(&mut self) {
        let jobs: Vec<Token> = self
            .pulls
            .jobs
            .iter()
            .filter(|(_, job)| !job.waiting.is_empty())
            .map(|(token, _)| *token)
            .collect();
        for job in jobs {
            while let Some(blocks) = self.pulls.jobs[&job].waiting.front().copied() {
                let count = usize::from(blocks.count);
                if self.pulls.run_count >= RUNS_MAX || self.pulls.run_blocks + count > RUN_BLOCKS_MAX {
                    return;
                }
                self.pulls.run_count += 1;
                self.pulls.run_blocks += count;
                let token = self.new_token();
                let state = self.pulls.jobs.get_mut(&job).expect("listed above");
                state.waiting.pop_front();
                state.runs.insert(token);
                let target = Target { blocks, ..state.target };
                let run = PullRun {
                    job,
                    step: Step::Hash(None),
                    way: Way::Undecided,
                    hashes: Vec::new(),
                    crcs: Vec::new(),
                    bad: BlockSet::new(),
                    retries: 0,
                };
                self.start_task(token, target, Access::Exclusive, Work::PullRun(Box::new(run)));
            }
        }
    }

    pub(super) fn advance_pull_run(&mut self, token: Token) {
        let (image, run) = (self.tasks[&token].target.key.0, self.pull_run(token));
        let job = run.job;
        if self.pulls.jobs[&job].failed.is_some() {
            // It was aborted while this run read the page of its shard.
            return self.end_pull_run(token);
        }
        if let Err(status) = self.check_epoch(image, self.requests.open[&job].header.epoch) {
            self.abort_pull(job, status);
            return;
        }
        match self.pull_run(token).step {
            Step::Hash(_) => {
                if self.may_adopt(token) {
                    self.advance_adopt(token);
                } else {
                    self.advance_hash(token);
                }
            }
            Step::Link => self.advance_call(token),
            Step::Called => {}
            Step::Write { .. } => self.advance_pull_write(token),
        }
    }

    /// Whether the run needs nothing but the source's CRCs: the blocks can only have rotted, and nothing is known to be
    /// wrong with them. Asked anew until it has the page that takes them: a file that is being made may not come to be.
    fn may_adopt(&mut self, token: Token) -> bool {
        let Target { key, blocks, .. } = self.tasks[&token].target;
        let PullRun { job, way, .. } = *self.pull_run(token);
        let rewrite = self.syncs.must_be_rewritten(key);
        way != Way::Compare
            && self.requests.open[&job].header.flags.contains(Flags::HEAL)
            && self.files.exists_soon(key)
            && !rewrite.is_some_and(|rewrite| rewrite.intersects(blocks))
            && !self.bad_blocks.intersect(key, blocks)
    }

    /// Gets hold of the page that takes the source's CRCs. The shard is in the activity log, as before a write: the page
    /// has to be saved before it leaves that.
    fn advance_adopt(&mut self, token: Token) {
        if !self.task_activity(token) || !self.task_page_alone(token) {
            return;
        }
        let run = self.pull_run(token);
        (run.way, run.step) = (Way::Adopt, Step::Link);
        self.let_file_go(token);
        self.ready.push_back(token);
    }

    /// The network may take its time; the file's slot has others to serve.
    fn let_file_go(&mut self, token: Token) {
        if self.task(token).slot.take().is_some() {
            let key = self.tasks[&token].target.key;
            self.files.release(key);
        }
    }

    fn advance_hash(&mut self, token: Token) {
        let target = self.tasks[&token].target;
        self.pull_run(token).way = Way::Compare;
        if !self.files.exists_soon(target.key) {
            // No hashes: all of it reads as zeros.
            self.pull_run(token).step = Step::Link;
            self.ready.push_back(token);
            return;
        }
        if matches!(self.pull_run(token).step, Step::Hash(None)) {
            let Some(buffer) = self.task_buffer(token, usize::from(target.blocks.count)) else { return };
            self.pull_run(token).step = Step::Hash(Some(buffer));
        }
        let Some(slot) = self.task_file(token) else { return };
        if !self.task_page(token) {
            return;
        }
        let Step::Hash(buffer) = &mut self.pull_run(token).step else { unreachable!("dispatched by step") };
        let buffer = buffer.take().expect("allocated above");
        self.task_read(token, slot, buffer);
    }

    fn advance_call(&mut self, token: Token) {
        let target = self.tasks[&token].target;
        let run = self.pull_run(token);
        let (job, hashes) = (run.job, std::mem::take(&mut run.hashes));
        let pull = &self.pulls.jobs[&job].pull;
        let (source, address) = (pull.source, pull.address.clone());
        let incarnation = pull.incarnation;
        let epoch = self.requests.open[&job].header.epoch;
        let flags = if self.adopts(token) { Flags::HEAL } else { Flags::NONE };
        let body = PullRead { incarnation, hashes };
        let sent = self.call_source(token, target, (epoch, flags), (source, &address), &body);
        self.pull_run(token).hashes = body.hashes;
        match sent {
            Ok(Some(wire_bytes)) => {
                self.pull_run(token).step = Step::Called;
                self.pulls.count(job, 0, 0, wire_bytes);
            }
            Ok(None) => {}
            Err(status) => self.fail_task(token, status),
        }
    }

    /// The source's answer to a run; an error says what is wrong with it.
    pub(super) fn source_answered(&mut self, token: Token, frame: Frame) -> Result<(), &'static str> {
        let target = self.tasks[&token].target;
        let job = self.pull_run(token).job;
        let aux_bytes = if frame.aux.is_empty() { 0 } else { frame.aux.len() + 4 };
        let data_bytes = frame.data_bytes();
        self.pulls.count(job, 0, 0, (HEADER_SIZE + aux_bytes + data_bytes) as u64);
        if frame.header.status != Status::Ok {
            self.fail_task(token, source_status(frame.header.status));
            return Ok(());
        }
        let reply = PullReadReply::from_bytes(&frame.aux).map_err(|_| "a malformed answer to a pull")?;
        let count = reply.differing.count();
        let asked = usize::from(target.blocks.count);
        let fits = reply.differing.end().max(reply.unvouched.end()) <= asked;
        let adopts = self.adopts(token);
        if !fits || data_bytes != if adopts { 0 } else { count * BLOCK_SIZE } {
            return Err("an answer to a pull with other blocks than asked for");
        }
        if adopts {
            return self.adopt_crcs(token, &reply);
        }
        if !frame.data.as_ref().is_none_or(|data| block_crcs(data).eq(reply.crcs.iter().copied())) {
            let run = self.pull_run(token);
            run.retries += 1;
            run.step = Step::Link;
            if run.retries > RETRIES_MAX {
                self.fail_task(token, Status::Io);
            } else {
                self.ready.push_back(token);
            }
            return Ok(());
        }
        // A repair writes what is bad here and nothing else: the rest may differ, and is not its business.
        let repair = self.requests.open[&job].header.flags.contains(Flags::BAD);
        let bad = self.pull_run(token).bad.clone();
        let here = |run: BlockRange| BlockRange::new(target.blocks.first + run.first, run.count);
        let mut pieces: VecDeque<(BlockRange, usize)> = VecDeque::new();
        let mut place = 0;
        for run in reply.differing.runs(if repair { 1 } else { DATA_BLOCKS_MAX }) {
            let blocks = here(run);
            if !repair || bad.contains(blocks.first) {
                pieces.push_back((blocks, place));
            }
            place += usize::from(run.count);
        }
        let written: u32 = pieces.iter().map(|(blocks, _)| u32::from(blocks.count)).sum();
        self.pulls.count(job, u32::from(target.blocks.count), written, 0);
        let mut unequal = BlockSet::new();
        reply.unvouched.runs(DATA_BLOCKS_MAX).for_each(|run| unequal.insert_range(here(run)));
        let report = &mut self.pulls.jobs.get_mut(&job).expect("runs belong to a pull").report;
        report.unvouched.insert_all(&unequal);
        reply.differing.runs(DATA_BLOCKS_MAX).for_each(|run| unequal.insert_range(here(run)));
        let Header { epoch, generation, .. } = self.requests.open[&job].header;
        for (blocks, _) in &pieces {
            let any_new = self.dirty.insert(target.key, *blocks, epoch.session, generation);
            self.bits_set(target.key, any_new);
        }
        let crcs = std::mem::take(&mut self.pull_run(token).crcs);
        if !crcs.is_empty() {
            // What is equal to the good copy is as it should be, whatever was known of it.
            self.take_as_found(target.key, target.blocks, &crcs, &unequal);
        }
        self.pull_run(token).step = Step::Write { data: frame.data, pieces };
        self.ready.push_back(token);
        Ok(())
    }

    /// The source told the CRCs of its blocks: that is what ours have, unless they rotted.
    fn adopt_crcs(&mut self, token: Token, reply: &PullReadReply) -> Result<(), &'static str> {
        let Target { key, blocks, shard_bytes } = self.tasks[&token].target;
        let mut told = reply.differing.clone();
        told.insert_all(&reply.unvouched);
        let sum = reply.differing.count() + reply.unvouched.count();
        if [told.count(), sum, told.end()] != [usize::from(blocks.count); 3] {
            return Err("an answer to a pull without the CRCs that were asked for");
        }
        let mut crcs = reply.crcs.iter().copied();
        let (mut told, mut unvouched) = (Vec::new(), BlockSet::new());
        for (index, block) in (0..).zip(blocks.iter()) {
            if reply.unvouched.contains(index) {
                unvouched.insert_range(BlockRange::new(block, 1));
                told.push(0);
            } else {
                told.push(crcs.next().expect("one for each block that is told"));
            }
        }
        let mut unlike = self.witness.unlike(key, blocks, &told);
        unlike.remove_all(&unvouched);
        let run = self.pull_run(token);
        let job = run.job;
        if unlike.is_empty() {
            run.step = Step::Write { data: None, pieces: VecDeque::new() };
            let adopted = self.witness.adopt(key, blocks, &told, &unvouched);
            self.check_later(key, shard_bytes, &adopted);
            let job = self.pulls.jobs.get_mut(&job).expect("runs belong to a pull");
            job.report.unvouched.insert_all(&unvouched);
        } else {
            // We know of another write than the source does: one of both is wrong, and the blocks themselves tell.
            (run.way, run.step) = (Way::Compare, Step::Hash(None));
        }
        self.ready.push_back(token);
        Ok(())
    }

    fn advance_pull_write(&mut self, token: Token) {
        let Step::Write { pieces, .. } = &self.pull_run(token).step else {
            unreachable!("dispatched by step")
        };
        let Some((blocks, place)) = pieces.front().copied() else {
            self.end_pull_run(token);
            return;
        };
        if !self.task_activity(token) {
            return;
        }
        let Some(slot) = self.task_file(token) else { return };
        if !self.task_page(token) {
            return;
        }
        let Step::Write { data, .. } = &mut self.pull_run(token).step else {
            unreachable!("dispatched by step")
        };
        let mut buffer = data.take().expect("pieces are parts of data");
        buffer.select(place * BLOCK_SIZE, blocks.bytes());
        let offset_bytes = blocks.offset_bytes();
        self.task_disk(token, DiskRequest::Write { slot, offset_bytes, buffer });
    }

    pub(super) fn pull_io_done(&mut self, token: Token, result: Result<Buffer, Status>) {
        let job = self.pull_run(token).job;
        if self.pull_run(token).is_hashing() {
            self.blocks_hashed(token, result.ok());
        } else if let Err(status) = self.piece_written(token, result) {
            return self.fail_task(token, status);
        }
        if self.pulls.jobs[&job].failed.is_some() {
            self.end_pull_run(token);
        } else {
            self.ready.push_back(token);
        }
    }

    /// What is here was read. Blocks that can't be are fetched like those that differ.
    fn blocks_hashed(&mut self, token: Token, buffer: Option<Buffer>) {
        let target = self.tasks[&token].target;
        let (key, blocks) = (target.key, target.blocks);
        let job = self.pull_run(token).job;
        let seed = self.requests.open[&job].header.epoch.counter;
        let crcs: Vec<u32> = buffer.as_ref().map_or_else(Vec::new, |buffer| block_crcs(buffer).collect());
        let bad = match &buffer {
            Some(_) => self.witness.unlike(key, blocks, &crcs),
            None => blocks.into(),
        };
        self.note_bad(key, &bad);
        // A block whose sync failed may read well and be lost all the same: it has to be written again (rule I7).
        let mut rewrite = self.syncs.must_be_rewritten(key).cloned().unwrap_or_default();
        rewrite.insert_all(&bad);
        let hash = |(index, block)| {
            let place = index * BLOCK_SIZE;
            let hash = match &buffer {
                Some(buffer) => block_hash(&buffer[place..][..BLOCK_SIZE], seed),
                None => 0,
            };
            // The source must not find it equal.
            if rewrite.contains(block) { !hash } else { hash }
        };
        let hashes = blocks.iter().enumerate().map(hash).collect();
        let run = self.pull_run(token);
        (run.hashes, run.crcs, run.bad) = (hashes, crcs, bad);
        run.step = Step::Link;
        self.let_file_go(token);
    }

    fn piece_written(&mut self, token: Token, result: Result<Buffer, Status>) -> Result<(), Status> {
        let key = self.tasks[&token].target.key;
        let run = self.pull_run(token);
        let Step::Write { data, pieces } = &mut run.step else { unreachable!("the caller looked") };
        let (blocks, _) = pieces.pop_front().expect("a piece was written");
        let buffer = match result {
            Ok(buffer) => buffer,
            Err(status) => {
                self.blocks_torn(key, blocks);
                return Err(status);
            }
        };
        let crcs: Vec<u32> = block_crcs(&buffer).collect();
        *data = Some(buffer);
        let repaired = run.bad.count_in(blocks);
        self.blocks_written(key, blocks, crcs);
        self.witness.count_repaired(key.0, repaired);
        Ok(())
    }

    /// A run ended well, or because its pull was aborted.
    fn end_pull_run(&mut self, token: Token) {
        let job = self.pull_run(token).job;
        self.end_task(token);
        self.forget_run(job, token);
        self.finish_pull(job);
    }

    /// A run failed; its task has ended.
    pub(super) fn pull_run_failed(&mut self, job: Token, token: Token, status: Status) {
        self.forget_run(job, token);
        self.abort_pull(job, status);
    }

    /// Stops a pull: at once where no disk operation is in flight, else after it.
    pub(super) fn abort_pull(&mut self, token: Token, status: Status) {
        let Some(job) = self.pulls.jobs.get_mut(&token) else { return };
        job.failed.get_or_insert(status);
        job.waiting.clear();
        for run in job.runs.clone() {
            if !self.tasks[&run].in_flight {
                self.end_task(run);
                self.forget_run(token, run);
            }
        }
        self.finish_pull(token);
    }

    /// Stops all pulls.
    pub(super) fn abort_all_pulls(&mut self, status: Status) {
        let jobs: Vec<Token> = self.pulls.jobs.keys().copied().collect();
        jobs.into_iter().for_each(|job| self.abort_pull(job, status));
    }

    fn forget_run(&mut self, job: Token, token: Token) {
        self.links.forget_run(token);
        let job = self.pulls.jobs.get_mut(&job).expect("runs belong to a pull");
        assert!(job.runs.remove(&token), "a run ends once");
    }

    /// Gives an ended run's budget back.
    pub(super) fn pull_run_ended(&mut self, blocks: BlockRange) {
        self.pulls.run_count -= 1;
        self.pulls.run_blocks -= usize::from(blocks.count);
    }

    /// Answers a pull that has no run left.
    fn finish_pull(&mut self, token: Token) {
        let Some(job) = self.pulls.jobs.get(&token) else { return };
        if !job.runs.is_empty() || !job.waiting.is_empty() {
            return;
        }
        let job = self.pulls.jobs.remove(&token).expect("found above");
        let reply = match job.failed {
            Some(status) => status.into(),
            None => Reply::body(job.report.to_bytes()),
        };
        self.answer(token, reply);
    }

    fn adopts(&mut self, token: Token) -> bool {
        self.pull_run(token).way == Way::Adopt
    }

    fn pull_run(&mut self, token: Token) -> &mut PullRun {
        let Work::PullRun(run) = &mut self.task(token).work else { unreachable!("the task is a pull's") };
        run
    }
}

/// What the holder is told when the source refuses.
fn source_status(status: Status) -> Status {
    match status {
        Status::StaleEpoch | Status::WrongIncarnation | Status::NotInSync | Status::Io | Status::Corrupt => {
            status
        }
        // It hasn't accepted the record that makes it a source.
        Status::AheadEpoch => Status::NotInSync,
        Status::Busy | Status::ShuttingDown => Status::SourceUnreachable,
        _ => Status::Io,
    }
}
