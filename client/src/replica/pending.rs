//! Requests sent to bricks and not answered yet.
//!
//! Ids grow and are never reused, so the lowest id of a brick is its oldest request: that is the one whose
//! age decides that the brick has failed.

use std::collections::BTreeMap;

use brick_wire::limits::GROUP_BRICKS_MAX;
use brick_wire::{BlockRange, BrickIndex, CoreIndex, Epoch, Flags, RequestId, ShardIndex, Timestamp};

use super::admit::OperationKey;
use super::balance::ReadShare;

/// What a reply will be about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    /// The read of an epoch register before the vote (rule R4).
    PreVote,
    /// A prepare at this ballot.
    Prepare(Epoch),
    /// An accept at this ballot.
    Accept(Epoch),
    /// Brings a brick that missed it to the decided epoch: prepare.
    CatchUpPrepare(Epoch),
    /// Brings a brick that missed it to the decided epoch: accept.
    CatchUpAccept(Epoch),
    /// Part of a write.
    Write(OperationKey),
    /// An arbiter's part of these writes.
    DummyWrites(Vec<OperationKey>),
    /// A write sent to a brick outside S.
    Follow(OperationKey, ShardIndex, BlockRange),
    /// A read, and what it costs.
    Read(OperationKey, ReadShare),
    /// One core's share of a flush.
    Flush(OperationKey),
    /// One core's share of the flush before a join.
    JoinFlush,
    /// Dirty bits to drop; the answer changes nothing.
    Clean,
    /// A page of a dirty map or shard list, for the heal of this brick.
    Gather {
        /// Who is to be healed.
        target: BrickIndex,
        /// Whether the page is of a shard list.
        shards: bool,
        /// For which attempt.
        attempt: u32,
    },
    /// A page of the shard list for the existence cache, of this attempt.
    Existence(u32),
    /// A pull.
    Pull(OperationKey),
    /// CRCs for an arbiter, from a good copy.
    CopyRead(OperationKey),
    /// CRCs for an arbiter, to it.
    CopyWrite(OperationKey),
    /// A lease renewal.
    Renew,
    /// The list of this core's bad blocks, or of those that it was told to suspect.
    BadRead(CoreIndex, Flags),
    /// What a brick knows of blocks in which copies differ.
    Judge(OperationKey),
    /// One core's share of an image's removal.
    Remove(OperationKey),
    /// The brick was told that it is blank.
    DeclareBlank,
}

#[derive(Clone, Debug)]
pub(super) struct Pending {
    pub(super) purpose: Purpose,
    pub(super) sent_at: Timestamp,
}

/// The table of unanswered requests.
#[derive(Debug)]
pub(super) struct PendingTable {
    next: u64,
    bricks: Vec<BTreeMap<RequestId, Pending>>,
}

impl PendingTable {
    pub(super) fn new() -> PendingTable {
        PendingTable { next: 1, bricks: vec![BTreeMap::new(); GROUP_BRICKS_MAX] }
    }

    pub(super) fn insert(&mut self, brick: BrickIndex, purpose: Purpose, now: Timestamp) -> RequestId {
        let request = RequestId(self.next);
        self.next += 1;
        self.bricks[usize::from(brick.0)].insert(request, Pending { purpose, sent_at: now });
        request
    }

    /// The id that the next request gets.
    pub(super) fn next(&self) -> RequestId {
        RequestId(self.next)
    }

    pub(super) fn remove(&mut self, brick: BrickIndex, request: RequestId) -> Option<Pending> {
        self.bricks[usize::from(brick.0)].remove(&request)
    }

    /// Forgets everything in flight to `brick`, oldest first.
    pub(super) fn drain(&mut self, brick: BrickIndex) -> Vec<Purpose> {
        let pending = std::mem::take(&mut self.bricks[usize::from(brick.0)]);
        pending.into_values().map(|pending| pending.purpose).collect()
    }

    /// When the oldest request to `brick` was sent whose answer is a matter of moments: the removal of a large
    /// image isn't.
    pub(super) fn oldest(&self, brick: BrickIndex) -> Option<Timestamp> {
        let mut pending = self.bricks[usize::from(brick.0)].values();
        let prompt = pending.find(|pending| !matches!(pending.purpose, Purpose::Remove(_)));
        prompt.map(|pending| pending.sent_at)
    }

    /// Whether a request to `brick` fits.
    pub(super) fn any(&self, brick: BrickIndex, matches: impl Fn(&Purpose) -> bool) -> bool {
        self.bricks[usize::from(brick.0)].values().any(|pending| matches(&pending.purpose))
    }
}
