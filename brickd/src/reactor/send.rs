//! From frames to a byte stream: what was queued since the last send leaves in one sendmsg, up to a limit.
//!
//! Heads (header, aux and its trailer) are written one after another into one buffer; payloads are pointed
//! to where they are. A batch keeps its frames' buffers until all of it was sent, and moves into the ring
//! meanwhile. Order is the order of queueing.

use std::collections::VecDeque;
use std::ops::Range;
use std::ptr;

use brick_wire::checksum::crc32c;
use brick_wire::limits::{FRAME_BYTES_MAX, HEADER_SIZE};

use crate::buffer::Buffer;
use crate::engine::Frame;

/// The sending half of a connection: what waits to be sent.
#[derive(Debug, Default)]
pub struct Sender {
    queue: VecDeque<Frame>,
    queued_bytes: usize,
    /// A used batch, for its allocations.
    spare: Option<Box<Batch>>,
}

/// The peer takes its replies too slowly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueFull;

impl Sender {
    /// Queues a frame; its header's lengths are filled in here.
    pub fn push(&mut self, mut frame: Frame) -> Result<(), QueueFull> {
        frame.header.aux_bytes = if frame.aux.is_empty() { 0 } else { frame.aux.len() as u32 + 4 };
        frame.header.data_bytes = frame.data_bytes() as u32;
        self.queued_bytes += frame.header.frame_bytes();
        self.queue.push_back(frame);
        let full = self.queue.len() > QUEUE_FRAMES_MAX || self.queued_bytes > QUEUE_BYTES_MAX;
        if full { Err(QueueFull) } else { Ok(()) }
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Bytes that wait.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes
    }

    /// The next batch, if anything waits.
    pub fn next_batch(&mut self) -> Option<Box<Batch>> {
        if self.queue.is_empty() {
            return None;
        }
        let mut batch = self.spare.take().unwrap_or_else(Batch::new);
        while batch.pieces.len() + 2 <= BATCH_PIECES_MAX && batch.bytes < BATCH_BYTES_MAX {
            let Some(frame) = self.queue.pop_front() else { break };
            self.queued_bytes -= frame.header.frame_bytes();
            batch.add(frame);
        }
        batch.point();
        Some(batch)
    }

    /// Takes a sent batch back for its allocations.
    pub fn recycle(&mut self, mut batch: Box<Batch>) {
        batch.clear();
        self.spare = Some(batch);
    }
}

/// Frames on their way into the socket.
#[derive(Debug)]
pub struct Batch {
    heads: Vec<u8>,
    pieces: Vec<Piece>,
    bytes: usize,
    /// What the kernel reads: one per piece; those before `first` were sent.
    vectors: Vec<libc::iovec>,
    first: usize,
    message: libc::msghdr,
}

#[derive(Debug)]
enum Piece {
    Heads(Range<usize>),
    Payload(Buffer),
}

impl Batch {
    fn new() -> Box<Batch> {
        Box::new(Batch {
            heads: Vec::new(),
            pieces: Vec::new(),
            bytes: 0,
            vectors: Vec::new(),
            first: 0,
            message: libc::msghdr {
                msg_name: ptr::null_mut(),
                msg_namelen: 0,
                msg_iov: ptr::null_mut(),
                msg_iovlen: 0,
                msg_control: ptr::null_mut(),
                msg_controllen: 0,
                msg_flags: 0,
            },
        })
    }

    /// What sendmsg takes. Valid as long as the batch lives and isn't changed: all it points to is on the
    /// heap or in the pool, and the batch is boxed.
    pub fn message(&self) -> *const libc::msghdr {
        &self.message
    }

    /// Counts bytes as sent; returns whether that was all.
    pub fn advance(&mut self, bytes: usize) -> bool {
        let mut left = bytes;
        while left > 0 {
            let vector = &mut self.vectors[self.first];
            let step = left.min(vector.iov_len);
            // SAFETY: `step` is at most the vector's length, so the pointer stays inside its piece or one
            // past its end.
            vector.iov_base = unsafe { vector.iov_base.cast::<u8>().add(step) }.cast();
            vector.iov_len -= step;
            left -= step;
            if vector.iov_len == 0 {
                self.first += 1;
            }
        }
        self.aim();
        self.first == self.vectors.len()
    }

    fn add(&mut self, frame: Frame) {
        let start = self.heads.len();
        self.heads.extend_from_slice(&frame.header.to_bytes());
        if !frame.aux.is_empty() {
            self.heads.extend_from_slice(&frame.aux);
            self.heads.extend_from_slice(&crc32c(&frame.aux).to_le_bytes());
        }
        self.bytes += frame.header.frame_bytes();
        match self.pieces.last_mut() {
            Some(Piece::Heads(range)) => range.end = self.heads.len(),
            _ => self.pieces.push(Piece::Heads(start..self.heads.len())),
        }
        self.pieces.extend(frame.data.map(Piece::Payload));
    }

