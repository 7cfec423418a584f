//! Frames survive any way of cutting the stream; anything else is an error, never a panic.

use bytes::BufMut;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::header::{Flags, Opcode, Status};
use crate::ids::RequestId;
use crate::limits::{AUX_BYTES_MAX, BLOCK_SIZE, DATA_BYTES_MAX};

fn frame() -> impl Strategy<Value = Frame> {
    let aux = prop_oneof![Just(Vec::new()), vec(any::<u8>(), 1..40)];
    (prop::sample::select(Opcode::ALL), any::<u64>(), any::<bool>(), aux, 0..3usize, any::<u8>()).prop_map(
        |(opcode, request, reply, aux, blocks, fill)| {
            let request = Header::request(opcode, RequestId(request));
            let header = if reply { request.reply(Status::Busy) } else { request };
            Frame::new(header, aux, Bytes::from(vec![fill; blocks * BLOCK_SIZE]))
        },
    )
}

fn stream(frames: &[Frame]) -> Vec<u8> {
    frames.iter().flat_map(|frame| [frame.head_bytes(), frame.data.to_vec()].concat()).collect()
}

proptest! {
    #[test]
    fn a_split_stream_yields_the_same_frames(
        frames in vec(frame(), 0..5),
        cuts in vec(any::<prop::sample::Index>(), 0..12),
    ) {
        let bytes = stream(&frames);
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.extend([0, bytes.len()]);
        cuts.sort_unstable();
        let (mut buffer, mut received) = (BytesMut::new(), Vec::new());
        for piece in cuts.windows(2) {
            buffer.put_slice(&bytes[piece[0]..piece[1]]);
            while let Some(frame) = next_frame(&mut buffer).expect("the stream is sound") {
                received.push(frame);
            }
        }
        prop_assert_eq!(received, frames);
        prop_assert!(buffer.is_empty());
    }

    #[test]
    fn a_flipped_bit_before_the_data_ends_the_stream(frame in frame(), bit in any::<prop::sample::Index>()) {
        let head_bytes = frame.head_bytes().len();
        let mut bytes = stream(&[frame]);
        let bit = bit.index(head_bytes * 8);
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(next_frame(&mut BytesMut::from(&bytes[..])).is_err());
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in vec(any::<u8>(), 0..200)) {
        let result = next_frame(&mut BytesMut::from(&bytes[..]));
        if bytes.len() < HEADER_SIZE {
            prop_assert_eq!(result, Ok(None));
        } else {
            prop_assert!(result.is_err());
        }
    }
}

#[test]
fn one_byte_at_a_time() {
    let frames = [
        Frame::new(Header::request(Opcode::Ping, RequestId(1)), Vec::new(), Bytes::new()),
        Frame::new(Header::request(Opcode::Attach, RequestId(2)), vec![1, 2, 3], Bytes::new()),
        Frame::new(Header::request(Opcode::Write, RequestId(3)), vec![9], Bytes::from(vec![5; BLOCK_SIZE])),
    ];
    let (mut buffer, mut received) = (BytesMut::new(), Vec::new());
    for byte in stream(&frames) {
        buffer.put_u8(byte);
        received.extend(next_frame(&mut buffer).expect("the stream is sound"));
    }
    assert_eq!(received, frames);
}

#[test]
fn the_largest_frame_fits() {
    let header = Header::request(Opcode::Write, RequestId(1));
    let frame = Frame::new(header, vec![7; AUX_BYTES_MAX - 4], Bytes::from(vec![1; DATA_BYTES_MAX]));
    let mut buffer = BytesMut::from(&stream(std::slice::from_ref(&frame))[..]);
    assert_eq!(next_frame(&mut buffer), Ok(Some(frame)));
}

#[test]
fn damaged_data_is_the_readers_to_notice() {
    let header = Header { flags: Flags::FUA, ..Header::request(Opcode::Write, RequestId(1)) };
    let frame = Frame::new(header, Vec::new(), Bytes::from(vec![1; BLOCK_SIZE]));
    let mut bytes = stream(&[frame]);
    *bytes.last_mut().expect("not empty") = 2;
    assert!(next_frame(&mut BytesMut::from(&bytes[..])).is_ok_and(|frame| frame.is_some()));
}

#[test]
#[should_panic(expected = "the header's aux length")]
fn a_frame_that_would_break_the_stream_is_not_sent() {
    let mut frame = Frame::new(Header::request(Opcode::Ping, RequestId(1)), vec![1], Bytes::new());
    frame.aux = Bytes::from_static(&[1, 2]);
    frame.head_bytes();
}
