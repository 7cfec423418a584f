//! Memory for blocks in flight: one mapping, cut into slots that start on pages.

use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::ptr::NonNull;

use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};

/// Slots of page-aligned memory, initialised with zeros by the kernel.
#[derive(Debug)]
pub(super) struct Memory {
    start: NonNull<c_void>,
    slot_bytes: usize,
    slots: usize,
}

impl Memory {
    /// What `count` slots for `bytes` each occupy.
    pub fn needed_bytes(bytes: usize, count: usize) -> usize {
        bytes.next_multiple_of(PAGE_BYTES) * count
    }

    /// `count` slots for `bytes` each; neither may be 0.
    pub fn new(bytes: usize, count: usize) -> io::Result<Memory> {
        let length = NonZeroUsize::new(Memory::needed_bytes(bytes, count)).expect("slots of a size");
        let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a private anonymous mapping at an address of the kernel's choice touches no other memory.
        let start = unsafe { mmap_anonymous(None, length, access, MapFlags::MAP_PRIVATE)? };
        // SAFETY: the range is the mapping just made; the advice changes no content. Without huge pages
        // everything works, at a higher price, so a refusal is no error.
        let _advice = unsafe { madvise(start, length.get(), MmapAdvise::MADV_HUGEPAGE) };
        Ok(Memory { start, slot_bytes: bytes.next_multiple_of(PAGE_BYTES), slots: count })
    }

    /// All of it.
    pub fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: the mapping is ours alone, that long and initialised; `&mut self` makes it the only
        // reference. While the engine is set up nothing is in flight, so the kernel holds none either.
        unsafe { std::slice::from_raw_parts_mut(self.start.cast().as_ptr(), self.slot_bytes * self.slots) }
    }

    /// One slot.
    pub fn slot(&mut self, index: usize) -> &mut [u8] {
        assert!(index < self.slots, "slot {index} of {}", self.slots);
        // SAFETY: as in `bytes`, and the slot lies inside; other slots, which may be in flight, aren't part
        // of the reference.
        unsafe {
            let start: *mut u8 = self.start.cast().as_ptr();
            std::slice::from_raw_parts_mut(start.add(index * self.slot_bytes), self.slot_bytes)
        }
    }

    /// For registration with a ring.
    pub fn region(&self) -> libc::iovec {
        libc::iovec { iov_base: self.start.as_ptr(), iov_len: self.slot_bytes * self.slots }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`; no reference to it outlives `self`.
        if let Err(error) = unsafe { munmap(self.start, self.slot_bytes * self.slots) } {
            panic!("unmapping our own memory: {error}");
        }
    }
}

/// Smallest page: what any device is satisfied with as alignment.
const PAGE_BYTES: usize = 4096;
