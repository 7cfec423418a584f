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
        floors: floors(),
    }
}

fn floors() -> Floors {
    let mut floors = Floors::default();
    floors.raise(BrickUuid::from_bytes([0xb2; 16]), StartCounter(0x10_0007));
    floors
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
    expected.resize(208, 0); // no more members
    expected.extend([0; 8]); // floor of the first
    expected.extend([0x07, 0, 0x10, 0, 0, 0, 0, 0]); // of the second
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
        file.write_identity(None, false, Floors::default()).unwrap();
        damage(directory.path(), copy);
        let file = SuperblockFile::open(directory.path()).unwrap();
        let identity = &file.current().identity;
        assert_eq!((identity.membership.clone(), identity.blank), (None, false));
    }
}

#[test]
fn floors_and_an_adoption_survive_the_loss_of_either_copy() {
    for copy in [0, 1] {
        let directory = directory();
        let mut file = SuperblockFile::open(directory.path()).unwrap();
        file.write_start().unwrap();
        let identity = file.current().identity.clone();
        let mut raised = floors();
        raised.raise(BrickUuid::from_bytes([0xb1; 16]), StartCounter(9));
        file.write_identity(identity.membership.clone(), false, raised.clone()).unwrap();
        damage(directory.path(), copy);
        let mut file = SuperblockFile::open(directory.path()).unwrap();
        assert_eq!(file.current().identity.floors, raised);
        file.write_start().unwrap();

        let (other, membership) = (BrickUuid::from_bytes([0xb2; 16]), identity.membership.unwrap());
        file.write_adoption(other, membership.clone(), StartCounter(0x10_0000)).unwrap();
        damage(directory.path(), copy);
        let mut file = SuperblockFile::open(directory.path()).unwrap();
        let now = &file.current().identity;
        assert_eq!((now.brick, now.blank, now.membership.as_ref()), (other, true, Some(&membership)));
        assert!(now.floors.is_empty(), "it is taught those");
        assert!(file.write_start().unwrap() > StartCounter(0x10_0000), "whatever copy is left");
    }
}

#[test]
fn a_superblock_from_before_there_were_floors_has_none() {
    let identity = Identity { floors: Floors::default(), ..identity() };
    let superblock = Superblock { sequence: 5, start: StartCounter(9), clean: true, identity };
    let bytes = superblock.to_bytes();
    assert!(bytes[208..CRC_OFFSET].iter().all(|byte| *byte == 0), "as that program wrote it");
    assert_eq!(Superblock::parse(&bytes), Ok(superblock));
}

#[test]
fn a_floor_of_nobody_is_refused() {
    let mut bytes =
        Superblock { sequence: 5, start: StartCounter(9), clean: true, identity: identity() }.to_bytes();
    bytes[224] = 1;
    let crc = crc32c(&bytes[..CRC_OFFSET]);
    bytes[CRC_OFFSET..].copy_from_slice(&crc.to_le_bytes());
    assert_eq!(Superblock::parse(&bytes), Err(SuperblockError::Field("floors")));
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
