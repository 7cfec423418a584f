//! Job files as people write them, and everything else.

use proptest::prelude::*;

use super::*;

fn parse_one(text: &str) -> Job {
    let mut jobs = parse("test.fio", text).expect("a good file");
    assert_eq!(jobs.len(), 1);
    jobs.remove(0)
}

/// The sentence about a file that can't be run.
fn sentence(text: &str) -> String {
    parse("test.fio", text).expect_err("a bad file").to_string()
}

#[test]
fn defaults_are_those_of_fio() {
    let job = parse_one("[a]\nioengine=raw\nfilename=dir/f\n");
    let expected = Job {
        name: "a".into(),
        target: Target::Raw { path: "dir/f".into() },
        order: Order::Sequential,
        percent_random: 100,
        mix: Mix::Read,
        block_bytes: 4096,
        block_bytes_max: 4096,
        sizes: BlockSizes::one(4096),
        size_bytes: None,
        offset_bytes: 0,
        offset_increment_bytes: 0,
        depth: 1,
        workers: 1,
        worker: 0,
        runtime: None,
        time_based: false,
        ramp_time: Duration::ZERO,
        seed: job.seed,
        fsync_every: 0,
        data_sync_every: 0,
        sync_at_end: false,
        requests_max: None,
        rates: Rates::default(),
        think: None,
        verify: false,
        do_verify: false,
        options: vec![("ioengine".into(), "raw".into()), ("filename".into(), "dir/f".into())],
    };
    assert_eq!(job, expected);
}

#[test]
fn every_key_is_understood() {
    let job = parse_one(
        "[section]\nname=job\nioengine=volume\nimage=vm1\nfilename=f\ndirect=1\nrw=randrw\nrwmixread=70\nbs=64k\n\
         size=1g\noffset=1m\niodepth=32\nnumjobs=1\nruntime=1m\ntime_based\nramp_time=500ms\nrandseed=7\n\
         fsync=16\nnumber_ios=1000\nstonewall\ngroup_reporting\nuri=nbd://h/x\noffset_increment=1g\n\
         percentage_random=40\nrate=1m,512k\nrate_iops=0\nthinktime=20\nthinktime_blocks=8\nfdatasync=4\n\
         end_fsync=1\nverify=crc32c\ndo_verify=0\n",
    );
    assert_eq!(job.name, "job");
    assert_eq!(job.target, Target::Volume { image: "vm1".parse().unwrap() });
    assert_eq!((job.order, job.mix, job.rw()), (Order::Random, Mix::Mixed { read_percent: 70 }, "randrw"));
    assert_eq!((job.block_bytes, job.size_bytes, job.offset_bytes), (65536, Some(1 << 30), 1 << 20));
    assert_eq!((job.depth, job.seed, job.fsync_every, job.requests_max), (32, 7, 16, Some(1000)));
    assert_eq!((job.runtime, job.time_based), (Some(Duration::from_secs(60)), true));
    assert_eq!(job.ramp_time, Duration::from_millis(500));
    assert_eq!((job.percent_random, job.offset_increment_bytes), (40, 1 << 30));
    assert_eq!(job.rates, Rates { read: Some(1 << 20), write: Some(512 << 10) });
    assert_eq!(job.think, Some(Think { time: Duration::from_micros(20), requests: 8 }));
    assert_eq!((job.data_sync_every, job.sync_at_end, job.verify, job.do_verify), (4, true, true, false));
    // All but bsrange and bssplit, which would take the place of bs.
    assert_eq!(job.options.len(), keys::KEYS.len() - 2, "all of them are reported");
}

#[test]
fn jobs_override_what_global_says() {
    let text = "; a comment\n\n[global]\nioengine=raw # the disk\nfilename=f\nbs=8k\n  rw = write  \n\
                [one]\n[two]\nbs=16k\nstonewall\n[global]\nbs=32k\n[three]\nstonewall=1\n";
    let jobs = parse("test.fio", text).unwrap();
    let found: Vec<_> = jobs.iter().map(|job| (job.name.as_str(), job.block_bytes, job.rw())).collect();
    assert_eq!(found, [("one", 8192, "write"), ("two", 16384, "write"), ("three", 32768, "write")]);
}

#[test]
fn sizes_are_those_of_fio() {
    for (text, bytes) in [
        ("0", 0),
        ("4096", 4096),
        ("4096b", 4096),
        ("4k", 4096),
        ("4K", 4096),
        ("4kb", 4096),
        ("4KB", 4096),
        ("1m", 1 << 20),
        ("3g", 3 << 30),
        ("1T", 1 << 40),
    ] {
        assert_eq!(parse_size(text), Ok(bytes), "{text}");
    }
    for text in ["", "k", "-1", "1.5g", "4 k", "4x", "50%", "0x1000", "4kk", "18446744073709551616"] {
        assert_eq!(parse_size(text), Err(UnitError::NotASize), "{text}");
    }
    // Asked of fio 3.33: --bs=4kib are 4000 bytes.
    for text in ["4ki", "4kib", "1MiB"] {
        assert_eq!(parse_size(text), Err(UnitError::InvertedUnit), "{text}");
    }
    assert!(matches!(parse_size("18446744073709551615k"), Err(UnitError::OutOfRange { .. })));
}

