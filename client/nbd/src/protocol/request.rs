//! Requests of the transmission phase: the 28-byte header, and what it means for a given export.
//!
//! Parsing and judging are apart: [`RequestHeader::parse`] fails only if the stream is out of step
//! (the connection must end), [`RequestHeader::validate`] turns a request the protocol forbids into
//! the error value to answer with (the connection lives).

use bytes::{BufMut, BytesMut};

use super::constants::{ErrorCode, PAYLOAD_BYTES_MAX, REQUEST_MAGIC, command, command_flag};

/// The stream doesn't contain a request where one must start; nothing after it can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("request magic is {0:#010x}, expected {REQUEST_MAGIC:#010x}")]
pub struct BadRequestMagic(pub u32);

/// The fixed part of a request.
///
/// ```text
/// 0  u32 magic | 4 u16 flags | 6 u16 type | 8 u64 cookie | 16 u64 offset | 24 u32 length
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// See [`command_flag`].
    pub flags: u16,
    /// See [`command`]; any value may arrive.
    pub kind: u16,
    /// Chosen by the client, returned with the reply.
    pub cookie: u64,
    /// Where.
    pub offset_bytes: u64,
    /// How much.
    pub length: u32,
}

/// What a request may do: the negotiated session and the export as it is now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Size of the export.
    pub size_bytes: u64,
    /// Writes are refused.
    pub read_only: bool,
    /// DF is allowed.
    pub structured_replies: bool,
    /// BLOCK_STATUS is allowed.
    pub allocation_context: bool,
}

/// A request that may be carried out: its range lies inside the export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields repeat the protocol's")]
pub enum Operation {
    /// At most [`PAYLOAD_BYTES_MAX`] bytes.
    Read { offset_bytes: u64, length: u32 },
    /// At most [`PAYLOAD_BYTES_MAX`] bytes, which follow the header.
    Write { offset_bytes: u64, length: u32, fua: bool },
    /// Up to 4 GiB.
    WriteZeroes { offset_bytes: u64, length: u32, fua: bool, may_unmap: bool },
    /// Up to 4 GiB.
    Trim { offset_bytes: u64, length: u32, fua: bool },
    /// Everything that completed.
    Flush,
    /// Up to 4 GiB, never empty.
    BlockStatus { offset_bytes: u64, length: u32, one_extent: bool },
    /// The client leaves; there is no reply.
    Disconnect,
}

impl RequestHeader {
    /// Bytes on the wire.
    pub const LENGTH: usize = 28;

    /// Splits a header into its fields.
    pub fn parse(bytes: &[u8; Self::LENGTH]) -> Result<Self, BadRequestMagic> {
        let u16_at = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let u32_at = |at: usize| u32::from(u16_at(at)) << 16 | u32::from(u16_at(at + 2));
        let u64_at = |at: usize| u64::from(u32_at(at)) << 32 | u64::from(u32_at(at + 4));
        if u32_at(0) != REQUEST_MAGIC {
            return Err(BadRequestMagic(u32_at(0)));
        }
        Ok(Self {
            flags: u16_at(4),
            kind: u16_at(6),
            cookie: u64_at(8),
            offset_bytes: u64_at(16),
            length: u32_at(24),
        })
    }

    /// Appends the header; for clients, that is for tests.
    pub fn encode(&self, output: &mut BytesMut) {
        output.put_u32(REQUEST_MAGIC);
        output.put_u16(self.flags);
        output.put_u16(self.kind);
        output.put_u64(self.cookie);
        output.put_u64(self.offset_bytes);
        output.put_u32(self.length);
    }

    /// Bytes that follow the header, whether or not the request is valid: they must be consumed.
    pub fn payload_length(&self) -> u32 {
        if self.kind == command::WRITE { self.length } else { 0 }
    }

