//! Time limits for peers. The time during which this process itself stood still (stopped, starved, on a machine that was
//! paused) is not a peer's: its answer may lie in a socket of ours, or it was never asked.

use std::pin::pin;
use std::time::Duration;

use brick_wire::Timestamp;

use super::clock;
use crate::replica::LATE;

/// What `future` comes to, if it does within `limit`. If we come late to see that it didn't, it gets the time again.
pub(crate) async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    loop {
        let due = clock::now() + limit;
        if let Ok(output) = monoio::time::timeout(limit, &mut future).await {
            return Some(output);
        }
        if !note_lateness(due) {
            return None;
        }
    }
}

/// Whether whoever was to act at `due` does so much later, which goes to the log: it explains what users see.
pub(super) fn note_lateness(due: Timestamp) -> bool {
    let late = clock::now().since(due);
    let stood_still = late >= LATE;
    if stood_still {
        let late_ms = late.as_millis() as u64;
        tracing::warn!(late_ms, "this process stood still; is the host overloaded?");
    }
    stood_still
}

#[cfg(test)]
mod tests {
    use super::super::runtime::start_runtime;
    use super::*;

    const LIMIT: Duration = Duration::from_millis(20);

    #[test]
    fn time_in_which_we_stood_still_is_given_again() {
        let mut runtime = start_runtime(256).expect("a runtime");
        let answer = runtime.block_on(within(LIMIT, async {
            // The whole thread, as if it was stopped.
            std::thread::sleep(LIMIT + LATE * 2);
            monoio::time::sleep(LIMIT / 4).await;
            7
        }));
        assert_eq!(answer, Some(7));
    }

    #[test]
    fn who_is_silent_is_not_waited_for() {
        let mut runtime = start_runtime(256).expect("a runtime");
        let answer: Option<()> = runtime.block_on(within(LIMIT, std::future::pending()));
        assert_eq!(answer, None);
    }
}
