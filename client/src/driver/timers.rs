//! A chance for timers. The runtime looks at them only when no task is runnable and it is about to sleep; a thread that
//! always has something to do would connect to no brick that is back, and give up on none that is silent.
//!
//! So whoever can keep a thread busy without end, by receiving or by looking for work, waits here now and then, all at about
//! the same time: without them what is runnable runs out.

use std::cell::Cell;
use std::time::Duration;

use brick_wire::Timestamp;

use super::clock;

/// How long timers may be late.
const LATE_MAX: Duration = Duration::from_millis(50);

thread_local! {
    /// When the runtime last had the chance to look at its timers for certain. All tasks of the thread share it: that one
    /// of them waited proves nothing while another one kept the thread awake.
    static SLEPT_AT: Cell<Timestamp> = const { Cell::new(Timestamp(0)) };
}

/// Waits until the thread has been about to sleep, if that is long ago. Whether it was.
pub(crate) async fn let_timers_run(now: Timestamp) -> bool {
    let due = now.since(SLEPT_AT.get()) >= LATE_MAX;
    if due {
        // Ends when the thread has been about to sleep, and not before.
        monoio::time::sleep(Duration::ZERO).await;
        SLEPT_AT.set(clock::now());
    }
    due
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::super::runtime::start_runtime;
    use super::*;

    /// Tasks that never run out of work, as receivers do whose peers are faster than this thread.
    #[test]
    fn timers_run_on_a_thread_that_is_always_busy() {
        const ROUNDS_MAX: u64 = 50_000_000;
        let mut runtime = start_runtime(256).expect("a runtime");
        let rounds = runtime.block_on(async {
            let (over, rounds) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)));
            let mut busy = Vec::new();
            for _ in 0..4 {
                let (over, rounds) = (over.clone(), rounds.clone());
                busy.push(monoio::spawn(async move {
                    while !over.get() && rounds.get() < ROUNDS_MAX {
                        rounds.set(rounds.get() + 1);
                        let_timers_run(clock::now()).await;
                        monoio::spawn(async {}).await;
                    }
                }));
            }
            monoio::time::sleep(Duration::from_millis(100)).await;
            over.set(true);
            for task in busy {
                task.await;
            }
            rounds.get()
        });
        assert!(rounds < ROUNDS_MAX, "the timer ran only when there was nothing else to do");
    }
}
