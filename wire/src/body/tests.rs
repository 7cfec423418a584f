//! The other bodies: byte fixtures, round trips and hostile bytes.

use proptest::collection::{btree_set, vec};
use proptest::prelude::*;

use super::*;
use crate::blocks::BlockRange;
use crate::header::Opcode;
use crate::ids::{RequestId, SessionId};
use crate::limits::{AUX_BYTES_MAX, DUMMY_BLOCKS_MAX, DUMMY_WRITES_MAX, SHARD_BLOCKS_MAX};
use crate::samples::{
    assert_fixture, assert_hostile, assert_round_trip, block_set_below, brick, damage, epoch, image,
    incarnation, shard_shift, text,
};

#[rustfmt::skip]
const ATTACH: [u8; 17] = [
    0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, //  0 image
    0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40,
    0x16,                                           // 16 shards of 2^22 bytes
];

#[rustfmt::skip]
const PULL: [u8; 52] = [
    0x20, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20, //  0 source brick
    0x20, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20, 0x20,
    0x30, 0x30, 0x30, 0x30, 0x30, 0x30, 0x30, 0x30, // 16 its boot
    0x30, 0x30, 0x30, 0x30, 0x30, 0x30, 0x30, 0x30,
    0x09, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // 32 its start counter 9
    0x08, 0x00,                                     // 40 8 bytes of address
    0x61, 0x3a, 0x31, 0x32, 0x33, 0x34, 0x35, 0x36, // 42 "a:123456"
    0x01, 0x06,                                     // 50 bitmap: blocks 0, 9, 10
];

#[rustfmt::skip]
const VERIFY_REPLY: [u8; 15] = [
    0x01, 0x00,                                     //  0 1 byte of bitmap
    0x80,                                           //  2 block 7 is bad
    0x02, 0x00,                                     //  3 2 bytes of bitmap
    0x00, 0x03,                                     //  5 blocks 8, 9 are unknown
    0x44, 0x33, 0x22, 0x11,                         //  7 CRC of the first block
    0x05, 0x00, 0x00, 0x00,                         // 11 and of the second
];

#[rustfmt::skip]
const DIRTY_PAGE: [u8; 15] = [
    0x02, 0x00, 0x00, 0x00,                         //  0 shard 2
    0x01, 0x00,                                     //  4 1 byte of bitmap
    0x80,                                           //  6 block 7
    0x05, 0x01, 0x00, 0x00,                         //  7 shard 261
    0x02, 0x00,                                     // 11 2 bytes of bitmap
    0x00, 0x03,                                     // 13 blocks 8, 9
];

#[rustfmt::skip]
const DUMMY_WRITES: [u8; 28] = [
    0x05, 0x01, 0x00, 0x00,                         //  0 shard 261
    0x07, 0x00,                                     //  4 from block 7
    0x02, 0x00,                                     //  6 2 blocks
    0x44, 0x33, 0x22, 0x11,                         //  8 CRC of block 7
    0x88, 0x77, 0x66, 0x55,                         // 12 CRC of block 8
    0x02, 0x00, 0x00, 0x00,                         // 16 shard 2
    0x00, 0x00,                                     // 20 from block 0
    0x01, 0x00,                                     // 22 1 block
    0x05, 0x00, 0x00, 0x00,                         // 24 its CRC
];

#[rustfmt::skip]
const PULL_READ: [u8; 40] = [
    0x30, 0x30, 0x30, 0x30, 0x30, 0x30, 0x30, 0x30, //  0 boot of the source
    0x30, 0x30, 0x30, 0x30, 0x30, 0x30, 0x30, 0x30,
    0x09, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // 16 its start counter 9
    0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0x02, 0x01, // 24 hash of the first block
    0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11, // 32 hash of the second
];

#[rustfmt::skip]
const PULL_READ_REPLY: [u8; 12] = [
    0x01, 0x00,                                     //  0 1 byte of bitmap
    0x06,                                           //  2 blocks first+1 and first+2
    0x44, 0x33, 0x22, 0x11,                         //  3 CRC32C of first+1
    0x88, 0x77, 0x66, 0x55,                         //  7 CRC32C of first+2
    0x10,                                           // 11 first+4 isn't vouched for
];

#[rustfmt::skip]
const IMAGE_STATUS: [u8; 64] = [
    0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, //  0 1 dirty block
    0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, //  8 2 shards
    0x03, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // 16 3 blocks pulled
    0x04, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // 24 4 blocks compared
    0x05, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // 32 5 wire bytes
    0x06, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // 40 6 blocks compared by the heal that runs
    0x07, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // 48 7 bad blocks
    0x08, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // 56 8 blocks repaired
];

