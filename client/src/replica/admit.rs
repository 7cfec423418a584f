//! Operations: what the user asked for and what heal needs, ordered behind others on the same blocks (I13).
//!
//! An operation claims its blocks when it arrives and keeps the claim until every brick that may still
//! apply it has answered or was drained. A request that failed to the user because nothing could be
//! reached keeps its claim, too: its outcome is unknown, and it is carried to its end when bricks return.

use brick_wire::overlap::Access;
use brick_wire::{BlockRange, ShardIndex, Timestamp};
use rustc_hash::FxHashMap;

use super::Group;
use super::flush::FlushOperation;
use super::group::Phase;
use super::heal::PullOperation;
use super::interface::{Action, GroupError, NoQuorum, Output, Request, UserRequest};
use super::judge::JudgeOperation;
use super::read::ReadOperation;
use super::report::RemoveOperation;
use super::vouch::CopyOperation;
use super::write::{Patch, WriteOperation};

/// Names an operation; grows, never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct OperationKey(pub(super) u64);

/// What is under way. Each answer looks for its operation several times, and few ask for their order.
pub(super) type Operations = FxHashMap<OperationKey, Operation>;

/// Something under way.
#[derive(Debug)]
pub(super) struct Operation {
    /// Who waits for it; nobody for heal's and for what already failed to its user.
    pub(super) user: Option<UserRequest>,
    pub(super) kind: Kind,
    pub(super) shard: ShardIndex,
    pub(super) blocks: BlockRange,
    /// It has its claim (or needs none).
    pub(super) started: bool,
    begun_at: Timestamp,
}

#[derive(Debug)]
pub(super) enum Kind {
    Read(ReadOperation),
    Modify(ReadOperation, Patch),
    Write(WriteOperation),
    Flush(FlushOperation),
    Pull(PullOperation),
    Copy(CopyOperation),
    Judge(JudgeOperation),
    Remove(RemoveOperation),
}

impl Group {
    /// The user wants something. Answered by [`Action::Complete`].
    pub fn handle_request(&mut self, now: Timestamp, request: UserRequest, wanted: Request) {
        self.now = now;
        if let Some(error) = self.refusal() {
            self.actions.push_back(Action::Complete { request, result: Err(error) });
            return;
        }
        let none = (ShardIndex(0), BlockRange::EMPTY);
        let (kind, (shard, blocks)) = match wanted {
            Request::Read { shard, blocks } => (Kind::Read(ReadOperation::default()), (shard, blocks)),
            Request::Write { shard, blocks, data, fua } => {
                (Kind::Write(WriteOperation::new(data, fua, blocks)), (shard, blocks))
            }
            Request::Modify { shard, block, offset_bytes, data, fua } => {
                let patch = Patch { offset_bytes: usize::from(offset_bytes), data, fua };
                (Kind::Modify(ReadOperation::default(), patch), (shard, BlockRange::new(block, 1)))
            }
            Request::Flush => (Kind::Flush(FlushOperation::default()), none),
            Request::Remove => (Kind::Remove(RemoveOperation::default()), none),
        };
        assert!(blocks.end() <= self.config.shard_blocks(), "requests lie within a shard");
        self.admit(Some(request), kind, shard, blocks);
        self.progress();
    }

    /// Why a new request can't even wait.
    fn refusal(&self) -> Option<GroupError> {
        match &self.phase {
            Phase::Ended(error) => return Some(error.clone()),
            Phase::Closing => return Some(GroupError::Closed),
            _ => {}
        }
        let stalled_since = self.stalled_since?;
        let patience = match self.config.no_quorum {
            NoQuorum::Suspend => self.config.io_timeout,
            NoQuorum::Error => return Some(self.stall_error()),
        };
        (self.now.since(stalled_since) >= patience).then(|| self.stall_error())
    }

    /// Claims the blocks and starts the operation now or when its turn comes.
    pub(super) fn admit(
        &mut self,
        user: Option<UserRequest>,
        kind: Kind,
        shard: ShardIndex,
        blocks: BlockRange,
    ) -> OperationKey {
        let key = OperationKey(self.operation_next);
        self.operation_next += 1;
        let access = match &kind {
            // A pull changes nothing that a reader of S can see, nor does an arbiter, but no write may overtake them.
            Kind::Read(_) | Kind::Pull(_) | Kind::Copy(_) | Kind::Judge(_) => Some(Access::Shared),
            Kind::Write(_) | Kind::Modify(..) => Some(Access::Exclusive),
            Kind::Flush(_) | Kind::Remove(_) => None,
        };
        let started = access.is_none_or(|access| self.overlap.claim(shard, key, blocks, access));
        self.operations.insert(key, Operation { user, kind, shard, blocks, started, begun_at: self.now });
        if started {
            self.drive(key);
        }
        key
    }

