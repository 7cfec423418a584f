//! Mistakes of operators and nonsense from the network: each gets one clear sentence and a non-zero exit,
//! or its connection closed; nothing panics, nothing is lost.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use brick_tests::cluster::command::{brick_perf, brickctl, brickd, run};
use brick_tests::cluster::pattern;
use brick_tests::cluster::{ARBITER, Cluster, D1, D2, ONE_DATA, Options, Shape, TWO_GROUPS};

/// bad input: directories that no brick can use.
#[test]
fn directories_are_checked() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let start = |directory: &str| run(brickd().args(["run", "--listen", "127.0.0.1:0", "--dir", directory]));
    let format = |directory: &str| run(brickd().args(["format", "--role", "data", "--dir", directory]));

    start(&path("missing")).refused(&["missing"]);
    fs::create_dir(path("bare")).expect("a folder");
    start(&path("bare")).refused(&["bare", "format"]);
    fs::write(folder.path().join("bare/letter"), "dear").expect("a file");
    format(&path("bare")).refused(&["bare", "empty"]);
    assert_eq!(fs::read(folder.path().join("bare/letter")).expect("it is still there"), b"dear");
    format(&path("brick")).ok();
    format(&path("brick")).refused(&["brick", "already"]);
    fs::write(path("file"), "dear").expect("a file");
    format(&path("file")).refused(&["file"]);
    start(&path("file")).refused(&["file"]);
}

/// bad input: a port that somebody else has.
#[test]
fn a_port_in_use_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let directory = folder.path().join("brick").display().to_string();
    run(brickd().args(["format", "--role", "data", "--dir", &directory])).ok();
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    run(brickd().args(["run", "--listen", &address, "--dir", &directory])).refused(&[&address, "in use"]);
    run(brickd().args(["run", "--listen", "nowhere", "--dir", &directory])).refused(&["nowhere"]);
}

/// bad input: the directories of two data bricks are swapped; then one of another volume.
/// The clients refuse to talk to a brick that isn't the one of the volume file, and say so.
#[test]
fn directories_of_others_are_refused() {
    let (mut here, mut there) = (Cluster::start(), Cluster::start());
    here.create_image("vm", "64M");
    for cluster in [&mut here, &mut there] {
        cluster.bricks[D1].stop();
        cluster.bricks[D2].stop();
    }
    let (left, right) = here.bricks.split_at_mut(D2);
    left[D1].swap_directories(&mut right[0]);
    here.bricks[D1].start();
    here.bricks[D2].start();
    let address = here.bricks[D1].address();
    here.ctl(&["image", "stat", "vm"]).refused(&["no quorum", &address, "brick"]);
    assert!(here.try_serve("vm", &[]).is_err_and(|reason| reason.contains("no quorum")));

    here.bricks[D1].stop();
    here.bricks[D2].stop();
    here.bricks[D1].swap_directories(&mut there.bricks[D1]);
    here.bricks[D1].start();
    here.ctl(&["image", "stat", "vm"]).refused(&["no quorum", &address, "volume"]);
    let status = here.ctl(&["volume", "status"]).ok().stdout;
    assert!(status.contains("offline") && status.contains("volume"), "{status}");
}

/// bad input: volume files.
#[test]
fn volume_files_are_checked() {
    let cluster = Cluster::start();
    let good = fs::read_to_string(cluster.volume()).expect("a volume file");
    let file = cluster.path("bad.toml").display().to_string();
    let status = |text: &str| {
        fs::write(&file, text).expect("written");
        run(brickctl().args(["-v", &file, "volume", "status"]))
    };
    status("volume = \"3").refused(&["bad.toml", "line 1"]);
    status(&format!("colour = \"red\"\n{good}")).refused(&["bad.toml", "line 1", "colour"]);
    status(&good.replace("\"arbiter\"", "\"data\"").replacen("\"data\"", "\"arbiter\"", 2))
        .refused(&["bad.toml", "1 data bricks and 2 arbiters"]);
    status(&good.replace("\"arbiter\"", "\"judge\"")).refused(&["bad.toml", "judge"]);
    status(&good.replace("[options]", "[options]\nunreplicated = true")).refused(&[
        "bad.toml",
        "2 data bricks and 1 arbiters",
        "unreplicated",
    ]);
    status(&good.replace("127.0.0.1:", "127.0.0.1;")).refused(&["bad.toml", "HOST:PORT"]);
    status("").refused(&["bad.toml"]);
    run(brickctl().args(["-v", "missing.toml", "volume", "status"])).refused(&["missing.toml"]);
    run(brickctl().args(["volume", "status"])).refused(&["-v FILE.toml"]);
}

