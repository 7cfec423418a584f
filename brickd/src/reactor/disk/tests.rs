//! The executor alone, on a real file system in a temporary directory.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use super::*;
use crate::buffer::Pool;
use crate::reactor::ring::RingMode;

const FILE_BYTES: u64 = 1 << 20;

struct Fixture {
    directory: tempfile::TempDir,
    ring: Ring<DiskOperation>,
    disk: Disk,
    pool: Pool,
    used_bytes: Arc<AtomicU64>,
}

/// `None`, with the reason printed, where io_uring is forbidden.
fn fixture(registered: bool) -> Option<Fixture> {
    let mut ring = match Ring::new(RingMode::default()) {
        Ok(ring) => ring,
        Err(error) => {
            println!("skipped: {error}");
            return None;
        }
    };
    let directory = tempfile::tempdir().unwrap();
    let pool = Pool::new(4 << 20);
    if registered {
        ring.register_files(8).unwrap();
        if let Err(error) = ring.register_pool(&pool) {
            println!("skipped in part: the pool can't be registered: {error}");
        }
    }
    let handle = OwnedFd::from(File::open(directory.path()).unwrap());
    let used_bytes = Arc::new(AtomicU64::new(0));
    let disk = Disk::new(Arc::new(handle), 8, used_bytes.clone(), 1);
    Some(Fixture { directory, ring, disk, pool, used_bytes })
}

impl Fixture {
    fn run(&mut self, requests: Vec<RingRequest>) -> Vec<Result<DiskOutput, DiskError>> {
        let count = requests.len();
        self.submit(requests);
        self.finish(count)
    }

    fn submit(&mut self, requests: Vec<RingRequest>) {
        for (index, request) in requests.into_iter().enumerate() {
            self.disk.submit(&mut self.ring, OperationId(index as u64), request);
        }
    }

    /// What became of as many requests, in the order in which they were submitted.
    fn finish(&mut self, count: usize) -> Vec<Result<DiskOutput, DiskError>> {
        let mut results: Vec<_> = (0..count).map(|_| None).collect();
        while results.iter().any(Option::is_none) {
            self.ring.wait(Some(Duration::from_secs(10))).unwrap();
            while let Some((operation, result)) = self.ring.next_completion() {
                if let Some((operation, result)) = self.disk.complete(&mut self.ring, operation, result) {
                    results[operation.0 as usize] = Some(result);
                }
            }
        }
        results.into_iter().map(Option::unwrap).collect()
    }

    fn one(&mut self, request: RingRequest) -> Result<DiskOutput, DiskError> {
        self.run(vec![request]).pop().unwrap()
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }
}

fn open(slot: u32, create: bool) -> RingRequest {
    let path = PathBuf::from(format!("image/{slot:08x}.shard"));
    RingRequest::Open { slot: FileSlot(slot), path, file_bytes: FILE_BYTES, create }
}

fn transfer(slot: u32, block: usize, buffer: Buffer, direction: Direction) -> RingRequest {
    let offset_bytes = (block * BLOCK_SIZE) as u64;
    RingRequest::Transfer { slot: FileSlot(slot), offset_bytes, buffer, direction }
}

#[test]
fn a_shard_is_created_whole_written_and_read_back() {
    for registered in [true, false] {
        let Some(mut fixture) = fixture(registered) else { return };
        assert_eq!(fixture.one(open(1, false)).unwrap_err(), DiskError::Errno(libc::ENOENT));
        fixture.one(open(1, true)).unwrap();
        let metadata = fs::metadata(fixture.path().join("image/00000001.shard")).unwrap();
        assert_eq!(metadata.len(), FILE_BYTES);
        assert!(metadata.blocks() * 512 >= FILE_BYTES, "allocated, not sparse");
        assert_eq!(fixture.used_bytes.load(Ordering::Relaxed), FILE_BYTES);

        let mut buffer = fixture.pool.allocate(3 * BLOCK_SIZE).unwrap();
        buffer.fill(0xab);
        fixture.one(transfer(1, 7, buffer, Direction::Write)).unwrap();
        fixture.one(RingRequest::Sync { slot: FileSlot(1) }).unwrap();
        fixture.one(RingRequest::Close { slot: FileSlot(1) }).unwrap();

        fixture.one(open(1, false)).unwrap();
        let mut buffer = fixture.pool.allocate(5 * BLOCK_SIZE).unwrap();
        buffer.fill(0xff);
        let Ok(DiskOutput::Buffer(buffer)) = fixture.one(transfer(1, 6, buffer, Direction::Read)) else {
            panic!("a read returns its buffer")
        };
        let blocks: Vec<u8> = buffer.chunks(BLOCK_SIZE).map(|block| block[0]).collect();
        assert_eq!(blocks, [0, 0xab, 0xab, 0xab, 0]);
        fixture.ring.drain();
    }
}

