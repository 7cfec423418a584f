//! Replies on their way out: everything that is ready leaves in one system call.
//!
//! Requests push finished replies into an [`Outbox`]; one task per connection takes all of them and
//! writes headers and payloads with one vectored write. Under load the replies that finish while a
//! write is under way make the next batch, so batches grow by themselves when the socket is slow.
//!
//! Invariant: a reply's permit is released only after its last byte is in the socket, or after the
//! connection is given up.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::rc::Rc;

use bytes::{Buf, Bytes, BytesMut};
use monoio::buf::IoVecBuf;
use monoio::io::AsyncWriteRent;

use crate::budget::{Permit, REQUESTS_IN_FLIGHT_MAX};
use crate::condition::Condition;
use crate::protocol::Reply;

/// Payloads up to this length are copied next to their headers: cheaper than one more segment.
const INLINE_PAYLOAD_BYTES_MAX: usize = 512;
/// Segments of one vectored write; the kernel accepts 1024.
const SEGMENT_COUNT_MAX: usize = 2 * REQUESTS_IN_FLIGHT_MAX;

const _: () = assert!(SEGMENT_COUNT_MAX <= libc::UIO_MAXIOV as usize);

/// Finished replies of one connection.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Bounded by the permits the replies carry.
    ready: RefCell<VecDeque<(Reply, Permit)>>,
    closed: Cell<bool>,
    changed: Condition,
    broken: Cell<bool>,
    /// Apart from `changed`, so that a reply doesn't wake whoever waits for the end.
    broke: Condition,
}

impl Outbox {
    /// Queues a reply.
    pub(crate) fn push(&self, reply: Reply, permit: Permit) {
        self.ready.borrow_mut().push_back((reply, permit));
        self.changed.notify();
    }

    /// Lets the writer end after what is queued.
    pub(crate) fn close(&self) {
        self.closed.set(true);
        self.changed.notify();
    }

    /// Completes when the socket takes no more replies.
    pub(crate) async fn broken(&self) {
        self.broke.until(|| self.broken.get().then_some(())).await;
    }

    async fn next_batch(&self) -> Option<VecDeque<(Reply, Permit)>> {
        let batch = self.changed.until(|| {
            let mut ready = self.ready.borrow_mut();
            (!ready.is_empty() || self.closed.get()).then(|| std::mem::take(&mut *ready))
        });
        Some(batch.await).filter(|batch| !batch.is_empty())
    }
}

/// Writes replies until the outbox is closed and empty. After a failed write it goes on taking replies,
/// so that requests in flight can finish, and drops them.
pub(crate) async fn run(mut socket: impl AsyncWriteRent, outbox: Rc<Outbox>) -> io::Result<()> {
    let mut result = Ok(());
    while let Some(batch) = outbox.next_batch().await {
        if result.is_err() {
            continue;
        }
        result = write_all(&mut socket, segments(&batch)).await;
        if result.is_err() {
            outbox.broken.set(true);
            outbox.broke.notify();
        }
    }
    result
}

/// The bytes of a batch in order, in as few segments as possible.
fn segments(batch: &VecDeque<(Reply, Permit)>) -> VecDeque<Bytes> {
    let mut segments = VecDeque::new();
    let mut inline = BytesMut::with_capacity(batch.len() * 64);
    for (reply, _) in batch {
        inline.extend_from_slice(reply.header());
        if reply.payload().len() <= INLINE_PAYLOAD_BYTES_MAX {
            inline.extend_from_slice(reply.payload());
        } else {
            segments.push_back(inline.split().freeze());
            segments.push_back(reply.payload().clone());
        }
    }
    if !inline.is_empty() {
        segments.push_back(inline.freeze());
    }
    segments
}

async fn write_all(socket: &mut impl AsyncWriteRent, mut segments: VecDeque<Bytes>) -> io::Result<()> {
    while !segments.is_empty() {
        let gather = Gather::new(segments.iter().take(SEGMENT_COUNT_MAX).cloned().collect());
        let (written, _gather) = socket.writev(gather).await;
        let mut written = written?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        while let Some(first) = segments.front_mut() {
            if written < first.len() {
                first.advance(written);
                break;
            }
            written -= first.len();
            segments.pop_front();
        }
    }
    Ok(())
}

/// Segments in the form the kernel takes.
struct Gather {
    vectors: Vec<libc::iovec>,
    /// Keeps the memory that `vectors` points to alive while the kernel reads it.
    _segments: Vec<Bytes>,
}

impl Gather {
    fn new(segments: Vec<Bytes>) -> Self {
        let vectors = segments
            .iter()
            .map(|segment| libc::iovec {
                iov_base: segment.as_ptr().cast_mut().cast(),
                iov_len: segment.len(),
            })
            .collect();
        Self { vectors, _segments: segments }
    }
}

// SAFETY: `vectors` is never changed after `new`, so moving the value keeps both pointers and count;
// every vector points into a `Bytes` owned by the same value, whose memory neither moves nor changes
// while that `Bytes` lives. The runtime only reads through them.
unsafe impl IoVecBuf for Gather {
    fn read_iovec_ptr(&self) -> *const libc::iovec {
        self.vectors.as_ptr()
    }

    fn read_iovec_len(&self) -> usize {
        self.vectors.len()
    }
}
