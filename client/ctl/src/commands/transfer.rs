//! `image import` and `image export`: files in and out, holes kept, several requests in flight.

use std::collections::VecDeque;
use std::path::Path;

use brick_client::{CreateOptions, Image, ImageError, ImageName, OpenOptions, Volume, VolumeError};
use brickctl::sink::Sink;
use brickctl::source::{ExtentKind, Source, SourceFormat};
use bytes::Bytes;
use indicatif::ProgressBar;
use monoio::task::JoinHandle;

use crate::error::Error;
use crate::output::{byte_bar, bytes};

/// Bytes of one request.
const CHUNK_BYTES: usize = 1024 * 1024;
/// Requests in flight.
const DEPTH: usize = 8;
/// An image's size is a multiple of this.
const BLOCK_BYTES: u64 = 4096;

/// How to import.
pub struct ImportOptions {
    pub format: Option<SourceFormat>,
    pub overwrite: bool,
    pub shard_shift: u8,
    pub takeover: bool,
}

pub async fn import(
    volume: &Volume,
    file: &Path,
    name: &ImageName,
    options: ImportOptions,
) -> Result<(), Error> {
    let source = Source::open(file, options.format)?;
    if source.size_bytes() == 0 {
        return Err(Error::EmptySource(file.to_path_buf()));
    }
    let size_bytes = source.size_bytes().next_multiple_of(BLOCK_BYTES);
    let existing = match volume.stat_image(name).await {
        Ok(info) => Some(info),
        Err(VolumeError::UnknownImage(_)) => None,
        Err(error) => return Err(error.into()),
    };
    match &existing {
        Some(info) if info.size_bytes < size_bytes => {
            return Err(Error::TooLarge {
                path: file.to_path_buf(),
                source_bytes: source.size_bytes(),
                name: name.to_string(),
                image_bytes: info.size_bytes,
            });
        }
        Some(_) => {}
        None => {
            let create = CreateOptions { size_bytes, shard_shift: options.shard_shift };
            volume.create_image(name, create).await?;
        }
    }
    let open = OpenOptions { takeover: options.takeover, ..OpenOptions::default() };
    let image = volume.open_image(name, open).await?;
    let result = fill(&image, &source, name, options.overwrite).await;
    let closed = image.close().await.map_err(|source| image_error(name, source));
    let copied = result?;
    closed?;
    println!("imported {} into image {name}: {} of data", file.display(), bytes(copied));
    Ok(())
}

/// Copies the source's data; what it doesn't hold must read as zeros afterwards.
async fn fill(image: &Image, source: &Source, name: &ImageName, overwrite: bool) -> Result<u64, Error> {
    let holds_data = |error| image_error(name, error);
    let extents = image.block_status(0, image.size_bytes()).await.map_err(holds_data)?;
    if !overwrite && extents.iter().any(|extent| extent.allocated) {
        return Err(Error::HoldsData(name.to_string()));
    }
    let bar = byte_bar(source.size_bytes(), format!("importing {name}"));
    let mut writes = Pipeline::new(name);
    let mut copied = 0;
    for extent in source.extents() {
        let extent = extent?;
        if extent.kind == ExtentKind::Zero {
            // Never-written ranges read as zeros; only what was there before has to go.
            let (at, length) = (extent.offset_bytes, extent.length_bytes);
            image.write_zeroes(at, length, false, false).await.map_err(|error| image_error(name, error))?;
        } else {
            copied += extent.length_bytes;
            copy_extent(image, source, extent.offset_bytes, extent.length_bytes, &mut writes, &bar).await?;
        }
        bar.set_position(extent.offset_bytes + extent.length_bytes);
    }
    writes.finish().await?;
    let tail = image.size_bytes() - source.size_bytes();
    image
        .write_zeroes(source.size_bytes(), tail, false, false)
        .await
        .map_err(|error| image_error(name, error))?;
    image.flush().await.map_err(|error| image_error(name, error))?;
    bar.finish_and_clear();
    Ok(copied)
}

