//! Loads without a target: what starts when, and what counts.

use proptest::prelude::*;

use super::*;
use crate::job;

fn load(text: &str) -> Load {
    let text = format!("[job]\nioengine=raw\nfilename=f\n{text}");
    let job = job::parse("test.fio", &text).expect("a good job").remove(0);
    Load::new(&job, Region::new(&job, 40_960).expect("it fits"))
}

/// Runs at depth 1 with requests that take `step_ns`; what was started, and the load at its end.
fn run(mut load: Load, step_ns: u64) -> (Vec<Kind>, Load) {
    let (mut now_ns, mut kinds) = (0, Vec::new());
    loop {
        match load.poll_request(now_ns) {
            Next::Start(started) => {
                kinds.push(started.request.kind);
                now_ns += step_ns;
                load.handle_completion(started, &[], now_ns);
            }
            Next::At(at_ns) => {
                assert!(at_ns > now_ns, "a time to come");
                now_ns = at_ns;
            }
            Next::AfterCompletion => panic!("nothing is in flight"),
            Next::Over => break,
        }
        assert!(kinds.len() < 100_000, "it doesn't end");
    }
    assert_eq!(load.poll_request(0), Next::Over, "what is over stays over");
    (kinds, load)
}

/// What a load starts at a time.
fn start(load: &mut Load, now_ns: u64) -> Started {
    match load.poll_request(now_ns) {
        Next::Start(started) => started,
        other => panic!("{other:?} at {now_ns}"),
    }
}

#[test]
fn a_job_ends_with_its_size() {
    let (kinds, load) = run(load("rw=randwrite"), 1000);
    assert_eq!(kinds.len(), 10);
    assert_eq!((load.stats().write.requests(), load.elapsed_ns()), (10, 10_000));
}

#[test]
fn a_job_ends_with_its_number_of_requests() {
    assert_eq!(run(load("number_ios=3"), 1).0.len(), 3);
    assert_eq!(run(load("number_ios=30"), 1).0.len(), 10, "not more than its size holds");
    assert_eq!(run(load("number_ios=30\ntime_based\nruntime=1s"), 1).0.len(), 30);
}

#[test]
fn a_job_ends_with_its_runtime() {
    assert_eq!(run(load("runtime=5ms"), 1_000_000).0.len(), 5);
    assert_eq!(run(load("runtime=25ms\ntime_based"), 1_000_000).0.len(), 25);
    assert_eq!(run(load("runtime=25ms"), 1_000_000).0.len(), 10, "or with its size if that is first");
}

#[test]
fn the_ramp_does_not_count() {
    let (kinds, load) = run(load("ramp_time=20ms\nruntime=5ms\ntime_based"), 1_000_000);
    assert_eq!(kinds.len(), 25);
    assert_eq!((load.stats().read.requests(), load.elapsed_ns()), (5, 5_000_000));
    let (kinds, load) = run(self::load("ramp_time=20ms"), 1_000_000);
    assert_eq!((kinds.len(), load.stats().read.requests()), (30, 10), "nor towards the size");
}

#[test]
fn a_request_that_the_ramp_started_does_not_count() {
    let mut load = load("ramp_time=1ms");
    let early = start(&mut load, 999_999);
    assert!(!load.is_measuring());
    let counted = start(&mut load, 1_000_000);
    load.handle_completion(early, &[], 1_500_000);
    load.handle_completion(counted, &[], 1_400_000);
    assert_eq!((load.stats().read.requests(), load.elapsed_ns()), (1, 400_000));
}

#[test]
fn a_sync_follows_every_few_writes() {
    use Kind::{Sync, Write};
    let (kinds, load) = run(load("rw=write\nfsync=4"), 1000);
    let four = [Write, Write, Write, Write, Sync];
    assert_eq!(kinds, [&four[..], &four, &[Write, Write]].concat());
    assert_eq!((load.stats().write.requests(), load.stats().sync.requests()), (10, 2));
    let (kinds, _) = run(self::load("rw=write\nfsync=5"), 1000);
    assert_eq!(kinds.last(), Some(&Sync), "the last writes too");
    assert!(!run(self::load("rw=read\nfsync=1"), 1000).0.contains(&Sync));
}

