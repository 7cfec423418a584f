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
use tokio::sync::Notify;

use super::{clock, timers};

/// Nobody who sleeps waits so long for a processor that others use for a moment: the scheduler gives those whom we let
/// run milliseconds, and doesn't know that meanwhile there is an answer.
const LONG_YIELD: Duration = Duration::from_millis(1);
/// For how long the thread sleeps at once after that; twice as long if it happens again within as long after it: then they
/// need the processor all the time.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// And so on, up to this.
const PAUSE_MAX: Duration = Duration::from_millis(640);
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
    /// Others kept the processor: not before this.
    not_before: Cell<Timestamp>,
    /// How long it slept for that.
    pause: Cell<Duration>,
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
            not_before: Cell::new(Timestamp(0)),
            pause: Cell::new(PAUSE_MIN),
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
        if self.shared.limit.is_zero() || now < self.shared.not_before.get() {
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
        if yielded.since(now) >= LONG_YIELD {
            let again = yielded < self.not_before.get() + self.pause.get();
            self.pause.set(if again { (self.pause.get() * 2).min(PAUSE_MAX) } else { PAUSE_MIN });
            self.not_before.set(yielded + self.pause.get());
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
