//! Images through the clients that people use: libnbd's tools, qemu's, fio, brick-perf, and a file system checker.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use brick_tests::cluster::command::{brick_perf, run};
use brick_tests::cluster::disk::same_bytes;
use brick_tests::cluster::process::wait_for;
use brick_tests::cluster::tools::{fio_verify, have, qemu_io, tool};
use brick_tests::cluster::{
    Cluster, D1, D2, ONE_DATA, Options, Shape, THREE_DATA, TWO_GROUPS, pattern, shard_files,
};

/// A file of `blocks` blocks of which every fourth run of 64 is a hole.
fn sparse_file(path: &Path, blocks: u64) {
    use std::os::unix::fs::FileExt;
    let file = fs::File::create(path).expect("a new file");
    file.set_len(blocks * 4096).expect("room for it");
    for run in (0..blocks / 64).filter(|run| run % 4 != 3) {
        let offset = run * 64 * 4096;
        file.write_all_at(&pattern::blocks(offset, 64, 1), offset).expect("room for it");
    }
}

/// clients: what the server says of an export.
/// Serve an image with data in its second shard only; ask nbdinfo and qemu-img.
#[test]
fn tools_describe_an_export() {
    if !have(&["nbdinfo", "qemu-img", "qemu-io"]) {
        return;
    }
    let cluster = Cluster::start();
    cluster.create_image("vm", "64M");
    let server = cluster.serve("vm");
    let uri = server.uri();
    qemu_io(&uri, &["write -P 0x11 4M 64k"]);

    let info = tool("nbdinfo", &[&uri]).stdout;
    for part in ["export-size: 67108864", "can_fua: true", "can_multi_conn: true", "is_read_only: false"] {
        assert!(info.contains(part), "{part}: {info}");
    }
    let map = tool("nbdinfo", &["--map", "--totals", &uri]).stdout;
    assert!(map.contains("hole,zero") && map.contains("data"), "{map}");
    let list = tool("nbdinfo", &["--list", &uri]).stdout;
    assert!(list.contains("export=\"vm\""), "{list}");
    let info = tool("qemu-img", &["info", "-f", "raw", &uri]).stdout;
    assert!(info.contains("64 MiB (67108864 bytes)"), "{info}");
    server.close();
}

