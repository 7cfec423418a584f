//! The superblock's bytes, and what a torn or rotten copy leaves.

use super::*;

fn identity() -> Identity {
    Identity {
        brick: BrickUuid::from_bytes([0xb1; 16]),
        role: Role::Data,
        lanes: 16,
        created_seconds: 0x6543_2100,
        membership: Some(Membership {
            volume: VolumeUuid::from_bytes([0x70; 16]),
            group: 3,
            members: vec![BrickUuid::from_bytes([0xb1; 16]), BrickUuid::from_bytes([0xb2; 16])],
        }),
        blank: true,
    }
}

fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join(FILE_NAME), SuperblockFile::fresh(identity())).unwrap();
    directory
}

fn damage(directory: &Path, copy: u64) {
    let file = File::options().write(true).open(directory.join(FILE_NAME)).unwrap();
    file.write_all_at(b"torn", copy * COPY_BYTES as u64 + 512).unwrap();
}

#[test]
fn bytes_are_as_documented() {
    let superblock = Superblock { sequence: 5, start: StartCounter(9), clean: true, identity: identity() };
    let bytes = superblock.to_bytes();
    let mut expected = vec![
        b'B', b'R', b'I', b'C', b'K', b'D', b'I', b'R', // magic
        3, 0, 0, 0, // format version
        7, 0, 0, 0, // flags: blank, clean, stamped
        5, 0, 0, 0, 0, 0, 0, 0, // sequence
        9, 0, 0, 0, 0, 0, 0, 0, // start counter
    ];
    expected.extend([0xb1; 16]); // brick
    expected.extend([0x70; 16]); // volume
    expected.extend([
        1, // role: data
        2, // members
        16, 0, // lanes
        3, 0, // group
        0, 0, // reserved
        0x00, 0x21, 0x43, 0x65, 0, 0, 0, 0, // created
    ]);
    expected.extend([0xb1; 16]);
    expected.extend([0xb2; 16]);
    expected.resize(CRC_OFFSET, 0);
    let crc = crc32c(&expected);
    expected.extend(crc.to_le_bytes());
    assert_eq!(bytes.to_vec(), expected);
    assert_eq!(Superblock::parse(&bytes), Ok(superblock));
}

#[test]
fn every_damaged_byte_is_noticed() {
    let good =
        Superblock { sequence: 5, start: StartCounter(9), clean: true, identity: identity() }.to_bytes();
    for index in 0..COPY_BYTES {
        let mut bad = good;
        bad[index] ^= 0x10;
        assert!(Superblock::parse(&bad).is_err(), "byte {index}");
    }
}

#[test]
fn starts_are_counted_and_copies_alternate() {
    let directory = directory();
    for start in 1..=4 {
        let mut file = SuperblockFile::open(directory.path()).unwrap();
        assert!(file.is_clean());
        assert_eq!(file.write_start().unwrap(), StartCounter(start));
        assert!(!SuperblockFile::open(directory.path()).unwrap().is_clean());
        file.write_clean().unwrap();
    }
}

#[test]
fn a_damaged_newest_copy_neither_repeats_a_start_nor_looks_clean() {
    let directory = directory();
    let mut file = SuperblockFile::open(directory.path()).unwrap();
    let first = file.write_start().unwrap();
    file.write_clean().unwrap();
    let second = file.write_start().unwrap();
    assert_eq!((first, second), (StartCounter(1), StartCounter(2)));
    damage(directory.path(), file.current().sequence % 2);
    // What is left says "start 1, clean", and is wrong about both.
    let mut file = SuperblockFile::open(directory.path()).unwrap();
    assert_eq!((file.current().start, file.current().clean), (StartCounter(1), true));
    assert!(!file.is_clean());
    assert_eq!(file.write_start().unwrap(), StartCounter(3));
    // The next write repaired the damaged copy.
    assert!(!SuperblockFile::open(directory.path()).unwrap().damaged);
}

#[test]
fn an_identity_survives_the_loss_of_either_copy() {
    for copy in [0, 1] {
        let directory = directory();
        let mut file = SuperblockFile::open(directory.path()).unwrap();
        file.write_start().unwrap();
        file.write_identity(None, false).unwrap();
        damage(directory.path(), copy);
        let file = SuperblockFile::open(directory.path()).unwrap();
        let identity = &file.current().identity;
        assert_eq!((identity.membership.clone(), identity.blank), (None, false));
    }
}

#[test]
fn refusals_say_why() {
    let directory = directory();
    let path = directory.path();
    damage(path, 0);
    damage(path, 1);
    let error = SuperblockFile::open(path).unwrap_err().to_string();
    assert!(error.contains("damaged") && error.contains("bad checksum"), "{error}");

    std::fs::write(path.join(FILE_NAME), vec![0; 2 * COPY_BYTES]).unwrap();
    let error = SuperblockFile::open(path).unwrap_err().to_string();
    assert!(error.contains("brick's magic"), "{error}");

    for (version, advice) in [(2, "format an empty directory"), (4, "newer brickd")] {
        let mut content = SuperblockFile::fresh(identity());
        content[8] = version;
        let crc = crc32c(&content[..CRC_OFFSET]);
        content[CRC_OFFSET..COPY_BYTES].copy_from_slice(&crc.to_le_bytes());
        std::fs::write(path.join(FILE_NAME), content).unwrap();
        let error = SuperblockFile::open(path).unwrap_err().to_string();
        assert!(error.contains(&format!("format version {version}")) && error.contains(advice), "{error}");
    }
}
