//! Time and chance, read here and nowhere else in the client.

use std::time::Duration;

use brick_wire::{SessionId, Timestamp};
use nix::time::{ClockId, clock_gettime};

/// Time since boot, suspension included: a host that slept must find its lease expired (rule I8).
pub(crate) fn now() -> Timestamp {
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).expect("CLOCK_BOOTTIME exists since Linux 2.6.39");
    let seconds = u64::try_from(time.tv_sec()).expect("time since boot isn't negative");
    Timestamp(seconds * 1_000_000_000 + time.tv_nsec() as u64)
}

/// Sleeps until `at`.
pub(crate) async fn sleep_until(at: Timestamp) {
    monoio::time::sleep(at.since(now())).await;
}

/// A session id nobody else has.
pub(crate) fn random_session() -> SessionId {
    loop {
        let mut bytes = [0; 8];
        getrandom::fill(&mut bytes).expect("the kernel's random source works");
        let session = SessionId(u64::from_le_bytes(bytes));
        if session != SessionId::NONE {
            return session;
        }
    }
}

/// A pause that spreads over [duration/2, duration], so that clients that lost the same brick don't come
/// back in step.
pub(crate) fn jittered(duration: Duration) -> Duration {
    let spread = random_session().0 % 512;
    duration / 2 + duration / 1024 * spread as u32
}
