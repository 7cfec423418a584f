//! What is in the file, what is only a hole, and what survives whom.

use super::*;

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap()
}

#[test]
fn zero_blocks_stay_holes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.raw");
    let size_bytes = (8 << 20) + 100;
    let sink = Sink::create(&path, size_bytes, false).unwrap();
    let mut data = vec![0; 1 << 20];
    data[500_000] = 7;
    sink.write_at(1 << 20, &data).unwrap();
    sink.write_at(5 << 20, &vec![0; 1 << 20]).unwrap();
    sink.write_at(size_bytes - 3, &[1, 2, 3]).unwrap();
    assert!(!path.exists(), "not before it is complete");
    sink.finish().unwrap();

    let found = read(&path);
    assert_eq!(found.len() as u64, size_bytes);
    let mut expected = vec![0; found.len()];
    expected[(1 << 20) + 500_000] = 7;
    expected[found.len() - 3..].copy_from_slice(&[1, 2, 3]);
    assert!(found == expected);
    let allocated_bytes = fs::metadata(&path).unwrap().blocks() * 512;
    assert!(allocated_bytes <= 16 * 4096, "{allocated_bytes} bytes allocated for two blocks of data");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no partial file is left");
}

#[test]
fn runs_follow_the_files_blocks() {
    let mut data = vec![0; 5 * BLOCK_BYTES];
    data[0] = 1;
    data[2 * BLOCK_BYTES] = 1;
    data[3 * BLOCK_BYTES] = 1;
    let runs = |offset_bytes| -> Vec<(usize, usize)> {
        data_runs(offset_bytes, &data).map(|(start, run)| (start, run.len())).collect()
    };
    assert_eq!(runs(0), [(0, BLOCK_BYTES), (2 * BLOCK_BYTES, 2 * BLOCK_BYTES)]);
    // 96 bytes before the end of a block.
    let shift = 96;
    assert_eq!(
        runs((BLOCK_BYTES - shift) as u64),
        [(0, shift), (BLOCK_BYTES + shift, 2 * BLOCK_BYTES)],
        "the grid is the file's, not the buffer's"
    );
    assert_eq!(data_runs(0, &[]).count(), 0);
    assert_eq!(data_runs(7, &[0; 9000]).count(), 0);
}

#[test]
fn an_existing_file_needs_force_and_survives_a_failed_export() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.raw");
    fs::write(&path, "precious").unwrap();
    assert!(matches!(Sink::create(&path, 10, false), Err(SinkError::Exists { .. })));
    let sink = Sink::create(&path, 10, true).unwrap();
    sink.write_at(0, b"new").unwrap();
    drop(sink);
    assert_eq!(read(&path), b"precious", "an abandoned export changes nothing");
    let sink = Sink::create(&path, 10, true).unwrap();
    sink.write_at(0, b"new").unwrap();
    sink.finish().unwrap();
    assert_eq!(read(&path), b"new\0\0\0\0\0\0\0");
}

#[test]
fn a_file_that_appears_meanwhile_is_not_replaced() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.raw");
    let sink = Sink::create(&path, 10, false).unwrap();
    fs::write(&path, "precious").unwrap();
    assert!(matches!(sink.finish(), Err(SinkError::Exists { .. })));
    assert_eq!(read(&path), b"precious");
}

#[test]
fn leftovers_and_rivals() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("disk.raw");
    fs::write(directory.path().join("disk.raw.partial"), [0xff; 5000]).unwrap();
    assert!(matches!(Sink::create(&path, 9000, false), Err(SinkError::Leftover { .. })));
    let sink = Sink::create(&path, 9000, true).unwrap();
    assert!(matches!(Sink::create(&path, 9000, true), Err(SinkError::Busy { .. })), "force steals nothing");
    sink.finish().unwrap();
    assert_eq!(read(&path), [0; 9000], "nothing of the leftover shines through");
}

#[test]
fn what_is_not_a_file_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let refused = Sink::create(directory.path(), 10, true);
    assert!(matches!(refused, Err(SinkError::NotAFile { .. })));
    assert!(matches!(Sink::create(Path::new("/"), 10, true), Err(SinkError::NoName { .. })));
    let missing = directory.path().join("missing/disk.raw");
    let sentence = Sink::create(&missing, 10, false).unwrap_err().to_string();
    assert!(sentence.contains("cannot create it: No such file"), "{sentence}");
}
