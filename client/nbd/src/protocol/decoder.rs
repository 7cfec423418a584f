//! The stream of requests: from received bytes to operations, in bulk and almost without copies.
//!
//! Small requests are received many at a time into one [`RECEIVE_BYTES`] buffer, and payloads are
//! slices of it. A large payload gets a buffer of its own; once a client is seen to send large
//! payloads, the next buffer is sized so that header and payload land together and nothing is moved.
//! (Receiving header and payload separately costs small requests half their throughput.)
//!
//! Calling order: [`RequestDecoder::poll_request`] until it returns `None`; then take the buffer with
//! [`RequestDecoder::poll_receive`], append at most the returned number of bytes, give it back with
//! [`RequestDecoder::handle_received`], and start over.
//!
//! Invariants: at most one payload is under reception, and its length was validated before memory was
//! reserved; the payload of a refused write is dropped as it arrives, and only then is the refusal
//! reported; a slice handed out keeps at most [`RECEIVE_BYTES`] or four times its own length alive.

use bytes::{Buf, Bytes, BytesMut};

use super::constants::{ErrorCode, PAYLOAD_BYTES_MAX};
use super::request::{BadRequestMagic, Limits, Operation, RequestHeader};

/// Size of a receive buffer: 62 writes of 4 KiB, or 9000 headers, in one system call.
pub const RECEIVE_BYTES: usize = 256 * 1024;
/// A buffer with less room than this is replaced before the next receive.
const RECEIVE_ROOM_BYTES_MIN: usize = RECEIVE_BYTES / 4;
/// Payloads from this length on are received to their exact end, into a buffer made for them.
const LARGE_PAYLOAD_BYTES: usize = RECEIVE_BYTES / 2;
/// How many times too large a buffer may be, and still be used again or be pinned by a slice.
const WASTE_FACTOR_MAX: usize = 4;

const _: () = assert!(RequestHeader::LENGTH < RECEIVE_ROOM_BYTES_MIN);
const _: () = assert!(LARGE_PAYLOAD_BYTES <= PAYLOAD_BYTES_MAX as usize);

/// One request, complete with its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Incoming {
    /// To be carried out.
    Accepted {
        /// To be returned with the reply.
        cookie: u64,
        /// What to do.
        operation: Operation,
        /// The data of a write; empty for all others.
        payload: Bytes,
    },
    /// To be answered with an error.
    Refused {
        /// To be returned with the reply.
        cookie: u64,
        /// Why.
        code: ErrorCode,
    },
}

/// Cuts a received stream into requests.
#[derive(Debug)]
pub struct RequestDecoder {
    buffer: BytesMut,
    /// What was allocated for `buffer`, of which slices may have been handed out.
    buffer_bytes: usize,
    /// Size of the next buffer: a guess from the last write's length.
    next_buffer_bytes: usize,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// A header comes next.
    Header,
    /// The data of an accepted write come next.
    Payload { cookie: u64, operation: Operation, length: usize },
    /// The data of a refused write come next.
    Skipping { cookie: u64, code: ErrorCode, remaining: usize },
}

impl RequestDecoder {
    /// Starts with what was received behind the end of the handshake.
    pub fn new(received: &[u8]) -> Self {
        let buffer_bytes = RECEIVE_BYTES.max(received.len());
        let mut buffer = BytesMut::with_capacity(buffer_bytes);
        buffer.extend_from_slice(received);
        Self { buffer, buffer_bytes, next_buffer_bytes: RECEIVE_BYTES, state: State::Header }
    }

    /// The next complete request, judged by what `limits` says at the moment its header is read.
    pub fn poll_request(&mut self, limits: impl Fn() -> Limits) -> Result<Option<Incoming>, BadRequestMagic> {
        loop {
            match self.state {
                State::Header => {
                    let Some(bytes) = self.buffer.first_chunk() else { return Ok(None) };
                    let header = RequestHeader::parse(bytes)?;
                    self.buffer.advance(RequestHeader::LENGTH);
                    if let Some(incoming) = self.handle_header(&header, &limits()) {
                        return Ok(Some(incoming));
                    }
                }
                State::Payload { cookie, operation, length } => {
                    if self.buffer.len() < length {
                        return Ok(None);
                    }
                    self.state = State::Header;
                    let payload = self.take_payload(length);
                    return Ok(Some(Incoming::Accepted { cookie, operation, payload }));
                }
                State::Skipping { cookie, code, remaining } => {
                    let skipped = remaining.min(self.buffer.len());
                    self.buffer.advance(skipped);
                    if skipped < remaining {
                        self.state = State::Skipping { cookie, code, remaining: remaining - skipped };
                        return Ok(None);
                    }
                    self.state = State::Header;
                    return Ok(Some(Incoming::Refused { cookie, code }));
                }
            }
        }
    }

