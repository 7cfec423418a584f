//! An open image: an array of bytes, whatever lies beneath.
//!
//! Byte ranges become block ranges of shards here; a partly covered block becomes a read-modify-write
//! under that block's lock in the replica core. Calls run concurrently, and a call that spans several
//! shards isn't atomic, like on any disk.

use std::cell::Cell;
use std::rc::Rc;

use brick_wire::limits::{BLOCK_SHIFT, BLOCK_SIZE, DATA_BLOCKS_MAX, DATA_BYTES_MAX};
use brick_wire::placement::group_of;
use brick_wire::register::ImageValue;
use brick_wire::{BlockRange, ImageUuid, ShardIndex};
use bytes::{Bytes, BytesMut};

use crate::config::VolumeConfig;
use crate::driver::session::Session;
use crate::replica::{GroupError, Output, Report, Request};

static ZEROES: [u8; DATA_BYTES_MAX] = [0; DATA_BYTES_MAX];

/// An open image. Clones share it.
#[derive(Clone)]
pub struct Image {
    inner: Rc<Inner>,
}

struct Inner {
    value: ImageValue,
    read_only: bool,
    /// One per group of the layout, in its order.
    sessions: Vec<Session>,
    weights: Vec<u32>,
    size_bytes: u64,
    closed: Cell<bool>,
}

/// Why a call on an image failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// Beyond the end.
    #[error("bytes {offset_bytes}+{length_bytes} are beyond the image's end at {size_bytes}")]
    OutOfRange {
        /// Where.
        offset_bytes: u64,
        /// How many.
        length_bytes: u64,
        /// Where the image ends.
        size_bytes: u64,
    },
    /// Opened to read.
    #[error("the image was opened read-only")]
    ReadOnly,
    /// The replicas.
    #[error(transparent)]
    Group(#[from] GroupError),
}

/// A run of bytes that has blocks on the bricks, or has none and reads as zeros.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// How long, bytes.
    pub length_bytes: u64,
    /// Whether bricks hold blocks of it.
    pub allocated: bool,
}

/// A piece of a call: bytes within one shard, at most 1 MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Piece {
    shard: ShardIndex,
    /// Within the shard, bytes.
    offset_bytes: u64,
    length_bytes: usize,
}

impl Image {
    pub(crate) fn new(
        value: ImageValue,
        read_only: bool,
        sessions: Vec<Session>,
        config: Rc<VolumeConfig>,
    ) -> Image {
        let weights = value.groups.iter().map(|group| config.groups[usize::from(*group)].weight).collect();
        let size_bytes = sessions.first().map_or(0, Session::size_bytes);
        let closed = Cell::new(false);
        Image { inner: Rc::new(Inner { value, read_only, sessions, weights, size_bytes, closed }) }
    }

    /// Size, bytes.
    pub fn size_bytes(&self) -> u64 {
        self.inner.size_bytes
    }

    /// The image's name when it was opened.
    pub fn name(&self) -> &str {
        &self.inner.value.name
    }

    /// The image's id.
    pub fn uuid(&self) -> ImageUuid {
        self.inner.value.image
    }

    /// Whether writes are refused.
    pub fn read_only(&self) -> bool {
        self.inner.read_only
    }

    /// Size of a shard, bytes.
    pub fn shard_bytes(&self) -> u64 {
        1 << self.inner.value.shard_shift
    }

    /// State of every group of the layout.
    pub fn reports(&self) -> Vec<Report> {
        self.inner.sessions.iter().map(Session::report).collect()
    }

    /// Reads `length` bytes.
    pub async fn read_at(&self, offset_bytes: u64, length: usize) -> Result<Bytes, ImageError> {
        self.check(offset_bytes, length as u64)?;
        let pieces = self.pieces(offset_bytes, length as u64);
        if let [piece] = pieces[..] {
            return self.read_piece(piece).await;
        }
        let tasks: Vec<_> = pieces.into_iter().map(|piece| self.spawn_read(piece)).collect();
        let mut whole = BytesMut::with_capacity(length);
        let mut failed = None;
        for task in tasks {
            match task.await {
                Ok(bytes) => whole.extend_from_slice(&bytes),
                Err(error) => failed = Some(error),
            }
        }
        failed.map_or(Ok(whole.freeze()), Err)
    }