#[test]
fn stopping_starts_nothing_more() {
    let mut load = load("");
    load.stop();
    assert_eq!(load.poll_request(0), Next::Over);
}

#[test]
fn both_syncs_follow_their_own_counts_and_a_last_one_the_last_write() {
    use Kind::{DataSync, Sync, Write};
    let (kinds, load) = run(load("rw=write\nfsync=4\nfdatasync=3\nend_fsync"), 1000);
    let expected = [
        Write, Write, Write, DataSync, Write, Sync, Write, Write, DataSync, Write, Write, Sync, Write,
        DataSync, Write, Sync,
    ];
    assert_eq!(kinds, expected);
    assert_eq!(load.stats().sync.requests(), 6, "syncs of both kinds, and the last one");
    assert!(!run(self::load("rw=read\nend_fsync"), 1000).0.contains(&Sync), "nothing was written");
}

#[test]
fn the_last_sync_waits_for_the_writes() {
    let mut load = load("rw=write\nend_fsync\nnumber_ios=2\niodepth=4");
    let writes = [start(&mut load, 0), start(&mut load, 0)];
    for write in writes {
        assert_eq!(load.poll_request(1), Next::AfterCompletion);
        load.handle_completion(write, &[], 2);
    }
    let sync = start(&mut load, 3);
    assert_eq!(sync.request, Request::SYNC);
    assert!(!load.is_measured());
    load.handle_completion(sync, &[], 10);
    assert_eq!((load.poll_request(10), load.is_measured(), load.elapsed_ns()), (Next::Over, true, 10));
}

#[test]
fn thinking_starts_when_everything_completed() {
    let mut load = load("rw=read\niodepth=4\nthinktime=5\nthinktime_blocks=2");
    let (first, second) = (start(&mut load, 0), start(&mut load, 0));
    assert_eq!(load.poll_request(0), Next::AfterCompletion, "two blocks, whatever the depth");
    load.handle_completion(first, &[], 1000);
    assert_eq!(load.poll_request(1000), Next::AfterCompletion);
    load.handle_completion(second, &[], 2000);
    assert_eq!(load.poll_request(2000), Next::At(7000));
    assert_eq!(start(&mut load, 7000).request.kind, Kind::Read);
}

#[test]
fn waiting_ends_with_the_runtime() {
    let mut load = load("rw=read\nrate_iops=1\ntime_based\nruntime=100ms");
    let _first = start(&mut load, 0);
    assert_eq!(load.poll_request(0), Next::At(100_000_000));
    assert_eq!(load.poll_request(100_000_000), Next::Over);
}

#[test]
fn a_late_start_counts_as_latency() {
    // One request each millisecond; the first one takes five.
    let mut load = load("rw=read\nrate_iops=1000\nruntime=10s\ntime_based");
    let first = start(&mut load, 0);
    load.handle_completion(first, &[], 5_000_000);
    for due_ms in 1..=5 {
        let late = start(&mut load, 5_000_000);
        load.handle_completion(late, &[], 5_000_000);
        let latencies = load.stats().read.latencies_ns();
        let expected_ns = (5 - due_ms) * 1_000_000;
        assert!(latencies.min().abs_diff(expected_ns) <= expected_ns / 500, "{due_ms}: {}", latencies.min());
    }
    assert_eq!(load.poll_request(5_000_000), Next::At(6_000_000), "it caught up");
}

#[test]
fn a_mixed_job_goes_on_with_what_is_due() {
    let mut load = load("rw=rw\nrate_iops=,1\nruntime=10s\ntime_based");
    let kinds: Vec<Kind> = (0..50)
        .map(|_| {
            let started = start(&mut load, 0);
            load.handle_completion(started, &[], 0);
            started.request.kind
        })
        .collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == Kind::Write).count(), 1, "reads have no limit");
}

