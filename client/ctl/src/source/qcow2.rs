//! qcow2 images, read through imago.
//!
//! imago does not look at the encryption method: it would hand out ciphertext as data. So each file of
//! a backing chain is looked at here before it is used.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use imago::file::File as ImageFile;
use imago::format::gate::ImplicitOpenGate;
use imago::qcow2::Qcow2;
use imago::{FormatAccess, FormatDriverBuilder, Mapping, Storage, StorageOpenOptions};

use super::{ExtentKind, QCOW_MAGIC};

/// Where the header keeps the encryption method; zero is none.
const ENCRYPTION_OFFSET_BYTES: usize = 32;
/// Images that may stand behind each other. Ends circular chains, which would otherwise recurse until
/// the stack is used up.
const CHAIN_LENGTH_MAX: usize = 64;

/// An open qcow2 with everything it refers to.
pub(super) struct Qcow2Image {
    access: FormatAccess<ImageFile>,
}

impl fmt::Debug for Qcow2Image {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Qcow2Image").field("size_bytes", &self.size_bytes()).finish_non_exhaustive()
    }
}

impl Qcow2Image {
    /// Opens the image read-only, and its backing and data files, found relative to it.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        // The gate sees this file too.
        let image = Qcow2::<ImageFile>::builder_path(path).open(Gate { depth: 1 })?;
        Ok(Self { access: FormatAccess::new(image) })
    }

    pub(super) fn size_bytes(&self) -> u64 {
        self.access.size()
    }

    /// Kind and length of the extent at `offset_bytes`, at most `remaining`.
    pub(super) fn extent_at(&self, offset_bytes: u64, remaining: u64) -> io::Result<(ExtentKind, u64)> {
        let (mapping, length_bytes) = self.access.get_mapping(offset_bytes, remaining)?;
        let kind = match mapping {
            Mapping::Zero { .. } => ExtentKind::Zero,
            Mapping::Eof { .. } => return Err(io::ErrorKind::UnexpectedEof.into()),
            // Plain or compressed: to be read through the format.
            _ => ExtentKind::Data,
        };
        if length_bytes == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the mapping makes no progress"));
        }
        Ok((kind, length_bytes.min(remaining)))
    }

    pub(super) fn read_at(&self, offset_bytes: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.access.read(buffer, offset_bytes)
    }
}

/// Decides about files an image refers to.
struct Gate {
    /// Images opened so far in this chain.
    depth: usize,
}

impl ImplicitOpenGate<ImageFile> for Gate {
    fn open_format<B: FormatDriverBuilder<ImageFile>>(
        &mut self,
        builder: B,
    ) -> io::Result<FormatAccess<ImageFile>> {
        if self.depth == CHAIN_LENGTH_MAX {
            let message = format!("more than {CHAIN_LENGTH_MAX} images behind each other");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let image = builder.open(Gate { depth: self.depth + 1 })?;
        Ok(FormatAccess::new(image))
    }

    fn open_storage(&mut self, options: StorageOpenOptions) -> io::Result<ImageFile> {
        if let Some(path) = options.get_filename() {
            refuse_encrypted(path)?;
        }
        ImageFile::open(options)
    }
}

fn refuse_encrypted(path: &Path) -> io::Result<()> {
    let mut header = [0; ENCRYPTION_OFFSET_BYTES + 4];
    match File::open(path)?.read_exact_at(&mut header, 0) {
        Ok(()) if header.starts_with(&QCOW_MAGIC) && header[ENCRYPTION_OFFSET_BYTES..] != [0; 4] => {
            let message = format!("{} is encrypted; decrypt it with qemu-img convert", path.display());
            Err(io::Error::new(io::ErrorKind::Unsupported, message))
        }
        // Too short to be a qcow2: a raw backing or data file.
        Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error),
        _ => Ok(()),
    }
}
