//! What the kernel charged this process: CPU time, context switches, page faults.
//!
//! All threads, kernel workers that act for it included. Not other processes: bricks that serve a volume
//! on the same machine are to be added by whoever compares costs.

use std::io;
use std::time::Duration;

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

/// Charges, since the process started or between two moments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time outside the kernel.
    pub user: Duration,
    /// CPU time in the kernel.
    pub system: Duration,
    /// Switches because there was nothing to do.
    pub voluntary_switches: u64,
    /// Switches because somebody else wanted the core.
    pub involuntary_switches: u64,
    /// Page faults that waited for a disk.
    pub major_faults: u64,
    /// Page faults that didn't.
    pub minor_faults: u64,
}

impl Usage {
    /// Since the process started.
    pub fn now() -> io::Result<Usage> {
        let usage = getrusage(UsageWho::RUSAGE_SELF)?;
        let duration = |microseconds: i64| Duration::from_micros(microseconds.unsigned_abs());
        Ok(Usage {
            user: duration(usage.user_time().num_microseconds()),
            system: duration(usage.system_time().num_microseconds()),
            voluntary_switches: usage.voluntary_context_switches().unsigned_abs(),
            involuntary_switches: usage.involuntary_context_switches().unsigned_abs(),
            major_faults: usage.major_page_faults().unsigned_abs(),
            minor_faults: usage.minor_page_faults().unsigned_abs(),
        })
    }

    /// The earlier of two moments of one process, whose charges only grow.
    pub fn min(&self, other: &Usage) -> Usage {
        if self.total() <= other.total() { *self } else { *other }
    }

    /// The later of two moments of one process.
    pub fn max(&self, other: &Usage) -> Usage {
        if self.total() <= other.total() { *other } else { *self }
    }

    /// From an earlier moment to this one.
    pub fn since(&self, earlier: &Usage) -> Usage {
        Usage {
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
            voluntary_switches: self.voluntary_switches.saturating_sub(earlier.voluntary_switches),
            involuntary_switches: self.involuntary_switches.saturating_sub(earlier.involuntary_switches),
            major_faults: self.major_faults.saturating_sub(earlier.major_faults),
            minor_faults: self.minor_faults.saturating_sub(earlier.minor_faults),
        }
    }

    fn total(&self) -> (Duration, u64) {
        let events = self.voluntary_switches + self.involuntary_switches;
        (self.user + self.system, events + self.major_faults + self.minor_faults)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_charged() {
        let before = Usage::now().unwrap();
        let until = std::time::Instant::now() + Duration::from_millis(50);
        while std::time::Instant::now() < until {}
        std::thread::sleep(Duration::from_millis(1));
        let charged = Usage::now().unwrap().since(&before);
        assert!(charged.user + charged.system > Duration::from_millis(1), "{charged:?}");
        assert!(charged.voluntary_switches > 0, "{charged:?}");
    }
}
