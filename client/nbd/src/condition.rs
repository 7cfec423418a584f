//! Waiting for shared single-threaded state to change: the one wake-up primitive of this crate.
//!
//! Whoever changes the state calls [`Condition::notify`]; every waiter then looks again by itself. So
//! there is no wake-up to lose or to hand to the wrong waiter, and a waiter that was dropped costs one
//! spurious look.

use std::cell::RefCell;
use std::future::poll_fn;
use std::task::{Poll, Waker};

/// Tasks waiting for something about the state beside it.
#[derive(Debug, Default)]
pub(crate) struct Condition {
    waiting: RefCell<Vec<Waker>>,
}

impl Condition {
    /// Wakes every waiter.
    pub(crate) fn notify(&self) {
        // Taken out first: a waker may run code that waits again.
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Completes with the first `Some` that `attempt` returns; it is tried now and at every notice.
    pub(crate) async fn until<T>(&self, mut attempt: impl FnMut() -> Option<T>) -> T {
        poll_fn(|context| {
            if let Some(value) = attempt() {
                return Poll::Ready(value);
            }
            let mut waiting = self.waiting.borrow_mut();
            // A task that polls again under select must not be listed twice.
            if !waiting.iter().any(|waker| waker.will_wake(context.waker())) {
                waiting.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}
