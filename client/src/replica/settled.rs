//! The usual case: every brick is there and as good as the others, and nothing is under way but requests.
//!
//! Then no step of [`Group::progress`] has anything to do before the next timer, and asking each of them after every
//! answer would be half of what a request costs. Whoever gives a step something to react to adds it here: what this
//! misses waits for the next timer. The simulator takes the steps all the same, in every other session, and wants to see
//! nothing happen.

use brick_wire::{BrickIndex, Epoch, Role, Timestamp};

use super::Group;
use super::bricks::Brick;
use super::group::Phase;

impl Group {
    /// For the simulator, between two events: whether there is really nothing to do if it is said so. Takes the steps
    /// that were left out.
    pub fn has_nothing_left_to_do(&mut self) -> bool {
        if !self.may_rest() {
            return true;
        }
        let before = (self.actions.len(), self.operation_next, self.pending.next());
        self.take_steps();
        self.is_settled() && before == (self.actions.len(), self.operation_next, self.pending.next())
    }

    /// Whether nothing but time, or another event, gives `progress` something to do.
    pub(super) fn is_settled(&self) -> bool {
        let Some(record) = &self.record else { return false };
        matches!(self.phase, Phase::Serving)
            && self.change.is_none()
            && self.contested.is_none()
            && self.joining.is_none()
            && self.dropping.is_empty()
            && self.stalled_since.is_none()
            && self.existing.is_some()
            && self.suspect.is_empty()
            && self.suspicions.is_empty()
            && self.repairs.is_empty()
            && self.parked_reads.is_empty()
            && self.bricks.iter().zip(&self.config.bricks).enumerate().all(|(index, (brick, config))| {
                let counts = match config.role {
                    Role::Data => record.in_sync.contains(BrickIndex(index as u8)),
                    Role::Arbiter => brick.vouch.is_complete(),
                };
                counts && brick.is_settled(record.epoch)
            })
    }

    /// Whether the steps of `progress` have nothing to do now.
    pub(super) fn may_rest(&self) -> bool {
        self.is_settled() && self.now < self.settled_until()
    }

    /// When a settled group has something to do by itself.
    fn settled_until(&self) -> Timestamp {
        let unanswered =
            (0..self.bricks.len()).filter_map(|index| self.pending.oldest(BrickIndex(index as u8)));
        let silent_at = unanswered.min().map(|at| at + self.silence_max());
        silent_at.into_iter().chain(self.flush.clean_at()).fold(self.renew_at, Timestamp::min)
    }
}

impl Brick {
    fn is_settled(&self, epoch: Epoch) -> bool {
        self.link.is_some_and(|link| !link.blank)
            && self.accepted == epoch
            && !self.lost_memory
            && self.heal.is_none()
            && self.vouch.catching_up.is_none()
    }
}
