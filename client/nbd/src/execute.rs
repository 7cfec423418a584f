//! From an operation to the device and back to a reply.
//!
//! Device errors become error values here, and what a device returns is checked before it is put on
//! the wire: a client must never be able to see a defect of the device as a protocol violation.

use bytes::Bytes;

use crate::device::{BlockDevice, DeviceError, Extent};
use crate::protocol::constants::EXTENT_COUNT_MAX;
use crate::protocol::{Descriptor, ErrorCode, Operation, Reply};

/// Reads shorter than this are not searched for zeroes: the reply would hardly get shorter.
const HOLE_BYTES_MIN: usize = 4096;

impl From<DeviceError> for ErrorCode {
    fn from(error: DeviceError) -> Self {
        match error {
            DeviceError::NoSpace => Self::NoSpace,
            DeviceError::Io => Self::Io,
            DeviceError::ReadOnly => Self::Permission,
            DeviceError::Shutdown => Self::Shutdown,
            DeviceError::Invalid => Self::Invalid,
        }
    }
}

/// Carries out `operation` and returns the one reply to it.
pub(crate) async fn execute<D: BlockDevice>(
    device: &D,
    cookie: u64,
    operation: Operation,
    payload: Bytes,
    structured: bool,
) -> Reply {
    let result = match operation {
        Operation::Read { offset_bytes, length } => {
            read(device, cookie, offset_bytes, length, structured).await
        }
        Operation::BlockStatus { offset_bytes, length, one_extent } => {
            block_status(device, cookie, offset_bytes, length, one_extent).await
        }
        change => apply(device, change, payload).await.map(|()| Reply::done(cookie)),
    };
    result.unwrap_or_else(|error| Reply::failed(cookie, error.into(), structured))
}

async fn read<D: BlockDevice>(
    device: &D,
    cookie: u64,
    offset_bytes: u64,
    length: u32,
    structured: bool,
) -> Result<Reply, DeviceError> {
    let data = if length == 0 { Bytes::new() } else { device.read(offset_bytes, length as usize).await? };
    if data.len() != length as usize {
        tracing::error!("device defect: a read of {length} bytes at {offset_bytes} returned {}", data.len());
        return Err(DeviceError::Io);
    }
    if structured && data.len() >= HOLE_BYTES_MIN && is_zero(&data) {
        return Ok(Reply::hole(cookie, offset_bytes, length));
    }
    Ok(Reply::data(cookie, offset_bytes, data, structured))
}

/// Operations whose success is all there is to say.
async fn apply<D: BlockDevice>(device: &D, operation: Operation, payload: Bytes) -> Result<(), DeviceError> {
    match operation {
        // The behaviour of empty requests is unspecified, except that nobody is to be disconnected.
        Operation::Write { length: 0, .. }
        | Operation::WriteZeroes { length: 0, .. }
        | Operation::Trim { length: 0, .. } => Ok(()),
        Operation::Write { offset_bytes, fua, .. } => device.write(offset_bytes, payload, fua).await,
        Operation::WriteZeroes { offset_bytes, length, fua, may_unmap } => {
            device.write_zeroes(offset_bytes, u64::from(length), fua, may_unmap).await
        }
        Operation::Trim { offset_bytes, length, fua } => {
            device.trim(offset_bytes, u64::from(length), fua).await
        }
        Operation::Flush => device.flush().await,
        Operation::Read { .. } | Operation::BlockStatus { .. } | Operation::Disconnect => {
            unreachable!("answered elsewhere: {operation:?}")
        }
    }
}

async fn block_status<D: BlockDevice>(
    device: &D,
    cookie: u64,
    offset_bytes: u64,
    length: u32,
    one_extent: bool,
) -> Result<Reply, DeviceError> {
    let extents = device.block_status(offset_bytes, u64::from(length)).await?;
    let count_max = if one_extent { 1 } else { EXTENT_COUNT_MAX };
    let descriptors = descriptors(&extents, length, count_max);
    if descriptors.is_empty() {
        tracing::error!("device defect: no extent for {length} bytes at {offset_bytes}");
        return Err(DeviceError::Io);
    }
    Ok(Reply::block_status(cookie, &descriptors))
}

/// Extents cut to the request, neighbours of one state merged, empty ones dropped.
fn descriptors(extents: &[Extent], length: u32, count_max: usize) -> Vec<Descriptor> {
    let mut descriptors: Vec<Descriptor> = Vec::with_capacity(extents.len().min(count_max));
    let mut remaining = length;
    for extent in extents {
        // Cut to `remaining`, so it fits.
        let length = extent.length_bytes.min(u64::from(remaining)) as u32;
        if length == 0 {
            continue;
        }
        let full = descriptors.len() == count_max;
        match descriptors.last_mut() {
            Some(last) if last.allocated == extent.allocated => last.length += length,
            _ if full => break,
            _ => descriptors.push(Descriptor { length, allocated: extent.allocated }),
        }
        remaining -= length;
    }
    descriptors
}

/// Data rarely starts with many zeroes, so the first word usually decides.
fn is_zero(data: &[u8]) -> bool {
    let (words, tail) = data.as_chunks::<16>();
    words.iter().all(|word| u128::from_ne_bytes(*word) == 0) && tail.iter().all(|byte| *byte == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zeroes_are_recognised() {
        assert!(is_zero(&[]));
        assert!(is_zero(&[0; 4099]));
        for at in [0, 15, 16, 4095, 4098] {
            let mut data = [0; 4099];
            data[at] = 1;
            assert!(!is_zero(&data), "byte {at}");
        }
    }

    #[test]
    fn descriptors_are_cut_and_merged() {
        let extent = |length_bytes, allocated| Extent { length_bytes, allocated };
        let extents = [
            extent(4096, true),
            extent(4096, true),
            extent(0, false),
            extent(8192, false),
            extent(1 << 40, true),
            extent(1 << 40, false),
        ];
        let expected = [
            Descriptor { length: 8192, allocated: true },
            Descriptor { length: 8192, allocated: false },
            Descriptor { length: 1_000_000 - 16384, allocated: true },
        ];
        assert_eq!(descriptors(&extents, 1_000_000, 100), expected);
        assert_eq!(descriptors(&extents, 1_000_000, 2), expected[..2]);
        assert_eq!(
            descriptors(&extents, 1_000_000, 1),
            expected[..1],
            "merged although only one may be sent"
        );
        assert_eq!(descriptors(&[], 1_000_000, 1), []);
    }
}