#[test]
fn a_file_left_short_by_a_crash_is_completed() {
    for create in [true, false] {
        let Some(mut fixture) = fixture(true) else { return };
        let path = fixture.path().join("image/00000002.shard");
        fs::create_dir(path.parent().unwrap()).unwrap();
        File::create(&path).unwrap().set_len(8192).unwrap();
        fixture.one(open(2, create)).unwrap();
        let metadata = fs::metadata(&path).unwrap();
        assert!(metadata.len() == FILE_BYTES && metadata.blocks() * 512 >= FILE_BYTES);
    }
}

#[test]
fn a_file_that_is_too_long_is_refused() {
    let Some(mut fixture) = fixture(true) else { return };
    let path = fixture.path().join("image/00000003.shard");
    fs::create_dir(path.parent().unwrap()).unwrap();
    File::create(&path).unwrap().set_len(FILE_BYTES + 4096).unwrap();
    let error = fixture.one(open(3, true)).unwrap_err();
    assert_eq!(error, DiskError::Length { found: FILE_BYTES + 4096, expected: FILE_BYTES });
    fs::remove_file(&path).unwrap();
    fixture.one(open(3, true)).expect("the slot is free again");
}

#[test]
fn a_file_that_finds_no_space_is_gone() {
    let Some(mut fixture) = fixture(true) else { return };
    let path = PathBuf::from("image/00000004.shard");
    let file_bytes = 1 << 60;
    let slot = FileSlot(4);
    let error = fixture.one(RingRequest::Open { slot, path, file_bytes, create: true }).unwrap_err();
    // EFBIG where a file can't be that long, ENOSPC where only the disk can't.
    assert!(matches!(error, DiskError::NoSpace | DiskError::Errno(libc::EFBIG)), "{error:?}");
    assert!(!fixture.path().join("image/00000004.shard").exists());
    assert_eq!(fixture.used_bytes.load(Ordering::Relaxed), 0);
}

#[test]
fn a_read_beyond_the_end_is_short() {
    let Some(mut fixture) = fixture(true) else { return };
    fixture.one(open(5, true)).unwrap();
    let last = FILE_BYTES as usize / BLOCK_SIZE - 1;
    let buffer = fixture.pool.allocate(2 * BLOCK_SIZE).unwrap();
    assert_eq!(fixture.one(transfer(5, last, buffer, Direction::Read)).unwrap_err(), DiskError::Short);
}

#[test]
fn more_requests_than_the_kernel_gets_all_end() {
    let Some(mut fixture) = fixture(true) else { return };
    fixture.one(open(6, true)).unwrap();
    let requests = (0..OPERATIONS_MAX * 2).map(|index| {
        let mut buffer = fixture.pool.allocate(BLOCK_SIZE).unwrap();
        buffer.fill(index as u8);
        transfer(6, index % 256, buffer, Direction::Write)
    });
    let requests = requests.collect();
    assert!(fixture.run(requests).iter().all(Result::is_ok));
    assert_eq!(fixture.disk.in_flight, 0);
}

#[test]
fn two_cores_share_what_large_transfers_may_have_and_more_have_no_less() {
    let Some(mut fixture) = fixture(true) else { return };
    for (cores, under_way) in [(1, 3), (2, 2), (64, 2)] {
        let handle = OwnedFd::from(File::open(fixture.path()).unwrap());
        fixture.disk = Disk::new(Arc::new(handle), 8, fixture.used_bytes.clone(), cores);
        fixture.one(open(7, true)).unwrap();
        let read = |_| transfer(7, 0, fixture.pool.allocate(512 << 10).unwrap(), Direction::Read);
        let reads = (0..3).map(read).collect();
        fixture.submit(reads);
        assert_eq!(fixture.disk.in_flight, under_way, "{cores} cores");
        assert!(fixture.finish(3).iter().all(Result::is_ok));
    }
}

#[test]
fn large_transfers_wait_for_each_other_and_small_ones_for_none() {
    let Some(mut fixture) = fixture(true) else { return };
    fixture.one(open(7, true)).unwrap();
    let sizes = [1 << 20, 1 << 20, 1 << 20, 512 << 10, BLOCK_SIZE];
    assert_eq!(sizes[..2].iter().sum::<usize>(), LARGE_BYTES_MAX);
    for (id, bytes) in sizes.iter().enumerate() {
        let buffer = fixture.pool.allocate(*bytes).unwrap();
        let read = transfer(7, 0, buffer, Direction::Read);
        fixture.disk.submit(&mut fixture.ring, OperationId(id as u64), read);
    }
    assert_eq!((fixture.disk.in_flight, fixture.disk.large_waiting.len()), (3, 2));
    let mut ended = Vec::new();
    while ended.len() < sizes.len() {
        fixture.ring.wait(Some(Duration::from_secs(10))).unwrap();
        while let Some((operation, result)) = fixture.ring.next_completion() {
            let outcome = fixture.disk.complete(&mut fixture.ring, operation, result);
            ended.extend(outcome.map(|(operation, result)| (operation.0, result.is_ok())));
            assert!(fixture.disk.large_bytes <= LARGE_BYTES_MAX);
        }
    }
    ended.sort_unstable();
    assert_eq!(ended, [(0, true), (1, true), (2, true), (3, true), (4, true)]);
    assert_eq!((fixture.disk.in_flight, fixture.disk.large_bytes), (0, 0));
}
