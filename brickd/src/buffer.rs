//! The pool of aligned memory that payloads live in from socket to disk.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::ptr::NonNull;
use std::rc::Rc;

use brick_wire::limits::BLOCK_SIZE;

/// A bounded amount of block-aligned memory, of one core.
#[derive(Clone, Debug)]
pub struct Pool {
    free_bytes: Rc<Cell<usize>>,
}

impl Pool {
    /// A pool of `bytes`.
    pub fn new(bytes: usize) -> Pool {
        Pool { free_bytes: Rc::new(Cell::new(bytes)) }
    }

    /// Memory for `bytes` (whole blocks, at least one); `None` when the pool is exhausted.
    pub fn allocate(&self, bytes: usize) -> Option<Buffer> {
        assert!(bytes > 0 && bytes.is_multiple_of(BLOCK_SIZE));
        self.free_bytes.set(self.free_bytes.get().checked_sub(bytes)?);
        // SAFETY: the layout has a non-zero size, asserted above.
        let memory = NonNull::new(unsafe { alloc_zeroed(layout(bytes)) }).expect("memory");
        Some(Buffer { memory, bytes, pool: self.clone() })
    }
}

/// Memory from a [`Pool`], given back when dropped.
#[derive(Debug)]
pub struct Buffer {
    memory: NonNull<u8>,
    bytes: usize,
    pool: Pool,
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: `memory` is valid for `bytes` bytes and initialised since `allocate`.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.bytes) }
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` is the only reference.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_ptr(), self.bytes) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.pool.free_bytes.set(self.pool.free_bytes.get() + self.bytes);
        // SAFETY: allocated in `allocate` with the same layout, and dropped once.
        unsafe { dealloc(self.memory.as_ptr(), layout(self.bytes)) }
    }
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, BLOCK_SIZE).expect("a block is a power of two")
}