#[rustfmt::skip]
const FINISHED_HEAL: [u8; 72] = [
    0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, //  0 image
    0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40, 0x40,
    0x15, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // 16 epoch counter 21
    0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01, // 24 epoch session
    0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // 32 1 ms ago
    0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // 40 for 2 ms
    0x03, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // 48 3 blocks compared
    0x04, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // 56 4 blocks written
    0x05, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // 64 5 wire bytes
];

#[rustfmt::skip]
const BRICK_STATUS: [u8; 24] = [
    0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, //  0 1 byte free
    0x02, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, //  8 2 bytes used
    0x03, 0x00, 0x00, 0x00,                         // 16 3 images
    0x04, 0x00, 0x00, 0x00,                         // 20 4 sessions
];

#[rustfmt::skip]
const PULL_REPORT: [u8; 18] = [
    0x01, 0x00, 0x00, 0x00,                         //  0 1 block compared
    0x02, 0x00, 0x00, 0x00,                         //  4 2 blocks written
    0x03, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, //  8 3 wire bytes
    0x00, 0x02,                                     // 16 block 9 isn't vouched for
];

fn sample_incarnation() -> Incarnation {
    Incarnation { boot: BootUuid::from_bytes([0x30; 16]), start: StartCounter(9) }
}

fn blocks(ranges: &[(u16, u16)]) -> BlockSet {
    let mut set = BlockSet::new();
    ranges.iter().for_each(|(first, count)| set.insert_range(BlockRange::new(*first, *count)));
    set
}

#[test]
fn an_attach_stands_as_documented() {
    assert_fixture(&Attach { image: ImageUuid::from_bytes([0x40; 16]), shard_shift: 22 }, &ATTACH);
}

#[test]
fn a_pull_stands_as_documented() {
    let pull = Pull {
        source: BrickUuid::from_bytes([0x20; 16]),
        incarnation: sample_incarnation(),
        address: "a:123456".into(),
        blocks: blocks(&[(0, 1), (9, 2)]),
    };
    assert_fixture(&pull, &PULL);
    let hashes = vec![0x0102_0304_0506_0708, 0x1112_1314_1516_1718];
    assert_fixture(&PullRead { incarnation: sample_incarnation(), hashes }, &PULL_READ);
    assert_fixture(&PullRead { incarnation: sample_incarnation(), hashes: vec![] }, &PULL_READ[..24]);
    let reply = PullReadReply {
        differing: blocks(&[(1, 2)]),
        crcs: vec![0x1122_3344, 0x5566_7788],
        unvouched: blocks(&[(4, 1)]),
    };
    assert_fixture(&reply, &PULL_READ_REPLY);
    assert_fixture(&PullReadReply::default(), &[0, 0]);
}

#[test]
fn a_dirty_page_stands_as_documented() {
    let shards = vec![(ShardIndex(2), blocks(&[(7, 1)])), (ShardIndex(261), blocks(&[(8, 2)]))];
    assert_fixture(&DirtyPage { shards }, &DIRTY_PAGE);
    let shards = vec![ShardIndex(2), ShardIndex(261)];
    assert_fixture(&ShardPage { shards }, &[2, 0, 0, 0, 5, 1, 0, 0]);
}

fn dummy(shard: u32, first: u16, crcs: &[u32]) -> DummyWrite {
    let blocks = BlockRange::new(first, crcs.len() as u16);
    DummyWrite { shard: ShardIndex(shard), blocks, crcs: crcs.into() }
}

#[test]
fn dummy_writes_stand_as_documented_and_are_bounded() {
    let writes = vec![dummy(261, 7, &[0x1122_3344, 0x5566_7788]), dummy(2, 0, &[5])];
    assert_fixture(&DummyWrites { writes }, &DUMMY_WRITES);
    assert_eq!(DummyWrites::from_bytes(&[]), Err(BodyError::Truncated), "at least one");
    let refused = |writes: &[u8], count: u16| {
        let error = BodyError::OutOfRange { field: "dummy.blocks", value: u64::from(count) };
        assert_eq!(DummyWrites::from_bytes(writes), Err(error));
    };
    let one = dummy(2, 0, &[5]);
    let most = DummyWrites { writes: vec![one.clone(); DUMMY_WRITES_MAX] }.to_bytes();
    refused(&[&most[..], &most[..12]].concat(), 1);
    let large = dummy(2, 0, &[5; DATA_BLOCKS_MAX as usize]);
    let most =
        DummyWrites { writes: vec![large; DUMMY_BLOCKS_MAX / usize::from(DATA_BLOCKS_MAX)] }.to_bytes();
    refused(&[&most[..], &DUMMY_WRITES[16..]].concat(), 1);
    refused(&[2, 0, 0, 0, 0, 0, 0, 0], 0);
    refused(&[2, 0, 0, 0, 0, 0, 1, 1], 257);
    refused(&[2, 0, 0, 0, 0xff, 0x3f, 2, 0], 2);
}