    /// The operation this request stands for, or the error to answer with.
    pub fn validate(&self, limits: &Limits) -> Result<Operation, ErrorCode> {
        let Self { offset_bytes, length, .. } = *self;
        let fua = self.flags & command_flag::FUA != 0;
        match self.kind {
            command::READ => {
                let unfragmented = self.flags & command_flag::DF != 0;
                self.allow_flags(if limits.structured_replies { command_flag::DF } else { 0 })?;
                if length > PAYLOAD_BYTES_MAX {
                    return Err(if unfragmented { ErrorCode::Overflow } else { ErrorCode::Invalid });
                }
                self.within(limits, ErrorCode::Invalid)?;
                Ok(Operation::Read { offset_bytes, length })
            }
            command::WRITE => {
                self.allow_flags(0)?;
                writable(limits)?;
                if length > PAYLOAD_BYTES_MAX {
                    return Err(ErrorCode::Invalid);
                }
                self.within(limits, ErrorCode::NoSpace)?;
                Ok(Operation::Write { offset_bytes, length, fua })
            }
            command::WRITE_ZEROES => {
                self.allow_flags(command_flag::NO_HOLE)?;
                writable(limits)?;
                self.within(limits, ErrorCode::NoSpace)?;
                let may_unmap = self.flags & command_flag::NO_HOLE == 0;
                Ok(Operation::WriteZeroes { offset_bytes, length, fua, may_unmap })
            }
            command::TRIM => {
                self.allow_flags(0)?;
                writable(limits)?;
                self.within(limits, ErrorCode::Invalid)?;
                Ok(Operation::Trim { offset_bytes, length, fua })
            }
            // Offset and length of a flush are reserved; clients that fill them mean nothing by it.
            command::FLUSH => self.allow_flags(0).map(|()| Operation::Flush),
            command::BLOCK_STATUS => {
                self.allow_flags(command_flag::REQ_ONE)?;
                if !limits.allocation_context || length == 0 {
                    return Err(ErrorCode::Invalid);
                }
                self.within(limits, ErrorCode::Invalid)?;
                let one_extent = self.flags & command_flag::REQ_ONE != 0;
                Ok(Operation::BlockStatus { offset_bytes, length, one_extent })
            }
            command::DISC => Ok(Operation::Disconnect),
            _ => Err(ErrorCode::Invalid),
        }
    }

    /// FUA may come with any command and is ignored where nothing is written.
    fn allow_flags(&self, allowed: u16) -> Result<(), ErrorCode> {
        if self.flags & !(allowed | command_flag::FUA) == 0 { Ok(()) } else { Err(ErrorCode::Invalid) }
    }

    fn within(&self, limits: &Limits, otherwise: ErrorCode) -> Result<(), ErrorCode> {
        match self.offset_bytes.checked_add(u64::from(self.length)) {
            Some(end) if end <= limits.size_bytes => Ok(()),
            _ => Err(otherwise),
        }
    }
}

