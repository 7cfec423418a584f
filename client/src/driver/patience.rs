//! Time limits for peers. If this process itself stood still (stopped, starved, on a machine that was paused) until after
//! one, that says nothing of the peer: its answer may lie in a socket of ours, or it was never asked.

use std::pin::pin;
use std::time::Duration;

use super::clock;
use crate::replica::{LATE, STANDSTILLS_MAX};

/// What `future` comes to, if it does within `limit`. If we come late to see that it didn't, it gets the time again, a few
/// times at most.
pub(crate) async fn within<F: Future>(limit: Duration, future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    for times_left in (0..=STANDSTILLS_MAX).rev() {
        let due = clock::now() + limit;
        if let Ok(output) = monoio::time::timeout(limit, &mut future).await {
            return Some(output);
        }
        let late = clock::now().since(due);
        if late < LATE || times_left == 0 {
            break;
        }
        let late_ms = late.as_millis() as u64;
        tracing::warn!(late_ms, "this process stood still while it waited for a brick, and waits again");
    }
    None
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
            std::thread::sleep(LATE + LIMIT * 2);
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

    #[test]
    fn who_is_always_late_gives_up_as_well() {
        let mut runtime = start_runtime(256).expect("a runtime");
        let mut polls = 0;
        let answer: Option<()> = runtime.block_on(within(
            LIMIT,
            std::future::poll_fn(|_| {
                polls += 1;
                std::thread::sleep(LATE + LIMIT * 2);
                std::task::Poll::Pending
            }),
        ));
        assert_eq!(answer, None);
        assert!(polls > STANDSTILLS_MAX, "{polls}");
    }
}
