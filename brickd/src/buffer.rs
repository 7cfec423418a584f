//! The pool of aligned memory that payloads live in from socket to disk.
//!
//! One region per core, on 2 MiB pages where the kernel has them, registered with that core's ring as
//! buffer 0 and cut by a buddy allocator into slots of 4 KiB to 1 MiB. Nothing here is shared between
//! threads. A [`Buffer`] keeps the region alive, so an operation in flight may outlive the [`Pool`].
//!
//! Invariants: slots in use never overlap; the whole region is initialised (the kernel hands out zeros)
//! but a slot is not zeroed anew: whoever allocates it fills all of it before showing it to a peer.

mod buddy;

use std::cell::RefCell;
use std::ffi::c_void;
use std::fmt;
use std::num::NonZeroUsize;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::rc::Rc;

use brick_wire::limits::{BLOCK_SHIFT, BLOCK_SIZE, DATA_BYTES_MAX};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

use buddy::{Buddy, ORDER_MAX};

/// A bounded amount of block-aligned memory, of one core.
#[derive(Clone, Debug)]
pub struct Pool {
    region: Rc<Region>,
}

impl Pool {
    /// A pool of `bytes` (whole blocks, at least one). Panics when the machine has no address space left;
    /// see [`Pool::try_new`].
    pub fn new(bytes: usize) -> Pool {
        Pool::try_new(bytes).expect("memory for the buffer pool")
    }

    /// A pool of `bytes` (whole blocks, at least one).
    pub fn try_new(bytes: usize) -> nix::Result<Pool> {
        assert!(bytes > 0 && bytes.is_multiple_of(BLOCK_SIZE), "a pool of {bytes} bytes");
        Ok(Pool { region: Rc::new(Region::new(bytes)?) })
    }

    /// Memory for `bytes` (whole blocks, at least one, at most [`DATA_BYTES_MAX`]); `None` when no slot
    /// of that size is free. Its content is whatever the slot held before.
    pub fn allocate(&self, bytes: usize) -> Option<Buffer> {
        assert!(bytes > 0 && bytes.is_multiple_of(BLOCK_SIZE) && bytes <= DATA_BYTES_MAX);
        let block = self.region.slots.borrow_mut().allocate(order_of(bytes))?;
        // SAFETY: the allocator only hands out blocks below the region's count, so the slot's start lies
        // inside the mapping.
        let memory = unsafe { self.region.memory.add(block << BLOCK_SHIFT) };
        Some(Buffer { slot: memory, order: order_of(bytes), memory, bytes, region: self.region.clone() })
    }

    /// Where the pool's memory is, for registration with a ring: start and length in bytes. Valid as long
    /// as the pool or a buffer of it lives.
    pub fn region(&self) -> (NonNull<u8>, usize) {
        (self.region.memory, self.region.bytes)
    }

    /// Bytes in free slots.
    pub fn free_bytes(&self) -> usize {
        self.region.slots.borrow().free_blocks() << BLOCK_SHIFT
    }
}

/// Memory from a [`Pool`], given back when dropped.
pub struct Buffer {
    /// Where the slot begins, and its size: 2^order blocks.
    slot: NonNull<u8>,
    order: usize,
    /// What is to be seen of it.
    memory: NonNull<u8>,
    bytes: usize,
    region: Rc<Region>,
}

impl Buffer {
    /// Shows another part of the slot (whole blocks, at least one; offset from the slot's start), content unchanged.
    pub fn select(&mut self, offset_bytes: usize, bytes: usize) {
        assert!(offset_bytes.is_multiple_of(BLOCK_SIZE) && bytes.is_multiple_of(BLOCK_SIZE) && bytes > 0);
        assert!(offset_bytes + bytes <= BLOCK_SIZE << self.order, "a part lies in its slot");
        // SAFETY: the offset is below the size of the slot, which lies inside the mapping.
        self.memory = unsafe { self.slot.add(offset_bytes) };
        self.bytes = bytes;
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the slot is inside the mapping, which `region` keeps alive and which was zero-filled by
        // the kernel; the slot belongs to this buffer alone until it is dropped.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.bytes) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `deref`, and `&mut self` is the only reference to the slot.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr(), self.bytes) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let offset = self.slot.as_ptr() as usize - self.region.memory.as_ptr() as usize;
        self.region.slots.borrow_mut().release(offset >> BLOCK_SHIFT, self.order);
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.bytes)
    }
}

