//! A clean stop: refuse what is new, finish what is issued, save the pages of CRCs, sync what is written, save the
//! dirty maps, empty the activity log: with its bits and its page saved, no shard has to be in it.
//!
//! Cores stop each on its own and in any order, so nothing here waits for another core: core 0 answers the
//! register changes that do. A stop counts as clean only if a start may trust all that it finds.

use super::{Action, DiskRequest, Engine, Purpose, Token};
use brick_wire::{LaneIndex, Status};

/// How far the stop has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shutdown {
    Serving,
    /// Disk operations and requests are still open.
    Draining,
    /// The pages of CRCs are being saved.
    Paging,
    /// The token waits for the syncs.
    Syncing(Token),
    Saving {
        outstanding: usize,
        clean: bool,
    },
    Stopped,
}

impl Engine {
    /// Whether new requests are refused.
    pub(super) fn is_stopping(&self) -> bool {
        self.shutdown != Shutdown::Serving
    }

    /// Whether a sync wait is the shutdown's.
    pub(super) fn is_shutdown_token(&self, token: Token) -> bool {
        self.shutdown == Shutdown::Syncing(token)
    }

    /// Whether the maps are saved for the last time.
    pub(super) fn is_saving(&self) -> bool {
        matches!(self.shutdown, Shutdown::Saving { .. })
    }

    pub(super) fn begin_shutdown(&mut self) {
        if self.is_stopping() {
            return;
        }
        self.shutdown = Shutdown::Draining;
        self.refuse_pending_hellos();
        self.abandon_changes(Status::ShuttingDown);
        self.forget_broadcasts();
        self.abort_all_pulls(Status::ShuttingDown);
        self.close_links();
    }

    /// Starts the syncs once nothing else is going on.
    pub(super) fn advance_shutdown(&mut self) {
        let idle = self.requests.open.is_empty() && self.operations.is_empty() && self.tasks.is_empty();
        if self.shutdown == Shutdown::Draining && idle {
            self.shutdown = Shutdown::Paging;
            self.save_all_pages();
        }
        if self.shutdown == Shutdown::Paging && self.tasks.is_empty() {
            let token = self.new_token();
            self.shutdown = Shutdown::Syncing(token);
            self.sync_everything(token);
        }
    }

    fn save_all_pages(&mut self) {
        for lane in self.own_lanes() {
            for shard in self.pageless_shards(lane) {
                self.save_page((shard.image, shard.shard), 1 << shard.shard_shift);
            }
        }
    }

    pub(super) fn everything_synced(&mut self, good: bool) {
        let lanes = self.own_lanes();
        let has_pages = lanes.iter().all(|lane| self.pageless_shards(*lane).is_empty());
        let clean = good && has_pages && !self.syncs.is_any_failed() && !self.registers.is_vote_lost();
        self.save_progress(lanes.len(), clean);
        for lane in lanes {
            self.save_dirty(lane);
        }
    }

    pub(super) fn dirty_saved(&mut self, lane: LaneIndex, good: bool) {
        if good {
            // Where a page couldn't be saved, the next start has to know.
            let entries = self.pageless_shards(lane);
            self.disk(Purpose::Activity(lane), DiskRequest::WriteActivity { lane, entries });
        } else {
            self.lane_stopped(false);
        }
    }

    /// A lane has saved what it had, or has failed to.
    pub(super) fn lane_stopped(&mut self, good: bool) {
        let Shutdown::Saving { outstanding, clean } = self.shutdown else {
            panic!("lanes stop at shutdown");
        };
        self.save_progress(outstanding - 1, clean && good);
    }

    fn save_progress(&mut self, outstanding: usize, clean: bool) {
        self.shutdown = Shutdown::Saving { outstanding, clean };
        if outstanding == 0 {
            self.shutdown = Shutdown::Stopped;
            self.actions.push_back(Action::Stopped { clean });
        }
    }
}