/// clients: whole images in and out.
/// Copy a sparse file in with each tool, out with each, and compare everything with the original.
#[test]
fn images_are_copied_in_and_out() {
    if !have(&["nbdcopy", "qemu-img"]) {
        return;
    }
    let cluster = Cluster::start();
    let original = cluster.path("original.raw");
    sparse_file(&original, 16 << 8);
    let file = original.display().to_string();
    let qcow2 = cluster.path("original.qcow2").display().to_string();
    tool("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &file, &qcow2]);

    cluster.create_image("copied", "16M");
    let server = cluster.serve("copied");
    let uri = server.uri();
    tool("nbdcopy", &[&file, &uri]);
    tool("qemu-img", &["compare", "-f", "raw", "-F", "raw", &file, &uri]);
    let out = cluster.path("nbdcopy.raw");
    tool("nbdcopy", &[&uri, &out.display().to_string()]);
    assert!(same_bytes(&original, &out));
    server.close();

    cluster.create_image("converted", "16M");
    let server = cluster.serve("converted");
    let uri = server.uri();
    tool("qemu-img", &["convert", "-n", "-f", "qcow2", "-O", "raw", &qcow2, &uri]);
    let out = cluster.path("converted.qcow2").display().to_string();
    tool("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &uri, &out]);
    tool("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", &file, &out]);
    server.close();
}

/// clients: patterns.
/// Write, zero, discard, flush and FUA at aligned and unaligned places; read all of it back, reopened too.
#[test]
fn patterns_read_back() {
    if !have(&["qemu-io"]) {
        return;
    }
    let cluster = Cluster::start();
    cluster.create_image("vm", "64M");
    let server = cluster.serve("vm");
    let writes = [
        "write -P 0xaa 0 1M",
        "write -f -P 0xbb 4k 4k",
        "write -P 0xcc 4190208 8k",
        "write -P 0xdd 66560 512",
        "write -P 0xee 100352 10k",
        "write -z 16k 8k",
        "write -z -u 8M 1M",
        "discard 32M 1M",
        "flush",
    ];
    let reads = [
        "read -P 0xaa 0 4k",
        "read -P 0xbb 4k 4k",
        "read -P 0xcc 4190208 8k",
        "read -P 0xaa 66048 512",
        "read -P 0xdd 66560 512",
        "read -P 0xaa 67072 512",
        "read -P 0xee 100352 10k",
        "read -P 0 16k 8k",
        "read -P 0 8M 1M",
        "read -P 0 60M 4M",
    ];
    qemu_io(&server.uri(), &writes);
    qemu_io(&server.uri(), &reads);
    server.close();
    let server = cluster.serve("vm");
    qemu_io(&server.uri(), &reads);
    server.close();
}

fn fio_runs_clean(shape: Shape) {
    if !have(&["fio"]) {
        return;
    }
    let cluster = Cluster::with(&Options { shape, ..Options::default() });
    cluster.create_image("vm", "64M");
    let server = cluster.serve("vm");
    let outcome = run(&mut fio_verify(&server.uri(), "64M", Duration::from_secs(5))).ok();
    assert!(outcome.stdout.contains("err= 0"), "{}", outcome.stdout);
    server.close();
    assert_eq!(cluster.health("vm")["state"], "healthy");
}

/// clients: fio writes and verifies (two data bricks and an arbiter).
#[test]
fn fio_verifies() {
    fio_runs_clean(brick_tests::cluster::TWO_AND_ARBITER);
}

/// clients: fio writes and verifies (three data bricks).
#[test]
fn fio_verifies_on_three_data_bricks() {
    fio_runs_clean(THREE_DATA);
}

/// clients: fio writes and verifies (two groups of two data bricks and an arbiter).
#[test]
fn fio_verifies_over_two_groups() {
    fio_runs_clean(TWO_GROUPS);
}

/// clients: fio writes and verifies while a data brick is killed and restarted, twice.
/// fio must not notice; afterwards the copies are equal.
#[test]
fn fio_verifies_while_a_brick_dies_twice() {
    if !have(&["fio"]) {
        return;
    }
    let mut cluster = Cluster::start();
    cluster.create_image("vm", "64M");
    let server = cluster.serve("vm");
    let mut fio = cluster.spawn(fio_verify(&server.uri(), "64M", Duration::from_secs(8)), "fio");
    for _ in 0..2 {
        cluster.bricks[D2].kill();
        cluster.wait_for_state("vm", "degraded");
        cluster.bricks[D2].start();
        cluster.wait_for_state("vm", "healthy");
    }
    let status = fio.wait(Duration::from_secs(90));
    assert!(status.success(), "fio: {status}: {}{}", fio.stdout(), fio.stderr());
    server.close();
    cluster.assert_copies_agree("vm");
}

/// `brick-perf` on the image `vm` of a cluster of one brick, with verification and these lines of the job.
fn one_brick_job(cluster: &Cluster, lines: &str) -> Command {
    let job = cluster.path("one.fio");
    let text = format!("[one]\nioengine=brick\nimage=vm\nbs=4k\niodepth=16\nverify=crc32c\n{lines}");
    fs::write(&job, text).expect("a job file");
    let mut command = brick_perf();
    command.arg("run").arg(job).arg("-v").arg(cluster.volume());
    command
}

/// clients: brick-perf on a volume of one brick, which is killed between two runs, in the middle of one, and while
/// an image is served.
/// What was written is there, and the second run doesn't notice; another block in its place is found.
#[test]
fn one_brick_keeps_what_was_written() {
    let mut cluster = Cluster::with(&Options { shape: ONE_DATA, ..Options::default() });
    cluster.create_image("vm", "16M");
    run(&mut one_brick_job(&cluster, "rw=randwrite\nfdatasync=64\nend_fsync")).ok();
    cluster.bricks[D1].kill();
    let mut read = one_brick_job(&cluster, "rw=randread");
    run(&mut read).refused(&["no quorum", "0 of 1 bricks"]);
    cluster.bricks[D1].start();
    run(&mut read).ok();

    cluster.ctl(&["image", "rm", "vm"]).ok();
    assert_eq!(shard_files(&cluster.bricks[D1].directory).len(), 0, "or the next wait is none");
    cluster.create_image("vm", "16M");
    let write = one_brick_job(&cluster, "rw=randwrite\nruntime=4s\ntime_based\nfdatasync=64");
    let mut write = cluster.spawn(write, "brick-perf");
    let is_written = || (!shard_files(&cluster.bricks[D1].directory).is_empty()).then_some(());
    wait_for("something is written", Duration::from_secs(60), is_written);
    cluster.bricks[D1].kill();
    assert!(write.ended().is_none(), "it waits for the brick");
    cluster.bricks[D1].start();
    let status = write.wait(Duration::from_secs(90));
    assert!(status.success(), "{status}: {}{}", write.stdout(), write.stderr());
    let mut read = one_brick_job(&cluster, "rw=randread");
    run(&mut read).ok();

    let server = cluster.serve("vm");
    let mut client = server.connect();
    client.write(8192, &pattern::blocks(8192, 1, 1)).expect("written");
    cluster.bricks[D1].kill();
    cluster.bricks[D1].start();
    assert!(client.read(8192, 4096).expect("read") == pattern::blocks(8192, 1, 1));
    client.flush().expect("its machine never stopped");
    server.close();
    run(&mut read).refused(&["8192"]);
    for command in [&["scrub", "vm"][..], &["heal", "run", "vm"], &["heal", "agent", "--once"]] {
        cluster.ctl(command).ok();
    }
    assert_eq!(cluster.health("vm")["state"], "healthy");
}

/// clients: a disk image with a file system (raw, qcow2).
/// Make one of this crate's own files, import it, check it through the served export and as exported.
#[test]
fn a_file_system_arrives_whole() {
    if !have(&["mke2fs", "e2fsck", "qemu-img", "nbdcopy"]) {
        return;
    }
    let cluster = Cluster::start();
    let raw = cluster.path("disk.raw").display().to_string();
    let qcow2 = cluster.path("disk.qcow2").display().to_string();
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").display().to_string();
    tool("mke2fs", &["-q", "-t", "ext4", "-d", &files, &raw, "32M"]);
    tool("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &raw, &qcow2]);
    for (file, image) in [(&raw, "raw"), (&qcow2, "qcow2")] {
        cluster.ctl(&["image", "import", file, image]).ok();
        let server = cluster.serve(image);
        let served = cluster.path(&format!("{image}.served")).display().to_string();
        tool("nbdcopy", &[&server.uri(), &served]);
        run(Command::new("e2fsck").args(["-fn", &served])).ok();
        server.close();
        let exported = cluster.export(image, &format!("{image}.exported")).display().to_string();
        run(Command::new("e2fsck").args(["-fn", &exported])).ok();
        tool("qemu-img", &["compare", "-f", "raw", "-F", "raw", &raw, &exported]);
    }
}
