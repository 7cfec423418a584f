//! Processes of a test: started with their output in files, ended by pid, and gone when dropped.
//!
//! Nothing here sleeps for a fixed time: whoever waits polls for what it waits for, until a deadline
//! after which the test fails and says what did not happen.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{self, Signal};
use nix::sys::wait::{self, Id, WaitPidFlag, WaitStatus};
use nix::unistd::Pid;

/// A thread that waits for the disk stops when that has answered.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// Pause between two looks at something that is waited for.
const POLL_PAUSE: Duration = Duration::from_millis(10);

/// Waits until `probe` returns something; panics naming `what` if that takes longer than `limit`.
pub fn wait_for<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(started.elapsed() < limit, "{what}: not within {} s", limit.as_secs());
        thread::sleep(POLL_PAUSE);
    }
}

/// A process whose output goes to files; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts `command`; its output goes to `logs/NAME-N.out` and `.err`, with the first free N.
    pub fn spawn(mut command: Command, name: &str, logs: &Path) -> Process {
        let path = |number: u32, end: &str| logs.join(format!("{name}-{number}.{end}"));
        let create = |path: &Path| File::create_new(path).ok();
        let (number, stdout) = (1..1000)
            .find_map(|number| Some((number, create(&path(number, "out"))?)))
            .unwrap_or_else(|| panic!("no log file can be created in {}", logs.display()));
        let stderr = File::create(path(number, "err")).expect("a log file beside the other");
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?} doesn't start: {error}"));
        let (stdout, stderr) = (path(number, "out"), path(number, "err"));
        Process { child, name: name.to_owned(), stdout, stderr }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to standard output so far.
    pub fn stdout(&self) -> String {
        read_lossy(&self.stdout)
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        read_lossy(&self.stderr)
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    /// Waits for a line on standard output that contains `mark`; the error is what it said before it died.
    pub fn wait_for_line(&mut self, mark: &str, limit: Duration) -> Result<String, String> {
        let what = format!("{} prints {mark:?}", self.name);
        wait_for(&what, limit, || {
            // Looked at first: what it prints at its end is there when its end is seen.
            let ended = self.ended();
            let text = self.stdout();
            let complete = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
            match (complete.lines().find(|line| line.contains(mark)), ended) {
                (Some(line), _) => Some(Ok(line.to_owned())),
                (None, Some(status)) => {
                    Some(Err(format!("{} ended: {status}: {}", self.name, self.stderr())))
                }
                (None, None) => None,
            }
        })
    }

    /// Waits for its end.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("{} ends", self.name);
        wait_for(&what, limit, || self.ended())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        signal::kill(self.nix_pid(), signal)
            .unwrap_or_else(|error| panic!("{signal} to {}: {error}", self.name));
    }

    /// Stops it where it is, until SIGCONT. A thread on another CPU may run on for a moment after SIGSTOP was sent; this
    /// returns when all have stopped, or the process has ended.
    pub fn stop(&self) {
        self.signal(Signal::SIGSTOP);
        let events =
            WaitPidFlag::WSTOPPED | WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
        wait_for(&format!("{} stops", self.name), STOP_LIMIT, || {
            let status = wait::waitid(Id::Pid(self.nix_pid()), events).expect("a child can be waited for");
            (status != WaitStatus::StillAlive).then_some(())
        });
    }

    fn nix_pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.pid()).expect("pids are small"))
    }

    /// As a crash: SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().expect("a child can be killed");
        self.child.wait().expect("a killed child ends");
    }

    /// As an operator ends it: SIGTERM, then a while for an orderly end.
    pub fn terminate(&mut self, limit: Duration) -> ExitStatus {
        self.signal(Signal::SIGTERM);
        self.wait(limit)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself; a stopped one is killed as well.
        let _already_gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Prints the end of every file in `logs`, for the report of a failed test.
pub fn dump_logs(logs: &Path) {
    const LINES_MAX: usize = 60;
    let Ok(entries) = fs::read_dir(logs) else { return };
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let text = read_lossy(&path);
        let lines: Vec<&str> = text.lines().collect();
        if lines.is_empty() {
            continue;
        }
        println!("--- {} ({} lines)", path.file_name().unwrap_or_default().display(), lines.len());
        lines.iter().skip(lines.len().saturating_sub(LINES_MAX)).for_each(|line| println!("{line}"));
    }
}

fn read_lossy(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}
