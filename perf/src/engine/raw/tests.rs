//! Jobs on files in a temporary directory. Where io_uring is forbidden they say so and pass.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::engine::{Engine, EngineError};
use crate::job;
use crate::load::Load;
use crate::meter::Measured;
use crate::pattern::Region;

/// A directory on the disk that holds this test's binary: temporary directories may be in memory.
fn directory() -> tempfile::TempDir {
    let binary = std::env::current_exe().expect("a path");
    tempfile::tempdir_in(binary.parent().expect("a folder")).expect("a directory")
}

fn job(path: &Path, text: &str) -> Job {
    let text = format!("[job]\nioengine=raw\nfilename={}\n{text}", path.display());
    job::parse("test.fio", &text).expect("a good job").remove(0)
}

fn run(path: &Path, text: &str) -> Result<Option<Measured>, EngineError> {
    let job = job(path, text);
    let mut engine = match RawEngine::open(&job, path) {
        Ok(engine) => Box::new(engine),
        Err(RawError::Ring(error)) => {
            println!("skipped: no io_uring: {error}");
            return Ok(None);
        }
        Err(error) => return Err(error.into()),
    };
    let region = Region::new(&job, engine.target_bytes()).expect("it fits");
    let meter = engine.run(Meter::start(Load::new(&job, region)))?;
    engine.close()?;
    Ok(Some(meter.finish().expect("accounts")))
}

fn sentence(path: &Path, text: &str) -> String {
    run(path, text).expect_err("it can't work").to_string()
}

#[test]
fn a_job_writes_what_it_says_and_nothing_else() {
    let directory = directory();
    let path = directory.path().join("f");
    let mark = vec![0xa5; 1 << 20];
    fs::write(&path, &mark).unwrap();
    let text = "rw=randwrite\nbs=4k\noffset=256k\nsize=512k\niodepth=8\nfsync=32";
    let Some(measured) = run(&path, text).unwrap() else { return };
    let stats = &measured.stats;
    assert_eq!((stats.write.requests(), stats.write.bytes()), (128, 512 << 10));
    assert_eq!((stats.sync.requests(), stats.read.requests()), (4, 0));
    assert!(measured.elapsed_ns > 0 && stats.write.latencies_ns().min() > 0);

    let content = fs::read(&path).unwrap();
    assert_eq!(content.len(), mark.len());
    let changed = |block: usize| content[block * 4096..][..4096] != mark[..4096];
    assert!(
        (0..256).all(|block| changed(block) == (64..192).contains(&block)),
        "exactly its part, all of it"
    );
}

#[test]
fn a_missing_file_is_made_and_read() {
    let directory = directory();
    let path = directory.path().join("f");
    let Some(measured) = run(&path, "rw=read\nbs=64k\nsize=3m\noffset=512\nbs=512\nnumber_ios=100").unwrap()
    else {
        return;
    };
    assert_eq!(measured.stats.read.requests(), 100);
    assert_eq!(fs::metadata(&path).unwrap().len(), (3 << 20) + 512);
}

#[test]
fn a_deep_mixed_job_keeps_its_time() {
    let directory = directory();
    let path = directory.path().join("f");
    let text = "rw=randrw\nrwmixread=30\nsize=4m\niodepth=64\nruntime=200ms\ntime_based\nramp_time=50ms";
    let Some(measured) = run(&path, text).unwrap() else { return };
    assert!(
        measured.elapsed_ns >= 190_000_000 && measured.elapsed_ns < 10_000_000_000,
        "{}",
        measured.elapsed_ns
    );
    let (reads, writes) = (measured.stats.read.requests(), measured.stats.write.requests());
    assert!(reads > 0 && writes > reads, "{reads} reads, {writes} writes");
    assert!(measured.usage.system.as_nanos() > 0, "{:?}", measured.usage);
}

#[test]
fn what_can_not_be_a_target_is_named() {
    let directory = directory();
    let path = directory.path().join("f");
    assert!(sentence(&path, "").contains("give the job a size"));
    assert!(sentence(directory.path(), "size=1m").contains("neither a file nor a block device"));
    let nowhere = PathBuf::from("no/such/folder/f");
    assert!(sentence(&nowhere, "size=1m").contains("can't open it to fill it"));
}

#[test]
fn a_file_that_shrinks_meanwhile_is_an_error() {
    let directory = directory();
    let path = directory.path().join("f");
    fs::write(&path, vec![1; 1 << 20]).unwrap();
    let job = job(&path, "rw=read\niodepth=4");
    let mut engine = match RawEngine::open(&job, &path) {
        Err(RawError::Ring(error)) => return println!("skipped: no io_uring: {error}"),
        other => other.unwrap(),
    };
    let region = Region::new(&job, engine.target_bytes()).unwrap();
    fs::write(&path, vec![1; 4096]).unwrap();
    let error = engine.run(Meter::start(Load::new(&job, region))).unwrap_err().to_string();
    assert!(error.contains("ended after 0"), "{error}");
}