    /// The buffer to receive into, and how many bytes may be appended to it (always some, and never
    /// more than its capacity allows).
    pub fn poll_receive(&mut self) -> (BytesMut, usize) {
        let missing = match self.state {
            State::Header => RequestHeader::LENGTH.saturating_sub(self.buffer.len()),
            State::Payload { length, .. } => length.saturating_sub(self.buffer.len()),
            State::Skipping { .. } => 1,
        };
        assert!(missing > 0, "poll_request must be called until it returns None");
        let exact = missing >= RECEIVE_ROOM_BYTES_MIN;
        let room_min = if exact { missing } else { RECEIVE_ROOM_BYTES_MIN };
        let wanted_bytes = self.next_buffer_bytes.max(self.buffer.len() + missing);
        let oversized = self.buffer_bytes > wanted_bytes.saturating_mul(WASTE_FACTOR_MAX);
        if oversized || self.room() < room_min {
            self.renew(wanted_bytes, oversized);
        }
        let limit = if exact { missing } else { self.room() };
        (std::mem::take(&mut self.buffer), limit)
    }

    /// Takes the buffer back, with what was received appended to it.
    pub fn handle_received(&mut self, buffer: BytesMut) {
        self.buffer = buffer;
    }

    /// Whether the stream may end here without having lost anything.
    pub fn is_between_requests(&self) -> bool {
        matches!(self.state, State::Header) && self.buffer.is_empty()
    }

    fn handle_header(&mut self, header: &RequestHeader, limits: &Limits) -> Option<Incoming> {
        let cookie = header.cookie;
        let length = header.payload_length() as usize;
        match header.validate(limits) {
            Ok(operation) if length > 0 => {
                self.next_buffer_bytes = if length >= LARGE_PAYLOAD_BYTES {
                    RequestHeader::LENGTH + length
                } else {
                    RECEIVE_BYTES
                };
                self.state = State::Payload { cookie, operation, length };
                None
            }
            Ok(operation) => Some(Incoming::Accepted { cookie, operation, payload: Bytes::new() }),
            Err(code) if length > 0 => {
                self.state = State::Skipping { cookie, code, remaining: length };
                None
            }
            Err(code) => Some(Incoming::Refused { cookie, code }),
        }
    }

    fn take_payload(&mut self, length: usize) -> Bytes {
        let pinned_bytes_max = RECEIVE_BYTES.max(length.saturating_mul(WASTE_FACTOR_MAX));
        if self.buffer_bytes <= pinned_bytes_max {
            return self.buffer.split_to(length).freeze();
        }
        // A short write behind a long one: copying it is cheaper than keeping the long one's memory.
        let payload = Bytes::copy_from_slice(&self.buffer[..length]);
        self.buffer.advance(length);
        payload
    }

    fn room(&self) -> usize {
        self.buffer.capacity() - self.buffer.len()
    }

