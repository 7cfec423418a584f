//! One task per request in flight, all on one thread: how engines on a runtime work off a meter.
//!
//! A task that has nothing to start waits for its *turn*. Who has the turn sleeps until the next request is
//! due, or until something completes; the others wait behind it, so that a timer wakes one task and not all.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::{Mutex, Notify};

use crate::load::{Next, Started};
use crate::meter::Meter;

/// What the tasks of a job have in common. Never borrowed across an await.
#[derive(Debug)]
pub(super) struct Crew<E> {
    meter: RefCell<Meter>,
    failure: RefCell<Option<E>>,
    turn: Mutex<()>,
    /// Whether who has the turn waits for a completion.
    waits: Cell<bool>,
    completed: Notify,
}

impl<E> Crew<E> {
    pub fn new(meter: Meter) -> Rc<Crew<E>> {
        Rc::new(Crew {
            meter: RefCell::new(meter),
            failure: RefCell::new(None),
            turn: Mutex::const_new(()),
            waits: Cell::new(false),
            completed: Notify::const_new(),
        })
    }

    /// The next request of a task, to be started at once; `None` when the task is to end.
    pub async fn next(&self, sleep: impl AsyncFn(Duration) -> Result<(), E>) -> Option<Started> {
        match self.poll() {
            Next::Start(started) => return Some(started),
            Next::Over => return None,
            Next::At(_) | Next::AfterCompletion => {}
        }
        let _turn = self.turn.lock().await;
        loop {
            match self.poll() {
                Next::Start(started) => return Some(started),
                Next::Over => return None,
                Next::At(at_ns) => {
                    let time = self.meter.borrow().time_until(at_ns);
                    if let Err(error) = sleep(time).await {
                        self.fail(error);
                    }
                }
                Next::AfterCompletion => {
                    self.waits.set(true);
                    self.completed.notified().await;
                    self.waits.set(false);
                }
            }
        }
    }

    /// Whether every write has a content of its own.
    pub fn prepares_blocks(&self) -> bool {
        self.meter.borrow().prepares_blocks()
    }

    /// Makes a block what a write is to write, if that matters to the job.
    pub fn prepare(&self, started: &Started, block: &mut [u8]) {
        self.meter.borrow().prepare(started, block);
    }

    /// A request completed well; a read with that content.
    pub fn complete(&self, started: Started, content: &[u8]) {
        self.meter.borrow_mut().complete(started, content);
        self.wake();
    }

    /// A request failed: nothing more is started.
    pub fn fail(&self, error: E) {
        self.meter.borrow_mut().stop();
        self.failure.borrow_mut().get_or_insert(error);
        self.wake();
    }

    /// The meter, or the first error, once the tasks are gone.
    pub fn finish(self: Rc<Self>) -> Result<Meter, E> {
        let Crew { meter, failure, .. } = Rc::into_inner(self).expect("the tasks are gone");
        failure.into_inner().map_or(Ok(meter.into_inner()), Err)
    }

    fn poll(&self) -> Next {
        self.meter.borrow_mut().next_request()
    }

    fn wake(&self) {
        if self.waits.get() {
            self.completed.notify_one();
        }
    }
}
