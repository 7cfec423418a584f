//! When a thread that looks for work, and lets others run in between (`sched_yield`), should sleep instead: clients and
//! bricks alike.
//!
//! The scheduler gives those that are let run what it calls a slice, milliseconds, and doesn't know that meanwhile there
//! is work again; a sleeper would have been woken for it. Who had to wait like that sleeps at once for a while: shortly if
//! it was for somebody who had to do something now and then, and longer and longer if they need the processor all the time.

use std::time::Duration;

use crate::Timestamp;

/// Nobody who sleeps waits so long for a processor that others use for a moment.
const LONG_YIELD: Duration = Duration::from_millis(1);
/// The first pause; the next is twice as long if it begins within as long after the last one.
const PAUSE_MIN: Duration = Duration::from_millis(10);
/// And so on, up to this.
const PAUSE_MAX: Duration = Duration::from_millis(640);

/// The pauses of one thread.
#[derive(Clone, Copy, Debug)]
pub struct Pause {
    /// When the last one ends.
    until: Timestamp,
    /// How long it is.
    length: Duration,
}

impl Default for Pause {
    fn default() -> Pause {
        Pause { until: Timestamp(0), length: PAUSE_MIN }
    }
}

impl Pause {
    /// Whether to sleep at once.
    pub fn is_on(&self, now: Timestamp) -> bool {
        now < self.until
    }

    /// Others were let run, and had the processor until `now`, for so long.
    pub fn note_yield(&mut self, now: Timestamp, took: Duration) {
        if took >= LONG_YIELD {
            let again = now < self.until + self.length;
            self.length = if again { (self.length * 2).min(PAUSE_MAX) } else { PAUSE_MIN };
            self.until = now + self.length;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000_000_000);

    #[test]
    fn who_had_to_wait_for_the_processor_sleeps_for_a_while() {
        let mut pause = Pause::default();
        pause.note_yield(NOW, LONG_YIELD / 2);
        assert!(!pause.is_on(NOW));
        pause.note_yield(NOW, LONG_YIELD);
        assert!(pause.is_on(NOW));
        assert!(!pause.is_on(NOW + PAUSE_MIN));
    }

    #[test]
    fn who_has_to_wait_again_and_again_sleeps_longer() {
        let mut pause = Pause::default();
        let mut at = NOW;
        let mut next_pause = |later: Duration| {
            at = at + later;
            pause.note_yield(at, LONG_YIELD);
            let length = (1..=1000).map(Duration::from_millis).find(|length| !pause.is_on(at + *length));
            at = at + length.expect("it ends");
            length.expect("it ends").as_millis()
        };
        let constant: Vec<u128> = (0..8).map(|_| next_pause(LONG_YIELD)).collect();
        assert_eq!(constant, [10, 20, 40, 80, 160, 320, 640, 640]);
        assert_eq!(next_pause(PAUSE_MAX), 10, "they had enough");
        assert_eq!(next_pause(PAUSE_MIN), 10, "now and then");
    }
}
