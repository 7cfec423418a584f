//! A clean stop: refuse what is new, finish what is issued, sync what is written, save the dirty maps, empty
//! the activity log: with its bits saved, no shard has to be in it.
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
        let idle = self.requests.open.is_empty() && self.operations.is_empty();
        if self.shutdown == Shutdown::Draining && idle {
            let token = self.new_token();
            self.shutdown = Shutdown::Syncing(token);
            self.sync_everything(token);
        }
    }

    pub(super) fn everything_synced(&mut self, good: bool) {
        let clean = good && !self.syncs.is_any_failed() && !self.registers.is_vote_lost();
        let lanes = self.own_lanes();
        self.save_progress(lanes.len(), clean);
        for lane in lanes {
            self.save_dirty(lane);
        }
    }

    pub(super) fn dirty_saved(&mut self, lane: LaneIndex, good: bool) {
        if good {
            let entries = Vec::new();
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