fn writable(limits: &Limits) -> Result<(), ErrorCode> {
    if limits.read_only { Err(ErrorCode::Permission) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMITS: Limits =
        Limits { size_bytes: 1 << 32, read_only: false, structured_replies: true, allocation_context: true };

    fn judge(kind: u16, flags: u16, offset_bytes: u64, length: u32) -> Result<Operation, ErrorCode> {
        RequestHeader { flags, kind, cookie: 0, offset_bytes, length }.validate(&LIMITS)
    }

    #[test]
    fn header_bytes() {
        let bytes = [
            0x25, 0x60, 0x95, 0x13, // magic
            0, 1, // flags: FUA
            0, 1, // WRITE
            1, 2, 3, 4, 5, 6, 7, 8, // cookie
            0, 0, 0, 1, 0, 0, 0x10, 0, // offset
            0, 0, 0x20, 0, // length
        ];
        let header = RequestHeader {
            flags: command_flag::FUA,
            kind: command::WRITE,
            cookie: 0x0102_0304_0506_0708,
            offset_bytes: 0x1_0000_1000,
            length: 8192,
        };
        assert_eq!(RequestHeader::parse(&bytes), Ok(header));
        let mut encoded = BytesMut::new();
        header.encode(&mut encoded);
        assert_eq!(encoded, bytes[..]);
        assert_eq!(header.payload_length(), 8192);
        let mut broken = bytes;
        broken[0] = 0;
        assert_eq!(RequestHeader::parse(&broken), Err(BadRequestMagic(0x0060_9513)));
    }

    #[test]
    fn ranges() {
        let end = LIMITS.size_bytes;
        assert!(judge(command::READ, 0, end - 1, 1).is_ok());
        assert_eq!(judge(command::READ, 0, end, 1), Err(ErrorCode::Invalid));
        assert_eq!(judge(command::WRITE, 0, end - 1, 2), Err(ErrorCode::NoSpace));
        assert_eq!(judge(command::WRITE, 0, u64::MAX, 2), Err(ErrorCode::NoSpace));
        assert_eq!(judge(command::WRITE_ZEROES, 0, end, 1), Err(ErrorCode::NoSpace));
        assert_eq!(judge(command::TRIM, 0, end, 1), Err(ErrorCode::Invalid));
        assert_eq!(judge(command::BLOCK_STATUS, 0, end, 1), Err(ErrorCode::Invalid));
        assert_eq!(judge(command::BLOCK_STATUS, 0, 0, 0), Err(ErrorCode::Invalid));
        assert!(judge(command::WRITE_ZEROES, 0, 0, u32::MAX).is_ok(), "no payload, no maximum");
    }

    #[test]
    fn lengths_and_flags() {
        assert!(judge(command::READ, command_flag::DF, 0, PAYLOAD_BYTES_MAX).is_ok());
        assert_eq!(judge(command::READ, 0, 0, PAYLOAD_BYTES_MAX + 1), Err(ErrorCode::Invalid));
        assert_eq!(
            judge(command::READ, command_flag::DF, 0, PAYLOAD_BYTES_MAX + 1),
            Err(ErrorCode::Overflow)
        );
        assert_eq!(judge(command::WRITE, 0, 0, PAYLOAD_BYTES_MAX + 1), Err(ErrorCode::Invalid));
        assert_eq!(judge(command::WRITE, command_flag::NO_HOLE, 0, 1), Err(ErrorCode::Invalid));
        assert_eq!(judge(command::WRITE_ZEROES, 1 << 4, 0, 1), Err(ErrorCode::Invalid), "FAST_ZERO");
        assert_eq!(judge(5, 0, 0, 1), Err(ErrorCode::Invalid), "CACHE is not offered");
        assert_eq!(judge(999, 0, 0, 1), Err(ErrorCode::Invalid));
        assert_eq!(judge(command::FLUSH, command_flag::FUA, 0, 0), Ok(Operation::Flush));
    }

    #[test]
    fn what_was_not_negotiated_is_invalid() {
        let plain = Limits { structured_replies: false, allocation_context: false, ..LIMITS };
        let header =
            RequestHeader { flags: 0, kind: command::BLOCK_STATUS, cookie: 0, offset_bytes: 0, length: 1 };
        assert_eq!(header.validate(&plain), Err(ErrorCode::Invalid));
        let header = RequestHeader { kind: command::READ, flags: command_flag::DF, ..header };
        assert_eq!(header.validate(&plain), Err(ErrorCode::Invalid));
    }

    #[test]
    fn a_read_only_export_refuses_every_change() {
        let limits = Limits { read_only: true, ..LIMITS };
        for kind in [command::WRITE, command::WRITE_ZEROES, command::TRIM] {
            let header = RequestHeader { flags: 0, kind, cookie: 0, offset_bytes: 0, length: 1 };
            assert_eq!(header.validate(&limits), Err(ErrorCode::Permission));
        }
    }

    proptest! {
        #[test]
        fn headers_survive_the_wire(flags: u16, kind: u16, cookie: u64, offset_bytes: u64, length: u32) {
            let header = RequestHeader { flags, kind, cookie, offset_bytes, length };
            let mut bytes = BytesMut::new();
            header.encode(&mut bytes);
            prop_assert_eq!(RequestHeader::parse(bytes.first_chunk().unwrap()), Ok(header));
        }

        #[test]
        fn whatever_is_allowed_lies_inside_the_export(flags in 0u16..32, kind in 0u16..10, offset_bytes: u64, length: u32, size_bytes: u64) {
            let header = RequestHeader { flags, kind, cookie: 0, offset_bytes, length };
            let inside = u128::from(offset_bytes) + u128::from(length) <= u128::from(size_bytes);
            match header.validate(&Limits { size_bytes, ..LIMITS }) {
                Ok(Operation::Flush | Operation::Disconnect) | Err(_) => {}
                Ok(operation) => prop_assert!(inside, "{operation:?} reaches beyond {size_bytes}"),
            }
        }
    }
}