    /// Points the vectors at the pieces, now that the heads don't move any more.
    fn point(&mut self) {
        let (heads, pieces) = (&self.heads, &self.pieces);
        self.vectors.extend(pieces.iter().map(|piece| {
            let bytes = match piece {
                Piece::Heads(range) => &heads[range.clone()],
                Piece::Payload(buffer) => &buffer[..],
            };
            libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() }
        }));
        self.aim();
    }

    /// Points the message at what is not yet sent.
    fn aim(&mut self) {
        let rest = &mut self.vectors[self.first..];
        self.message.msg_iovlen = rest.len();
        self.message.msg_iov = rest.as_mut_ptr();
    }

    fn clear(&mut self) {
        self.heads.clear();
        self.heads.shrink_to(HEADS_BYTES_KEPT);
        self.pieces.clear();
        self.vectors.clear();
        (self.bytes, self.first) = (0, 0);
    }
}

/// Frames that may wait on one connection. A client has at most as many requests outstanding as its credits
/// have blocks; one that asks for more without taking the replies is broken.
pub const QUEUE_FRAMES_MAX: usize = 16 * 1024;
/// Bytes that may wait on one connection.
pub const QUEUE_BYTES_MAX: usize = 64 << 20;
/// Vectors of one sendmsg; the kernel takes 1024.
const BATCH_PIECES_MAX: usize = 256;
/// A batch is closed once it holds this much: buffers come back when a whole batch is sent.
const BATCH_BYTES_MAX: usize = 1 << 20;
/// What a batch between two sends may keep allocated.
const HEADS_BYTES_KEPT: usize = 64 * 1024;

const _: () = assert!(BATCH_PIECES_MAX <= 1024 && HEADER_SIZE > 0);
const _: () = assert!(QUEUE_BYTES_MAX >= FRAME_BYTES_MAX);

#[cfg(test)]
mod tests {
    use brick_wire::limits::BLOCK_SIZE;
    use brick_wire::{Header, Opcode, RequestId};

    use super::*;
    use crate::buffer::Pool;
    use crate::reactor::receive::{Receiver, Step};

    /// What the kernel would send, at most `bytes_max` of it.
    fn gather(batch: &Batch, bytes_max: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for vector in &batch.vectors[batch.first..] {
            // SAFETY: the vectors point into the batch's own heads and buffers.
            let bytes = unsafe { std::slice::from_raw_parts(vector.iov_base.cast::<u8>(), vector.iov_len) };
            out.extend_from_slice(bytes);
        }
        out.truncate(bytes_max);
        out
    }

    fn frame(pool: &Pool, id: u64) -> Frame {
        let data = id.is_multiple_of(3).then(|| {
            let mut data = pool.allocate((1 + id as usize % 4) * BLOCK_SIZE).unwrap();
            data.fill(id as u8);
            data
        });
        let aux = vec![id as u8; id as usize % 7];
        Frame { header: Header::request(Opcode::Read, RequestId(id)), aux, data }
    }

    #[test]
    fn short_sends_lose_and_repeat_nothing() {
        let pool = Pool::new(32 << 20);
        let mut sender = Sender::default();
        for id in 0..600 {
            sender.push(frame(&pool, id)).unwrap();
        }
        let (mut stream, mut step) = (Vec::new(), 1);
        while let Some(mut batch) = sender.next_batch() {
            loop {
                step = step * 7 % 99_991;
                let sent = gather(&batch, step);
                stream.extend_from_slice(&sent);
                if batch.advance(sent.len()) {
                    break;
                }
            }
            sender.recycle(batch);
        }
        assert_eq!((sender.queued_bytes, pool.free_bytes()), (0, 32 << 20));

        let mut receiver = Receiver::new(&[]);
        let mut rest = stream.as_slice();
        for id in 0..600 {
            let received = loop {
                match receiver.next_step(Some(&pool)).unwrap() {
                    Step::Frame(received) => break received,
                    _ => {
                        let target = receiver.target();
                        let bytes = target.len().min(rest.len());
                        target[..bytes].copy_from_slice(&rest[..bytes]);
                        receiver.advance(bytes);
                        rest = &rest[bytes..];
                    }
                }
            };
            let expected = frame(&pool, id);
            assert_eq!((received.header.request, received.aux), (RequestId(id), expected.aux));
            assert_eq!(received.data.as_deref(), expected.data.as_deref());
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn a_peer_that_never_reads_is_noticed() {
        let pool = Pool::new(BLOCK_SIZE);
        let mut sender = Sender::default();
        let pushed = (0..=QUEUE_FRAMES_MAX as u64).map(|_| sender.push(frame(&pool, 1)));
        assert_eq!(pushed.last(), Some(Err(QueueFull)));
    }
}
