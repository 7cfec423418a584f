//! `thinktime`: after so many requests, what is in flight completes, and then nothing starts for a while.

use crate::job::Think;

#[derive(Clone, Debug)]
pub(super) struct Pauses {
    think: Option<Think>,
    /// Requests until the next pause.
    left: u64,
    /// When the last request completed.
    completed_ns: u64,
}

/// What keeps a job from starting something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pause {
    /// Nothing.
    None,
    /// A completion has to come first.
    Drain,
    /// Nothing starts before that time.
    Until(u64),
}

impl Pauses {
    pub fn new(think: Option<Think>) -> Pauses {
        Pauses { think, left: think.map_or(0, |think| think.requests), completed_ns: 0 }
    }

    pub fn poll(&mut self, in_flight: u32, now_ns: u64) -> Pause {
        let Some(think) = self.think else { return Pause::None };
        if self.left > 0 {
            return Pause::None;
        }
        if in_flight > 0 {
            return Pause::Drain;
        }
        let until_ns = self.completed_ns.saturating_add(super::nanoseconds(think.time));
        if now_ns < until_ns {
            return Pause::Until(until_ns);
        }
        self.left = think.requests;
        Pause::None
    }

    /// A read or write starts.
    pub fn start(&mut self) {
        self.left = self.left.saturating_sub(1);
    }

    /// A request completed.
    pub fn complete(&mut self, now_ns: u64) {
        self.completed_ns = self.completed_ns.max(now_ns);
    }
}