async fn copy_extent(
    image: &Image,
    source: &Source,
    offset_bytes: u64,
    length_bytes: u64,
    writes: &mut Pipeline<'_, ()>,
    bar: &ProgressBar,
) -> Result<(), Error> {
    let end = offset_bytes + length_bytes;
    let mut at = offset_bytes;
    while at < end {
        // Chunks end on multiples of their size, so that all but the first and last are aligned.
        let boundary = (at / CHUNK_BYTES as u64 + 1) * CHUNK_BYTES as u64;
        let length = boundary.min(end) - at;
        let mut chunk = vec![0; length as usize];
        source.read_at(at, &mut chunk)?;
        let image = image.clone();
        let write = async move { image.write_at(at, Bytes::from(chunk), false).await };
        writes.push(monoio::spawn(write)).await?;
        at += length;
        bar.set_position(at);
    }
    Ok(())
}

pub async fn export(
    volume: &Volume,
    name: &ImageName,
    file: &Path,
    force: bool,
    takeover: bool,
) -> Result<(), Error> {
    let image =
        volume.open_image(name, OpenOptions { read_only: true, takeover, ..OpenOptions::default() }).await?;
    let result = drain(&image, name, file, force).await;
    let closed = image.close().await.map_err(|source| image_error(name, source));
    let copied = result?;
    closed?;
    println!(
        "exported image {name} to {}: {} of {} read",
        file.display(),
        bytes(copied),
        bytes(image.size_bytes())
    );
    Ok(())
}

/// Copies every allocated range into a sparse file.
async fn drain(image: &Image, name: &ImageName, file: &Path, force: bool) -> Result<u64, Error> {
    let failed = |error| image_error(name, error);
    let sink = Sink::create(file, image.size_bytes(), force)?;
    let bar = byte_bar(image.size_bytes(), format!("exporting {name}"));
    let mut reads = Pipeline::new(name);
    let mut offsets = VecDeque::new();
    let (mut at, mut copied) = (0, 0);
    for extent in image.block_status(0, image.size_bytes()).await.map_err(failed)? {
        let end = at + extent.length_bytes;
        while extent.allocated && at < end {
            let length = (end - at).min(CHUNK_BYTES as u64);
            let image = image.clone();
            let read = monoio::spawn(async move { image.read_at(at, length as usize).await });
            offsets.push_back(at);
            if let Some(data) = reads.push(read).await? {
                sink.write_at(offsets.pop_front().expect("one per read"), &data)?;
            }
            at += length;
            copied += length;
            bar.set_position(at);
        }
        at = end;
    }
    while let Some(data) = reads.pop().await? {
        sink.write_at(offsets.pop_front().expect("one per read"), &data)?;
    }
    sink.finish()?;
    bar.finish_and_clear();
    Ok(copied)
}

/// Up to [`DEPTH`] requests in flight, answered in order.
struct Pipeline<'a, T> {
    name: &'a ImageName,
    tasks: VecDeque<JoinHandle<Result<T, ImageError>>>,
}

impl<'a, T> Pipeline<'a, T> {
    fn new(name: &'a ImageName) -> Pipeline<'a, T> {
        Pipeline { name, tasks: VecDeque::new() }
    }

    /// Adds a request; waits for the oldest if there are enough.
    async fn push(&mut self, task: JoinHandle<Result<T, ImageError>>) -> Result<Option<T>, Error> {
        self.tasks.push_back(task);
        if self.tasks.len() < DEPTH { Ok(None) } else { self.pop().await }
    }

    /// Waits for the oldest request.
    async fn pop(&mut self) -> Result<Option<T>, Error> {
        match self.tasks.pop_front() {
            Some(task) => task.await.map(Some).map_err(|error| image_error(self.name, error)),
            None => Ok(None),
        }
    }

    /// Waits for all.
    async fn finish(&mut self) -> Result<(), Error> {
        while self.pop().await?.is_some() {}
        Ok(())
    }
}

fn image_error(name: &ImageName, source: ImageError) -> Error {
    Error::Image { name: name.to_string(), source }
}
