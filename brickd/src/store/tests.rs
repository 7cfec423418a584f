//! The life of a directory: formatted, opened, stopped, opened again; and what is refused.

use std::fs;

use brick_wire::placement::lane_of;
use brick_wire::{BlockRange, BlockSet, Role, StartCounter};

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

/// A map of an image that exists, and a shard of it in lane 2.
fn dirty_image(path: &Path) -> (SavedDirty, ActiveShard) {
    let image = ImageUuid::from_bytes([5; 16]);
    let shard = (0..).map(ShardIndex).find(|shard| lane_of(image, *shard, 4) == LaneIndex(2)).unwrap();
    let file = path.join(shards::shard_path(LaneIndex(2), image, shard));
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    fs::write(file, "").unwrap();
    let blocks = BlockSet::from(BlockRange::new(3, 4));
    let map = SavedDirty { image, exact: true, unsynced: false, shards: vec![(shard, blocks)] };
    (map, ActiveShard { image, shard, shard_shift: 22 })
}

#[test]
fn dirty_maps_and_active_shards_outlive_every_stop() {
    let (_parent, path) = formatted();
    let (map, active) = dirty_image(&path);
    let mut store = open(&path).unwrap();
    dirty::save(&path, LaneIndex(2), store.incarnation, std::slice::from_ref(&map)).unwrap();
    store.activity[2].write(store.incarnation.start, vec![active]).unwrap();
    for clean in [false, false, true, false] {
        if clean {
            store.superblock.write_clean().unwrap();
        }
        drop(store);
        store = open(&path).unwrap();
        assert_eq!(store.clean_start, clean);
        assert_eq!(store.dirty[2], (LaneIndex(2), vec![map.clone()]), "until they are replaced");
        assert_eq!(store.active[2], (LaneIndex(2), vec![active]));
        assert!([0, 1, 3].iter().all(|lane| store.dirty[*lane].1.is_empty()));
    }
}

#[test]
fn what_was_lost_stays_lost_over_the_next_crash() {
    for (name, known_shards) in [("dirty", 0), ("activity", 1)] {
        let (_parent, path) = formatted();
        let (map, active) = dirty_image(&path);
        let mut store = open(&path).unwrap();
        dirty::save(&path, LaneIndex(2), store.incarnation, std::slice::from_ref(&map)).unwrap();
        store.activity[2].write(store.incarnation.start, vec![active]).unwrap();
        drop(store);
        fs::write(path.join("lane-02").join(name), "rot").unwrap();
        for _ in 0..2 {
            let store = open(&path).unwrap();
            let maps = &store.dirty[2].1;
            assert_eq!((maps.len(), maps[0].image, maps[0].exact), (1, map.image, false), "{name}");
            assert_eq!(maps[0].shards.len(), known_shards);
            assert_eq!(store.active[2].1.is_empty(), name == "activity");
            assert!(store.dirty[1].1.is_empty(), "the other lanes lost nothing");
        }
    }
}

#[test]
fn maps_from_before_a_brick_was_blank_are_lost() {
    let (_parent, path) = formatted();
    let (map, _) = dirty_image(&path);
    let mut store = open(&path).unwrap();
    dirty::save(&path, LaneIndex(2), store.incarnation, std::slice::from_ref(&map)).unwrap();
    write_identity(&path, &mut store.superblock, None, true, Floors::default()).unwrap();
    drop(store);
    let mut store = open(&path).unwrap();
    assert!(store.identity.blank && store.dirty[2].1[0].exact, "the engines know better");
    write_identity(&path, &mut store.superblock, None, false, Floors::default()).unwrap();
    drop(store);
    let store = open(&path).unwrap();
    assert!(!store.identity.blank);
    assert!(store.dirty.iter().all(|(_, maps)| !maps[0].exact && maps[0].shards.is_empty()));
}

#[test]
fn a_brick_that_took_anothers_place_opens_as_that_one() {
    let (_parent, path) = formatted();
    let mut store = open(&path).unwrap();
    let other = BrickUuid::from_bytes([0xee; 16]);
    let membership = Membership { volume: brick_wire::VolumeUuid::NIL, group: 1, members: vec![other] };
    write_adoption(&mut store.superblock, other, membership.clone(), StartCounter(1 << 20)).unwrap();
    drop(store);
    for start in 1..3 {
        let store = open(&path).unwrap();
        assert_eq!((store.identity.brick, store.identity.blank), (other, true));
        assert_eq!(store.identity.membership, Some(membership.clone()));
        assert_eq!(store.incarnation.start, StartCounter((1 << 20) + start));
    }
}

#[test]
fn a_brick_without_the_log_gets_one_and_believes_a_clean_stop_only() {
    for clean in [true, false] {
        let (_parent, path) = formatted();
        let (map, _) = dirty_image(&path);
        let mut store = open(&path).unwrap();
        if clean {
            store.superblock.write_clean().unwrap();
        }
        drop(store);
        for lane in (0..4).map(|lane| path.join(shards::lane_path(LaneIndex(lane)))) {
            fs::remove_file(lane.join(dirty::FILE_NAME)).unwrap();
            fs::remove_file(lane.join(activity::FILE_NAME)).unwrap();
        }
        for _ in 0..2 {
            let store = open(&path).unwrap();
            assert_eq!((store.dirty.len(), store.activity.len()), (4, 4));
            for (_, maps) in &store.dirty {
                assert_eq!(maps.first().map(|map| map.image), (!clean).then_some(map.image));
            }
        }
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

#[test]
fn a_mark_of_a_failed_sync_counts_on_its_boot_only() {
    let (_parent, path) = formatted();
    let (map, _) = dirty_image(&path);
    let map = SavedDirty { unsynced: true, ..map };
    let store = open(&path).unwrap();
    let life = store.incarnation;
    drop(store);
    for (boot, kept) in [(life.boot, true), (brick_wire::BootUuid::from_bytes([9; 16]), false)] {
        let life = brick_wire::Incarnation { boot, ..life };
        dirty::save(&path, LaneIndex(2), life, std::slice::from_ref(&map)).unwrap();
        assert_eq!(open(&path).unwrap().dirty[2].1[0].unsynced, kept);
    }
}