#[test]
fn times_are_those_of_fio() {
    for (text, milliseconds) in [
        ("0", 0),
        ("30", 30_000),
        ("30s", 30_000),
        ("500ms", 500),
        ("2000us", 2),
        ("2m", 120_000),
        ("1h", 3_600_000),
    ] {
        assert_eq!(parse_time(text), Ok(Duration::from_millis(milliseconds)), "{text}");
    }
    for text in ["", "s", "1.5s", "1d", "-1", "10 s"] {
        assert_eq!(parse_time(text), Err(UnitError::NotATime), "{text}");
    }
    for text in ["366000h", "18446744073709551615"] {
        assert!(matches!(parse_time(text), Err(UnitError::OutOfRange { .. })), "{text}");
    }
}

#[test]
fn what_is_wrong_is_said_with_its_place_and_what_is_possible() {
    let raw = "[a]\nioengine=raw\nfilename=f\n";
    for (text, expected) in [
        (format!("{raw}sync=1"), "test.fio:4: key \"sync\" is unknown; possible are name, numjobs, "),
        (format!("{raw}rw=trim"), "test.fio:4: rw=\"trim\" is not possible; rw takes read, write, rw, "),
        (
            format!("{raw}numjobs=4"),
            "test.fio:1: job \"a\" has numjobs, whose figures are reported together only",
        ),
        (format!("{raw}numjobs=257"), "numjobs=\"257\" is not possible: it must be from 1 to 256"),
        (format!("{raw}numjobs=2\ngroup_reporting\nioengine=volume\nimage=i"), "has numjobs on an image"),
        (format!("{raw}numjobs=2\ngroup_reporting\nioengine=brick\nimage=i"), "has numjobs on an image"),
        (
            format!("{raw}numjobs=2\ngroup_reporting\nrw=write\nverify=crc32c\nsize=1m\noffset_increment=4k"),
            "verifies what several workers write to the same blocks",
        ),
        (format!("{raw}bsrange=8k-4k"), "bsrange takes a smallest and a largest size"),
        (format!("{raw}bsrange=4k"), "bsrange takes a smallest and a largest size"),
        (format!("{raw}bssplit=4k/70:64k/20"), "shares, which add up to 100"),
        (format!("{raw}bssplit=4k/70:64k/40"), "shares, which add up to 100"),
        (format!("{raw}bssplit=4k/x"), "it must be from 0 to 100"),
        (format!("{raw}bssplit=4k/50:6k/50"), "that aren't multiples of its smallest one, 4096 bytes"),
        (format!("{raw}rw=rw\nbs=4k,6k"), "that aren't multiples of its smallest one, 4096 bytes"),
        (format!("{raw}bs=4k,4k,4k"), "two with a comma between"),
        (format!("{raw}rate=1m\nrate_iops=10"), "has rate and rate_iops for the same direction"),
        (format!("{raw}rate=fast"), "a size is a whole number"),
        (format!("{raw}rate=2048t"), "it must be from 0 to 1125899906842624"),
        (format!("{raw}thinktime_blocks=0"), "it must be from 1 to"),
        (format!("{raw}verify=md5"), "verify takes crc32c, or 0"),
        (format!("{raw}ioengine=nbd"), "test.fio:1: job \"a\" lacks uri"),
        (format!("{raw}uri=nbds://h/"), "uri takes nbd://HOST[:PORT]/[EXPORT] or nbd+unix:///"),
        (
            format!("{raw}bs=4kib"),
            "test.fio:4: bs=\"4kib\" is not possible: fio reads ki, mi, gi and ti as powers",
        ),
        (format!("{raw}bs=100"), "test.fio:4: bs=\"100\" is not possible: blocks are multiples of 512 bytes"),
        (format!("{raw}bs=0"), "blocks are multiples of 512 bytes"),
        (format!("{raw}bs=1g"), "blocks are multiples of 512 bytes, up to 67108864"),
        (format!("{raw}offset=5"), "offset takes a multiple of 512 bytes"),
        (format!("{raw}iodepth=0"), "iodepth=\"0\" is not possible: it must be from 1 to 4096"),
        (format!("{raw}iodepth=x"), "it must be from 1 to 4096"),
        (format!("{raw}rwmixread=101"), "it must be from 0 to 100"),
        (format!("{raw}runtime=soon"), "a time is a whole number"),
        (format!("{raw}size=much"), "a size is a whole number"),
        (format!("{raw}time_based=yes"), "time_based takes 0, 1 or no value"),
        (format!("{raw}direct=0"), "direct takes 1"),
        (format!("{raw}time_based"), "test.fio:1: job \"a\" lacks runtime; give how long it runs"),
        (
            format!("{raw}bs=8k\nsize=4k"),
            "test.fio:1: job \"a\" has bs=8192 and size=4096, so not one block fits",
        ),
        (format!("{raw}bs=64m\niodepth=4096"), "has more than 1073741824 bytes in flight"),
        (format!("{raw}filename=a:b"), "the path of one file or block device, without a colon"),
        (format!("{raw}image="), "image=\"\" is not possible"),
        (format!("{raw}name="), "name takes a name"),
        (format!("{raw}[b]"), "test.fio:4: job \"b\" lacks ioengine"),
        (
            "[global]\nioengine=raw\nfilename=f\n[a]\n[b]".into(),
            "test.fio:5: job \"b\" would run at the same time as \"a\"",
        ),
        ("[a]".into(), "test.fio:1: job \"a\" lacks ioengine; give volume (a replicated image), brick (an"),
        ("[a]\nioengine=raw".into(), "test.fio:1: job \"a\" lacks filename"),
        ("[a]\nioengine=volume".into(), "test.fio:1: job \"a\" lacks image"),
        ("[a]\nioengine=brick".into(), "test.fio:1: job \"a\" lacks image"),
        (
            "[a]\nioengine=libaio".into(),
            "test.fio:2: ioengine=\"libaio\" is not possible; ioengine takes volume",
        ),
        ("rw=read".into(), "test.fio:1: \"rw=read\" belongs to no section"),
        ("[a".into(), "test.fio:1: \"[a\" is not understood"),
        ("[]".into(), "not understood"),
        ("[a]\n=4".into(), "test.fio:2: \"=4\" is not understood"),
        ("[a]\nread all of it".into(), "test.fio:2: \"read all of it\" is not understood"),
        (String::new(), "test.fio:1: the file holds no job"),
        ("[global]\nbs=4k".into(), "the file holds no job"),
        ("#".repeat(FILE_BYTES_MAX + 1), "is it a job file?"),
    ] {
        let sentence = sentence(&text);
        assert!(sentence.contains(expected), "{expected:?} is not in {sentence:?}");
        assert!(!sentence.contains('\n'), "one line: {sentence:?}");
    }
    let many: String = (0..=JOBS_MAX).map(|_| "[a]\nstonewall\n").collect();
    assert!(sentence(&format!("[global]\nioengine=raw\nfilename=f\n{many}")).contains("more than 256 jobs"));
}

