//! A block for O_DIRECT in memory that a runtime may own: it starts on a page within a larger allocation.
//!
//! `monoio` takes boxed slices, because it shortens a `Vec` to what was read; `tokio-uring` takes `Vec`s.

use std::ops::{DerefMut, Range};

/// Memory whose used part starts on a page. The allocation isn't replaced, so it stays there.
#[derive(Debug)]
pub(super) struct AlignedBlock<B> {
    /// `None` while a runtime has it.
    memory: Option<B>,
    start: usize,
    length: usize,
}

impl<B: From<Vec<u8>> + DerefMut<Target = [u8]>> AlignedBlock<B> {
    /// Room for so many bytes.
    pub fn new(length: usize) -> AlignedBlock<B> {
        let memory = B::from(vec![0; length + PAGE_BYTES]);
        let address = memory.as_ptr().addr();
        AlignedBlock { start: address.next_multiple_of(PAGE_BYTES) - address, memory: Some(memory), length }
    }

    /// Its first bytes.
    pub fn bytes(&mut self, length: usize) -> &mut [u8] {
        let range = self.range(length);
        &mut self.memory.as_mut().expect("nothing is in flight")[range]
    }

    /// The memory for a request, and the part of it to be used.
    pub fn lend(&mut self, length: usize) -> (B, Range<usize>) {
        (self.memory.take().expect("nothing is in flight"), self.range(length))
    }

    /// The request ended.
    pub fn give_back(&mut self, memory: B) {
        self.memory = Some(memory);
    }

    fn range(&self, length: usize) -> Range<usize> {
        assert!(length <= self.length, "{length} bytes of {}", self.length);
        self.start..self.start + length
    }
}

/// Smallest page: what any device is satisfied with as alignment.
const PAGE_BYTES: usize = 4096;
