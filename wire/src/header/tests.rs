//! The header: byte fixtures, the numbers of every opcode, status and flag, and hostile bytes.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::samples::{damage, epoch, header_range};

/// A write of two blocks, as `PROTOCOL.md` lays it out.
#[rustfmt::skip]
const WRITE_REQUEST: [u8; HEADER_SIZE] = [
    0x42, 0x52, 0x43, 0x4b,                         //  0 magic "BRCK"
    0x01,                                           //  4 header version 1
    0x20,                                           //  5 opcode 32: write
    0x08, 0x00,                                     //  6 flags: FUA
    0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01, //  8 request id
    0x15, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // 16 epoch counter 21
    0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01, // 24 epoch session
    0x03, 0x00, 0x00, 0x00,                         // 32 image handle 3
    0x0b, 0x0a, 0x00, 0x00,                         // 36 shard 0x0a0b
    0x02, 0x01,                                     // 40 first block 258
    0x02, 0x00,                                     // 42 2 blocks
    0x08, 0x00, 0x00, 0x00,                         // 44 aux: one CRC and the trailer
    0x00, 0x20, 0x00, 0x00,                         // 48 data: 8192 bytes
    0x44, 0x33, 0x22, 0x11,                         // 52 CRC32C of block 258
    0x07, 0x00, 0x00, 0x00,                         // 56 flush generation 7
    0x96, 0x23, 0xf6, 0xb6,                         // 60 CRC32C of bytes 0..60
];

/// Its refusal for lack of space.
#[rustfmt::skip]
const WRITE_REPLY: [u8; HEADER_SIZE] = [
    0x42, 0x52, 0x43, 0x4b,                         //  0 magic "BRCK"
    0x01,                                           //  4 header version 1
    0x20,                                           //  5 opcode 32: write
    0x01, 0x00,                                     //  6 flags: REPLY
    0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01, //  8 request id, copied
    0x15, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // 16 epoch counter, copied
    0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01, // 24 epoch session, copied
    0x03, 0x00, 0x00, 0x00,                         // 32 image handle, copied
    0x0b, 0x0a, 0x00, 0x00,                         // 36 shard, copied
    0x02, 0x01,                                     // 40 first block, copied
    0x02, 0x00,                                     // 42 2 blocks, copied
    0x00, 0x00, 0x00, 0x00,                         // 44 no aux
    0x00, 0x00, 0x00, 0x00,                         // 48 no data
    0x00, 0x00, 0x00, 0x00,                         // 52 no CRC
    0x05, 0x00,                                     // 56 status 5: no space
    0x02, 0x00,                                     // 58 credits given back: 2 blocks
    0xc0, 0x9b, 0xc3, 0x8a,                         // 60 CRC32C of bytes 0..60
];

fn write_request() -> Header {
    Header {
        flags: Flags::FUA,
        epoch: Epoch { counter: 21, session: SessionId(0x0123_4567_89ab_cdef) },
        image: ImageHandle(3),
        shard: ShardIndex(0x0a0b),
        blocks: BlockRange::new(258, 2),
        aux_bytes: 8,
        data_bytes: 8192,
        first_crc: 0x1122_3344,
        generation: Generation(7),
        ..Header::request(Opcode::Write, RequestId(0x0102_0304_0506_0708))
    }
}

#[test]
fn a_write_request_stands_as_documented() {
    assert_eq!(write_request().to_bytes(), WRITE_REQUEST);
    assert_eq!(Header::parse(&WRITE_REQUEST), Ok(write_request()));
    assert_eq!(write_request().frame_bytes(), 64 + 8 + 8192);
}

#[test]
fn a_reply_stands_as_documented() {
    let reply = Header { credits: 2, ..write_request().reply(Status::NoSpace) };
    assert_eq!(reply.to_bytes(), WRITE_REPLY);
    assert_eq!(Header::parse(&WRITE_REPLY), Ok(reply));
}