    /// Takes an operation as far as it gets. Does nothing twice, so it is called whenever something
    /// changed that it may have waited for.
    pub(super) fn drive(&mut self, key: OperationKey) {
        let Some(operation) = self.operations.get(&key) else { return };
        if !operation.started {
            return;
        }
        match operation.kind {
            Kind::Read(_) | Kind::Modify(..) => self.drive_read(key),
            Kind::Write(_) => self.drive_write(key),
            Kind::Flush(_) => self.drive_flush(key),
            Kind::Pull(_) => self.drive_pull(key),
            Kind::Copy(_) => self.drive_copy(key),
            Kind::Judge(_) => self.drive_judge(key),
            Kind::Remove(_) => self.drive_remove(key),
        }
    }

    /// Drives everything, oldest first: links or epochs changed.
    pub(super) fn drive_all(&mut self) {
        for key in self.operation_keys() {
            self.drive(key);
        }
    }

    /// What is under way, oldest first.
    pub(super) fn operation_keys(&self) -> Vec<OperationKey> {
        self.operations_where(|_| true)
    }

    /// What is under way and of such a kind, oldest first.
    pub(super) fn operations_where(&self, wanted: impl Fn(&Kind) -> bool) -> Vec<OperationKey> {
        let operations = self.operations.iter().filter(|(_, operation)| wanted(&operation.kind));
        let mut keys: Vec<OperationKey> = operations.map(|(key, _)| *key).collect();
        keys.sort_unstable();
        keys
    }

    /// Whether data requests may go out now.
    pub(super) fn may_send(&self) -> bool {
        matches!(self.phase, Phase::Serving | Phase::Closing)
            && self.change.is_none()
            && self.contested.is_none()
            && self.now >= self.serve_not_before
    }

    /// Ends an operation, gives its claim back, and starts who waited for it.
    pub(super) fn finish(&mut self, key: OperationKey, result: Result<Output, GroupError>) {
        let operation = self.operations.remove(&key).expect("finished operations exist");
        if let Some(request) = operation.user {
            self.actions.push_back(Action::Complete { request, result });
            // Not flushes: what they take is the disk's affair.
            if operation.blocks.count > 0 {
                self.pace.note_request(self.now, self.now.since(operation.begun_at));
            }
        }
        if operation.blocks.count > 0 {
            for next in self.overlap.release(operation.shard, key) {
                if let Some(waiting) = self.operations.get_mut(&next) {
                    waiting.started = true;
                }
                self.drive(next);
            }
        }
    }

    /// Whether an operation waits for acknowledgements that only bricks of S can give.
    pub(super) fn somebody_waits(&self) -> bool {
        matches!(self.phase, Phase::Recovering)
            || self.operations.values().any(|operation| {
                operation.started && matches!(operation.kind, Kind::Write(_) | Kind::Flush(_))
            })
    }

    pub(super) fn has_writes(&self) -> bool {
        self.operations.values().any(|operation| matches!(operation.kind, Kind::Write(_)))
    }

    /// Notes since when requests can't be served, and fails them when the I/O timeout has passed.
    pub(super) fn progress_stall(&mut self) {
        if !matches!(self.phase, Phase::Serving | Phase::Closing) {
            return;
        }
        let in_sync = self.in_sync();
        let good = in_sync.intersection(self.linked()).intersection(self.trusted());
        let served = self.config.is_quorum(self.linked()) && !good.difference(self.dropping).is_empty();
        if served {
            self.stalled_since = None;
            return;
        }
        let since = *self.stalled_since.get_or_insert(self.now);
        let patience = match self.config.no_quorum {
            NoQuorum::Suspend => self.config.io_timeout,
            NoQuorum::Error => std::time::Duration::ZERO,
        };
        if self.now.since(since) < patience {
            return;
        }
        let error = self.stall_error();
        if matches!(self.phase, Phase::Closing) {
            return self.end(error);
        }
        for key in self.operation_keys() {
            self.fail_user(key, &error);
        }
    }

    /// Fails an operation to its user. What no brick can have seen is forgotten as well.
    fn fail_user(&mut self, key: OperationKey, error: &GroupError) {
        let Some(operation) = self.operations.get_mut(&key) else { return };
        let Some(request) = operation.user.take() else { return };
        self.actions.push_back(Action::Complete { request, result: Err(error.clone()) });
        let touched = matches!(&operation.kind, Kind::Write(write) if write.was_sent());
        if !touched {
            self.finish(key, Err(error.clone()));
        }
    }

    /// Why requests wait.
    pub(super) fn stall_error(&self) -> GroupError {
        match &self.record {
            Some(record) if self.config.is_quorum(self.linked()) => {
                GroupError::NoGoodCopy { in_sync: self.addresses(record.in_sync) }
            }
            _ => self.no_quorum_error(),
        }
    }
}