    /// Writes `data`, whose bytes nobody may change until the call returns (`Bytes` can't be changed;
    /// memory behind `Bytes::from_owner` could be).
    pub async fn write_at(&self, offset_bytes: u64, data: Bytes, fua: bool) -> Result<(), ImageError> {
        self.check_write(offset_bytes, data.len() as u64)?;
        let mut rest = data;
        let mut requests = Vec::new();
        for piece in self.pieces(offset_bytes, rest.len() as u64) {
            let bytes = rest.split_to(piece.length_bytes);
            push_writes(&mut requests, piece, bytes, fua);
        }
        self.run_all(requests).await
    }

    /// Writes zeros. Without `allocate`, ranges that were never written stay without blocks.
    pub async fn write_zeroes(
        &self,
        offset_bytes: u64,
        length_bytes: u64,
        fua: bool,
        allocate: bool,
    ) -> Result<(), ImageError> {
        self.check_write(offset_bytes, length_bytes)?;
        // A gigabyte of zeros is a thousand requests: a few at a time, so that others get their turn.
        const AT_ONCE: usize = 16;
        let mut requests = Vec::new();
        for piece in self.pieces(offset_bytes, length_bytes) {
            if !allocate && self.is_hole(piece.shard).await? {
                continue;
            }
            push_writes(&mut requests, piece, Bytes::from_static(&ZEROES[..piece.length_bytes]), fua);
            if requests.len() >= AT_ONCE {
                self.run_all(std::mem::take(&mut requests)).await?;
            }
        }
        self.run_all(requests).await
    }

    /// The range isn't needed any more. Its blocks are kept, which the contract of a discard allows.
    pub async fn discard(&self, offset_bytes: u64, length_bytes: u64) -> Result<(), ImageError> {
        self.check_write(offset_bytes, length_bytes)
    }

    /// Makes all completed writes durable on every good copy.
    pub async fn flush(&self) -> Result<(), ImageError> {
        let flushes: Vec<_> = self
            .inner
            .sessions
            .iter()
            .map(|session| {
                let session = session.clone();
                monoio::spawn(async move { session.request(Request::Flush).await })
            })
            .collect();
        let mut result = Ok(());
        for flush in flushes {
            if let Err(error) = flush.await {
                result = Err(error.into());
            }
        }
        result
    }

    /// Which parts of the range have blocks, by whole shards.
    pub async fn block_status(
        &self,
        offset_bytes: u64,
        length_bytes: u64,
    ) -> Result<Vec<Extent>, ImageError> {
        self.check(offset_bytes, length_bytes)?;
        let mut extents: Vec<Extent> = Vec::new();
        let mut last_hole = None;
        for piece in self.pieces(offset_bytes, length_bytes) {
            let hole = last_hole == Some(piece.shard) || self.is_hole(piece.shard).await?;
            last_hole = hole.then_some(piece.shard);
            let allocated = !hole;
            let length_bytes = piece.length_bytes as u64;
            match extents.last_mut() {
                Some(last) if last.allocated == allocated => last.length_bytes += length_bytes,
                _ => extents.push(Extent { length_bytes, allocated }),
            }
        }
        Ok(extents)
    }

    /// Completes when the image can't be served any more (another client took it over, or unflushed writes
    /// were lost with the bricks' power), with the reason.
    pub async fn ended(&self) -> GroupError {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let sender = Rc::new(Cell::new(Some(sender)));
        for session in &self.inner.sessions {
            let (session, sender) = (session.clone(), sender.clone());
            monoio::spawn(async move {
                let error = session.ended().await;
                if let Some(sender) = sender.take() {
                    let _nobody_waits = sender.send(error);
                }
            });
        }
        receiver.await.unwrap_or(GroupError::Closed)
    }