/// The memory and what of it is free.
struct Region {
    /// What was mapped: one huge page more than asked, to find an aligned start in it.
    mapping: NonNull<c_void>,
    mapping_bytes: usize,
    memory: NonNull<u8>,
    bytes: usize,
    slots: RefCell<Buddy>,
}

impl Region {
    fn new(bytes: usize) -> nix::Result<Region> {
        let mapping_bytes = bytes + HUGE_PAGE_BYTES;
        let length = NonZeroUsize::new(mapping_bytes).expect("at least a huge page");
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a private anonymous mapping at an address of the kernel's choice touches no other memory.
        let mapping = unsafe { mmap_anonymous(None, length, access, MapFlags::MAP_PRIVATE)? };
        let padding = mapping.as_ptr().align_offset(HUGE_PAGE_BYTES);
        assert!(padding < HUGE_PAGE_BYTES);
        // SAFETY: `padding` is below the huge page by which the mapping is longer than `bytes`.
        let memory = unsafe { mapping.cast::<u8>().add(padding) };
        if bytes >= HUGE_PAGE_BYTES {
            // SAFETY: the range is inside our own mapping and the advice changes no content. Without
            // transparent huge pages it fails and the pool works on small ones, so the result is dropped.
            let _ = unsafe { madvise(memory.cast(), bytes, MmapAdvise::MADV_HUGEPAGE) };
        }
        let slots = RefCell::new(Buddy::new(bytes >> BLOCK_SHIFT));
        Ok(Region { mapping, mapping_bytes, memory, bytes, slots })
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: mapped in `new` with this length; every buffer holds the region, so none is left.
        let unmapped = unsafe { munmap(self.mapping, self.mapping_bytes) };
        assert!(unmapped.is_ok(), "our own mapping can be unmapped");
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Region({} bytes, {} blocks free)", self.bytes, self.slots.borrow().free_blocks())
    }
}

/// The smallest slot that holds `bytes`: 2^order blocks.
fn order_of(bytes: usize) -> usize {
    (bytes >> BLOCK_SHIFT).next_power_of_two().trailing_zeros() as usize
}

/// Size and alignment of the pages that make a registered 1 MiB write cost 9.3 us instead of 31.6
/// (FACTS: registered huge pages against registered small ones).
const HUGE_PAGE_BYTES: usize = 2 << 20;

// The largest slot holds the largest payload, and never crosses a huge page.
const _: () = assert!(BLOCK_SIZE << ORDER_MAX == DATA_BYTES_MAX);
const _: () = assert!(HUGE_PAGE_BYTES.is_multiple_of(DATA_BYTES_MAX));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_aligned_and_as_long_as_asked() {
        let pool = Pool::new(4 << 20);
        let (start, bytes) = pool.region();
        assert!((start.as_ptr() as usize).is_multiple_of(HUGE_PAGE_BYTES) && bytes == 4 << 20);
        for blocks in [1, 2, 3, 5, 8, 255, 256] {
            let buffer = pool.allocate(blocks * BLOCK_SIZE).unwrap();
            assert_eq!(buffer.len(), blocks * BLOCK_SIZE);
            assert!((buffer.as_ptr() as usize).is_multiple_of(BLOCK_SIZE));
        }
        assert_eq!(pool.free_bytes(), 4 << 20);
    }

    #[test]
    fn a_part_of_a_slot_gives_all_of_it_back() {
        let pool = Pool::new(4 << 20);
        let mut buffer = pool.allocate(3 * BLOCK_SIZE).unwrap();
        buffer[2 * BLOCK_SIZE..].fill(7);
        buffer.select(2 * BLOCK_SIZE, BLOCK_SIZE);
        assert_eq!(*buffer, [7; BLOCK_SIZE]);
        drop(buffer);
        assert_eq!(pool.free_bytes(), 4 << 20);
    }

    #[test]
    fn buffers_outlive_their_pool() {
        let pool = Pool::new(2 * BLOCK_SIZE);
        let (mut first, second) = (pool.allocate(BLOCK_SIZE).unwrap(), pool.allocate(BLOCK_SIZE).unwrap());
        assert!(pool.allocate(BLOCK_SIZE).is_none());
        drop(pool);
        first.fill(7);
        assert!(first.iter().all(|byte| *byte == 7) && second.iter().all(|byte| *byte == 0));
    }
}