/// Numbers are never reused or changed: peers of other builds hold them too.
#[test]
fn opcodes_and_statuses_keep_their_numbers() {
    let opcodes: Vec<(u8, String)> =
        Opcode::ALL.iter().map(|code| (*code as u8, format!("{code:?}"))).collect();
    let expected = [
        (1, "Hello"),
        (2, "Ping"),
        (3, "Attach"),
        (4, "BrickStatus"),
        (5, "ImageStatus"),
        (6, "Stamp"),
        (7, "HealHistory"),
        (8, "Adopt"),
        (16, "RegisterRead"),
        (17, "RegisterPrepare"),
        (18, "RegisterAccept"),
        (19, "RegisterList"),
        (20, "BlankDeclare"),
        (21, "RegisterLearn"),
        (22, "BlankClear"),
        (23, "Retire"),
        (32, "Write"),
        (34, "Read"),
        (35, "Flush"),
        (36, "Clean"),
        (37, "DirtyRead"),
        (38, "ShardList"),
        (39, "ImageRemove"),
        (40, "Verify"),
        (41, "BadRead"),
        (42, "Suspect"),
        (43, "DummyWrites"),
        (48, "Pull"),
        (49, "PullRead"),
    ];
    assert_eq!(opcodes, expected.map(|(number, name)| (number, name.to_owned())));

    let statuses: Vec<String> = Status::ALL.iter().map(|status| format!("{status:?}")).collect();
    let expected = [
        "Ok",
        "StaleEpoch",
        "AheadEpoch",
        "BallotRefused",
        "LeaseHeld",
        "NoSpace",
        "Io",
        "BadChecksum",
        "Invalid",
        "NotFound",
        "Blank",
        "WrongIncarnation",
        "NotInSync",
        "FlushFailed",
        "AlreadyStamped",
        "SourceUnreachable",
        "ShuttingDown",
        "Unsupported",
        "WrongBrick",
        "Busy",
        "LeaseExpired",
        "Corrupt",
    ];
    assert_eq!(statuses, expected);
    assert!(Status::ALL.iter().enumerate().all(|(number, status)| *status as usize == number));

    let flags = [
        Flags::REPLY,
        Flags::MORE,
        Flags::ZEROES,
        Flags::FUA,
        Flags::FORCE,
        Flags::EXACT,
        Flags::REWRITE,
        Flags::HEAL,
        Flags::BAD,
        Flags::SUSPECT,
    ];
    assert_eq!(flags.map(|flag| flag.0), [0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0x100, 0x200]);
    assert_eq!(flags.into_iter().fold(Flags::NONE, Flags::with).0, Flags::KNOWN);
}

#[test]
fn every_number_that_is_no_opcode_or_status_is_refused() {
    for number in 0..=u8::MAX {
        let known = Opcode::ALL.iter().find(|code| **code as u8 == number);
        assert_eq!(Opcode::try_from(number), known.copied().ok_or(number));
    }
    for number in 0..=u16::MAX {
        let known = Status::ALL.iter().find(|status| **status as u16 == number);
        assert_eq!(Status::try_from(number), known.copied().ok_or(number));
    }
}

/// The fixture with `bytes` at `offset` and a header CRC that fits.
fn altered(fixture: [u8; HEADER_SIZE], offset: usize, bytes: &[u8]) -> [u8; HEADER_SIZE] {
    let mut altered = fixture;
    altered[offset..offset + bytes.len()].copy_from_slice(bytes);
    let crc = crc32c(&altered[..60]);
    altered[60..].copy_from_slice(&crc.to_le_bytes());
    altered
}

#[test]
fn each_field_out_of_bounds_has_its_error() {
    let aux_max = AUX_BYTES_MAX as u32;
    let data_max = DATA_BYTES_MAX as u32;
    let cases: [(usize, &[u8], FrameError); 11] = [
        (0, b"HTTP", FrameError::Magic(u32::from_le_bytes(*b"HTTP"))),
        (4, &[2], FrameError::Version(2)),
        (5, &[9], FrameError::Opcode(9)),
        (6, &[0, 0x04], FrameError::Flags(0x400)),
        (40, &[0xff, 0x3f], FrameError::Blocks { first: 16383, count: 2 }),
        (40, &[0, 0, 0x01, 0x01], FrameError::Blocks { first: 0, count: 257 }),
        (44, &[4, 0, 0, 0], FrameError::AuxLength(4)),
        (44, &(aux_max + 1).to_le_bytes(), FrameError::AuxLength(aux_max + 1)),
        (48, &[1, 0x10, 0, 0], FrameError::DataLength(4097)),
        (48, &(data_max + 4096).to_le_bytes(), FrameError::DataLength(data_max + 4096)),
        (48, &[0xff; 4], FrameError::DataLength(u32::MAX)),
    ];
    for (offset, bytes, error) in cases {
        assert_eq!(Header::parse(&altered(WRITE_REQUEST, offset, bytes)), Err(error));
    }
    assert_eq!(Header::parse(&altered(WRITE_REPLY, 56, &[22, 0])), Err(FrameError::Status(22)));
}