    /// Flushes and gives the image back; everything fails afterwards.
    pub async fn close(&self) -> Result<(), ImageError> {
        if self.inner.closed.replace(true) {
            return Ok(());
        }
        let mut result = Ok(());
        for session in &self.inner.sessions {
            if let Err(error) = session.close().await {
                result = Err(error.into());
            }
        }
        result
    }

    /// Whether a shard was never written. What this client knows is confirmed by a brick, under the epoch:
    /// another client may have taken the image over and written there.
    async fn is_hole(&self, shard: ShardIndex) -> Result<bool, ImageError> {
        let session = self.session(shard);
        if !session.is_hole(shard) {
            return Ok(false);
        }
        let first = BlockRange::new(0, 1);
        let output = session.request(Request::Read { shard, blocks: first }).await?;
        Ok(output == Output::Zeroes)
    }

    fn check(&self, offset_bytes: u64, length_bytes: u64) -> Result<(), ImageError> {
        let size_bytes = self.size_bytes();
        match offset_bytes.checked_add(length_bytes) {
            Some(end) if end <= size_bytes => Ok(()),
            _ => Err(ImageError::OutOfRange { offset_bytes, length_bytes, size_bytes }),
        }
    }

    fn check_write(&self, offset_bytes: u64, length_bytes: u64) -> Result<(), ImageError> {
        if self.inner.read_only {
            return Err(ImageError::ReadOnly);
        }
        self.check(offset_bytes, length_bytes)
    }

    fn pieces(&self, offset_bytes: u64, length_bytes: u64) -> Vec<Piece> {
        split(offset_bytes, length_bytes, self.inner.value.shard_shift)
    }

    fn session(&self, shard: ShardIndex) -> &Session {
        let group = group_of(self.uuid(), shard, &self.inner.weights);
        &self.inner.sessions[usize::from(group.0)]
    }

    fn spawn_read(&self, piece: Piece) -> monoio::task::JoinHandle<Result<Bytes, ImageError>> {
        let image = self.clone();
        monoio::spawn(async move { image.read_piece(piece).await })
    }

    async fn read_piece(&self, piece: Piece) -> Result<Bytes, ImageError> {
        let skip = piece.offset_bytes as usize % BLOCK_SIZE;
        let request = Request::Read { shard: piece.shard, blocks: covering(piece) };
        match self.session(piece.shard).request(request).await? {
            Output::Data(data) => Ok(data.slice(skip..skip + piece.length_bytes)),
            _ => Ok(Bytes::from_static(&ZEROES[..piece.length_bytes])),
        }
    }

    async fn run_all(&self, mut requests: Vec<(ShardIndex, Request)>) -> Result<(), ImageError> {
        if requests.len() == 1 {
            let (shard, request) = requests.remove(0);
            return self.session(shard).request(request).await.map(drop).map_err(ImageError::from);
        }
        let tasks: Vec<_> = requests
            .into_iter()
            .map(|(shard, request)| {
                let session = self.session(shard).clone();
                monoio::spawn(async move { session.request(request).await })
            })
            .collect();
        let mut result = Ok(());
        for task in tasks {
            if let Err(error) = task.await {
                result = Err(error.into());
            }
        }
        result
    }
}

/// Cuts a byte range at shard boundaries and at 1 MiB, so that every piece covers at most the blocks of
/// one request.
fn split(offset_bytes: u64, length_bytes: u64, shard_shift: u8) -> Vec<Piece> {
    let shard_bytes = 1u64 << shard_shift;
    let end = offset_bytes + length_bytes;
    let mut at = offset_bytes;
    let mut pieces = Vec::new();
    while at < end {
        let within = at % shard_bytes;
        // Up to the next multiple of 1 MiB: an unaligned piece must not touch one block more.
        let boundary = (within / DATA_BYTES_MAX as u64 + 1) * DATA_BYTES_MAX as u64;
        let length = (end - at).min(boundary.min(shard_bytes) - within);
        pieces.push(Piece {
            shard: ShardIndex((at >> shard_shift) as u32),
            offset_bytes: within,
            length_bytes: length as usize,
        });
        at += length;
    }
    pieces
}

