//! The table's bytes, and what torn and rotten copies leave of it.

use proptest::prelude::*;

use super::*;

const LANES: u16 = 4;
const LANE: LaneIndex = LaneIndex(2);
const START: StartCounter = StartCounter(7);

/// The n-th shard of an image that lies in the lane.
fn shard(nth: usize) -> ActiveShard {
    let image = ImageUuid::from_bytes([0x1a; 16]);
    let in_lane = |shard: &ShardIndex| lane_of(image, *shard, LANES) == LANE;
    let shard = (0..).map(ShardIndex).filter(in_lane).nth(nth).unwrap();
    ActiveShard { image, shard, shard_shift: 22 }
}

fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join(lane_path(LANE))).unwrap();
    ActivityFile::create(directory.path(), LANE, LANES).unwrap();
    directory
}

fn reopen(directory: &tempfile::TempDir) -> Result<Vec<ActiveShard>, StoreError> {
    ActivityFile::open(directory.path(), LANE, LANES).map(|(_, entries)| entries)
}

/// Writes tables of the first `counts` shards each, one after the other; returns the copies after each.
fn written(counts: &[usize]) -> (tempfile::TempDir, Vec<Vec<u8>>) {
    let directory = directory();
    let (mut file, _) = ActivityFile::open(directory.path(), LANE, LANES).unwrap();
    let contents = counts.iter().map(|count| {
        file.write(START, (0..*count).map(shard).collect()).unwrap();
        std::fs::read(file_path(directory.path(), LANE)).unwrap()
    });
    let contents = contents.collect();
    (directory, contents)
}

#[test]
fn bytes_are_as_documented() {
    let table = Table { sequence: 0x1_0000_0005, start: START, entries: vec![shard(0)] };
    let mut content = b"BRICKACT".to_vec();
    content.extend([1, 0, 2, 0]); // version, lane
    content.extend([1, 0, 0, 0]); // count, reserved
    content.extend([5, 0, 0, 0, 1, 0, 0, 0]); // sequence
    content.extend([7, 0, 0, 0, 0, 0, 0, 0]); // start counter
    content.extend([0x1a; 16]); // image
    content.extend(shard(0).shard.0.to_le_bytes()); // shard
    content.push(22); // log2 of its size
    content.resize(8 * 504, 0);
    let mut expected = Vec::new();
    for part in content.chunks(504) {
        let mut sector = part.to_vec();
        sector.extend([5, 0, 0, 0]); // low half of the sequence
        let crc = crc32c(&sector);
        sector.extend(crc.to_le_bytes());
        expected.extend(sector);
    }
    assert_eq!(table.to_bytes(LANE).to_vec(), expected);
    assert_eq!(Table::parse(&table.to_bytes(LANE), LANE, LANES), Ok(table));
}

#[test]
fn tables_replace_each_other_in_turn() {
    let (directory, contents) = written(&[1, 2, ENTRIES_MAX, 0, 3]);
    assert_eq!(reopen(&directory).unwrap(), (0..3).map(shard).collect::<Vec<_>>());
    for pair in contents.windows(2) {
        let changed = [0, COPY_BYTES].map(|at| pair[0][at..][..COPY_BYTES] != pair[1][at..][..COPY_BYTES]);
        assert_eq!(changed.iter().filter(|changed| **changed).count(), 1, "one copy at a time");
        assert_eq!(pair[1].len(), 2 * COPY_BYTES);
    }
    let (mut file, _) = ActivityFile::open(directory.path(), LANE, LANES).unwrap();
    file.write(START, vec![shard(9)]).unwrap();
    assert_eq!(reopen(&directory).unwrap(), [shard(9)], "the sequence goes on");
}

#[test]
fn what_does_not_check_is_lost() {
    let (directory, contents) = written(&[1, 2]);
    let path = file_path(directory.path(), LANE);
    let lost = |content: &[u8]| {
        std::fs::write(&path, content).unwrap();
        reopen(&directory).unwrap_err().to_string()
    };
    for index in (0..2 * COPY_BYTES).step_by(61) {
        let mut bad = contents[1].clone();
        bad[index] ^= 0x10;
        assert!(lost(&bad).contains("fails its check"), "byte {index}");
    }
    assert!(lost(&[]).contains("activity"));
    let mut long = Table { sequence: 3, start: START, entries: Vec::new() }.to_bytes(LANE);
    long[12] = ENTRIES_MAX as u8 + 1;
    let crc = crc32c(&long[..CRC_OFFSET]);
    long[CRC_OFFSET..SECTOR_BYTES].copy_from_slice(&crc.to_le_bytes());
    assert!(matches!(Table::parse(&long, LANE, LANES), Err(Damage::Rotten(_))));
    let table = Table { sequence: 3, start: START, entries: vec![shard(0)] }.to_bytes(LANE);
    assert!(Table::parse(&table, LaneIndex(1), LANES).is_err(), "another lane's file");
    assert!(Table::parse(&table, LANE, LANES + 1).is_err(), "a shard of another lane");
}

/// Both writes to the same place are torn, in sectors that complete each other.
#[test]
fn two_torn_tables_never_look_like_one() {
    let (directory, contents) = written(&[1, 2]);
    let path = file_path(directory.path(), LANE);
    let place = COPY_BYTES;
    let mut torn = contents[1].clone();
    for shards in [3, 4] {
        let (mut file, found) = ActivityFile::open(directory.path(), LANE, LANES).unwrap();
        assert_eq!(found.len(), 2, "the table before both");
        file.write(START, (0..shards).map(shard).collect()).unwrap();
        let whole = std::fs::read(&path).unwrap();
        let half = if shards == 3 { 0..COPY_BYTES / 2 } else { COPY_BYTES / 2..COPY_BYTES };
        torn[place..][half.clone()].copy_from_slice(&whole[place..][half]);
        std::fs::write(&path, &torn).unwrap();
    }
    assert_eq!(reopen(&directory).unwrap().len(), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever sectors of the last table a crash keeps, what is found is that table or the one before it.
    #[test]
    fn a_torn_write_leaves_the_table_before(
        counts in prop::collection::vec(0..=ENTRIES_MAX, 2..6),
        kept in prop::collection::vec(any::<bool>(), 2 * SECTORS),
    ) {
        let (directory, contents) = written(&counts);
        let [.., before, after] = contents.as_slice() else { unreachable!("two at least") };
        let mut torn = before.clone();
        for (index, _) in kept.iter().enumerate().filter(|(_, kept)| **kept) {
            let sector = index * SECTOR_BYTES..(index + 1) * SECTOR_BYTES;
            torn[sector.clone()].copy_from_slice(&after[sector]);
        }
        std::fs::write(file_path(directory.path(), LANE), &torn).unwrap();
        let found = reopen(&directory).unwrap().len();
        let [.., count_before, count_after] = counts.as_slice() else { unreachable!("two at least") };
        prop_assert_eq!(found, if torn == *after { *count_after } else { *count_before });

        let (mut file, _) = ActivityFile::open(directory.path(), LANE, LANES).unwrap();
        file.write(START, vec![shard(5)]).unwrap();
        prop_assert_eq!(reopen(&directory).unwrap(), vec![shard(5)], "the next write repairs it");
    }
}