#[test]
fn the_limits_themselves_are_allowed() {
    let header = Header {
        aux_bytes: AUX_BYTES_MAX as u32,
        data_bytes: DATA_BYTES_MAX as u32,
        blocks: BlockRange::new(SHARD_BLOCKS_MAX as u16 - DATA_BLOCKS_MAX, DATA_BLOCKS_MAX),
        ..write_request()
    };
    assert_eq!(Header::parse(&header.to_bytes()), Ok(header));
    assert_eq!(header.frame_bytes(), crate::limits::FRAME_BYTES_MAX);
}

#[test]
#[should_panic(expected = "own frames keep the limits")]
fn own_headers_name_no_more_blocks_than_a_frame_holds() {
    let _ = Header { blocks: BlockRange::new(0, 257), ..write_request() }.to_bytes();
}

#[test]
fn aux_is_sealed_with_its_crc() {
    // The body, then CRC32C(aa bb cc dd) = 0xf7ceea9e.
    let sealed = [0xaa, 0xbb, 0xcc, 0xdd, 0x9e, 0xea, 0xce, 0xf7];
    assert_eq!(seal_aux(vec![0xaa, 0xbb, 0xcc, 0xdd]), sealed);
    assert_eq!(parse_aux(&sealed), Ok(&sealed[..4]));
    assert_eq!(seal_aux(Vec::new()), []);
    assert_eq!(parse_aux(&[]), Ok(&[][..]));
    for length in 1..=4 {
        assert_eq!(parse_aux(&[0; 4][..length]), Err(FrameError::AuxLength(length as u32)));
    }
}

fn header() -> impl Strategy<Value = Header> {
    let lengths = (prop_oneof![Just(0), 5..=AUX_BYTES_MAX as u32], 0..=u32::from(DATA_BLOCKS_MAX));
    let argument = (any::<bool>(), any::<u32>(), prop::sample::select(Status::ALL), any::<u16>());
    let place = (any::<u64>(), epoch(), any::<u32>(), any::<u32>(), header_range());
    (prop::sample::select(Opcode::ALL), 0..=Flags::KNOWN, place, lengths, any::<u32>(), argument).prop_map(
        |(opcode, flags, (request, epoch, image, shard, blocks), (aux_bytes, data_blocks), crc, argument)| {
            let (reply, generation, status, credits) = argument;
            let flags = if reply { Flags(flags | 1) } else { Flags(flags & !1) };
            Header {
                flags,
                epoch,
                image: ImageHandle(image),
                shard: ShardIndex(shard),
                blocks,
                aux_bytes,
                data_bytes: data_blocks * BLOCK_SIZE as u32,
                first_crc: crc,
                generation: Generation(if reply { 0 } else { generation }),
                status: if reply { status } else { Status::Ok },
                credits: if reply { credits } else { 0 },
                ..Header::request(opcode, RequestId(request))
            }
        },
    )
}

proptest! {
    #[test]
    fn a_header_comes_back_as_it_went(header in header()) {
        prop_assert_eq!(Header::parse(&header.to_bytes()), Ok(header));
    }

    #[test]
    fn a_flipped_bit_is_noticed(header in header(), bit in 0..HEADER_SIZE * 8) {
        let mut bytes = header.to_bytes();
        bytes[bit / 8] ^= 1 << (bit % 8);
        prop_assert!(Header::parse(&bytes).is_err());
    }

    /// A hostile peer knows how to compute a CRC. What is accepted means the same when sent on.
    #[test]
    fn hostile_headers_do_not_panic(header in header(), damage in damage()) {
        let mut bytes = damage.apply(header.to_bytes().to_vec());
        bytes.resize(HEADER_SIZE, 0);
        let bytes = altered(bytes.try_into().expect("64 bytes"), 0, b"BRCK");
        if let Ok(parsed) = Header::parse(&bytes) {
            prop_assert_eq!(parsed.to_bytes(), bytes);
        }
    }

    #[test]
    fn arbitrary_bytes_are_no_header(bytes in vec(any::<u8>(), HEADER_SIZE)) {
        prop_assert!(Header::parse(&bytes.try_into().expect("64 bytes")).is_err());
    }

    #[test]
    fn arbitrary_aux_does_not_panic(bytes in vec(any::<u8>(), 0..64)) {
        if let Ok(body) = parse_aux(&bytes) {
            prop_assert_eq!(&seal_aux(body.to_vec()), &bytes);
        }
        let sealed = seal_aux(bytes.clone());
        prop_assert_eq!(parse_aux(&sealed), Ok(&bytes[..]));
    }
}
