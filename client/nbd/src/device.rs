//! What the server exports: the contract between it and a device.
//!
//! The server calls a device only with ranges that lie inside `size_bytes()` as it was when the
//! request arrived, with lengths above zero, and never writes to a read-only device. It keeps many
//! calls in flight at once, for all connections; ordering overlapping ones is the device's business.

use std::future::Future;

use bytes::Bytes;

/// What is exported. Calls run concurrently; the implementation orders overlapping ones.
///
/// Because the server announces `CAN_MULTI_CONN`, a flush must cover every write that completed
/// before it, whichever connection the write came from. One device value shared by all connections
/// does that by itself.
pub trait BlockDevice: 'static {
    /// Size of the export. A client learns it once, when it connects; ranges are checked against the
    /// value at the time of each request.
    fn size_bytes(&self) -> u64;

    /// Whether writing, zeroing and trimming are refused.
    fn read_only(&self) -> bool;

    /// Reads exactly `length` bytes. Returning another number is a defect and is answered with EIO.
    fn read(&self, offset_bytes: u64, length: usize) -> impl Future<Output = Result<Bytes, DeviceError>>;

    /// Writes `data`; with `fua`, it is durable when the call completes. `data` may share its memory
    /// with payloads of neighbouring requests (up to 256 KiB stay alive with it): keep it no longer
    /// than the write takes.
    fn write(
        &self,
        offset_bytes: u64,
        data: Bytes,
        fua: bool,
    ) -> impl Future<Output = Result<(), DeviceError>>;

    /// Makes the range read as zeroes. Unless `may_unmap`, it must stay allocated. Up to 4 GiB a call.
    fn write_zeroes(
        &self,
        offset_bytes: u64,
        length: u64,
        fua: bool,
        may_unmap: bool,
    ) -> impl Future<Output = Result<(), DeviceError>>;

    /// The range is no longer needed; doing nothing is allowed. Up to 4 GiB a call.
    fn trim(
        &self,
        offset_bytes: u64,
        length: u64,
        fua: bool,
    ) -> impl Future<Output = Result<(), DeviceError>>;

    /// Makes every write that completed before this call durable.
    fn flush(&self) -> impl Future<Output = Result<(), DeviceError>>;

    /// Describes the range from its start. It may cover less than asked, but at least one extent.
    /// Extents should end on multiples of 512 bytes (or at the end of the device), because that is
    /// the minimum block size clients are told.
    fn block_status(
        &self,
        offset_bytes: u64,
        length: u64,
    ) -> impl Future<Output = Result<Vec<Extent>, DeviceError>>;
}

/// A run of bytes with one allocation state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// Bytes in this run.
    pub length_bytes: u64,
    /// False promises that the run reads as zeroes and takes no space: clients skip copying it.
    pub allocated: bool,
}

/// Why a device refused or failed a request; each has exactly one NBD error value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// No room for the data (ENOSPC).
    #[error("no space left on the device")]
    NoSpace,
    /// The data could not be read or made durable (EIO).
    #[error("input/output error")]
    Io,
    /// The device takes no writes (EPERM).
    #[error("the device is read-only")]
    ReadOnly,
    /// The device is closing, or another client has taken it over (ESHUTDOWN): nothing sent to it
    /// will ever succeed again.
    #[error("the device is shut down or was taken over by another client")]
    Shutdown,
    /// The range or the combination of flags makes no sense to the device (EINVAL).
    #[error("invalid request")]
    Invalid,
}