/// bad input: volumes that can't be made.
#[test]
fn volumes_are_checked() {
    let mut cluster = Cluster::unmade(&Options::default());
    let file = cluster.volume().display().to_string();
    let addresses: Vec<String> = cluster.bricks.iter().map(|brick| brick.address()).collect();
    let create = |group: &str| run(brickctl().args(["volume", "create", file.as_str(), "--group", group]));
    let [left, right, arbiter] = &addresses[..] else { panic!("three bricks") };

    create(&format!("data={left},data={right}extra")).refused(&["extra"]);
    create(&format!("data={left},data={left},arbiter={arbiter}")).refused(&[left, "twice"]);
    create(&format!("data={left},arbiter={arbiter}")).refused(&["1 data bricks and 1 arbiters"]);
    create(&format!("data={left},judge={right}")).refused(&["judge"]);
    create(&format!("data={left},data={right},data={arbiter}")).refused(&[arbiter, "arbiter"]);
    assert!(!cluster.volume().exists(), "nothing is left behind");
    cluster.bricks[D2].stop();
    let group = format!("data={left},data={right},arbiter={arbiter}");
    create(&group).refused(&[right]);
    cluster.bricks[D2].start();
    create(&group).ok();
    create(&group).ok();
    let another = cluster.path("another.toml").display().to_string();
    run(brickctl().args(["volume", "create", &another, "--group", &group])).refused(&[left, "already"]);
}

/// bad input: a volume of one brick that nobody asked for, and one of two where one was asked for.
#[test]
fn one_brick_is_a_volume_if_that_is_meant() {
    let mut cluster = Cluster::unmade(&Options { shape: &[&["data", "data"]], ..Options::default() });
    let file = cluster.volume().display().to_string();
    let [left, right] = [D1, D2].map(|index| cluster.bricks[index].address());
    let create = |arguments: &[&str]| run(brickctl().args(["volume", "create", &file]).args(arguments));
    let (one, two) = (format!("data={left}"), format!("data={left},data={right}"));
    let unasked = ["one data brick", "--unreplicated"];

    create(&["--group", &one]).refused(&unasked);
    create(&["--group", &two, "--unreplicated"]).refused(&["2 data bricks", "drop"]);
    create(&["--group", &format!("arbiter={left}"), "--unreplicated"]).refused(&["0 data bricks", "drop"]);
    assert!(!cluster.volume().exists(), "nothing is left behind");
    create(&["--group", &one, "--unreplicated"]).ok();
    create(&["--group", &one, "--unreplicated"]).ok();
    create(&["--group", &one]).refused(&unasked);
    let status = cluster.ctl(&["volume", "status"]).ok().stdout;
    assert!(status.contains("unreplicated: it survives no failure"), "{status}");

    // No other brick could vouch for the new one, whether the old one is there or lost.
    cluster.ctl(&["volume", "reset-brick", &left, "--yes"]).refused(&[&left, "unreplicated", "new volume"]);
    cluster.bricks[D1].stop();
    cluster.ctl(&["volume", "replace-brick", &left, &right, "--yes"]).refused(&[&left, "unreplicated"]);
    let text = fs::read_to_string(&file).expect("a volume file");
    fs::write(&file, text.replace("unreplicated = true", "")).expect("written");
    cluster.ctl(&["volume", "status"]).refused(&unasked);
}

/// bad input: the file of a replicated volume, cut down to one brick. What that brick has may be old, and places in S mean
/// other bricks.
#[test]
fn a_replicated_image_does_not_open_on_one_brick() {
    let cluster = Cluster::start();
    cluster.create_image("vm", "8M");
    let text = fs::read_to_string(cluster.volume()).expect("a volume file");
    let parts: Vec<&str> = text.split("[[groups.bricks]]").collect();
    assert_eq!(parts.len(), 4, "three bricks: {text}");
    let cut = [parts[0], parts[1]].join("[[groups.bricks]]");
    fs::write(cluster.volume(), cut.replace("[options]", "[options]\nunreplicated = true")).expect("written");
    let target = cluster.path("export").display().to_string();
    let export = || cluster.ctl(&["image", "export", "vm", &target]);
    export().refused(&["3 bricks", "lists 1", "volume create"]);
    // Nor where the file says them in another order.
    let swapped = [parts[0], parts[2], parts[1], parts[3]].join("[[groups.bricks]]");
    fs::write(cluster.volume(), swapped).expect("written");
    export().refused(&["3 bricks", "same order", "volume create"]);
    fs::write(cluster.volume(), text).expect("written");
    export().ok();
}

/// bad input: a volume file from which a group was cut.
#[test]
fn an_image_needs_all_its_groups() {
    let cluster = Cluster::with(&Options { shape: TWO_GROUPS, ..Options::default() });
    cluster.create_image("vm", "8M");
    let text = fs::read_to_string(cluster.volume()).expect("a volume file");
    let second = text.rfind("[[groups]]").expect("a second group");
    fs::write(cluster.volume(), &text[..second]).expect("written");
    let target = cluster.path("export").display().to_string();
    cluster.ctl(&["image", "export", "vm", &target]).refused(&["\"vm\"", "group 1", "lists 1 groups"]);
}