#[test]
fn an_answer_to_a_verification_stands_as_documented() {
    let reply =
        VerifyReply { bad: blocks(&[(7, 1)]), unknown: blocks(&[(8, 2)]), crcs: vec![0x1122_3344, 5] };
    // Any number of whole CRCs may follow, so it can't be told from its beginnings as other bodies can.
    assert_eq!(reply.to_bytes(), VERIFY_REPLY);
    assert_eq!(VerifyReply::from_bytes(&VERIFY_REPLY), Ok(reply));
    assert!(VerifyReply::from_bytes(&VERIFY_REPLY[..14]).is_err());
    let crcs = [&[0; 4][..], &[0; 4 * 257]].concat();
    let error = BodyError::OutOfRange { field: "verify.crcs", value: 257 };
    assert_eq!(VerifyReply::from_bytes(&crcs), Err(error));
}

#[test]
fn the_counters_stand_as_documented() {
    let status = ImageStatus {
        dirty_blocks: 1,
        shards: 2,
        pulled_blocks: 3,
        compared_blocks: 4,
        pulled_wire_bytes: 5,
        heal_compared_blocks: 6,
        bad_blocks: 7,
        repaired_blocks: 8,
    };
    assert_fixture(&status, &IMAGE_STATUS);
    let status = BrickStatus { free_bytes: 1, used_bytes: 2, images: 3, sessions: 4 };
    assert_fixture(&status, &BRICK_STATUS);
    let report =
        PullReport { compared_blocks: 1, written_blocks: 2, wire_bytes: 3, unvouched: blocks(&[(9, 1)]) };
    assert_fixture(&report, &PULL_REPORT);
}

#[test]
fn a_heal_history_stands_as_documented_and_is_bounded() {
    let heal = FinishedHeal {
        image: ImageUuid::from_bytes([0x40; 16]),
        epoch: Epoch { counter: 21, session: SessionId(0x0123_4567_89ab_cdef) },
        age_ms: 1,
        duration_ms: 2,
        compared_blocks: 3,
        written_blocks: 4,
        wire_bytes: 5,
    };
    // Any number of whole entries is a history, so it can't be told from its beginnings as other bodies can.
    assert_eq!(HealHistory { heals: vec![heal] }.to_bytes(), FINISHED_HEAL);
    assert_eq!(HealHistory::from_bytes(&FINISHED_HEAL), Ok(HealHistory { heals: vec![heal] }));
    assert!(HealHistory::from_bytes(&FINISHED_HEAL[..71]).is_err());
    let error = BodyError::OutOfRange { field: "history.heals", value: HEALS_REMEMBERED as u64 + 1 };
    assert_eq!(HealHistory::from_bytes(&FINISHED_HEAL.repeat(HEALS_REMEMBERED + 1)), Err(error));
}

#[test]
fn pages_ascend_so_that_paging_ends() {
    for second in [1, 2] {
        let mut page = DIRTY_PAGE;
        page[7..11].copy_from_slice(&[second, 0, 0, 0]);
        let error = BodyError::OutOfRange { field: "dirty.shard", value: u64::from(second) };
        assert_eq!(DirtyPage::from_bytes(&page), Err(error));
        let error = BodyError::OutOfRange { field: "shards.shard", value: u64::from(second) };
        assert_eq!(ShardPage::from_bytes(&[2, 0, 0, 0, second, 0, 0, 0]), Err(error));
    }
}

#[test]
fn more_blocks_than_a_frame_holds_are_refused() {
    let hashes = [&PULL_READ[..24], &[0; 8 * 257]].concat();
    let error = BodyError::OutOfRange { field: "pull_read.hashes", value: 257 };
    assert_eq!(PullRead::from_bytes(&hashes), Err(error));

    let mut reply = vec![33, 0];
    reply.resize(2 + 32, 0);
    reply.extend_from_slice(&[1, 0, 0, 0, 0]);
    let error = BodyError::OutOfRange { field: "pull_read.differing", value: 257 };
    assert_eq!(PullReadReply::from_bytes(&reply), Err(error));
}