#[test]
fn our_examples_are_good_files() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("jobs");
    let (mut files, mut engines) = (0, std::collections::BTreeSet::new());
    for entry in std::fs::read_dir(folder).expect("the examples") {
        let path = entry.expect("a file").path();
        let text = std::fs::read_to_string(&path).expect("text");
        let jobs = parse(&path.display().to_string(), &text).expect("a good file");
        assert!(text.starts_with("# "), "{}: it says what it is for", path.display());
        engines.extend(jobs.iter().map(|job| job.target.engine_name()));
        files += 1;
    }
    assert!(files >= 8);
    assert_eq!(
        engines,
        ["brick", "monoio", "nbd", "raw", "tokio-uring", "volume"].into(),
        "an example of each"
    );
}

/// Texts that look like job files, and go wrong in every place.
fn job_like() -> impl Strategy<Value = String> {
    let key =
        proptest::sample::select(vec!["bs", "size", "rw", "runtime", "iodepth", "filename", "ioengine", "x"]);
    let value = prop_oneof!["[0-9]{0,22}[kmgtsbi]{0,3}", "\\PC{0,8}", Just("raw".to_owned())];
    let line = prop_oneof![
        4 => (key, value).prop_map(|(key, value)| format!("{key}={value}")),
        1 => "\\[[a-c]{0,2}\\]?",
        1 => "\\PC{0,12}",
    ];
    proptest::collection::vec(line, 0..12)
        .prop_map(|lines| format!("[a]\nioengine=raw\n{}", lines.join("\n")))
}

