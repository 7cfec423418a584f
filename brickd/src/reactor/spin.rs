//! Whether to look for completions for a moment before sleeping.
//!
//! A sleeping core takes 30 to 60 us to wake, which at low depth is half of what a request takes. So while waits have
//! been short, the reactor looks again and again, and lets others run in between (`sched_yield`): on a machine whose
//! cores are all busy it then costs them nothing. As soon as waits are long, it sleeps at once: an idle brick uses no
//! processor time. It does so, too, while there is much to do after each wait, or much under way: one wake-up for all of
//! it costs each request little, and looking would cost processor time that the others need. What is under way has to be
//! asked for, as looking makes little of much: it takes each answer as it comes. (Two cores a brick on two CPUs, 32 writes
//! of 4 KiB in flight: half the requests, each at twice the price.)
//!
//! Whoever lets others run may have to wait for as long as they like; a core that did sleeps for a while ([`Pause`]). No
//! I/O here, and no clock.

use std::time::Duration;

use brick_wire::Timestamp;
use brick_wire::pause::Pause;

/// What one core knows of its last waits.
#[derive(Clone, Copy, Debug)]
pub struct Spin {
    limit_ns: u64,
    /// Of the last waits, each counted as at most [`LONG_WAITS`] limits.
    mean_ns: u64,
    /// Work that was done between the last waits: events, times [`MEMORY`].
    events: u64,
    /// Because others kept the processor.
    pause: Pause,
}

impl Spin {
    /// Looks for at most `limit` before each sleep; zero sleeps at once.
    pub fn new(limit: Duration) -> Spin {
        let limit_ns = u64::try_from(limit.as_nanos()).unwrap_or(u64::MAX).min(LIMIT_NS_MAX);
        Spin { limit_ns, mean_ns: limit_ns * LONG_WAITS, events: 0, pause: Pause::default() }
    }

    /// How long to look before the next sleep, with so many disk requests under way.
    pub fn budget(&self, now: Timestamp, under_way: usize) -> Duration {
        let is_calm = self.events < MANY * MEMORY && under_way <= MANY_UNDER_WAY;
        let pays = is_calm && !self.is_pausing(now) && self.mean_ns < self.limit_ns;
        Duration::from_nanos(if pays { self.limit_ns } else { 0 })
    }

    /// Whether it sleeps because others had the processor.
    pub fn is_pausing(&self, now: Timestamp) -> bool {
        self.pause.is_on(now)
    }

    /// Others were let run, and had the processor until `now`, for so long.
    pub fn note_yield(&mut self, now: Timestamp, took: Duration) {
        self.pause.note_yield(now, took);
    }

    /// A wait took so long, looking and sleeping together, after so many events.
    pub fn note_wait(&mut self, wait: Duration, events: usize) {
        let wait_ns = self.clip(wait);
        self.mean_ns = (self.mean_ns * (MEMORY - 1) + wait_ns) / MEMORY;
        self.events = self.events * (MEMORY - 1) / MEMORY + events as u64;
    }

    /// The last wait goes on, for so long: what ended it, as the end of a send, was nothing to do.
    pub fn note_more(&mut self, wait: Duration) {
        let longer_ns = self.mean_ns + self.clip(wait) / MEMORY;
        self.mean_ns = longer_ns.min(self.limit_ns * LONG_WAITS);
    }

    fn clip(&self, wait: Duration) -> u64 {
        u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX).min(self.limit_ns * LONG_WAITS)
    }
}