#[test]
fn bitmaps_beyond_the_largest_shard_are_refused() {
    let bytes = SHARD_BLOCKS_MAX / 8 + 1;
    let mut page = DIRTY_PAGE[..4].to_vec();
    page.put_u16(bytes as u16);
    page.resize(6 + bytes, 0);
    let error = BodyError::OutOfRange { field: "dirty.bitmap", value: bytes as u64 };
    assert_eq!(DirtyPage::from_bytes(&page), Err(error));
    let mut pull = PULL[..50].to_vec();
    pull.resize(50 + bytes, 0);
    let error = BodyError::OutOfRange { field: "pull.blocks", value: bytes as u64 };
    assert_eq!(Pull::from_bytes(&pull), Err(error));
}

#[test]
#[should_panic(expected = "one CRC per differing block")]
fn a_pull_reply_has_as_many_crcs_as_blocks() {
    let _ =
        PullReadReply { differing: blocks(&[(1, 2)]), crcs: vec![1], unvouched: BlockSet::new() }.to_bytes();
}

#[test]
fn block_crcs_are_split_between_header_and_aux() {
    let mut header = Header::request(Opcode::Write, RequestId(1));
    let aux = put_crcs(&mut header, &[0x1122_3344, 0x5566_7788, 0x99aa_bbcc]);
    assert_eq!(header.first_crc, 0x1122_3344);
    assert_eq!(aux, [0x88, 0x77, 0x66, 0x55, 0xcc, 0xbb, 0xaa, 0x99]);
}

fn dirty_page() -> impl Strategy<Value = DirtyPage> {
    vec((any::<u32>(), block_set_below(SHARD_BLOCKS_MAX)), 0..5).prop_map(|mut shards| {
        shards.sort_by_key(|(shard, _)| *shard);
        shards.dedup_by_key(|(shard, _)| *shard);
        DirtyPage { shards: shards.into_iter().map(|(shard, set)| (ShardIndex(shard), set)).collect() }
    })
}

fn verify_reply() -> impl Strategy<Value = VerifyReply> {
    let blocks = || block_set_below(SHARD_BLOCKS_MAX);
    (blocks(), blocks(), vec(any::<u32>(), 0..=usize::from(DATA_BLOCKS_MAX)))
        .prop_map(|(bad, unknown, crcs)| VerifyReply { bad, unknown, crcs })
}

fn dummy_writes() -> impl Strategy<Value = DummyWrites> {
    let write = (any::<u32>(), 0..=SHARD_BLOCKS_MAX as u16 - 9, vec(any::<u32>(), 1..10));
    vec(write.prop_map(|(shard, first, crcs)| dummy(shard, first, &crcs)), 1..20)
        .prop_map(|writes| DummyWrites { writes })
}

fn shard_page() -> impl Strategy<Value = ShardPage> {
    btree_set(any::<u32>(), 0..20)
        .prop_map(|shards| ShardPage { shards: shards.into_iter().map(ShardIndex).collect() })
}

fn heal_history() -> impl Strategy<Value = HealHistory> {
    let heal = (image(), epoch(), any::<[u64; 5]>()).prop_map(|(image, epoch, figures)| {
        let [age_ms, duration_ms, compared_blocks, written_blocks, wire_bytes] = figures;
        FinishedHeal { image, epoch, age_ms, duration_ms, compared_blocks, written_blocks, wire_bytes }
    });
    vec(heal, 0..=HEALS_REMEMBERED).prop_map(|heals| HealHistory { heals })
}

fn pull() -> impl Strategy<Value = Pull> {
    (brick(), incarnation(), text(ADDRESS_BYTES_MAX), block_set_below(SHARD_BLOCKS_MAX))
        .prop_map(|(source, incarnation, address, blocks)| Pull { source, incarnation, address, blocks })
}

fn pull_read() -> impl Strategy<Value = PullRead> {
    (incarnation(), vec(any::<u64>(), 0..=usize::from(DATA_BLOCKS_MAX)))
        .prop_map(|(incarnation, hashes)| PullRead { incarnation, hashes })
}

fn pull_read_reply() -> impl Strategy<Value = PullReadReply> {
    (block_set_below(usize::from(DATA_BLOCKS_MAX)), any::<u32>()).prop_map(|(differing, seed)| {
        let crcs = (0..differing.count() as u32).map(|index| seed.wrapping_mul(index + 1)).collect();
        PullReadReply { differing, crcs, unvouched: BlockSet::from(BlockRange::new(seed as u16 % 256, 1)) }
    })
}

