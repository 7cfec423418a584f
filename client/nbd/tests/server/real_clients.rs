//! The clients people use: libnbd's tools, qemu's, and fio. A test whose tool isn't installed says so
//! and passes; on a machine with all tools nothing is skipped.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::support::{Behaviour, Counters, TestServer};

/// Runs a tool and returns its standard output; None if it isn't installed.
fn run(tool: &str, arguments: &[&str]) -> Option<String> {
    let output: Output = match Command::new(tool).args(arguments).output() {
        Ok(output) => output,
        Err(error) => {
            println!("skipped: {tool}: {error}");
            return None;
        }
    };
    let standard_output = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{tool} {arguments:?}: {}\n{standard_output}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Some(standard_output)
}

/// A disk image with data at both ends, a hole between, and a length that is no multiple of 4 KiB.
fn image(directory: &Path) -> (String, Vec<u8>) {
    let mut data = vec![0; (24 << 20) + 512];
    for (index, byte) in data.iter_mut().enumerate().filter(|(index, _)| !(1 << 20..20 << 20).contains(index))
    {
        *byte = (index / 3 + index / 1000) as u8 | 1;
    }
    let path = directory.join("source.img");
    fs::write(&path, &data).unwrap();
    (path.to_str().unwrap().to_owned(), data)
}

#[test]
fn nbdinfo_sees_the_export() {
    let server = TestServer::unix(Behaviour::default());
    let Some(text) = run("nbdinfo", &[&server.uri()]) else { return };
    for expected in [
        "protocol: newstyle-fixed without TLS, using structured packets",
        "export=\"vm/disk\":",
        "description: test disk",
        "export-size: 67108864 (64M)",
        "base:allocation",
        "is_read_only: false",
        "can_df: true",
        "can_flush: true",
        "can_fua: true",
        "can_multi_conn: true",
        "can_trim: true",
        "can_zero: true",
        "can_fast_zero: false",
        "block_size_minimum: 512",
        "block_size_preferred: 4096",
        "block_size_maximum: 33554432",
    ] {
        assert!(text.contains(expected), "{expected:?} is missing in:\n{text}");
    }
    let list = run("nbdinfo", &["--list", &format!("nbd+unix:///?socket={}", server.socket().display())]);
    assert!(list.unwrap().contains("export=\"vm/disk\":"));
}

#[test]
fn nbdcopy_round_trip_and_map() {
    let server = TestServer::unix(Behaviour { size_bytes: (24 << 20) + 512, ..Behaviour::default() });
    let (source, data) = image(server.directory.path());
    let target = server.directory.path().join("target.img");
    let uri = server.uri();
    if run("nbdcopy", &["--flush", "--destination-is-zero", &source, &uri]).is_none() {
        return;
    }
    assert!(Counters::get(&server.counters.flushes) > 0);
    run("nbdcopy", &[&uri, target.to_str().unwrap()]).unwrap();
    assert!(fs::read(&target).unwrap() == data, "the copy differs");
    let map = run("nbdinfo", &["--map", &uri]).unwrap();
    assert!(map.lines().any(|line| line.ends_with("hole,zero")), "the hole is visible:\n{map}");
}

#[test]
fn qemu_img_converts_and_compares() {
    let server = TestServer::tcp(Behaviour { size_bytes: (24 << 20) + 512, ..Behaviour::default() });
    let (source, _) = image(server.directory.path());
    let uri = server.uri();
    if run("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", &source, &uri]).is_none() {
        return;
    }
    let compared = run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &source, &uri]).unwrap();
    assert!(compared.contains("Images are identical"), "{compared}");
    let map = run("qemu-img", &["map", "--output=json", "-f", "raw", &uri]).unwrap();
    assert!(map.contains("\"data\": false"), "{map}");
    let copy = server.directory.path().join("copy.qcow2");
    run("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &uri, copy.to_str().unwrap()]).unwrap();
    let compared =
        run("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", &source, copy.to_str().unwrap()]).unwrap();
    assert!(compared.contains("Images are identical"), "{compared}");
}

#[test]
fn qemu_io_patterns() {
    let server = TestServer::unix(Behaviour::default());
    let uri = server.uri();
    let commands = [
        "write -P 0x5a 0 1M",
        "read -P 0x5a 0 1M",
        "write -P 0x11 4097 777",
        "read -P 0x11 4097 777",
        "read -P 0x5a 4874 1000",
        "write -f -P 0x22 8M 4k",
        "write -z 64k 64k",
        "read -P 0 64k 64k",
        "write -z -u 128k 64k",
        "read -P 0 128k 64k",
        "discard 8M 4k",
        "aio_write -P 0x33 16M 2M",
        "aio_write -P 0x44 20M 64k",
        "aio_flush",
        "read -P 0x33 16M 2M",
        "flush",
    ];
    let mut arguments = vec!["-f", "raw"];
    commands.iter().for_each(|command| arguments.extend(["-c", command]));
    arguments.push(&uri);
    let Some(text) = run("qemu-io", &arguments) else { return };
    assert!(!text.contains("Pattern verification failed"), "{text}");
    assert!(Counters::get(&server.counters.fua_writes) > 0, "write -f is FUA");
    assert!(Counters::get(&server.counters.trims) > 0);
    assert!(Counters::get(&server.counters.zeroes) >= 2);
}

#[test]
fn qemu_io_sees_a_read_only_export() {
    let server = TestServer::unix(Behaviour { read_only: true, ..Behaviour::default() });
    let uri = server.uri();
    let Some(_) = run("qemu-io", &["-r", "-f", "raw", "-c", "read -P 0 0 64k", &uri]) else { return };
    let output = Command::new("qemu-io").args(["-f", "raw", "-c", "write 0 4k", &uri]).output().unwrap();
    assert!(!output.status.success(), "writing must fail");
}

#[test]
fn fio_verifies() {
    if run("fio", &["--enghelp"]).is_none_or(|engines| !engines.contains("nbd")) {
        println!("skipped: no fio with an nbd engine");
        return;
    }
    for server in [TestServer::unix(Behaviour::default()), TestServer::tcp(Behaviour::default())] {
        let uri = format!("--uri={}", server.uri());
        // It leaves a state file where it runs.
        let auxiliary = format!("--aux-path={}", server.directory.path().display());
        let result = run(
            "fio",
            &[
                &auxiliary,
                "--name=verify",
                "--ioengine=nbd",
                &uri,
                "--rw=randwrite",
                "--bsrange=512-128k",
                "--size=32m",
                "--iodepth=32",
                "--verify=crc32c",
                "--verify_fatal=1",
                "--verify_state_save=0",
                "--fsync=64",
                "--randseed=1",
            ],
        );
        if result.is_some() {
            assert!(Counters::get(&server.counters.writes) > 100, "fio reached the device");
        }
    }
}
