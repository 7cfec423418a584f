//! Core 0's questions to all cores, and what to go on with when every core has acknowledged.
//!
//! Core 0 is asked like the others, without a detour through the shell. Messages are never lost, so there
//! is no retry; a core that drains slowly delays only what waits for it.

use std::collections::{BTreeMap, BTreeSet};

use brick_wire::register::RegisterKey;
use brick_wire::{CoreIndex, SessionId};

use super::{Action, BroadcastId, CoreMessage, Engine};

/// What waits for the acknowledgements.
#[derive(Clone, Debug)]
pub(super) enum Waiting {
    /// The connections of a session that said hello.
    Admission(SessionId),
    /// The change in progress of a register.
    Register(RegisterKey),
}

/// Broadcasts not yet acknowledged by all.
#[derive(Debug, Default)]
pub(super) struct Broadcasts {
    next: u64,
    running: BTreeMap<BroadcastId, (BTreeSet<CoreIndex>, Waiting)>,
}

impl Engine {
    /// The name that the next broadcast will get.
    pub(super) fn next_broadcast(&self) -> BroadcastId {
        BroadcastId(self.broadcasts.next)
    }

    /// Sends `message` (made from the broadcast's name) to every core. May complete before it returns.
    pub(super) fn broadcast(&mut self, waiting: Waiting, message: impl Fn(BroadcastId) -> CoreMessage) {
        assert!(self.is_core_zero(), "core 0 alone coordinates");
        let broadcast = BroadcastId(self.broadcasts.next);
        self.broadcasts.next += 1;
        let cores = (0..self.config.cores).map(CoreIndex).collect();
        self.broadcasts.running.insert(broadcast, (cores, waiting));
        self.tell_others(|| message(broadcast));
        self.handle_core_message(message(broadcast));
    }

    /// Sends a message that nobody acknowledges to the other cores.
    pub(super) fn tell_others(&mut self, message: impl Fn() -> CoreMessage) {
        for to in (1..self.config.cores).map(CoreIndex) {
            self.actions.push_back(Action::Core { to, message: message() });
        }
    }

    pub(super) fn handle_acknowledge(&mut self, broadcast: BroadcastId, core: CoreIndex) {
        let Some((missing, _)) = self.broadcasts.running.get_mut(&broadcast) else {
            // Given up at shutdown.
            return;
        };
        assert!(missing.remove(&core), "a core acknowledges once");
        if !missing.is_empty() {
            return;
        }
        let (_, waiting) = self.broadcasts.running.remove(&broadcast).expect("found above");
        match waiting {
            Waiting::Admission(session) => self.session_dropped(session, broadcast),
            Waiting::Register(key) => self.register_broadcast_done(&key),
        }
    }

    /// Forgets what waits for cores that may have stopped already.
    pub(super) fn forget_broadcasts(&mut self) {
        self.broadcasts.running.clear();
    }
}