    /// Makes the buffer `wanted_bytes` large, in the memory it has if possible and sensible.
    fn renew(&mut self, wanted_bytes: usize, oversized: bool) {
        if !oversized && self.buffer.try_reclaim(wanted_bytes - self.buffer.len()) {
            return;
        }
        let mut fresh = BytesMut::with_capacity(wanted_bytes);
        fresh.extend_from_slice(&self.buffer);
        self.buffer = fresh;
        self.buffer_bytes = wanted_bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::super::constants::command;
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits =
        Limits { size_bytes: 1 << 32, read_only: false, structured_replies: true, allocation_context: true };

    fn request(kind: u16, cookie: u64, length: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = BytesMut::new();
        RequestHeader { flags: 0, kind, cookie, offset_bytes: 0, length }.encode(&mut bytes);
        bytes.extend_from_slice(payload);
        bytes.to_vec()
    }

    fn write(cookie: u64, length: usize) -> Vec<u8> {
        let payload: Vec<u8> = (0..length).map(|index| (index as u64 * 31 + cookie) as u8).collect();
        request(command::WRITE, cookie, u32::try_from(length).unwrap(), &payload)
    }

    /// Feeds `stream` in pieces of at most `cuts` bytes; returns what came out.
    fn decode(stream: &[u8], cuts: &[usize]) -> (RequestDecoder, Vec<Incoming>) {
        let mut decoder = RequestDecoder::new(&[]);
        let mut cuts = cuts.iter().cycle();
        let (mut rest, mut found) = (stream, Vec::new());
        loop {
            while let Some(incoming) = decoder.poll_request(|| LIMITS).unwrap() {
                found.push(incoming);
            }
            if rest.is_empty() {
                return (decoder, found);
            }
            let (mut buffer, limit) = decoder.poll_receive();
            assert!(limit > 0 && limit <= buffer.capacity() - buffer.len());
            let (piece, left) = rest.split_at(limit.min(*cuts.next().unwrap()).min(rest.len()));
            let pointer = buffer.as_ptr();
            buffer.extend_from_slice(piece);
            assert_eq!(pointer, buffer.as_ptr(), "the buffer had room");
            rest = left;
            decoder.handle_received(buffer);
        }
    }

    #[test]
    fn a_refused_write_is_skipped_and_then_answered() {
        let too_long = PAYLOAD_BYTES_MAX + 1;
        let mut stream = request(command::WRITE, 1, too_long, &vec![0; too_long as usize - 1]);
        let (decoder, found) = decode(&stream, &[1 << 20]);
        assert_eq!(found, [], "one byte is missing");
        assert!(!decoder.is_between_requests());
        assert!(decoder.buffer_bytes <= RECEIVE_BYTES, "nothing was kept");
        stream.push(0);
        stream.extend(request(command::FLUSH, 2, 0, &[]));
        let (decoder, found) = decode(&stream, &[1 << 20]);
        let flush = Incoming::Accepted { cookie: 2, operation: Operation::Flush, payload: Bytes::new() };
        assert_eq!(found, [Incoming::Refused { cookie: 1, code: ErrorCode::Invalid }, flush]);
        assert!(decoder.is_between_requests());
    }

    #[test]
    fn large_payloads_settle_in_buffers_of_their_size() {
        let stream: Vec<u8> = (0..4).flat_map(|cookie| write(cookie, 1 << 20)).collect();
        let (decoder, found) = decode(&stream, &[usize::MAX]);
        assert_eq!(found.len(), 4);
        assert_eq!(decoder.buffer_bytes, RequestHeader::LENGTH + (1 << 20));
    }

    #[test]
    fn a_short_write_does_not_keep_a_long_ones_buffer() {
        let stream = [write(1, 8 << 20), write(2, 8 << 20), write(3, 4096)].concat();
        let (mut decoder, found) = decode(&stream, &[usize::MAX]);
        assert_eq!(found.len(), 3);
        drop(found);
        let (buffer, _) = decoder.poll_receive();
        assert!(buffer.capacity() <= RECEIVE_BYTES, "the next buffer is small again");
    }

    #[test]
    fn out_of_step_is_an_error() {
        let mut decoder = RequestDecoder::new(&[0x42; 28]);
        assert_eq!(decoder.poll_request(|| LIMITS), Err(BadRequestMagic(0x4242_4242)));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_cut_of_the_stream_does_not_matter(
            lengths in proptest::collection::vec(prop_oneof![0usize..9000, Just(200_000), Just(700_000)], 1..12),
            cuts in proptest::collection::vec(1usize..300_000, 1..6),
        ) {
            let mut stream = Vec::new();
            for (cookie, length) in lengths.iter().enumerate() {
                stream.extend(write(cookie as u64, *length));
                stream.extend(request(command::READ, 1000, 512, &[]));
            }
            let (decoder, found) = decode(&stream, &cuts);
            prop_assert!(decoder.is_between_requests());
            prop_assert_eq!(found.len(), 2 * lengths.len());
            for (cookie, length) in lengths.iter().enumerate() {
                let expected = write(cookie as u64, *length);
                match &found[2 * cookie] {
                    Incoming::Accepted { payload, .. } => prop_assert_eq!(&payload[..], &expected[28..]),
                    refused => prop_assert!(false, "{refused:?}"),
                }
            }
        }
    }
}
