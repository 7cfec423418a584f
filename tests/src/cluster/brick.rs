//! A brick of a test: a directory, an address that survives restarts, and a process now and then.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;
use uuid::Uuid;

use super::command::{brickd, run};
use super::process::Process;

/// Longest time for a start or an orderly stop, on a machine that does much else.
const LIMIT: Duration = Duration::from_secs(60);
/// How many ports are tried for a new brick.
const PORT_ATTEMPTS_MAX: u32 = 50;

/// A brick.
#[derive(Debug)]
pub struct Brick {
    /// `data` or `arbiter`.
    pub role: &'static str,
    /// Where it keeps what it keeps.
    pub directory: PathBuf,
    name: String,
    port: u16,
    logs: PathBuf,
    arguments: Vec<String>,
    /// The boot that it believes in, if it isn't the machine's.
    boot: Option<Uuid>,
    process: Option<Process>,
}

impl Brick {
    /// Formats `directory` and starts a brick on it, on a port of its own.
    pub fn create(
        name: &str,
        role: &'static str,
        directory: PathBuf,
        logs: &Path,
        arguments: &[String],
        boot: Option<Uuid>,
    ) -> Brick {
        run(brickd().args(["format", "--lanes", "8", "--role", role, "--dir"]).arg(&directory)).ok();
        let mut brick = Brick {
            role,
            directory,
            name: name.to_owned(),
            port: 0,
            logs: logs.to_path_buf(),
            arguments: arguments.to_vec(),
            boot,
            process: None,
        };
        for _ in 0..PORT_ATTEMPTS_MAX {
            brick.port = free_port();
            match brick.try_start() {
                Ok(()) => return brick,
                // Somebody else took the port since it was probed.
                Err(reason) if reason.contains("in use") => {}
                Err(reason) => panic!("{reason}"),
            }
        }
        panic!("no free port in {PORT_ATTEMPTS_MAX} attempts");
    }

    /// Where clients find it.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The running process.
    #[track_caller]
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the brick runs")
    }

    /// Starts it again, where it was.
    #[track_caller]
    pub fn start(&mut self) {
        self.try_start().unwrap_or_else(|reason| panic!("{reason}"));
    }

    fn try_start(&mut self) -> Result<(), String> {
        let mut command = match self.boot {
            None => brickd(),
            Some(boot) => booted(boot, &self.logs.join(format!("{}.boot", self.name))),
        };
        command
            .args(["run", "--listen", &self.address(), "--dir"])
            .arg(&self.directory)
            .args(&self.arguments);
        self.launch(command)
    }

    fn launch(&mut self, command: Command) -> Result<(), String> {
        assert!(self.process.is_none(), "it runs already");
        let mut process = Process::spawn(command, &self.name, &self.logs);
        process.wait_for_line("serving", LIMIT)?;
        self.process = Some(process);
        Ok(())
    }

    /// Starts it again, in a process that counts what its core allocates and tells whoever connects to `counts`.
    #[track_caller]
    pub fn start_counting(&mut self, counts: &Path) {
        let mut command = Command::new(super::command::binary("brick-counting-brick"));
        command.args(["--listen", &self.address(), "--dir"]).arg(&self.directory).arg("--counts").arg(counts);
        self.launch(command).unwrap_or_else(|reason| panic!("{reason}"));
    }

    /// From its next start on it finds another boot id, as after a reboot of its machine.
    pub fn set_boot(&mut self, boot: Uuid) {
        self.boot = Some(boot);
    }

    /// Another disk at the same address: formats `directory` and serves that from now on.
    #[track_caller]
    pub fn start_empty(&mut self, directory: PathBuf) {
        assert!(self.process.is_none(), "it is stopped");
        run(brickd().args(["format", "--lanes", "8", "--role", self.role, "--dir"]).arg(&directory)).ok();
        self.directory = directory;
        self.start();
    }

    /// As a crash.
    #[track_caller]
    pub fn kill(&mut self) {
        self.process.take().expect("the brick runs").kill();
    }

    /// As an operator stops it; it must end well.
    #[track_caller]
    pub fn stop(&mut self) {
        let mut process = self.process.take().expect("the brick runs");
        let status: ExitStatus = process.terminate(LIMIT);
        assert!(status.success(), "{}: {status}: {}", self.name, process.stderr());
    }

    /// It falls silent, its connections stay: SIGSTOP. Returns when none of its threads runs any more.
    #[track_caller]
    pub fn pause(&mut self) {
        self.process().stop();
    }

    /// Ends a pause.
    #[track_caller]
    pub fn resume(&mut self) {
        self.process().signal(Signal::SIGCONT);
    }

    /// Whether its process runs.
    pub fn is_running(&mut self) -> bool {
        self.process.as_mut().is_some_and(|process| process.ended().is_none())
    }

    /// Swaps the directories of two stopped bricks, as a mistaken operator would.
    pub fn swap_directories(&mut self, other: &mut Brick) {
        assert!(self.process.is_none() && other.process.is_none(), "both are stopped");
        std::mem::swap(&mut self.directory, &mut other.directory);
    }
}

/// `brickd` in a mount namespace of its own, in which `file` lies in front of the kernel's boot id. Needs root.
fn booted(boot: Uuid, file: &Path) -> Command {
    std::fs::write(file, format!("{boot}\n")).expect("a file beside the logs");
    let mut command = Command::new("unshare");
    let script = r#"mount --bind "$0" /proc/sys/kernel/random/boot_id && exec "$@""#;
    // One process after the other, all with the same id.
    command.args(["--mount", "--propagation", "private", "sh", "-c", script]).arg(file);
    command.arg(brickd().get_program());
    command
}

/// A port that nobody listens on. Below the range from which the kernel gives ports to clients: a client
/// that reconnects to a dead brick must not be given the brick's port as its own.
pub fn free_port() -> u16 {
    const FIRST: u16 = 11_000;
    const COUNT: u16 = 20_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in 0..COUNT {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let start = (std::process::id() % 1000) as u16 * 20;
        let port = FIRST + (start.wrapping_add(number)) % COUNT;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
    panic!("no free port");
}