/// bad input: brick-perf's engine for one brick on a replicated volume; the other one takes both.
#[test]
fn one_brick_is_measured_on_one_brick() {
    let perf = |shape: Shape, engine: &str| {
        let cluster = Cluster::with(&Options { shape, ..Options::default() });
        cluster.create_image("vm", "8M");
        let job = cluster.path("job.fio");
        let text = format!("[job]\nioengine={engine}\nimage=vm\nrw=write\nbs=1m\n");
        fs::write(&job, text).expect("a job file");
        run(brick_perf().arg("run").arg(&job).arg("-v").arg(cluster.volume()))
    };
    perf(Options::default().shape, "brick").refused(&["volume.toml", "is replicated", "ioengine=volume"]);
    perf(ONE_DATA, "brick").ok();
    perf(ONE_DATA, "volume").ok();
}

/// bad input: names and sizes of images.
#[test]
fn images_are_checked() {
    let cluster = Cluster::start();
    let create = |name: &str, size: &str| cluster.ctl(&["image", "create", name, "--size", size]);
    create("a\u{7}b", "64M").refused(&["control"]);
    create("a\nb", "64M").refused(&["control"]);
    create(&"x".repeat(256), "64M").refused(&["255"]);
    create(&"é".repeat(128), "64M").refused(&["255"]);
    create("", "64M").refused(&["name"]);
    create(&"é".repeat(127), "64M").ok();
    create("vm", "0").refused(&["size 0"]);
    create("vm", "6000").refused(&["6000", "multiple"]);
    create("vm", "64MB").refused(&["64MB"]);
    create("vm", "1.5G").refused(&["1.5G"]);
    create("vm", "16000P").refused(&["too large"]);
    cluster.ctl(&["image", "create", "vm", "--size", "64M", "--shard-size", "3M"]).refused(&["shard size"]);
    create("vm", "64M").ok();
    create("vm", "64M").refused(&["vm", "exists"]);

    for command in [&["image", "stat", "ghost"][..], &["image", "rm", "ghost"], &["heal", "status", "ghost"]]
    {
        cluster.ctl(command).refused(&["ghost", "no image"]);
    }
    let reason = cluster.try_serve("ghost", &[]).expect_err("nobody knows it");
    assert!(reason.contains("no image named \"ghost\""), "{reason}");
    let images = cluster.ctl(&["image", "ls", "--json"]).json();
    assert_eq!(images["images"].as_array().map(Vec::len), Some(2), "{images}");
}

/// bad input: files to import and to export to.
#[test]
fn files_are_checked() {
    let cluster = Cluster::start();
    let path = |name: &str| cluster.path(name).display().to_string();
    cluster.create_image("small", "1M");
    let large = path("large.raw");
    fs::write(&large, pattern::blocks(0, 512, 1)).expect("a file");
    cluster.ctl(&["image", "import", &path("missing.raw"), "vm"]).refused(&["missing.raw"]);
    cluster.ctl(&["image", "import", &large, "small"]).refused(&["large.raw", "small", "doesn't fit"]);
    fs::write(path("empty.raw"), "").expect("a file");
    cluster.ctl(&["image", "import", &path("empty.raw"), "vm"]).refused(&["empty.raw", "empty"]);
    fs::write(path("torn.qcow2"), b"QFI\xfb\0\0\0\x03").expect("a file");
    cluster.ctl(&["image", "import", &path("torn.qcow2"), "vm"]).refused(&["torn.qcow2"]);
    cluster.ctl(&["image", "import", &cluster.path("").display().to_string(), "vm"]).refused(&[]);
    cluster.ctl(&["image", "stat", "vm"]).refused(&["no image"]);

    cluster.ctl(&["image", "import", &large, "vm"]).ok();
    cluster.ctl(&["image", "import", &large, "vm"]).refused(&["vm", "holds data"]);
    cluster.ctl(&["image", "export", "vm", &large]).refused(&["large.raw", "exists"]);
    cluster.ctl(&["image", "export", "vm", &path("no/such/folder")]).refused(&["no/such/folder"]);
    cluster.ctl(&["image", "export", "vm", &path("out.raw")]).ok();
    assert_eq!(fs::read(path("out.raw")).expect("exported"), pattern::blocks(0, 512, 1));
}

