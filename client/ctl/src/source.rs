//! A disk image to import: raw or qcow2, seen as extents of data and zeroes.
//!
//! Zeroes are found without reading them: a raw file is asked for its holes, a qcow2 for its mapping.
//! A file system that doesn't know its holes reports everything as data, which is correct and slow.
//!
//! Assumptions: nobody writes to the image meanwhile (a running virtual machine's disk gives a torn
//! copy); a file that shrinks is an error, not a panic. A qcow2 is trusted as far as qemu-img trusts
//! it: backing files and external data files it names are opened, with the operator's rights.

mod qcow2;
mod raw;

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use qcow2::Qcow2Image;
use raw::RawImage;

/// First bytes of a qcow2 (and of its unsupported ancestor, qcow).
const QCOW_MAGIC: [u8; 4] = *b"QFI\xfb";
/// Formats that must not be imported as if they were raw by accident: offset, magic, name.
const FOREIGN_MAGICS: [(usize, &[u8], &str); 6] = [
    (0, b"KDMV", "VMDK"),
    (0, b"# Disk DescriptorFile", "VMDK"),
    (0, b"vhdxfile", "VHDX"),
    (0, b"conectix", "VHD"),
    (64, &[0x7f, 0x10, 0xda, 0xbe], "VDI"),
    (0, b"QED\0", "QED"),
];
/// Enough of a file to recognise its format.
const PROBE_BYTES: usize = 72;

/// How an image's bytes are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SourceFormat {
    /// Byte for byte.
    Raw,
    /// QEMU's format, versions 2 and 3.
    Qcow2,
}

/// What an extent holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExtentKind {
    /// Must be read.
    Data,
    /// Reads as zeroes; needs no reading.
    Zero,
}

/// A run of bytes of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceExtent {
    /// Where it starts.
    pub offset_bytes: u64,
    /// Never zero.
    pub length_bytes: u64,
    /// What it holds.
    pub kind: ExtentKind,
}

/// Why an image can't be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file can't be opened.
    #[error("{}: cannot open the image: {source}", path.display())]
    Open {
        /// The image.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Directories, sockets and the like.
    #[error("{}: neither a file nor a block device; name the image itself", path.display())]
    NotAnImage {
        /// The thing.
        path: PathBuf,
    },
    /// `--format qcow2` for something else.
    #[error("{}: not a qcow2 image; leave --format away to have the format recognised", path.display())]
    NotQcow2 {
        /// The image.
        path: PathBuf,
    },
    /// A format we recognise and can't read.
    #[error(
        "{}: this is a {format} image, which can't be read; convert it first (qemu-img convert -O qcow2), \
         or say --format raw to import its bytes as they are",
        path.display()
    )]
    ForeignFormat {
        /// The image.
        path: PathBuf,
        /// Its format.
        format: &'static str,
    },
    /// A qcow2 that can't be used: damaged, encrypted, or with a missing backing file.
    #[error("{}: cannot use this qcow2 image: {source}; try qemu-img info --backing-chain on it", path.display())]
    Qcow2 {
        /// The image.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Reading failed later.
    #[error("{}: cannot read {length} bytes at {offset_bytes}: {source}", path.display())]
    Read {
        /// The image.
        path: PathBuf,
        /// Where.
        offset_bytes: u64,
        /// How much.
        length: u64,
        /// Why.
        source: io::Error,
    },
}

/// An open image.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    image: Image,
}

#[derive(Debug)]
enum Image {
    Raw(RawImage),
    Qcow2(Qcow2Image),
}

impl Source {
    /// Opens an image; without `format`, the first bytes decide.
    pub fn open(path: &Path, format: Option<SourceFormat>) -> Result<Self, SourceError> {
        let failed = |source| SourceError::Open { path: path.to_owned(), source };
        let file = File::open(path).map_err(failed)?;
        if !raw::is_image(&file).map_err(failed)? {
            return Err(SourceError::NotAnImage { path: path.to_owned() });
        }
        let start = first_bytes(&file).map_err(failed)?;
        let format = match format {
            Some(SourceFormat::Qcow2) if !is_qcow2(&start) => {
                return Err(SourceError::NotQcow2 { path: path.to_owned() });
            }
            Some(format) => format,
            None => recognise(path, &start)?,
        };
        let image = match format {
            SourceFormat::Raw => Image::Raw(RawImage::new(file).map_err(failed)?),
            SourceFormat::Qcow2 => {
                let image = Qcow2Image::open(path)
                    .map_err(|source| SourceError::Qcow2 { path: path.to_owned(), source })?;
                Image::Qcow2(image)
            }
        };
        Ok(Self { path: path.to_owned(), image })
    }