/// The blocks that a piece touches.
fn covering(piece: Piece) -> BlockRange {
    let first = piece.offset_bytes >> BLOCK_SHIFT;
    let end = (piece.offset_bytes + piece.length_bytes as u64).div_ceil(BLOCK_SIZE as u64);
    let range = BlockRange::new(first as u16, (end - first) as u16);
    assert!(range.count <= DATA_BLOCKS_MAX);
    range
}

/// A piece as requests: whole blocks are written, partly covered ones modified.
fn push_writes(requests: &mut Vec<(ShardIndex, Request)>, piece: Piece, mut data: Bytes, fua: bool) {
    let Piece { shard, mut offset_bytes, .. } = piece;
    let mut modify = |offset_bytes: u64, data: Bytes| {
        let block = (offset_bytes >> BLOCK_SHIFT) as u16;
        let offset_bytes = (offset_bytes % BLOCK_SIZE as u64) as u16;
        requests.push((shard, Request::Modify { shard, block, offset_bytes, data, fua }));
    };
    let skip = offset_bytes as usize % BLOCK_SIZE;
    if skip > 0 {
        let head = data.split_to(data.len().min(BLOCK_SIZE - skip));
        let length = head.len() as u64;
        modify(offset_bytes, head);
        offset_bytes += length;
    }
    let tail = data.split_off(data.len() - data.len() % BLOCK_SIZE);
    if !tail.is_empty() {
        modify(offset_bytes + data.len() as u64, tail);
    }
    if !data.is_empty() {
        let blocks = BlockRange::new(
            (offset_bytes >> BLOCK_SHIFT) as u16,
            u16::try_from(data.len() / BLOCK_SIZE).expect("a piece is at most 1 MiB"),
        );
        requests.push((shard, Request::Write { shard, blocks, data, fua }));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The requests of a write, applied to an array, change exactly the range and nothing else.
        #[test]
        fn requests_of_a_write_cover_exactly_its_bytes(
            offset in 0u64..5_000_000, length in 1u64..3_000_000, shift in 20u8..22,
        ) {
            let data: Vec<u8> = (0..length).map(|index| (index % 251) as u8 + 1).collect();
            let mut array = vec![0u8; 9_000_000];
            let mut rest = Bytes::from(data.clone());
            for piece in split(offset, length, shift) {
                let mut requests = Vec::new();
                push_writes(&mut requests, piece, rest.split_to(piece.length_bytes), false);
                prop_assert!(covering(piece).count <= DATA_BLOCKS_MAX);
                for (shard, request) in requests {
                    let base = (u64::from(shard.0) << shift) as usize;
                    let (at, bytes) = match request {
                        Request::Write { blocks, data, .. } => (base + blocks.offset_bytes() as usize, data),
                        Request::Modify { block, offset_bytes, data, .. } => {
                            let at = base + usize::from(block) * BLOCK_SIZE + usize::from(offset_bytes);
                            prop_assert!(usize::from(offset_bytes) + data.len() <= BLOCK_SIZE);
                            (at, data)
                        }
                        other => panic!("a write became {other:?}"),
                    };
                    prop_assert!(array[at..at + bytes.len()].iter().all(|byte| *byte == 0), "written twice");
                    array[at..at + bytes.len()].copy_from_slice(&bytes);
                }
            }
            let end = (offset + length) as usize;
            prop_assert_eq!(&array[offset as usize..end], &data[..]);
            prop_assert!(array[..offset as usize].iter().chain(&array[end..]).all(|byte| *byte == 0));
        }
    }
}
