//! Sequences beside slow oracles, and what they never do.

use proptest::prelude::*;

use super::*;
use crate::job::{self, Order};

fn job(text: &str) -> Job {
    let text = format!("[job]\nioengine=raw\nfilename=f\n{text}");
    job::parse("test.fio", &text).expect("a good job").remove(0)
}

fn requests(job: &Job, target_bytes: u64, count: usize) -> Vec<Request> {
    let mut pattern = Pattern::new(job, Region::new(job, target_bytes).expect("it fits"));
    (0..count)
        .map(|_| {
            let kind = pattern.next_kind();
            pattern.next_request(kind)
        })
        .collect()
}

proptest! {
    /// Whatever the job, requests are whole aligned blocks of its part of the target.
    #[test]
    fn requests_stay_within_the_region(
        rw in proptest::sample::select(vec!["read", "write", "rw", "randread", "randwrite", "randrw"]),
        sectors in 1u64..64, blocks in 1u64..200, rest in 0u64..512, offset in 0u64..100, seed: u64,
    ) {
        let (bs, offset) = (sectors * 512, offset * 512);
        let size = blocks * bs + rest.min(bs - 1);
        let job = job(&format!("rw={rw}\nbs={bs}\nsize={size}\noffset={offset}\nrandseed={seed}"));
        let requests = requests(&job, offset + size, 600);
        for request in &requests {
            prop_assert!(request.offset_bytes >= offset);
            prop_assert!(request.offset_bytes + request.length_bytes <= offset + size);
            prop_assert_eq!((request.offset_bytes - offset) % bs, 0);
            prop_assert_eq!(request.length_bytes, bs);
        }
        if job.order == Order::Random {
            let mut pass: Vec<u64> = requests.iter().take(blocks as usize).map(|r| r.offset_bytes).collect();
            pass.sort_unstable();
            pass.dedup();
            prop_assert_eq!(pass.len() as u64, blocks, "a pass visits every block");
        }
    }

    #[test]
    fn the_share_of_reads_is_what_was_asked(percent in 0u64..=100, seed: u64) {
        let job = job(&format!("rw=randrw\nrwmixread={percent}\nrandseed={seed}"));
        let requests = requests(&job, 1 << 20, 10_000);
        let reads = requests.iter().filter(|request| request.kind == Kind::Read).count() as u64;
        prop_assert!(reads.abs_diff(percent * 100) < 300, "{} of 10000 are reads", reads);
        prop_assert!(percent > 0 || reads == 0);
        prop_assert!(percent < 100 || reads == 10_000);
    }
}

#[test]
fn the_seed_decides_everything() {
    let sequence = |seed: u64| requests(&job(&format!("rw=randrw\nrandseed={seed}")), 64 << 20, 1000);
    assert_eq!(sequence(5), sequence(5));
    assert_ne!(sequence(5), sequence(6));
}

#[test]
fn sequential_requests_follow_each_other_and_wrap() {
    let offsets = |requests: Vec<Request>| requests.iter().map(|r| r.offset_bytes).collect::<Vec<_>>();
    let job_read = job("rw=read\nbs=1m\noffset=1m\nsize=3m");
    assert_eq!(offsets(requests(&job_read, 4 << 20, 4)), [1 << 20, 2 << 20, 3 << 20, 1 << 20]);
    for kind in [Kind::Read, Kind::Write] {
        let mut mixed = requests(&job("rw=rw"), 1 << 20, 100);
        mixed.retain(|request| request.kind == kind);
        let expected: Vec<u64> = (0..mixed.len() as u64).map(|block| block * 4096).collect();
        assert_eq!(offsets(mixed), expected, "{kind:?} is a stream of its own");
    }
}

#[test]
fn a_job_beyond_its_target_is_refused() {
    assert!(matches!(Region::new(&job("size=1m"), 1000), Err(RegionError::BeyondTarget { .. })));
    assert!(matches!(
        Region::new(&job("size=1m\noffset=16777215t"), 1 << 20),
        Err(RegionError::BeyondTarget { .. })
    ));
    assert!(matches!(Region::new(&job("offset=4k"), 4096), Err(RegionError::NoBlock { .. })));
    assert!(matches!(Region::new(&job("offset=8k"), 4096), Err(RegionError::BeyondTarget { .. })));
    let whole = Region::new(&job("offset=4k"), 10_000).expect("it fits");
    assert_eq!(whole, Region { offset_bytes: 4096, unit_bytes: 4096, units: 1 });
}

/// What a random job that is partly sequential does, told in the plainest way.
#[test]
fn what_does_not_jump_follows_the_request_before() {
    for percent in [0, 30, 100] {
        let requests = requests(
            &job(&format!("rw=randread\npercentage_random={percent}\nbsrange=4k-16k")),
            8 << 20,
            10_000,
        );
        let follows = requests
            .windows(2)
            .filter(|pair| pair[0].offset_bytes + pair[0].length_bytes == pair[1].offset_bytes);
        let follows = follows.count() as u64;
        // Chance alone makes few neighbours of two thousand blocks; the end of the region takes a few away.
        assert!(follows.abs_diff((100 - percent) * 100) < 300, "{percent}%: {follows} of 10000 follow");
    }
}

proptest! {
    /// Several sizes: all within the region, aligned to the smallest, cut only where the region ends, and as
    /// long as asked for reads and for writes.
    #[test]
    fn requests_of_several_sizes_stay_within_the_region(
        rw in proptest::sample::select(vec!["rw", "randrw"]), units in 8u64..300, seed: u64, percent in 0u64..=100,
    ) {
        let (size, end) = (units * 4096, 4096 + units * 4096);
        let job = job(&format!(
            "rw={rw}\nbssplit=4k/50:32k/50,8k/20:4k/80\noffset=4k\nsize={size}\nrandseed={seed}\n\
             percentage_random={percent}"
        ));
        for Request { kind, offset_bytes, length_bytes } in requests(&job, end, 500) {
            prop_assert!(offset_bytes >= 4096 && offset_bytes + length_bytes <= end && length_bytes > 0);
            prop_assert!(offset_bytes.is_multiple_of(4096));
            let sizes = if kind == Kind::Read { [4096, 32_768] } else { [4096, 8192] };
            prop_assert!(sizes.contains(&length_bytes) || offset_bytes + length_bytes == end, "{}", length_bytes);
        }
    }
}