    /// How the image is stored.
    pub fn format(&self) -> SourceFormat {
        match self.image {
            Image::Raw(_) => SourceFormat::Raw,
            Image::Qcow2(_) => SourceFormat::Qcow2,
        }
    }

    /// The size the virtual machine sees.
    pub fn size_bytes(&self) -> u64 {
        match &self.image {
            Image::Raw(image) => image.size_bytes(),
            Image::Qcow2(image) => image.size_bytes(),
        }
    }

    /// The extent that starts at `offset_bytes`; None at the end. Neighbouring extents may be of the
    /// same kind.
    pub fn extent_at(&self, offset_bytes: u64) -> Result<Option<SourceExtent>, SourceError> {
        let remaining = self.size_bytes().saturating_sub(offset_bytes);
        if remaining == 0 {
            return Ok(None);
        }
        let found = match &self.image {
            Image::Raw(image) => image.extent_at(offset_bytes),
            Image::Qcow2(image) => image.extent_at(offset_bytes, remaining),
        };
        let (kind, length_bytes) = found.map_err(|source| self.failed(offset_bytes, remaining, source))?;
        assert!(length_bytes > 0 && length_bytes <= remaining, "an extent makes progress within the image");
        Ok(Some(SourceExtent { offset_bytes, length_bytes, kind }))
    }

    /// All extents, in order and without gaps. Ends after the first error.
    pub fn extents(&self) -> impl Iterator<Item = Result<SourceExtent, SourceError>> + '_ {
        let mut next_bytes = Some(0);
        std::iter::from_fn(move || {
            let extent = self.extent_at(next_bytes?).transpose()?;
            next_bytes = extent.as_ref().ok().map(|extent| extent.offset_bytes + extent.length_bytes);
            Some(extent)
        })
    }

    /// Fills `buffer` from `offset_bytes`; the range must lie within the image.
    pub fn read_at(&self, offset_bytes: u64, buffer: &mut [u8]) -> Result<(), SourceError> {
        let length = buffer.len() as u64;
        let end = offset_bytes.checked_add(length);
        assert!(end.is_some_and(|end| end <= self.size_bytes()), "reads stay within the image");
        let result = match &self.image {
            Image::Raw(image) => image.read_at(offset_bytes, buffer),
            Image::Qcow2(image) => image.read_at(offset_bytes, buffer),
        };
        result.map_err(|source| self.failed(offset_bytes, length, source))
    }

    fn failed(&self, offset_bytes: u64, length: u64, source: io::Error) -> SourceError {
        SourceError::Read { path: self.path.clone(), offset_bytes, length, source }
    }
}

/// The start of a file, padded with zeroes if it is short.
fn first_bytes(file: &File) -> io::Result<[u8; PROBE_BYTES]> {
    let mut bytes = [0; PROBE_BYTES];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(&mut bytes[filled..], filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}

fn is_qcow2(start: &[u8; PROBE_BYTES]) -> bool {
    start.starts_with(&QCOW_MAGIC) && matches!(start[4..8], [0, 0, 0, 2 | 3])
}

fn recognise(path: &Path, start: &[u8; PROBE_BYTES]) -> Result<SourceFormat, SourceError> {
    let foreign = |format| SourceError::ForeignFormat { path: path.to_owned(), format };
    if is_qcow2(start) {
        return Ok(SourceFormat::Qcow2);
    }
    if start.starts_with(&QCOW_MAGIC) {
        return Err(foreign("qcow (version 1) or unknown qcow"));
    }
    match FOREIGN_MAGICS.iter().find(|(at, magic, _)| start[*at..].starts_with(magic)) {
        Some((_, _, name)) => Err(foreign(name)),
        None => Ok(SourceFormat::Raw),
    }
}

#[cfg(test)]
mod tests;
