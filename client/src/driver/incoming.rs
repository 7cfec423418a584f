//! The bytes that a connection has received, and how many to ask for next.
//!
//! Frames are received in bulk, and their payloads are slices of the buffer they came in. One that doesn't fit gets a
//! buffer as long as itself: what came of it before its length was known has to be copied there, so after one large frame
//! only little is asked for until the head of the next is known.

use std::io;

use brick_wire::FrameError;
use brick_wire::decode::{Frame, next_frame, peek_header};
use bytes::BytesMut;
use monoio::buf::{IoBufMut, SliceMut};
use monoio::io::{AsyncReadRent, CancelHandle, CancelableAsyncReadRent};
use monoio::net::tcp::TcpOwnedReadHalf;

/// Bytes asked for in one receive of small frames.
const BULK_BYTES: usize = 256 * 1024;
/// Bytes asked for where a large frame is expected: its head and little more.
const PROBE_BYTES: usize = 8 * 1024;
/// Frames from here on are large.
const LARGE_BYTES: usize = 64 * 1024;

/// Received and not yet handed on.
#[derive(Debug, Default)]
pub(super) struct Incoming {
    buffer: BytesMut,
    /// The last frame was large.
    expects_large: bool,
}

impl Incoming {
    /// Cuts the next frame off, if it is whole.
    pub(super) fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        let frame = next_frame(&mut self.buffer)?;
        if let Some(frame) = &frame {
            self.expects_large = frame.header.frame_bytes() >= LARGE_BYTES;
        }
        Ok(frame)
    }

    /// Receives more, and returns how much. If it is cancelled the bytes received before are lost: the connection is over
    /// then.
    pub(super) async fn receive(
        &mut self,
        reader: &mut TcpOwnedReadHalf,
        cancel: Option<&CancelHandle>,
    ) -> io::Result<usize> {
        let slice = self.make_room();
        let (result, slice) = match cancel {
            Some(cancel) => reader.cancelable_read(slice, cancel.clone()).await,
            None => reader.read(slice).await,
        };
        self.buffer = slice.into_inner();
        result
    }

    /// The part of the buffer that the next receive fills.
    fn make_room(&mut self) -> SliceMut<BytesMut> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let begun = buffer.len();
        // Bounded by the largest frame: a header beyond the limits was refused when it was parsed.
        let frame_bytes = peek_header(&buffer).ok().flatten().map_or(0, |header| header.frame_bytes());
        let end = if frame_bytes >= LARGE_BYTES {
            frame_bytes
        } else if self.expects_large {
            frame_bytes.max(begun + PROBE_BYTES)
        } else {
            begun + BULK_BYTES
        };
        // A buffer with some room left is filled up before another one is taken.
        let is_full = buffer.capacity() < end.min(begun + BULK_BYTES / 4) || buffer.capacity() < frame_bytes;
        if is_full {
            buffer.reserve(end - begun);
        }
        let end = end.min(buffer.capacity());
        buffer.slice_mut(begun..end)
    }
}

#[cfg(test)]
impl Incoming {
    /// As if these bytes had been received.
    pub(super) fn of(bytes: &[u8]) -> Incoming {
        Incoming { buffer: bytes.into(), ..Incoming::default() }
    }
}

#[cfg(test)]
mod tests {
    use brick_wire::{Header, Opcode, RequestId};
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;

    fn stream_of(sizes: &[usize]) -> Vec<u8> {
        let frame = |(id, size): (usize, &usize)| {
            let header = Header::request(Opcode::Read, RequestId(id as u64));
            let frame = Frame::new(header, vec![id as u8; id % 5], Bytes::from(vec![id as u8; size * 4096]));
            [frame.head_bytes(), frame.data.to_vec()].concat()
        };
        sizes.iter().enumerate().flat_map(frame).collect()
    }

    /// What a socket that always has more would do; how many bytes it was asked for.
    fn feed(incoming: &mut Incoming, stream: &mut &[u8], bytes_max: usize) -> usize {
        assert!(!stream.is_empty(), "bytes were lost");
        let mut slice = incoming.make_room();
        let room = monoio::buf::IoBufMut::bytes_total(&mut slice);
        let (now, later) = stream.split_at(room.min(stream.len()).min(bytes_max));
        *stream = later;
        let begun = slice.begin();
        let mut buffer = slice.into_inner();
        buffer.truncate(begun);
        buffer.extend_from_slice(now);
        incoming.buffer = buffer;
        room
    }

    proptest! {
        /// However the stream is cut and whatever frames are kept, they come out whole and in order, and stay so.
        #[test]
        fn frames_survive_any_cut(
            sizes in prop::collection::vec(prop_oneof![0usize..6, 10usize..256], 1..12),
            cuts in prop::collection::vec(1usize..300_000, 1..8),
            keeps in prop::collection::vec(any::<bool>(), 12),
        ) {
            let stream = stream_of(&sizes);
            let mut rest = stream.as_slice();
            let mut incoming = Incoming::default();
            let mut cuts = cuts.into_iter().cycle();
            let mut kept = Vec::new();
            for (id, size) in sizes.iter().enumerate() {
                let frame = loop {
                    match incoming.next_frame().unwrap() {
                        Some(frame) => break frame,
                        None => prop_assert!(feed(&mut incoming, &mut rest, cuts.next().unwrap()) > 0),
                    }
                };
                prop_assert_eq!(frame.header.request, RequestId(id as u64));
                prop_assert_eq!(frame.data.len(), size * 4096);
                prop_assert!(frame.data.iter().all(|byte| *byte == id as u8));
                if keeps[id] {
                    kept.push((id, frame.data));
                }
            }
            prop_assert!(kept.iter().all(|(id, data)| data.iter().all(|byte| *byte == *id as u8)));
            prop_assert!(rest.is_empty() && incoming.buffer.is_empty());
        }
    }

    #[test]
    fn of_large_frames_only_heads_are_received_before_their_length_is_known() {
        let stream = stream_of(&[1, 256, 256, 1]);
        let mut rest = stream.as_slice();
        let mut incoming = Incoming::default();
        let mut asked = Vec::new();
        while !rest.is_empty() {
            asked.push(feed(&mut incoming, &mut rest, usize::MAX));
            while incoming.next_frame().unwrap().is_some() {}
        }
        let large = 256 * 4096 + 64;
        let first = large + 4096 + 64 - BULK_BYTES;
        assert_eq!(asked.len(), 5, "{asked:?}");
        assert_eq!(asked[0], BULK_BYTES);
        assert!(asked[1].abs_diff(first) < 32, "the rest of the second frame: {asked:?}");
        assert_eq!(asked[2], PROBE_BYTES);
        assert!(asked[3].abs_diff(large - PROBE_BYTES) < 32, "the rest of the third: {asked:?}");
        assert_eq!(asked[4], PROBE_BYTES, "which is enough for the last");
    }
}
