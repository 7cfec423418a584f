//! One process per directory: an exclusive flock on `lock`. The kernel drops it with the process, however
//! that ends. The holder's pid stands in the file for the message that a second process prints.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, Write};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

use super::error::StoreError;
use super::superblock;

pub(super) const FILE_NAME: &str = "lock";

/// Held until dropped.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: Flock<File>,
}

impl DirectoryLock {
    /// Locks a brick's directory, or says who has it. Nothing is created in what isn't a brick.
    pub(super) fn acquire(directory: &Path) -> Result<DirectoryLock, StoreError> {
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
                Ok(DirectoryLock { _file: file })
            }
            Err((file, Errno::EWOULDBLOCK)) => {
                let pid = read_pid(file);
                Err(StoreError::Locked { path: directory.to_owned(), pid })
            }
            Err((_, errno)) => Err(StoreError::io("lock", path)(errno.into())),
        }
    }
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
