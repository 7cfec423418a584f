//! An image as the NBD server wants it.

use brick_client::replica::GroupError;
use brick_client::{Image, ImageError};
use brick_nbd::{BlockDevice, DeviceError, Extent};
use bytes::Bytes;

/// Exports an image.
pub struct ImageDevice(pub Image);

impl BlockDevice for ImageDevice {
    fn size_bytes(&self) -> u64 {
        self.0.size_bytes()
    }

    fn read_only(&self) -> bool {
        self.0.read_only()
    }

    async fn read(&self, offset_bytes: u64, length: usize) -> Result<Bytes, DeviceError> {
        self.0.read_at(offset_bytes, length).await.map_err(device_error)
    }

    async fn write(&self, offset_bytes: u64, data: Bytes, fua: bool) -> Result<(), DeviceError> {
        self.0.write_at(offset_bytes, data, fua).await.map_err(device_error)
    }

    async fn write_zeroes(
        &self,
        offset_bytes: u64,
        length: u64,
        fua: bool,
        may_unmap: bool,
    ) -> Result<(), DeviceError> {
        self.0.write_zeroes(offset_bytes, length, fua, !may_unmap).await.map_err(device_error)
    }

    async fn trim(&self, offset_bytes: u64, length: u64, fua: bool) -> Result<(), DeviceError> {
        self.0.discard(offset_bytes, length).await.map_err(device_error)?;
        if fua { self.flush().await } else { Ok(()) }
    }

    async fn flush(&self) -> Result<(), DeviceError> {
        self.0.flush().await.map_err(device_error)
    }

    async fn block_status(&self, offset_bytes: u64, length: u64) -> Result<Vec<Extent>, DeviceError> {
        let extents = self.0.block_status(offset_bytes, length).await.map_err(device_error)?;
        let extent = |extent: brick_client::Extent| Extent {
            length_bytes: extent.length_bytes,
            allocated: extent.allocated,
        };
        Ok(extents.into_iter().map(extent).collect())
    }
}

fn device_error(error: ImageError) -> DeviceError {
    match error {
        ImageError::OutOfRange { .. } => DeviceError::Invalid,
        ImageError::ReadOnly => DeviceError::ReadOnly,
        ImageError::Group(GroupError::NoSpace) => DeviceError::NoSpace,
        ImageError::Group(GroupError::Fenced { .. } | GroupError::Closed | GroupError::LostWrites) => {
            DeviceError::Shutdown
        }
        ImageError::Group(error) => {
            tracing::warn!(%error, "I/O error");
            DeviceError::Io
        }
    }
}
