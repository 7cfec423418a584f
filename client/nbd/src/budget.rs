//! How much one connection may have in flight.
//!
//! A request takes a [`Permit`] before it starts and keeps it until its reply is in the socket (or the
//! connection is given up). While there is none, nothing is read from the socket: so a client that
//! sends without reading replies stops itself, and memory stays bounded by the maxima below, plus one
//! payload under reception.

use std::cell::Cell;
use std::rc::Rc;

use crate::condition::Condition;
use crate::protocol::constants::PAYLOAD_BYTES_MAX;

/// Requests of one connection that may be in flight.
pub const REQUESTS_IN_FLIGHT_MAX: usize = 128;
/// Bytes of reads and writes of one connection that may be in flight.
pub const PAYLOAD_IN_FLIGHT_BYTES_MAX: u64 = 64 * 1024 * 1024;

// Otherwise a request of maximal length would wait for ever.
const _: () = assert!(PAYLOAD_BYTES_MAX as u64 <= PAYLOAD_IN_FLIGHT_BYTES_MAX);

/// What one connection has in flight.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    requests: Cell<usize>,
    payload_bytes: Cell<u64>,
    released: Condition,
}

/// The right to have one request in flight; dropping it returns the right.
#[derive(Debug)]
pub(crate) struct Permit {
    budget: Rc<Budget>,
    payload_bytes: u64,
}

impl Budget {
    /// Waits until a request with `payload_bytes` fits.
    pub(crate) async fn acquire(self: &Rc<Self>, payload_bytes: u64) -> Permit {
        assert!(payload_bytes <= PAYLOAD_IN_FLIGHT_BYTES_MAX, "the decoder bounds payloads");
        self.released.until(|| self.fits(payload_bytes).then_some(())).await;
        self.requests.set(self.requests.get() + 1);
        self.payload_bytes.set(self.payload_bytes.get() + payload_bytes);
        Permit { budget: Rc::clone(self), payload_bytes }
    }

    /// Waits until nothing is in flight.
    pub(crate) async fn idle(&self) {
        self.released.until(|| (self.requests.get() == 0).then_some(())).await;
    }

    fn fits(&self, payload_bytes: u64) -> bool {
        self.requests.get() < REQUESTS_IN_FLIGHT_MAX
            && self.payload_bytes.get() + payload_bytes <= PAYLOAD_IN_FLIGHT_BYTES_MAX
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let budget = &self.budget;
        budget.requests.set(budget.requests.get() - 1);
        budget.payload_bytes.set(budget.payload_bytes.get() - self.payload_bytes);
        budget.released.notify();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    fn poll_once<T>(future: impl Future<Output = T>) -> Poll<T> {
        pin!(future).poll(&mut Context::from_waker(Waker::noop()))
    }

    fn permit(budget: &Rc<Budget>, payload_bytes: u64) -> Option<Permit> {
        match poll_once(budget.acquire(payload_bytes)) {
            Poll::Ready(permit) => Some(permit),
            Poll::Pending => None,
        }
    }

    #[test]
    fn requests_are_bounded() {
        let budget = Rc::new(Budget::default());
        let mut permits: Vec<Permit> =
            (0..REQUESTS_IN_FLIGHT_MAX).map(|_| permit(&budget, 0).expect("fits")).collect();
        assert!(permit(&budget, 0).is_none());
        permits.pop();
        assert!(permit(&budget, 0).is_some());
        assert!(poll_once(budget.idle()).is_pending());
        drop(permits);
        assert!(poll_once(budget.idle()).is_ready());
    }

    #[test]
    fn payload_is_bounded() {
        let budget = Rc::new(Budget::default());
        let first = permit(&budget, PAYLOAD_IN_FLIGHT_BYTES_MAX - 10).expect("fits");
        assert!(permit(&budget, 11).is_none());
        let second = permit(&budget, 10).expect("fits");
        drop(first);
        assert!(permit(&budget, PAYLOAD_IN_FLIGHT_BYTES_MAX - 10).is_some());
        drop(second);
    }
}
