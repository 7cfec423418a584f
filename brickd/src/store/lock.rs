//! One process per directory: an exclusive flock on `lock`. The kernel drops it when the last reference to
//! the open file goes, however the process ends. The holder's pid stands in the file for the message that a
//! second process prints.
//!
//! Every ring of the reactor holds such a reference ([`DirectoryLock::share`]). A killed process's rings are
//! dismantled after its end is reported, and writes in flight may land until then: a successor that took
//! the lock earlier could be overtaken by them (rule I13). So it waits while the holder's pid is nobody's.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::kill;
use nix::unistd::Pid;

use super::error::StoreError;
use super::superblock;

pub(super) const FILE_NAME: &str = "lock";

/// How long a dead process's rings may take to end.
const REMAINS_TIMEOUT: Duration = Duration::from_secs(10);
/// How often that is looked at.
const REMAINS_PAUSE: Duration = Duration::from_millis(10);

/// Held until dropped.
#[derive(Debug)]
pub struct DirectoryLock {
    file: Flock<File>,
}

impl DirectoryLock {
    /// Locks a brick's directory, or says who has it. Nothing is created in what isn't a brick.
    pub(super) fn acquire(directory: &Path) -> Result<DirectoryLock, StoreError> {
        let give_up_at = Instant::now() + REMAINS_TIMEOUT;
        loop {
            match DirectoryLock::try_acquire(directory) {
                Err(StoreError::Locked { pid, .. }) if is_dead(&pid) && Instant::now() < give_up_at => {
                    std::thread::sleep(REMAINS_PAUSE);
                }
                result => return result,
            }
        }
    }

    /// Another reference: the directory stays locked while it is open, even if the process is killed.
    pub fn share(&self) -> std::io::Result<OwnedFd> {
        self.file.try_clone().map(OwnedFd::from)
    }

    fn try_acquire(directory: &Path) -> Result<DirectoryLock, StoreError> {
        let path = directory.join(FILE_NAME);
        let is_brick = directory.join(superblock::FILE_NAME).exists();
        let opened = File::options().read(true).write(true).create(is_brick).truncate(false).open(&path);
        let file = match opened {
            Ok(file) => file,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {
                let path = directory.to_owned();
                let exists = directory.is_dir();
                return Err(if exists {
                    StoreError::NotFormatted { path }
                } else {
                    StoreError::Missing { path }
                });
            }
            Err(source) => return Err(StoreError::io("open", path)(source)),
        };
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                write_pid(&mut file).map_err(StoreError::io("write", &path))?;
                Ok(DirectoryLock { file })
            }
            Err((file, Errno::EWOULDBLOCK)) => {
                let pid = read_pid(file);
                Err(StoreError::Locked { path: directory.to_owned(), pid })
            }
            Err((_, errno)) => Err(StoreError::io("lock", path)(errno.into())),
        }
    }
}

/// Whether the pid in the lock file is that of a process that is gone.
fn is_dead(pid: &str) -> bool {
    pid.parse().is_ok_and(|pid| kill(Pid::from_raw(pid), None) == Err(Errno::ESRCH))
}

fn write_pid(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn read_pid(file: File) -> String {
    let mut text = String::new();
    match file.take(32).read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => text.trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}
