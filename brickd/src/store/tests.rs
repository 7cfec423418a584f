//! The life of a directory: formatted, opened, stopped, opened again; and what is refused.

use std::fs;

use brick_wire::placement::lane_of;
use brick_wire::{BlockRange, BlockSet, StartCounter};

use super::*;

fn formatted() -> (tempfile::TempDir, PathBuf) {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("deep/er");
    format(&path, Role::Data, 4).unwrap();
    (parent, path)
}

#[test]
fn a_fresh_brick_opens_clean_and_empty() {
    let (_parent, path) = formatted();
    let store = open(&path).unwrap();
    assert!(store.clean_start && store.registers.is_empty() && store.shards.is_empty());
    assert_eq!((store.identity.role, store.identity.lanes), (Role::Data, 4));
    assert_eq!((store.incarnation.start, store.used_bytes), (StartCounter(1), 0));
}

#[test]
fn only_a_clean_stop_keeps_dirty_maps() {
    let (_parent, path) = formatted();
    let blocks = BlockSet::from(BlockRange::new(3, 4));
    let map = SavedDirty {
        image: ImageUuid::from_bytes([5; 16]),
        exact: true,
        shards: vec![(ShardIndex(1), blocks)],
    };
    for clean in [true, false] {
        let mut store = open(&path).unwrap();
        let start = store.incarnation.start;
        dirty::save(&path, LaneIndex(2), start, std::slice::from_ref(&map)).unwrap();
        if clean {
            store.superblock.write_clean().unwrap();
        }
        drop(store);
        let store = open(&path).unwrap();
        assert_eq!(store.clean_start, clean);
        assert_eq!(store.dirty, if clean { vec![(LaneIndex(2), vec![map.clone()])] } else { Vec::new() });
        assert!(!path.join("lane-02/dirty").exists(), "consumed");
    }
}

#[test]
fn shards_are_found_and_strangers_left_alone() {
    let (_parent, path) = formatted();
    let image = ImageUuid::from_bytes([9; 16]);
    let mut expected = Vec::new();
    for shard in (0..20).map(ShardIndex) {
        let lane = lane_of(image, shard, 4);
        let file = path.join(shards::shard_path(lane, image, shard));
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, vec![1; 4096]).unwrap();
        expected.push((lane, image, shard));
    }
    fs::write(path.join("lane-00/notes.txt"), "mine").unwrap();
    let mut store = open(&path).unwrap();
    store.shards.sort();
    expected.sort();
    assert_eq!(store.shards, expected);
    assert!(store.used_bytes >= 20 * 4096);

    let lane = expected[0].0;
    assert!(shards::remove_image(&path, lane, image).unwrap() >= 4096);
    assert!(!path.join(shards::image_path(lane, image)).exists());
    shards::sync_image(&path, lane, image).unwrap();
}

#[test]
fn refusals_say_what_where_and_what_to_do() {
    let (parent, path) = formatted();
    let first = open(&path).unwrap();
    let locked = open(&path).unwrap_err().to_string();
    assert!(locked.contains(&format!("pid {}", std::process::id())), "{locked}");
    drop(first);
    let again = format(&path, Role::Data, 4).unwrap_err().to_string();
    assert!(again.contains("it is a brick already"), "{again}");
    let full = format(parent.path(), Role::Arbiter, 4).unwrap_err().to_string();
    assert!(full.contains("isn't empty") && full.contains("deep"), "{full}");
    let missing = open(&parent.path().join("nowhere")).unwrap_err().to_string();
    assert!(missing.contains("doesn't exist"), "{missing}");
    let bare = open(parent.path()).unwrap_err().to_string();
    assert!(bare.contains("no superblock"), "{bare}");
    assert!(format(&parent.path().join("x"), Role::Data, 0).is_err());
}

#[test]
fn lost_and_found_is_no_content() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("lost+found")).unwrap();
    format(directory.path(), Role::Arbiter, 1).unwrap();
    open(directory.path()).unwrap();
}
