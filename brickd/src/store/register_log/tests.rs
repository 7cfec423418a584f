//! The log's bytes, and what a torn, rotten or grown one becomes.

use brick_wire::{Epoch, SessionId};
use proptest::prelude::*;

use super::*;

const BRICK: BrickUuid = BrickUuid(uuid::Uuid::from_bytes([0xb1; 16]));

fn entry(name: &str, counter: u64) -> RegisterEntry {
    let epoch = Epoch { counter, session: SessionId(7) };
    RegisterEntry {
        key: RegisterKey::Name(name.to_owned()),
        state: RegisterState { promised: epoch, accepted: Epoch::ZERO, lease_left_ms: 0, value: vec![1, 2] },
    }
}

fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join(FILE_NAME), RegisterLog::fresh(BRICK)).unwrap();
    directory
}

fn reopen(directory: &tempfile::TempDir) -> Vec<RegisterEntry> {
    RegisterLog::open(directory.path(), BRICK, false).unwrap().1
}

#[test]
fn bytes_are_as_documented() {
    let mut expected = b"BRICKREG".to_vec();
    expected.extend([0xb1; 16]); // brick
    expected.extend([1, 0, 0, 0]); // version
    let crc = crc32c(&expected);
    expected.extend(crc.to_le_bytes());
    assert_eq!(RegisterLog::fresh(BRICK), expected);

    let mut covered = vec![3, 0, 0, 0, 0, 0, 0, 0]; // sequence
    covered.extend([0xaa, 0xbb]); // body
    let mut record = vec![2, 0, 0, 0]; // body length
    record.extend(crc32c(&covered).to_le_bytes());
    record.extend(covered);
    assert_eq!(encode_record(&[0xaa, 0xbb], 3), record);
}

#[test]
fn the_latest_state_wins() {
    let directory = directory();
    let (mut log, entries) = RegisterLog::open(directory.path(), BRICK, false).unwrap();
    assert!(entries.is_empty());
    log.append(&[entry("a", 1), entry("b", 1)]).unwrap();
    log.append(&[entry("a", 2)]).unwrap();
    assert_eq!(reopen(&directory), vec![entry("a", 2), entry("b", 1)]);
}

#[test]
fn a_bad_record_before_good_ones_is_refused() {
    let directory = directory();
    let (mut log, _) = RegisterLog::open(directory.path(), BRICK, false).unwrap();
    let first = log.end;
    log.append(&[entry("a", 1)]).unwrap();
    let second = log.end;
    log.append(&[entry("b", 1)]).unwrap();
    log.file.write_all_at(&[0xff; 3], first + 20).unwrap();
    let error = RegisterLog::open(directory.path(), BRICK, false).unwrap_err().to_string();
    assert!(error.contains(&format!("byte {first}")) && error.contains("valid ones follow"), "{error}");
    // Bad as well, nothing valid is left: a torn tail.
    log.file.write_all_at(&[0xff; 3], second + 20).unwrap();
    assert!(reopen(&directory).is_empty());
    assert_eq!(std::fs::metadata(directory.path().join(FILE_NAME)).unwrap().len(), first);
}

#[test]
fn a_grown_log_is_compacted_once() {
    let directory = directory();
    let (mut log, _) = RegisterLog::open(directory.path(), BRICK, false).unwrap();
    let batch = |round| {
        (0..40).map(move |index| {
            let mut entry = entry(&format!("name-{index}"), round);
            entry.state.value = vec![round as u8; 4096];
            entry
        })
    };
    for round in 1..=8 {
        log.append(&batch(round).collect::<Vec<_>>()).unwrap();
    }
    let length = log.end;
    let (mut log, entries) = RegisterLog::open(directory.path(), BRICK, false).unwrap();
    assert!(log.end < length / 7 && entries.len() == 40);
    assert!(entries.iter().all(|entry| entry.state.promised.counter == 8));
    log.append(&[entry("z", 9)]).unwrap();
    assert_eq!(reopen(&directory).len(), 41);
}

#[test]
fn another_bricks_log_is_refused() {
    let directory = directory();
    let error = RegisterLog::open(directory.path(), BrickUuid::NIL, false).unwrap_err().to_string();
    assert!(error.contains("another brick"), "{error}");
}

#[test]
fn an_empty_log_of_another_brick_becomes_that_of_a_blank_one() {
    let other = BrickUuid::from_bytes([0xee; 16]);
    let with_content = directory();
    let (mut log, _) = RegisterLog::open(with_content.path(), BRICK, true).unwrap();
    log.append(&[entry("a", 1)]).unwrap();
    assert!(RegisterLog::open(with_content.path(), other, true).is_err(), "registers are nobody else's");

    let directory = directory();
    assert!(RegisterLog::open(directory.path(), other, false).is_err(), "its promises may be gone");
    let (mut log, entries) = RegisterLog::open(directory.path(), other, true).unwrap();
    assert!(entries.is_empty());
    log.append(&[entry("a", 1)]).unwrap();
    assert_eq!(RegisterLog::open(directory.path(), other, false).unwrap().1.len(), 1);
    assert!(RegisterLog::open(directory.path(), BRICK, true).is_err());
}

proptest! {
    /// Whatever a crash leaves of the batch that was being written, the acknowledged ones are there.
    #[test]
    fn a_torn_tail_is_cut(
        batches in prop::collection::vec(1u64..5, 1..6),
        kept in any::<prop::sample::Index>(),
        hole in any::<prop::sample::Index>(),
        hole_bytes in 1usize..64,
    ) {
        let directory = directory();
        let (mut log, _) = RegisterLog::open(directory.path(), BRICK, false).unwrap();
        for (round, count) in batches.iter().enumerate() {
            log.append(&(0..*count).map(|index| entry(&index.to_string(), round as u64 + 1)).collect::<Vec<_>>()).unwrap();
        }
        let acknowledged = reopen(&directory);
        let good = log.end as usize;
        log.append(&(0..3).map(|index| entry(&index.to_string(), 99)).collect::<Vec<_>>()).unwrap();

        let path = directory.path().join(FILE_NAME);
        let mut content = std::fs::read(&path).unwrap();
        let torn = content.split_off(good);
        let mut torn = torn[..kept.index(torn.len())].to_vec();
        if !torn.is_empty() {
            let start = hole.index(torn.len());
            let end = (start + hole_bytes).min(torn.len());
            torn[start..end].fill(0);
        }
        content.extend(torn);
        std::fs::write(&path, content).unwrap();

        let (mut log, entries) = RegisterLog::open(directory.path(), BRICK, false).unwrap();
        prop_assert_eq!(entries, acknowledged);
        prop_assert_eq!(std::fs::metadata(&path).unwrap().len() as usize, good);
        log.append(&[entry("after", 1)]).unwrap();
        prop_assert!(reopen(&directory).contains(&entry("after", 1)));
    }
}
