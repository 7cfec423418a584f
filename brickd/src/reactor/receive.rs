//! From a byte stream to frames: small frames are read in bulk and copied once into a pool slot, the rest
//! of a large payload is received straight into its slot.
//!
//! No I/O here: the reactor asks where the next bytes should go ([`Receiver::target`]), says how many came
//! ([`Receiver::advance`]) and takes out frames ([`Receiver::next_step`]). Every length was checked by
//! [`Header::parse`] before anything uses it; the aux CRC is checked here, the data's by the engine.

use brick_wire::header::parse_aux;
use brick_wire::limits::{AUX_BYTES_MAX, HEADER_SIZE};
use brick_wire::{FrameError, Header};

use crate::buffer::{Buffer, Pool};
use crate::engine::Frame;

/// What a receiver can do next.
#[derive(Debug)]
pub enum Step {
    /// A whole frame.
    Frame(Frame),
    /// Nothing before more bytes come.
    NeedBytes,
    /// Nothing before the pool has a slot of this many bytes.
    NeedBuffer(usize),
}

/// The receiving half of a connection. It moves into the ring while a receive is in flight.
#[derive(Debug)]
pub struct Receiver {
    /// Bytes `start..end` were received and not yet consumed.
    staging: Box<[u8]>,
    start: usize,
    end: usize,
    /// The large frame whose data is arriving; the staging buffer is empty meanwhile.
    payload: Option<Payload>,
    /// The last frame was a large one, and so is the next, probably: then little of it should come through the staging
    /// buffer.
    expects_large: bool,
}

#[derive(Debug)]
struct Payload {
    header: Header,
    aux: Vec<u8>,
    buffer: Buffer,
    filled: usize,
}

impl Receiver {
    /// Starts with bytes that were received elsewhere: what followed the hello.
    pub fn new(received: &[u8]) -> Receiver {
        assert!(received.len() <= STAGING_BYTES);
        let mut staging = vec![0; STAGING_BYTES].into_boxed_slice();
        staging[..received.len()].copy_from_slice(received);
        Receiver { staging, start: 0, end: received.len(), payload: None, expects_large: false }
    }

    /// Received bytes that no frame was made of yet. Not to be asked amid a large payload.
    pub fn unconsumed(&self) -> &[u8] {
        assert!(self.payload.is_none());
        &self.staging[self.start..self.end]
    }

    /// The header of the next frame, if it is there.
    pub fn peek_header(&self) -> Result<Option<Header>, FrameError> {
        self.unconsumed().first_chunk::<HEADER_SIZE>().map(Header::parse).transpose()
    }

    /// Whether the data of a large frame is arriving, and a pool slot waits for the peer.
    pub fn is_amid_payload(&self) -> bool {
        self.payload.is_some()
    }

    /// Takes the next frame out. `pool` is `None` while others wait for slots before this one.
    pub fn next_step(&mut self, pool: Option<&Pool>) -> Result<Step, FrameError> {
        if let Some(payload) = self.payload.take_if(|payload| payload.filled == payload.buffer.len()) {
            let Payload { header, aux, buffer, .. } = payload;
            return Ok(Step::Frame(Frame { header, aux, data: Some(buffer) }));
        }
        if self.payload.is_some() {
            return Ok(Step::NeedBytes);
        }
        let Some(header) = self.peek_header()? else { return Ok(Step::NeedBytes) };
        let head_bytes = HEADER_SIZE + header.aux_bytes as usize;
        let data_bytes = header.data_bytes as usize;
        let available = self.end - self.start;
        let direct = data_bytes >= DIRECT_BYTES_MIN;
        if available < head_bytes || (!direct && available < head_bytes + data_bytes) {
            return Ok(Step::NeedBytes);
        }
        if data_bytes == 0 {
            let aux = self.take_head(head_bytes)?;
            self.expects_large = false;
            return Ok(Step::Frame(Frame { header, aux, data: None }));
        }
        let Some(mut buffer) = pool.and_then(|pool| pool.allocate(data_bytes)) else {
            return Ok(Step::NeedBuffer(data_bytes));
        };
        let aux = self.take_head(head_bytes)?;
        self.expects_large = data_bytes >= LARGE_BYTES_MIN;
        let filled = data_bytes.min(self.end - self.start);
        buffer[..filled].copy_from_slice(&self.staging[self.start..self.start + filled]);
        self.start += filled;
        if filled == data_bytes {
            return Ok(Step::Frame(Frame { header, aux, data: Some(buffer) }));
        }
        assert!(self.start == self.end, "the staging buffer is empty while a payload arrives");
        self.payload = Some(Payload { header, aux, buffer, filled });
        Ok(Step::NeedBytes)
    }

