//! Sleeping on monoio with the kernel's resolution: the runtime's own timers count whole milliseconds, too
//! coarse for a request that is due.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use monoio::buf::IoBufMut;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

/// A timer that the ring reads. Without a ring such a read would block the thread, so there the runtime's
/// own timer has to do.
pub(super) struct Timer {
    ring: Option<(TimerFd, monoio::fs::File)>,
}

impl Timer {
    /// To be made, and used, on a runtime that has a ring or not.
    pub fn new(has_ring: bool) -> io::Result<Timer> {
        if !has_ring {
            return Ok(Timer { ring: None });
        }
        let (timer, file) = timer_file()?;
        Ok(Timer { ring: Some((timer, monoio::fs::File::from_std(file)?)) })
    }

    /// Sleeps; one at a time.
    pub async fn sleep(&self, time: Duration) -> io::Result<()> {
        match &self.ring {
            None => monoio::time::sleep(time).await,
            Some((timer, file)) => {
                set(timer, time)?;
                let count: Box<[u8]> = Box::new([0; EXPIRATIONS_BYTES]);
                file.read_at(count.slice_mut(..), 0).await.0?;
            }
        }
        Ok(())
    }
}

/// A timer, and the file that is read to wait for it.
pub(super) fn timer_file() -> io::Result<(TimerFd, File)> {
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC)?;
    let file = File::from(timer.as_fd().try_clone_to_owned()?);
    Ok((timer, file))
}

/// Lets a timer expire once, after that time.
pub(super) fn set(timer: &TimerFd, time: Duration) -> io::Result<()> {
    let expiration = Expiration::OneShot(TimeSpec::from_duration(time));
    Ok(timer.set(expiration, TimerSetTimeFlags::empty())?)
}

/// What a timer answers to a read: how often it expired.
pub(super) const EXPIRATIONS_BYTES: usize = 8;
