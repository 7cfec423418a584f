//! The clock that the engine's timestamps come from.

use brick_wire::Timestamp;
use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of CLOCK_BOOTTIME: it runs on while the host is suspended, so a lease never outlives one
/// (rule I8).
pub fn now() -> Timestamp {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("CLOCK_BOOTTIME is there since Linux 2.6.39");
    Timestamp(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
}
