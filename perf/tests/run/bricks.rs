//! A volume of three real bricks, if their binaries were built.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::skip;

/// Two data bricks and an arbiter, killed when dropped.
pub struct Bricks {
    processes: Vec<Child>,
    /// The volume file.
    pub volume: PathBuf,
    brickctl: PathBuf,
}

impl Bricks {
    /// Starts a volume in a directory; `None`, with the reason, if that isn't possible here.
    pub fn start(directory: &Path) -> Option<Bricks> {
        let (brickd, brickctl) = (binary("brickd")?, binary("brickctl")?);
        let volume = directory.join("volume.toml");
        let mut bricks = Bricks { processes: Vec::new(), volume, brickctl };
        let mut group = Vec::new();
        for (name, role) in [("b1", "data"), ("b2", "data"), ("b3", "arbiter")] {
            let folder = directory.join(name);
            let folder = folder.to_str().expect("a path of text");
            command(&brickd, &["format", "--dir", folder, "--role", role, "--lanes", "4"]);
            let address = bricks.start_brick(&brickd, folder)?;
            group.push(format!("{role}={address}"));
        }
        let volume = bricks.volume.to_str().expect("a path of text").to_owned();
        command(&bricks.brickctl, &["volume", "create", &volume, "--group", &group.join(",")]);
        Some(bricks)
    }

    /// Runs `brickctl` on the volume.
    pub fn brickctl(&self, arguments: &[&str]) {
        let volume = self.volume.to_str().expect("a path of text");
        command(&self.brickctl, &[&["-v", volume], arguments].concat());
    }

    fn start_brick(&mut self, brickd: &Path, folder: &str) -> Option<String> {
        let mut process = Command::new(brickd)
            .args(["run", "--dir", folder, "--listen", "127.0.0.1:0", "--pool-mib", "16"])
            .env("BRICK_LOG", "error")
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let mut line = String::new();
        let output = process.stdout.take().expect("piped");
        self.processes.push(process);
        BufReader::new(output).read_line(&mut line).expect("text");
        if line.is_empty() {
            skip("a brick doesn't start; its reason is above");
            return None;
        }
        let (_, place) = line.split_once(") on ").expect("the line says where it listens");
        Some(place.split(',').next().expect("an address").to_owned())
    }
}

impl Drop for Bricks {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // A brick that is gone already is as good.
            let _killed = process.kill();
            let _reaped = process.wait();
        }
    }
}

/// A binary of this workspace, beside ours.
fn binary(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_BIN_EXE_brick-perf")).with_file_name(name);
    if !path.exists() {
        skip(&format!("{name} isn't built; run cargo build --workspace"));
        return None;
    }
    Some(path)
}

fn command(binary: &Path, arguments: &[&str]) {
    let output = Command::new(binary).args(arguments).output().expect("the binary runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{} {arguments:?}: {error}", binary.display());
}