/// bad input: a socket where something else is, a second server for one image.
#[test]
fn servers_are_checked() {
    let cluster = Cluster::start();
    cluster.create_image("vm", "64M");
    let letter = cluster.path("letter");
    fs::write(&letter, "dear").expect("a file");
    let serve = |arguments: &[&str]| cluster.ctl(&[&["nbd", "vm"], arguments].concat());
    serve(&["--socket", &letter.display().to_string()]).refused(&["letter", "socket"]);
    assert_eq!(fs::read(&letter).expect("it is still there"), b"dear");
    serve(&["--socket", &cluster.path("no/such/folder").display().to_string()]).refused(&["no/such/folder"]);
    serve(&["--socket", &"s".repeat(200)]).refused(&["sss"]);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    serve(&["--listen", &address]).refused(&[&address, "in use"]);

    let server = cluster.serve("vm");
    serve(&["--socket", &server.socket().display().to_string()]).refused(&["sock"]);
    serve(&["--socket", &cluster.fresh_socket().display().to_string()]).refused(&["vm", "in use"]);
    let file = cluster.path("out.raw").display().to_string();
    cluster.ctl(&["image", "export", "vm", &file]).refused(&["vm", "in use"]);
    cluster.ctl(&["image", "rm", "vm"]).refused(&["vm", "in use"]);
    server.connect().write(0, &[7; 4096]).expect("it serves as before");
    server.close();
}

/// Sends `bytes` and nothing more; the peer must hang up, having said at most a few words.
#[track_caller]
fn expect_hang_up(mut stream: TcpStream, bytes: &[u8]) {
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    // The peer may hang up before it has seen everything.
    let _may_be_refused = stream.write_all(bytes).and_then(|()| stream.shutdown(Shutdown::Write));
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => assert!(answer.len() < 4096, "{} bytes in answer", answer.len()),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "no hang-up: {error}"),
    }
}

/// bad input: garbage, truncated and corrupt frames on the port of every brick, while an image is served.
#[test]
fn garbage_on_a_bricks_port() {
    let mut cluster = Cluster::start();
    cluster.create_image("vm", "64M");
    let server = cluster.serve("vm");
    let mut client = server.connect();
    client.write(0, &pattern::blocks(0, 1, 1)).expect("written");
    let hello = hello_frame();
    let mut corrupt = hello.clone();
    corrupt[20] ^= 1;
    let mut garbage = Vec::new();
    let mut sequence = pattern::Sequence::new(3);
    (0..4096).for_each(|_| garbage.extend(sequence.draw().to_le_bytes()));
    let garbled_later = [&hello[..], &garbage].concat();
    let http = b"GET / HTTP/1.1\r\nHost: brick\r\n\r\n".repeat(8);
    for index in [D1, D2, ARBITER] {
        let address = cluster.bricks[index].address();
        for bytes in
            [&garbage[..], &hello[..17], &hello[..hello.len() - 1], &corrupt, &garbled_later, &http, b""]
        {
            expect_hang_up(TcpStream::connect(&address).expect("it listens"), bytes);
        }
        assert!(cluster.bricks[index].is_running());
    }
    client.write(4096, &pattern::blocks(4096, 1, 1)).expect("the image's own connections go on");
    assert!(client.read(0, 4096).expect("read") == pattern::blocks(0, 1, 1));
    assert_eq!(cluster.health("vm")["state"], "healthy");
    server.close();
}

/// A greeting as a client sends it.
fn hello_frame() -> Vec<u8> {
    use brick_wire::handshake::{Hello, PeerKind};
    use brick_wire::header::seal_aux;
    use brick_wire::limits::PROTOCOL_VERSION;
    use brick_wire::{
        BrickUuid, ConnectionGeneration, CoreIndex, Header, Opcode, RequestId, SessionId, VolumeUuid,
        cursor::Body,
    };
    let hello = Hello {
        versions: (PROTOCOL_VERSION, PROTOCOL_VERSION),
        features: 0,
        kind: PeerKind::Operator,
        core: CoreIndex(0),
        volume: VolumeUuid::NIL,
        brick: BrickUuid::NIL,
        session: SessionId(1),
        generation: ConnectionGeneration(1),
        name: "test".to_owned(),
    };
    let aux = seal_aux(hello.to_bytes());
    let header = Header { aux_bytes: aux.len() as u32, ..Header::request(Opcode::Hello, RequestId(0)) };
    [&header.to_bytes(), &aux[..]].concat()
}

/// bad input: an NBD client that breaks the protocol loses its connection; others go on.
#[test]
fn garbage_on_an_nbd_socket() {
    let cluster = Cluster::start();
    cluster.create_image("vm", "64M");
    let server = cluster.serve("vm");
    let mut client = server.connect();
    let mut stream = UnixStream::connect(server.socket()).expect("it listens");
    stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout");
    let _may_be_refused = stream.write_all(&[0xff; 4096]);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Ok(_) => assert!(answer.len() < 4096),
        Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}"),
    }
    client.write(0, &[7; 4096]).expect("others go on");
    server.close();
}
