//! Raw images: files with holes, or block devices.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt};

use nix::errno::Errno;
use nix::unistd::{Whence, lseek};

use super::ExtentKind;

/// A file whose bytes are the image's.
#[derive(Debug)]
pub(super) struct RawImage {
    file: File,
    size_bytes: u64,
}

/// Whether a file can hold an image at all.
pub(super) fn is_image(file: &File) -> io::Result<bool> {
    let kind = file.metadata()?.file_type();
    Ok(kind.is_file() || kind.is_block_device())
}

impl RawImage {
    pub(super) fn new(mut file: File) -> io::Result<Self> {
        // Not the metadata's length: a block device has none.
        let size_bytes = file.seek(SeekFrom::End(0))?;
        Ok(Self { file, size_bytes })
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Kind and length of the extent at `offset_bytes`, which lies before the end.
    pub(super) fn extent_at(&self, offset_bytes: u64) -> io::Result<(ExtentKind, u64)> {
        let remaining = self.size_bytes - offset_bytes;
        match self.seek(offset_bytes, Whence::SeekData)? {
            Some(data) if data > offset_bytes => Ok((ExtentKind::Zero, remaining.min(data - offset_bytes))),
            Some(_) => {
                // There is always a hole: at the end, if nowhere else. If not, the file has changed.
                let hole = self.seek(offset_bytes, Whence::SeekHole)?.unwrap_or(self.size_bytes);
                Ok((ExtentKind::Data, remaining.min(hole.saturating_sub(offset_bytes)).max(1)))
            }
            None => Ok((ExtentKind::Zero, remaining)),
        }
    }

    pub(super) fn read_at(&self, offset_bytes: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset_bytes)
    }

    /// The next data or hole; None if there is none up to the end.
    fn seek(&self, offset_bytes: u64, whence: Whence) -> io::Result<Option<u64>> {
        let start = i64::try_from(offset_bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
        match lseek(&self.file, start, whence) {
            Ok(found) => Ok(Some(found.unsigned_abs())),
            Err(Errno::ENXIO) => Ok(None),
            // Block devices and some file systems don't know: everything is data, up to the end.
            Err(Errno::EINVAL | Errno::EOPNOTSUPP) => {
                let data = matches!(whence, Whence::SeekData);
                Ok(Some(if data { offset_bytes } else { self.size_bytes }))
            }
            Err(error) => Err(error.into()),
        }
    }
}
