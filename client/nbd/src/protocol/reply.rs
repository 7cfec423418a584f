//! Replies of the transmission phase, as a short header and the payload that follows it.
//!
//! Every reply here is complete in one message: one simple reply, or one chunk with DONE set. So a
//! reply can be queued, reordered and gathered with others without any state. A read is answered with
//! one chunk whatever its length, which is also what "don't fragment" asks for.

use bytes::{BufMut, Bytes, BytesMut};

use super::constants::{
    ALLOCATION_CONTEXT_ID, ErrorCode, REPLY_FLAG_DONE, SIMPLE_REPLY_MAGIC, STATE_HOLE, STATE_ZERO,
    STRUCTURED_REPLY_MAGIC, chunk_type,
};

/// Longest header: a structured chunk that describes a hole.
const HEADER_LENGTH_MAX: usize = 32;

/// One finished reply.
#[derive(Clone, Debug)]
pub struct Reply {
    header: [u8; HEADER_LENGTH_MAX],
    header_length: usize,
    payload: Bytes,
}

/// A run of bytes in the reply to BLOCK_STATUS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Never zero.
    pub length: u32,
    /// False: a hole that reads as zeroes.
    pub allocated: bool,
}

impl Reply {
    /// The request succeeded and returns no data. A simple reply is allowed even if structured ones
    /// were negotiated, and it is the shortest.
    pub fn done(cookie: u64) -> Self {
        let mut reply = Self::new(Bytes::new());
        reply.put(&SIMPLE_REPLY_MAGIC.to_be_bytes());
        reply.put(&0u32.to_be_bytes());
        reply.put(&cookie.to_be_bytes());
        reply
    }

    /// The request failed. With structured replies the client also gets a sentence.
    pub fn failed(cookie: u64, code: ErrorCode, structured: bool) -> Self {
        if !structured {
            let mut reply = Self::new(Bytes::new());
            reply.put(&SIMPLE_REPLY_MAGIC.to_be_bytes());
            reply.put(&(code as u32).to_be_bytes());
            reply.put(&cookie.to_be_bytes());
            return reply;
        }
        let message = code.message().as_bytes();
        let message_length = u16::try_from(message.len()).expect("messages are short literals");
        let mut reply = Self::new(Bytes::from_static(message));
        reply.put_chunk_header(chunk_type::ERROR, cookie, 6);
        reply.put(&(code as u32).to_be_bytes());
        reply.put(&message_length.to_be_bytes());
        reply
    }

    /// The data of a read.
    pub fn data(cookie: u64, offset_bytes: u64, data: Bytes, structured: bool) -> Self {
        if !structured {
            return Self { payload: data, ..Self::done(cookie) };
        }
        let mut reply = Self::new(data);
        if reply.payload.is_empty() {
            // A content chunk must describe at least one byte.
            reply.put_chunk_header(chunk_type::NONE, cookie, 0);
        } else {
            reply.put_chunk_header(chunk_type::OFFSET_DATA, cookie, 8);
            reply.put(&offset_bytes.to_be_bytes());
        }
        reply
    }

    /// A read that found only zeroes; needs structured replies and a length above zero.
    pub fn hole(cookie: u64, offset_bytes: u64, length: u32) -> Self {
        assert!(length > 0, "a content chunk must describe at least one byte");
        let mut reply = Self::new(Bytes::new());
        reply.put_chunk_header(chunk_type::OFFSET_HOLE, cookie, 12);
        reply.put(&offset_bytes.to_be_bytes());
        reply.put(&length.to_be_bytes());
        reply
    }

    /// The allocation state of a range; needs the negotiated context.
    pub fn block_status(cookie: u64, descriptors: &[Descriptor]) -> Self {
        assert!(!descriptors.is_empty(), "the protocol demands at least one descriptor");
        let mut payload = BytesMut::with_capacity(descriptors.len() * 8);
        for descriptor in descriptors {
            payload.put_u32(descriptor.length);
            payload.put_u32(if descriptor.allocated { 0 } else { STATE_HOLE | STATE_ZERO });
        }
        let mut reply = Self::new(payload.freeze());
        reply.put_chunk_header(chunk_type::BLOCK_STATUS, cookie, 4);
        reply.put(&ALLOCATION_CONTEXT_ID.to_be_bytes());
        reply
    }

    /// The bytes before the payload.
    pub fn header(&self) -> &[u8] {
        &self.header[..self.header_length]
    }