/// Events that share the price of a wait well enough.
const MANY: u64 = 4;
/// Disk requests under way that will. With a lower limit 4 and 8 requests of 4 KiB in flight are up to a tenth slower.
const MANY_UNDER_WAY: usize = 4;
/// The means move by one part in so many with each wait.
const MEMORY: u64 = 16;
/// A wait, or a part of one, counts as at most so many limits: two long ones end the looking, some thirty short ones begin
/// it.
const LONG_WAITS: u64 = 8;
/// Nobody looks longer.
const LIMIT_NS_MAX: u64 = 10_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_micros(100);
    const NOW: Timestamp = Timestamp(1_000_000_000);

    fn after(spin: Spin, wait: Duration, times: usize) -> Spin {
        after_many(spin, wait, 1, times)
    }

    fn after_many(spin: Spin, wait: Duration, events: usize, times: usize) -> Spin {
        (0..times).fold(spin, |mut spin, _| {
            spin.note_wait(wait, events);
            spin
        })
    }

    fn longer(spin: Spin, wait: Duration, times: usize) -> Spin {
        (0..times).fold(spin, |mut spin, _| {
            spin.note_more(wait);
            spin
        })
    }

    #[test]
    fn looking_begins_with_short_waits_and_ends_with_long_ones() {
        let idle = Spin::new(LIMIT);
        assert_eq!(idle.budget(NOW, 1), Duration::ZERO, "nothing is known yet");
        let busy = after(idle, LIMIT / 4, 60);
        assert_eq!(busy.budget(NOW, 1), LIMIT);
        assert_eq!(
            after(busy, Duration::from_secs(1), 1).budget(NOW, 1),
            LIMIT,
            "a single one may be chance"
        );
        assert_eq!(after(busy, Duration::from_secs(1), 3).budget(NOW, 1), Duration::ZERO);
    }

    #[test]
    fn waits_that_looking_would_not_outlast_never_begin_it() {
        assert_eq!(after(Spin::new(LIMIT), LIMIT * 2, 1000).budget(NOW, 1), Duration::ZERO);
    }

    #[test]
    fn waits_between_much_work_are_slept() {
        let busy = after(Spin::new(LIMIT), LIMIT / 4, 60);
        let flooded = after_many(busy, LIMIT / 4, 20, 30);
        assert_eq!(flooded.budget(NOW, 1), Duration::ZERO);
        assert_eq!(
            after(flooded, LIMIT / 4, 60).budget(NOW, 1),
            LIMIT,
            "and looking begins again with little work"
        );
    }

    #[test]
    fn what_ends_without_work_is_part_of_the_next_wait() {
        let alternating = |times| {
            (0..times).fold(Spin::new(LIMIT), |spin, _| longer(after(spin, LIMIT * 3 / 2, 1), LIMIT / 10, 1))
        };
        assert_eq!(
            alternating(1000).budget(NOW, 1),
            Duration::ZERO,
            "short ones between long ones say nothing"
        );
        let busy = after(Spin::new(LIMIT), LIMIT / 4, 60);
        assert_eq!(longer(busy, LIMIT / 10, 1000).budget(NOW, 1), Duration::ZERO, "nothing is ever done");
        let flooded = after_many(busy, LIMIT / 4, 20, 30);
        assert_eq!(longer(flooded, LIMIT / 100, 100).budget(NOW, 1), Duration::ZERO, "they share nothing");
    }

    #[test]
    fn who_had_to_wait_for_the_processor_sleeps_for_a_while() {
        let mut busy = after(Spin::new(LIMIT), LIMIT / 4, 60);
        busy.note_yield(NOW, Duration::from_micros(500));
        assert_eq!(busy.budget(NOW, 1), LIMIT);
        busy.note_yield(NOW, Duration::from_millis(1));
        assert_eq!(busy.budget(NOW, 1), Duration::ZERO);
        assert_eq!(busy.budget(NOW + Duration::from_millis(10), 1), LIMIT);
    }

    #[test]
    fn much_under_way_is_waited_for_asleep() {
        let busy = after(Spin::new(LIMIT), LIMIT / 4, 60);
        assert_eq!(busy.budget(NOW, MANY_UNDER_WAY), LIMIT);
        assert_eq!(busy.budget(NOW, MANY_UNDER_WAY + 1), Duration::ZERO);
    }

    #[test]
    fn no_limit_means_no_looking() {
        assert_eq!(after(Spin::new(Duration::ZERO), Duration::ZERO, 100).budget(NOW, 1), Duration::ZERO);
    }
}
