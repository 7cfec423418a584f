//! The runtime that a program runs its images on, with its ring set up for two threads that talk to each other.
//!
//! When a message comes, the kernel has work for the ring's thread. By default it interrupts that thread's processor
//! to get it done at once. Where a brick on one processor answers a client on another, that interrupt goes through the
//! hypervisor on both sides, some 15 us of 25 that a single read spent between the brick's send and the client's next
//! one. Nothing needs it: a thread that is awake sees what has completed when it enters the kernel next, with interrupts or
//! without, and one that sleeps in there is woken.

use std::io;

use monoio::time::TimeDriver;
use monoio::{FusionDriver, FusionRuntime, IoUringDriver, LegacyDriver, RuntimeBuilder};
use monoio_ring::IoUring;

/// A single-threaded runtime with timers: on io_uring, or on epoll where that is forbidden.
pub type Runtime = FusionRuntime<TimeDriver<IoUringDriver>, TimeDriver<LegacyDriver>>;

/// Starts a runtime whose ring takes `ring_entries` submissions at a time, for the calling thread.
///
/// An error is most often the limit of locked memory, on kernels before 5.12.
pub fn start_runtime(ring_entries: u32) -> io::Result<Runtime> {
    let builder = || RuntimeBuilder::<FusionDriver>::new().with_entries(ring_entries).enable_timer();
    let mut ring = IoUring::builder();
    ring.setup_coop_taskrun();
    builder().uring_builder(ring).build().or_else(|error| {
        // Kernels before 5.19 don't know this setting.
        if error.kind() == io::ErrorKind::InvalidInput { builder().build() } else { Err(error) }
    })
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use tokio::sync::oneshot;

    use super::*;

    /// Neither comes with an interrupt of the thread. Where io_uring is forbidden this says nothing about rings.
    #[test]
    fn a_sleeping_thread_is_woken_by_timers_and_by_other_threads() {
        let mut runtime = start_runtime(256).expect("a runtime");
        let (told, tells) = oneshot::channel();
        let other = thread::spawn(move || {
            thread::sleep(Duration::from_millis(50));
            told.send(7).expect("it waits");
        });
        let value = runtime.block_on(async {
            monoio::time::sleep(Duration::from_millis(10)).await;
            tells.await
        });
        assert_eq!(value, Ok(7));
        other.join().expect("it has told");
    }
}
