//! Frames on their way to one core of a brick: in order, coalesced, within the credits the brick granted.
//!
//! The writer takes everything that is ready as one vectored write. A frame whose data (asked for or
//! carried) exceeds the credits left waits, and those behind it wait with it: order is kept.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use brick_wire::Opcode;
use brick_wire::decode::Frame;
use brick_wire::limits::BLOCK_SIZE;
use bytes::{Bytes, BytesMut};
use monoio::buf::IoVecBuf;
use tokio::sync::Notify;

/// Payloads up to this many bytes are copied next to their headers: cheaper than a segment of their own.
const INLINE_BYTES_MAX: usize = 4096;
/// Memory for heads and such payloads, taken at once. It is used again when what was in it is sent.
const INLINE_BUFFER_BYTES: usize = 64 * 1024;
/// Segments of one write; the kernel takes 1024.
const SEGMENTS_MAX: usize = 256;

/// The queue of one connection.
#[derive(Clone, Debug)]
pub(crate) struct Outbox {
    inner: Rc<Inner>,
}

#[derive(Debug)]
struct Inner {
    state: RefCell<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    queue: VecDeque<Frame>,
    credit_bytes: u64,
    granted_bytes: u64,
    closed: bool,
    /// Where the next batch's heads go.
    inline: BytesMut,
}

impl Outbox {
    /// An empty queue with what the welcome granted.
    pub(crate) fn new(credit_bytes: u32) -> Outbox {
        let granted_bytes = u64::from(credit_bytes);
        let state = State {
            queue: VecDeque::new(),
            credit_bytes: granted_bytes,
            granted_bytes,
            closed: false,
            inline: BytesMut::new(),
        };
        Outbox { inner: Rc::new(Inner { state: RefCell::new(state), changed: Notify::new() }) }
    }

    /// Queues a frame; after [`Outbox::close`] it vanishes.
    pub(crate) fn push(&self, frame: Frame) {
        let mut state = self.inner.state.borrow_mut();
        if !state.closed {
            state.queue.push_back(frame);
            self.inner.changed.notify_one();
        }
    }

    /// A reply gave credits back.
    pub(crate) fn restore(&self, credits: u16) {
        if credits > 0 {
            let mut state = self.inner.state.borrow_mut();
            let more = state.credit_bytes + u64::from(credits) * BLOCK_SIZE as u64;
            // A brick that gives back more than it granted doesn't get more than it granted.
            state.credit_bytes = more.min(state.granted_bytes);
            self.inner.changed.notify_one();
        }
    }

    /// Ends the writer; what is queued is dropped.
    pub(crate) fn close(&self) {
        let mut state = self.inner.state.borrow_mut();
        state.closed = true;
        state.queue.clear();
        self.inner.changed.notify_one();
    }

    /// Everything that may leave now; waits until there is something, `None` after a close.
    pub(crate) async fn next_batch(&self) -> Option<Batch> {
        loop {
            {
                let mut state = self.inner.state.borrow_mut();
                if state.closed {
                    return None;
                }
                let batch = state.take();
                if !batch.is_empty() {
                    return Some(batch);
                }
            }
            self.inner.changed.notified().await;
        }
    }
}

impl State {
    fn take(&mut self) -> Batch {
        let mut builder = BatchBuilder { segments: Vec::new(), inline: &mut self.inline };
        while let Some(frame) = self.queue.front() {
            let cost = cost_bytes(frame);
            // The largest request passes when nothing is outstanding, however small the grant.
            let fits = cost <= self.credit_bytes || self.credit_bytes == self.granted_bytes;
            if !fits || builder.segments.len() + 3 > SEGMENTS_MAX {
                break;
            }
            self.credit_bytes = self.credit_bytes.saturating_sub(cost);
            builder.push(self.queue.pop_front().expect("looked at above"));
        }
        builder.finish()
    }
}

/// What a request takes from the credits: the brick holds a buffer of that size until it has answered.
fn cost_bytes(frame: &Frame) -> u64 {
    match frame.header.opcode {
        Opcode::Write | Opcode::Read => frame.header.blocks.bytes() as u64,
        _ => 0,
    }
}

struct BatchBuilder<'a> {
    segments: Vec<Bytes>,
    inline: &'a mut BytesMut,
}

impl BatchBuilder<'_> {
    fn push(&mut self, frame: Frame) {
        let is_inline = frame.data.len() <= INLINE_BYTES_MAX;
        let separate_bytes = if is_inline { 0 } else { frame.data.len() };
        let inline_bytes = frame.header.frame_bytes() - separate_bytes;
        if self.inline.capacity() - self.inline.len() < inline_bytes {
            // Not to be moved into a larger buffer.
            self.end_segment();
            self.inline.reserve(inline_bytes.max(INLINE_BUFFER_BYTES));
        }
        frame.put_head(self.inline);
        if is_inline {
            self.inline.extend_from_slice(&frame.data);
        } else {
            self.end_segment();
            self.segments.push(frame.data);
        }
    }

    fn end_segment(&mut self) {
        if !self.inline.is_empty() {
            self.segments.push(self.inline.split().freeze());
        }
    }

    fn finish(mut self) -> Batch {
        self.end_segment();
        Batch::new(self.segments)
    }
}

/// Segments of one vectored write, and how far it has come.
pub(crate) struct Batch {
    segments: VecDeque<Bytes>,
    vectors: Vec<libc::iovec>,
}

impl Batch {
    fn new(segments: Vec<Bytes>) -> Batch {
        let mut batch = Batch { segments: segments.into(), vectors: Vec::new() };
        batch.point();
        batch
    }

    /// Whether everything was written.
    pub(crate) fn is_empty(&self) -> bool {
        self.segments.is_empty()
    }

    /// `count` bytes were written.
    pub(crate) fn advance(&mut self, mut count: usize) {
        while count > 0 {
            let first = self.segments.front_mut().expect("no more is written than there is");
            if count < first.len() {
                let _written = first.split_to(count);
                break;
            }
            count -= first.len();
            self.segments.pop_front();
        }
        self.point();
    }

    fn point(&mut self) {
        self.vectors.clear();
        self.vectors.extend(self.segments.iter().map(|segment| libc::iovec {
            iov_base: segment.as_ptr().cast_mut().cast(),
            iov_len: segment.len(),
        }));
    }
}

// SAFETY: `vectors` points at the bytes of `segments`, which are heap memory that neither moves nor
// changes while the batch owns them, and it is rebuilt whenever `segments` changes.
unsafe impl IoVecBuf for Batch {
    fn read_iovec_ptr(&self) -> *const libc::iovec {
        self.vectors.as_ptr()
    }

    fn read_iovec_len(&self) -> usize {
        self.vectors.len()
    }
}