#[test]
fn sizes_and_rates_are_for_reads_and_for_writes() {
    let one = |text: &str| parse_one(&format!("[a]\nioengine=raw\nfilename=f\nrw=rw\n{text}"));
    let range = |min_bytes, max_bytes| Sizes::Range { min_bytes, max_bytes };
    let sizes = |text: &str| one(text).sizes;
    assert_eq!(sizes("bs=8k,32k"), BlockSizes { read: Sizes::one(8192), write: Sizes::one(32_768) });
    assert_eq!(sizes("bs=,8k"), BlockSizes { read: Sizes::one(4096), write: Sizes::one(8192) });
    assert_eq!(
        sizes("bsrange=1k-4k,2k-8k"),
        BlockSizes { read: range(1024, 4096), write: range(2048, 8192) }
    );
    let shares = |shares: &[(u64, u8)]| {
        Sizes::Split(
            shares.iter().map(|(bytes, percent)| Share { bytes: *bytes, percent: *percent }).collect(),
        )
    };
    let split = shares(&[(4096, 50), (1024, 25), (32_768, 25)]);
    assert_eq!(sizes("bssplit=4k/50:1k/:32k"), BlockSizes { read: split.clone(), write: split });
    let thirds = shares(&[(1024, 34), (2048, 33), (4096, 33)]);
    assert_eq!(sizes("bssplit=1k:2k:4k").read, thirds, "the first takes what doesn't divide");
    let job = one("bssplit=4k/100,8k/90:64k/10");
    assert_eq!((job.block_bytes, job.block_bytes_max), (4096, 65_536));
    assert_eq!(sizes("bsrange=4k-8k\nbs=512"), BlockSizes::one(512), "the later key wins");

    assert_eq!(one("rate=,500k").rates, Rates { read: None, write: Some(500 << 10) });
    assert_eq!(one("rate=500k,").rates, Rates { read: Some(500 << 10), write: None });
    // fio: the smallest block is the metric.
    assert_eq!(one("rate_iops=10\nbsrange=4k-64k").rates.read, Some(40_960));
    assert!(!one("rate=0").rates.is_limited());
}

#[test]
fn workers_differ_in_seed_and_place() {
    let job = parse_one(
        "[a]\nioengine=raw\nfilename=f\nnumjobs=3\ngroup_reporting\noffset=1m\noffset_increment=2m",
    );
    let workers: Vec<Job> = (0..3).map(|worker| job.of_worker(worker)).collect();
    let offsets: Vec<u64> = workers.iter().map(|job| job.offset_bytes >> 20).collect();
    assert_eq!(offsets, [1, 3, 5]);
    assert_eq!(workers[0], job, "the first is the job itself");
    assert!(workers[1].seed != workers[2].seed && workers[1].seed != job.seed);
}

#[test]
fn help_lists_every_key_once_by_groups() {
    let list = key_list();
    let words: Vec<&str> = list.split_whitespace().collect();
    assert!(list.lines().all(|line| line.len() < 100), "{list}");
    for key in &keys::KEYS {
        assert!(words.contains(&key.name), "{}", key.name);
    }
    let groups: Vec<&str> = list.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let distinct: std::collections::BTreeSet<_> = groups.iter().collect();
    assert_eq!(distinct.len(), groups.len(), "keys of a group stand together: {list}");
    assert_eq!(words.len(), keys::KEYS.len() + groups.len());
}

proptest! {
    #[test]
    fn no_text_is_too_strange(text in prop_oneof![job_like(), ".{0,200}"]) {
        if let Err(error) = parse("test.fio", &text) {
            prop_assert!(error.line >= 1 && error.line <= text.lines().count().max(1), "{}", error);
        }
    }

    #[test]
    fn what_is_written_is_what_is_run(
        sectors in 1u64..1000, blocks in 1u64..1000, offset in 0u64..1000, depth in 1u32..500,
        runtime in 1u64..100_000, seed: u64, fsync in 0u64..100, number in 1u64..1000,
        read_percent in 0u8..=100, rw in proptest::sample::select(vec!["rw", "randrw"]),
    ) {
        let (bs, offset) = (sectors * 512, offset * 512);
        let size = bs * blocks;
        let job = parse_one(&format!(
            "[j]\nioengine=raw\nfilename=f\nrw={rw}\nrwmixread={read_percent}\nbs={bs}\nsize={size}\n\
             offset={offset}\niodepth={depth}\nruntime={runtime}ms\nrandseed={seed}\nfsync={fsync}\n\
             number_ios={number}"
        ));
        prop_assert_eq!((job.block_bytes, job.size_bytes, job.offset_bytes), (bs, Some(size), offset));
        prop_assert_eq!((job.depth, job.seed, job.fsync_every, job.requests_max), (depth, seed, fsync, Some(number)));
        prop_assert_eq!(job.runtime, Some(Duration::from_millis(runtime)));
        prop_assert_eq!((job.rw(), job.mix), (rw, Mix::Mixed { read_percent }));
    }

    #[test]
    fn units_are_powers_of_1024(number in 0u64..1 << 30) {
        for (unit, shift) in [("", 0), ("k", 10), ("M", 20), ("gb", 30)] {
            prop_assert_eq!(parse_size(&format!("{number}{unit}")), Ok(number << shift));
        }
    }
}