proptest! {
    /// Beside a plain count: at any time, exactly the requests whose time has come have been started.
    #[test]
    fn rated_requests_start_when_they_are_due(
        rate in 1u64..5000, steps in proptest::collection::vec(1u64..3_000_000, 1..200),
    ) {
        let mut load = load(&format!("rw=randread\nrate={}\nruntime=1h\ntime_based", rate * 4096));
        let (mut now_ns, mut count) = (0u64, 0u128);
        for step_ns in steps {
            let at_ns = loop {
                match load.poll_request(now_ns) {
                    Next::Start(started) => load.handle_completion(started, &[], now_ns),
                    Next::At(at_ns) => break at_ns,
                    other => panic!("{other:?}"),
                }
                count += 1;
            };
            prop_assert_eq!(count, u128::from(now_ns + 1).saturating_mul(u128::from(rate)).div_ceil(1_000_000_000));
            prop_assert!(at_ns > now_ns);
            now_ns += step_ns;
        }
    }

    /// On a made-up target with any depth and order of completions: what is right is found right, and one
    /// flipped bit isn't.
    #[test]
    fn verification_finds_what_is_wrong_and_nothing_else(
        rw in proptest::sample::select(vec!["write", "randwrite", "randrw"]),
        sizes in proptest::sample::select(vec!["bs=512", "bsrange=512-2k", "bssplit=512/50:4k/50"]),
        depth in 1usize..8, seed: u64, harm: bool,
    ) {
        let text = format!("rw={rw}\n{sizes}\niodepth={depth}\nrandseed={seed}\nverify=crc32c\nnumber_ios=100");
        let mut load = load(&format!("{text}\ntime_based\nruntime=1h")).of_run(9);
        let mut chance = crate::random::Random::new(seed);
        let (mut target, mut flying, mut harmed) = (vec![0; 40_960], Vec::<(Started, Vec<u8>)>::new(), false);
        for step in 0.. {
            prop_assert!(step < 10_000, "it doesn't end");
            let next = if flying.len() < depth { load.poll_request(step) } else { Next::AfterCompletion };
            match next {
                Next::Start(started) => {
                    let mut block = vec![0; started.request.length_bytes as usize];
                    load.prepare(&started, &mut block);
                    flying.push((started, block));
                    continue;
                }
                Next::Over if flying.is_empty() => break,
                Next::Over | Next::AfterCompletion => {}
                Next::At(_) => panic!("no rate"),
            }
            let (started, mut block) = flying.swap_remove(chance.below(flying.len() as u64) as usize);
            let place = started.request.offset_bytes as usize..;
            let place = &mut target[place][..block.len()];
            if started.request.kind == Kind::Write {
                place.copy_from_slice(&block);
            } else {
                block.copy_from_slice(place);
                if harm && started.check == Check::Written && !harmed {
                    let byte = chance.below(block.len() as u64) as usize;
                    block[byte] ^= 1 << chance.below(8);
                    harmed = true;
                }
            }
            load.handle_completion(started, &block, step);
        }
        prop_assert_eq!(load.failure().is_some(), harmed, "{:?}", load.failure());
        prop_assert!(!harm || harmed || load.stats().write.requests() == 0);
    }
}

#[test]
fn a_read_job_verifies_what_another_run_wrote() {
    let mut target = vec![0; 40_960];
    let mut writer = load("rw=write\nverify=crc32c\ndo_verify=0").of_run(1);
    while let Next::Start(write) = writer.poll_request(0) {
        let Request { offset_bytes, length_bytes, .. } = write.request;
        writer.prepare(&write, &mut target[offset_bytes as usize..][..length_bytes as usize]);
        writer.handle_completion(write, &[], 0);
    }
    target[4096 * 7 + 100] ^= 1;
    let mut reader = load("rw=randread\nverify=crc32c").of_run(2);
    while let Next::Start(read) = reader.poll_request(0) {
        let Request { offset_bytes, length_bytes, .. } = read.request;
        reader.handle_completion(read, &target[offset_bytes as usize..][..length_bytes as usize], 0);
    }
    let error = reader.failure().expect("the damage").to_string();
    assert!(error.contains("the block at offset 28672 has checksum"), "{error}");
}
