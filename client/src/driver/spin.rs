//! Keeps the thread awake for a moment after each sign of life, so that the answer to a request doesn't have to wake it:
//! that takes 30 to 60 us. Others run in between (`sched_yield`). After a moment without a sign it sleeps; a client
//! that does nothing uses no processor time.
//!
//! The runtime sleeps when no task is runnable; after each round of its queue it submits and reaps. So tasks that stay
//! runnable keep it looking. There are two that wake each other: one that wakes itself would be put in front of all
//! others, which then never ran.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use brick_wire::Timestamp;
use brick_wire::pause::Pause;
use tokio::sync::Notify;

use super::{clock, timers};

/// Rounds of the runtime's queue after each sign of life before others are let run: what it has set off goes from the
/// task that receives to the one that waits, from there to the one that sends, and then to the kernel. A yield in each of
/// them made single reads a tenth slower.
const SETTLING_ROUNDS: u8 = 4;

/// The owner's side of the tasks.
pub(crate) struct Spinner {
    shared: Rc<Shared>,
}

struct Shared {
    limit: Duration,
    /// Until when to look.
    until: Cell<Timestamp>,
    /// Because others kept the processor.
    pause: Cell<Pause>,
    looking: Cell<bool>,
    /// Rounds in which nobody else is let run.
    settling: Cell<u8>,
    stopped: Cell<bool>,
    wake: Notify,
    ping: Notify,
    pong: Notify,
}

impl Spinner {
    /// Looks for `limit` after each sign of life; zero never does.
    pub(crate) fn start(limit: Duration) -> Spinner {
        // With a single core, whoever is to answer can't run while we look.
        let alone = std::thread::available_parallelism().is_ok_and(|cores| cores.get() < 2);
        let shared = Rc::new(Shared {
            limit: if alone { Duration::ZERO } else { limit },
            until: Cell::new(Timestamp(0)),
            pause: Cell::default(),
            looking: Cell::new(false),
            settling: Cell::new(0),
            stopped: Cell::new(false),
            wake: Notify::new(),
            ping: Notify::new(),
            pong: Notify::new(),
        });
        if !shared.limit.is_zero() {
            monoio::spawn(look(shared.clone()));
            monoio::spawn(answer(shared.clone()));
        }
        Spinner { shared }
    }

    /// Something was asked or answered at `now`.
    pub(crate) fn note(&self, now: Timestamp) {
        if self.shared.limit.is_zero() || self.shared.pause.get().is_on(now) {
            return;
        }
        self.shared.until.set(now + self.shared.limit);
        self.shared.settling.set(SETTLING_ROUNDS);
        if !self.shared.looking.replace(true) {
            self.shared.wake.notify_one();
        }
    }
}

impl Shared {
    /// Gives the processor to other threads, unless this one has something to do.
    fn let_others_run(&self, now: Timestamp) {
        if let Some(rounds) = self.settling.get().checked_sub(1) {
            return self.settling.set(rounds);
        }
        std::thread::yield_now();
        let yielded = clock::now();
        let mut pause = self.pause.get();
        pause.note_yield(yielded, yielded.since(now));
        self.pause.set(pause);
        if pause.is_on(yielded) {
            self.until.set(Timestamp(0));
        }
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.shared.stopped.set(true);
        self.shared.wake.notify_one();
        self.shared.ping.notify_one();
    }
}

async fn look(shared: Rc<Shared>) {
    while !shared.stopped.get() {
        let now = clock::now();
        if now >= shared.until.get() {
            shared.looking.set(false);
            shared.wake.notified().await;
        } else if !timers::let_timers_run(now).await {
            shared.let_others_run(now);
            shared.ping.notify_one();
            shared.pong.notified().await;
        }
    }
}

async fn answer(shared: Rc<Shared>) {
    while !shared.stopped.get() {
        shared.ping.notified().await;
        shared.pong.notify_one();
    }
}
