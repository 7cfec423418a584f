//! The on-disk format: superblock, registers, dirty maps, shard files.