proptest! {
    #[test]
    fn all_come_back_as_they_went(
        dirty in dirty_page(),
        shards in shard_page(),
        pull in pull(),
        read in pull_read(),
        reply in pull_read_reply(),
        verified in verify_reply(),
        dummies in dummy_writes(),
        attach in (image(), shard_shift()),
        history in heal_history(),
        counters in any::<[u64; 8]>(),
    ) {
        assert_round_trip(&dirty);
        assert_round_trip(&shards);
        assert_round_trip(&pull);
        assert_round_trip(&read);
        assert_round_trip(&reply);
        assert_round_trip(&verified);
        assert_round_trip(&dummies);
        assert_round_trip(&Attach { image: attach.0, shard_shift: attach.1 });
        assert_round_trip(&history);
        prop_assert!(history.to_bytes().len() + 4 <= AUX_BYTES_MAX);
        let [dirty_blocks, shards, pulled_blocks, compared_blocks, pulled_wire_bytes, rest @ ..] = counters;
        let [heal_compared_blocks, bad_blocks, repaired_blocks] = rest;
        assert_round_trip(&ImageStatus {
            dirty_blocks,
            shards,
            pulled_blocks,
            compared_blocks,
            pulled_wire_bytes,
            heal_compared_blocks,
            bad_blocks,
            repaired_blocks,
        });
        let (images, sessions) = (dirty_blocks as u32, shards as u32);
        assert_round_trip(&BrickStatus { free_bytes: dirty_blocks, used_bytes: shards, images, sessions });
        assert_round_trip(&PullReport {
            compared_blocks: images,
            written_blocks: sessions,
            wire_bytes: shards,
            unvouched: BlockSet::new(),
        });
        prop_assert!(pull.to_bytes().len() + 4 <= AUX_BYTES_MAX);
        prop_assert!(read.to_bytes().len() + 4 <= AUX_BYTES_MAX);
        prop_assert!(reply.to_bytes().len() + 4 <= AUX_BYTES_MAX);
        prop_assert!(verified.to_bytes().len() + 4 <= AUX_BYTES_MAX);
    }

    #[test]
    fn damage_does_not_panic(
        dirty in dirty_page(),
        shards in shard_page(),
        pull in pull(),
        read in pull_read(),
        reply in pull_read_reply(),
        verified in verify_reply(),
        dummies in dummy_writes(),
        damage in damage(),
    ) {
        assert_hostile::<DirtyPage>(&damage.apply(dirty.to_bytes()));
        assert_hostile::<ShardPage>(&damage.apply(shards.to_bytes()));
        assert_hostile::<Pull>(&damage.apply(pull.to_bytes()));
        assert_hostile::<PullRead>(&damage.apply(read.to_bytes()));
        assert_hostile::<PullReadReply>(&damage.apply(reply.to_bytes()));
        assert_hostile::<VerifyReply>(&damage.apply(verified.to_bytes()));
        assert_hostile::<DummyWrites>(&damage.apply(dummies.to_bytes()));
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in vec(any::<u8>(), 0..200)) {
        assert_hostile::<Attach>(&bytes);
        assert_hostile::<BrickStatus>(&bytes);
        assert_hostile::<ImageStatus>(&bytes);
        assert_hostile::<HealHistory>(&bytes);
        assert_hostile::<DirtyPage>(&bytes);
        assert_hostile::<ShardPage>(&bytes);
        assert_hostile::<Pull>(&bytes);
        assert_hostile::<PullReport>(&bytes);
        assert_hostile::<PullRead>(&bytes);
        assert_hostile::<PullReadReply>(&bytes);
        assert_hostile::<VerifyReply>(&bytes);
        assert_hostile::<DummyWrites>(&bytes);
    }

    #[test]
    fn crcs_come_back_as_they_went(crcs in vec(any::<u32>(), 0..=256), claimed in 0..300usize) {
        let mut header = Header::request(Opcode::Write, RequestId(1));
        let aux = put_crcs(&mut header, &crcs);
        prop_assert_eq!(read_crcs(&header, &aux, crcs.len()).map(|read| read.to_vec()), Ok(crcs.clone()));
        // One block and none have the same aux, none; otherwise a wrong count is noticed.
        if claimed.max(1) != crcs.len().max(1) {
            prop_assert!(read_crcs(&header, &aux, claimed).is_err());
        }
    }
}
