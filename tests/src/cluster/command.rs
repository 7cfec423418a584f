//! Commands that run to their end: the binaries under test, and what every one of them owes its user.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::process::wait_for;

/// No command of a test takes longer, however busy the machine is.
const COMMAND_LIMIT: Duration = Duration::from_secs(120);

/// How a command ended.
#[derive(Debug)]
pub struct Outcome {
    command: String,
    /// Its exit status.
    pub status: ExitStatus,
    /// What it answered.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

/// Runs a command to its end and keeps what it prints.
pub fn run(command: &mut Command) -> Outcome {
    let name = format!("{command:?}");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{name} doesn't start: {error}"));
    let stdout = collect(child.stdout.take().expect("it is piped"));
    let stderr = collect(child.stderr.take().expect("it is piped"));
    let started = Instant::now();
    let status = wait_for(&format!("{name} ends"), COMMAND_LIMIT * 2, || {
        if started.elapsed() > COMMAND_LIMIT {
            let _already_gone = child.kill();
        }
        child.try_wait().expect("a child can be waited for")
    });
    let text = |thread: thread::JoinHandle<String>| thread.join().expect("reading doesn't panic");
    Outcome { command: name, status, stdout: text(stdout), stderr: text(stderr) }
}

fn collect(mut pipe: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _until_it_ends = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

impl Outcome {
    /// Asserts success.
    #[track_caller]
    pub fn ok(self) -> Outcome {
        assert!(self.status.success(), "{}: {}\n{}{}", self.command, self.status, self.stdout, self.stderr);
        self
    }

    /// Asserts success and one line of JSON.
    #[track_caller]
    pub fn json(self) -> Value {
        let outcome = self.ok();
        assert_eq!(outcome.stdout.lines().count(), 1, "{}: {:?}", outcome.command, outcome.stdout);
        serde_json::from_str(&outcome.stdout)
            .unwrap_or_else(|error| panic!("{}: {error} in {:?}", outcome.command, outcome.stdout))
    }

    /// Asserts a proper refusal: non-zero exit, nothing answered, exactly one sentence on standard error
    /// that has `parts` in it. Returns the sentence.
    #[track_caller]
    pub fn refused(self, parts: &[&str]) -> String {
        let text = &self.stderr;
        assert!(!self.status.success(), "{} succeeded: {}", self.command, self.stdout);
        assert!(self.status.code().is_some(), "{}: {}: {text}", self.command, self.status);
        assert_eq!(text.lines().count(), 1, "{}: one line is wanted: {text}", self.command);
        assert!(!text.contains("panicked"), "{text}");
        let control = |c: char| c.is_control() && c != '\n';
        assert!(!text.contains(control), "{}: control characters in {text:?}", self.command);
        for part in parts {
            assert!(text.contains(part), "{}: {part:?} isn't in: {text}", self.command);
        }
        self.stderr
    }
}

/// `brickd` as it was built.
pub fn brickd() -> Command {
    Command::new(binary("brickd"))
}

/// `brickctl` as it was built.
pub fn brickctl() -> Command {
    let mut command = Command::new(binary("brickctl"));
    command.env_remove("BRICK_VOLUME");
    command
}

/// `brick-perf` as it was built.
pub fn brick_perf() -> Command {
    let mut command = Command::new(binary("brick-perf"));
    command.env_remove("BRICK_VOLUME");
    command
}

/// Folder of the build that the running program belongs to, e.g. `target/debug`.
fn build_folder() -> PathBuf {
    let program = std::env::current_exe().expect("the program's own path");
    let folder = program.parent().expect("it lies in a folder");
    // Tests are built into FOLDER/deps, programs into FOLDER.
    let folder = if folder.ends_with("deps") { folder.parent().expect("above deps") } else { folder };
    folder.to_path_buf()
}

/// Folder for what tests leave while they run: on the disk of the build, where O_DIRECT works, unless
/// whoever started them has another.
pub fn scratch_folder() -> PathBuf {
    let folder = match std::env::var_os("BRICK_SCRATCH") {
        Some(folder) => PathBuf::from(folder),
        None => build_folder().parent().expect("it lies in the target folder").join("tmp"),
    };
    std::fs::create_dir_all(&folder).expect("a folder for scratch files");
    folder
}

/// The path of a binary as it was built.
pub fn binary(name: &str) -> PathBuf {
    static BUILT: OnceLock<()> = OnceLock::new();
    let folder = build_folder();
    BUILT.get_or_init(|| build_missing(&folder));
    folder.join(name)
}

/// Builds the binaries unless whoever started the tests has done so.
fn build_missing(folder: &Path) {
    if ["brickd", "brickctl"].iter().all(|name| folder.join(name).exists()) {
        return;
    }
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(["build", "-p", "brickd", "-p", "brickctl"]);
    command.arg("--target-dir").arg(folder.parent().expect("it lies in the target folder"));
    if folder.ends_with("release") {
        command.arg("--release");
    }
    let status = command.status().expect("cargo runs");
    assert!(status.success(), "the binaries can't be built");
}
