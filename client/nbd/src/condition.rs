//! Waiting for shared single-threaded state to change: the one wake-up primitive of this crate.
//!
//! Whoever changes the state calls [`Condition::notify`]; every waiter then looks again by itself. So
//! there is no wake-up to lose or to hand to the wrong waiter.
//!
//! Invariant: the list holds exactly the waits in progress. A wait that is dropped (the losing branch
//! of a select, once per receive) leaves the list; comparing wakers instead is not enough, because the
//! runtime's wakers of one task don't compare equal.

use std::cell::RefCell;
use std::future::poll_fn;
use std::task::{Poll, Waker};

use slab::Slab;

/// Tasks waiting for something about the state beside it.
#[derive(Debug, Default)]
pub(crate) struct Condition {
    /// None: woken, and not polled since.
    waiting: RefCell<Slab<Option<Waker>>>,
}

impl Condition {
    /// Wakes every waiter.
    pub(crate) fn notify(&self) {
        // Taken out first: a waker may run code that waits again.
        let woken: Vec<Waker> =
            self.waiting.borrow_mut().iter_mut().filter_map(|(_, waker)| waker.take()).collect();
        woken.into_iter().for_each(Waker::wake);
    }

    /// Completes with the first `Some` that `attempt` returns; it is tried now and at every notice.
    pub(crate) async fn until<T>(&self, mut attempt: impl FnMut() -> Option<T>) -> T {
        if let Some(value) = attempt() {
            return value;
        }
        let place = Place { condition: self, key: self.waiting.borrow_mut().insert(None) };
        poll_fn(|context| match attempt() {
            Some(value) => Poll::Ready(value),
            None => {
                self.waiting.borrow_mut()[place.key] = Some(context.waker().clone());
                Poll::Pending
            }
        })
        .await
    }
}

/// One wait in progress.
struct Place<'a> {
    condition: &'a Condition,
    key: usize,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.condition.waiting.borrow_mut().remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::pin::pin;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Context, Wake};

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn every_waiter_looks_again() {
        let (condition, ready) = (Condition::default(), Cell::new(false));
        let count = Arc::new(Count::default());
        let waker = Waker::from(Arc::clone(&count));
        let mut context = Context::from_waker(&waker);
        let mut first = pin!(condition.until(|| ready.get().then_some(1)));
        let mut second = pin!(condition.until(|| ready.get().then_some(2)));
        assert!(first.as_mut().poll(&mut context).is_pending());
        assert!(second.as_mut().poll(&mut context).is_pending());
        condition.notify();
        condition.notify();
        assert_eq!(count.0.load(Ordering::Relaxed), 2, "each once until polled again");
        assert!(first.as_mut().poll(&mut context).is_pending(), "nothing changed yet");
        ready.set(true);
        condition.notify();
        assert_eq!(count.0.load(Ordering::Relaxed), 3);
        assert_eq!(first.as_mut().poll(&mut context), Poll::Ready(1));
        assert_eq!(second.as_mut().poll(&mut context), Poll::Ready(2));
    }

    #[test]
    fn a_dropped_wait_leaves_nothing_behind() {
        let condition = Condition::default();
        for _ in 0..100 {
            let waker = Waker::from(Arc::new(Count::default()));
            let mut wait = Box::pin(condition.until(|| None::<()>));
            assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        assert!(condition.waiting.borrow().is_empty());
    }
}