    /// Where the next received bytes go. Never empty.
    pub fn target(&mut self) -> &mut [u8] {
        if self.is_amid_payload() {
            let payload = self.payload.as_mut().expect("just looked at");
            return &mut payload.buffer[payload.filled..];
        }
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.staging.len() - self.end < RECEIVE_BYTES_MIN {
            self.staging.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        assert!(self.end < self.staging.len(), "an incomplete frame leaves room");
        let wanted = if self.expects_large {
            let frame_bytes = self.peek_header().ok().flatten().map_or(0, |header| header.frame_bytes());
            PROBE_BYTES.max(frame_bytes.saturating_sub(self.unconsumed().len()))
        } else {
            STAGING_BYTES
        };
        let room = &mut self.staging[self.end..];
        let wanted = wanted.min(room.len());
        &mut room[..wanted]
    }

    /// Counts bytes that were put into [`Receiver::target`].
    pub fn advance(&mut self, bytes: usize) {
        match &mut self.payload {
            Some(payload) => {
                payload.filled += bytes;
                assert!(payload.filled <= payload.buffer.len());
            }
            None => {
                self.end += bytes;
                assert!(self.end <= self.staging.len());
            }
        }
    }

    /// Consumes header and aux; returns the aux body, checked.
    fn take_head(&mut self, head_bytes: usize) -> Result<Vec<u8>, FrameError> {
        let aux = &self.staging[self.start + HEADER_SIZE..self.start + head_bytes];
        let body = parse_aux(aux)?.to_vec();
        self.start += head_bytes;
        Ok(body)
    }
}

/// Bytes read at once. 0.75 us of CPU per 4 KiB frame when it fills (FACTS, bulk RECV 256k).
pub const STAGING_BYTES: usize = 256 * 1024;
/// Data parts from here on are received into their slot once the staging buffer is used up; below, copying
/// is cheaper than another receive (FACTS: the techniques meet at 16 KiB).
pub const DIRECT_BYTES_MIN: usize = 16 * 1024;
/// Data parts after which the next is expected to be large, too. Several smaller frames fit into one receive.
const LARGE_BYTES_MIN: usize = 64 * 1024;
/// Bytes read at once after a large frame: the next one's head and little more, so that its data goes where it belongs. One
/// more receive for each large frame is cheaper than copying a quarter of a mebibyte.
const PROBE_BYTES: usize = 8 * 1024;
/// The staging buffer is moved together when less than this is free behind what it holds.
const RECEIVE_BYTES_MIN: usize = STAGING_BYTES / 2;

// What has to be whole in the staging buffer fits, wherever it starts.
const _: () = assert!(HEADER_SIZE + AUX_BYTES_MAX + DIRECT_BYTES_MIN < RECEIVE_BYTES_MIN);

#[cfg(test)]
mod tests {
    use brick_wire::header::seal_aux;
    use brick_wire::limits::BLOCK_SIZE;
    use brick_wire::{Opcode, RequestId};
    use proptest::prelude::*;

    use super::*;

    fn frame_bytes(id: u64, aux: usize, blocks: usize) -> Vec<u8> {
        let mut header = Header::request(Opcode::Write, RequestId(id));
        let aux = seal_aux(vec![id as u8; aux]);
        header.aux_bytes = aux.len() as u32;
        header.data_bytes = (blocks * BLOCK_SIZE) as u32;
        let data = vec![!id as u8; blocks * BLOCK_SIZE];
        [header.to_bytes().to_vec(), aux, data].concat()
    }

    fn feed(receiver: &mut Receiver, stream: &mut &[u8], bytes_max: usize) {
        assert!(!stream.is_empty(), "the receiver lost bytes");
        let target = receiver.target();
        let bytes = target.len().min(stream.len()).min(bytes_max);
        let (now, later) = stream.split_at(bytes);
        target[..bytes].copy_from_slice(now);
        receiver.advance(bytes);
        *stream = later;
    }

    proptest! {
        /// However the stream is cut, the frames come out whole and in order.
        #[test]
        fn frames_survive_any_cut(
            frames in prop::collection::vec((0usize..3000, prop_oneof![0usize..6, 30usize..256]), 1..12),
            cuts in prop::collection::vec(1usize..300_000, 1..8),
        ) {
            let pool = Pool::new(16 << 20);
            let stream: Vec<u8> =
                frames.iter().enumerate().flat_map(|(id, (aux, blocks))| frame_bytes(id as u64, *aux, *blocks)).collect();
            let mut rest = stream.as_slice();
            let mut receiver = Receiver::new(&[]);
            let mut cuts = cuts.into_iter().cycle();
            for (id, (aux, blocks)) in frames.iter().enumerate() {
                let frame = loop {
                    match receiver.next_step(Some(&pool)).unwrap() {
                        Step::Frame(frame) => break frame,
                        Step::NeedBytes => feed(&mut receiver, &mut rest, cuts.next().unwrap()),
                        Step::NeedBuffer(_) => unreachable!("the pool is large enough"),
                    }
                };
                prop_assert_eq!(frame.header.request, RequestId(id as u64));
                prop_assert_eq!(frame.aux, vec![id as u8; *aux]);
                let data = frame.data.as_deref().unwrap_or_default();
                prop_assert_eq!(data.len(), blocks * BLOCK_SIZE);
                prop_assert!(data.iter().all(|byte| *byte == !id as u8));
            }
            prop_assert!(rest.is_empty() && receiver.unconsumed().is_empty());
        }
    }

    #[test]
    fn an_exhausted_pool_stops_the_stream_and_loses_nothing() {
        let pool = Pool::new(4 * BLOCK_SIZE);
        let mut receiver = Receiver::new(&[frame_bytes(1, 0, 4), frame_bytes(2, 8, 1)].concat());
        let Ok(Step::Frame(first)) = receiver.next_step(Some(&pool)) else {
            panic!("the first frame is whole")
        };
        assert!(matches!(receiver.next_step(Some(&pool)), Ok(Step::NeedBuffer(BLOCK_SIZE))));
        drop(first);
        assert!(matches!(receiver.next_step(None), Ok(Step::NeedBuffer(BLOCK_SIZE))));
        let Ok(Step::Frame(second)) = receiver.next_step(Some(&pool)) else { panic!("there is room again") };
        assert_eq!(second.header.request, RequestId(2));
    }

    #[test]
    fn garbage_is_an_error() {
        assert!(matches!(Receiver::new(&[b'x'; 64]).next_step(None), Err(FrameError::Magic(_))));
        let mut bytes = frame_bytes(1, 10, 0);
        *bytes.last_mut().unwrap() ^= 1;
        assert!(matches!(Receiver::new(&bytes).next_step(None), Err(FrameError::AuxChecksum { .. })));
    }
}
