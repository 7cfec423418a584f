//! What a block holds: two tags, one per half, that name the writes whose bytes they are.
//!
//! All eight-byte words of a half are its tag. That makes 4096 bytes as good as 16 for the disk and the
//! checker, while the bytes on the wire are real: checksums and hashes are of all of them.

use brick_wire::limits::BLOCK_SIZE;
use bytes::Bytes;

/// The write a half's bytes came from; zero for never written.
pub type Tag = u64;

/// The two halves of a block.
pub type Content = [Tag; 2];

/// Bytes of one half.
pub const HALF_BYTES: usize = BLOCK_SIZE / 2;

/// Fills a block with its content.
pub fn fill(block: &mut [u8], content: Content) {
    assert_eq!(block.len(), BLOCK_SIZE);
    for (half, tag) in block.chunks_exact_mut(HALF_BYTES).zip(content) {
        if tag == 0 {
            half.fill(0);
            continue;
        }
        half[..8].copy_from_slice(&tag.to_le_bytes());
        let mut filled = 8;
        while filled < HALF_BYTES {
            let (done, rest) = half.split_at_mut(filled);
            let count = filled.min(rest.len());
            rest[..count].copy_from_slice(&done[..count]);
            filled += count;
        }
    }
}

/// The content of a block; `None` if a half isn't the work of one write.
pub fn read(block: &[u8]) -> Option<Content> {
    assert_eq!(block.len(), BLOCK_SIZE);
    let mut content = [0; 2];
    for (half, tag) in block.chunks_exact(HALF_BYTES).zip(&mut content) {
        // Every word equals the one before it: one comparison of memory.
        if half[8..] != half[..HALF_BYTES - 8] {
            return None;
        }
        *tag = u64::from_le_bytes(half[..8].try_into().expect("8 bytes"));
    }
    Some(content)
}

/// The bytes of consecutive blocks.
pub fn blocks(contents: &[Content]) -> Bytes {
    let mut bytes = vec![0; contents.len() * BLOCK_SIZE];
    for (block, content) in bytes.chunks_exact_mut(BLOCK_SIZE).zip(contents) {
        fill(block, *content);
    }
    Bytes::from(bytes)
}

/// The bytes of one half.
pub fn half(tag: Tag) -> Bytes {
    blocks(&[[tag; 2]]).slice(..HALF_BYTES)
}