    /// The bytes after the header.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    fn new(payload: Bytes) -> Self {
        Self { header: [0; HEADER_LENGTH_MAX], header_length: 0, payload }
    }

    fn put(&mut self, field: &[u8]) {
        let end = self.header_length + field.len();
        self.header[self.header_length..end].copy_from_slice(field);
        self.header_length = end;
    }

    /// `fields_length` counts the chunk's own fields between this header and the payload.
    fn put_chunk_header(&mut self, kind: u16, cookie: u64, fields_length: usize) {
        let length = u32::try_from(fields_length + self.payload.len())
            .expect("payloads are bounded by PAYLOAD_BYTES_MAX and EXTENT_COUNT_MAX");
        self.put(&STRUCTURED_REPLY_MAGIC.to_be_bytes());
        self.put(&REPLY_FLAG_DONE.to_be_bytes());
        self.put(&kind.to_be_bytes());
        self.put(&cookie.to_be_bytes());
        self.put(&length.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const COOKIE: u64 = 0x0102_0304_0506_0708;

    fn bytes(reply: &Reply) -> Vec<u8> {
        [reply.header(), reply.payload()].concat()
    }

    #[test]
    fn simple_replies() {
        let expected = [
            0x67, 0x44, 0x66, 0x98, // magic
            0, 0, 0, 0, // success
            1, 2, 3, 4, 5, 6, 7, 8, // cookie
        ];
        assert_eq!(bytes(&Reply::done(COOKIE)), expected);
        let failed = bytes(&Reply::failed(COOKIE, ErrorCode::NoSpace, false));
        assert_eq!(failed[..4], expected[..4]);
        assert_eq!(failed[4..8], [0, 0, 0, 28]);
        assert_eq!(failed[8..], expected[8..]);
        let data = bytes(&Reply::data(COOKIE, 4096, Bytes::from_static(b"abc"), false));
        assert_eq!(data, [&expected[..], b"abc"].concat());
    }

    #[test]
    fn structured_data() {
        assert_eq!(
            bytes(&Reply::data(COOKIE, 4096, Bytes::from_static(b"abc"), true)),
            [
                0x66, 0x8e, 0x33, 0xef, // magic
                0, 1, // DONE
                0, 1, // OFFSET_DATA
                1, 2, 3, 4, 5, 6, 7, 8, // cookie
                0, 0, 0, 11, // length: offset and data
                0, 0, 0, 0, 0, 0, 0x10, 0, // offset
                b'a', b'b', b'c', // data
            ]
        );
        assert_eq!(
            bytes(&Reply::data(COOKIE, 4096, Bytes::new(), true)),
            [
                0x66, 0x8e, 0x33, 0xef, // magic
                0, 1, // DONE
                0, 0, // NONE
                1, 2, 3, 4, 5, 6, 7, 8, // cookie
                0, 0, 0, 0, // length
            ]
        );
    }

    #[test]
    fn structured_hole() {
        assert_eq!(
            bytes(&Reply::hole(COOKIE, 4096, 8192)),
            [
                0x66, 0x8e, 0x33, 0xef, // magic
                0, 1, // DONE
                0, 2, // OFFSET_HOLE
                1, 2, 3, 4, 5, 6, 7, 8, // cookie
                0, 0, 0, 12, // length
                0, 0, 0, 0, 0, 0, 0x10, 0, // offset
                0, 0, 0x20, 0, // hole size
            ]
        );
    }

    #[test]
    fn structured_error() {
        let text = ErrorCode::Io.message();
        let mut expected = vec![
            0x66, 0x8e, 0x33, 0xef, // magic
            0, 1, // DONE
            0x80, 1, // ERROR
            1, 2, 3, 4, 5, 6, 7, 8, // cookie
            0, 0, 0, 35, // length: code, message length, message
            0, 0, 0, 5, // EIO
            0, 29, // message length
        ];
        expected.extend_from_slice(text.as_bytes());
        assert_eq!(bytes(&Reply::failed(COOKIE, ErrorCode::Io, true)), expected);
    }

    #[test]
    fn block_status() {
        let descriptors =
            [Descriptor { length: 4096, allocated: true }, Descriptor { length: 8192, allocated: false }];
        assert_eq!(
            bytes(&Reply::block_status(COOKIE, &descriptors)),
            [
                0x66, 0x8e, 0x33, 0xef, // magic
                0, 1, // DONE
                0, 5, // BLOCK_STATUS
                1, 2, 3, 4, 5, 6, 7, 8, // cookie
                0, 0, 0, 20, // length: context and two descriptors
                0, 0, 0, 1, // context: base:allocation
                0, 0, 0x10, 0, // 4096 bytes
                0, 0, 0, 0, // allocated
                0, 0, 0x20, 0, // 8192 bytes
                0, 0, 0, 3, // HOLE, ZERO
            ]
        );
    }

    proptest! {
        #[test]
        fn a_chunk_announces_exactly_what_follows(cookie: u64, offset: u64, data in proptest::collection::vec(any::<u8>(), 0..100)) {
            let reply = bytes(&Reply::data(cookie, offset, data.clone().into(), true));
            let announced = u32::from_be_bytes(reply[16..20].try_into().unwrap()) as usize;
            prop_assert_eq!(announced, reply.len() - 20);
            prop_assert_eq!(&reply[8..16], &cookie.to_be_bytes());
            prop_assert!(reply.ends_with(&data));
        }
    }
}
