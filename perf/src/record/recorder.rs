//! The part that requests pay for: what completed goes into a slot, and into a chunk of the latency log.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::latency_log::{Line, Lines};
use crate::load::Started;
use crate::pattern::Request;
use crate::stats::Stats;

/// Takes down what one meter completes.
#[derive(Debug)]
pub struct Recorder {
    slot: Arc<Mutex<Slot>>,
    lines: Option<Lines>,
}

/// What a recorder took down since the collector looked.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) stats: Stats,
    pub(super) began: Option<Began>,
    /// When the last request completed, by the meter's clock.
    pub(super) ended_ns: u64,
}

/// The start of the first request that counts, by two clocks: the meter's, whose readings the recorder gets
/// for nothing, and the one that the collector has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Began {
    pub(super) meter_ns: u64,
    pub(super) instant: Instant,
}

impl Recorder {
    pub(super) fn new(slot: Arc<Mutex<Slot>>, lines: Option<Lines>) -> Recorder {
        Recorder { slot, lines }
    }

    /// A request completed.
    pub fn record(&mut self, started: &Started, now_ns: u64) {
        let Some(latency_ns) = started.latency_ns(now_ns) else { return };
        let mut slot = lock(&self.slot);
        slot.record(started.request, latency_ns, now_ns);
        let began_ns = slot.began.map_or(now_ns, |began| began.meter_ns);
        drop(slot);
        if let Some(lines) = &mut self.lines {
            let time_ns = now_ns.saturating_sub(began_ns);
            lines.push(Line { time_ns, latency_ns, request: started.request });
        }
    }
}

impl Slot {
    pub(super) fn new() -> Slot {
        Slot { stats: Stats::new(), began: None, ended_ns: 0 }
    }

    pub(super) fn record(&mut self, request: Request, latency_ns: u64, now_ns: u64) {
        self.began.get_or_insert_with(|| Began {
            meter_ns: now_ns.saturating_sub(latency_ns),
            instant: Instant::now()
                .checked_sub(Duration::from_nanos(latency_ns))
                .unwrap_or_else(Instant::now),
        });
        self.ended_ns = now_ns;
        self.stats.record(request, latency_ns);
    }
}

/// A panic elsewhere ends the run anyway; what was counted is still good.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
