//! What becomes of memory that held a large request: it is kept for the next one.

/// Tells glibc's allocator to keep memory that is freed, for the whole process. By default a buffer of a
/// mebibyte goes back to the kernel when it is freed and costs 256 page faults when it is needed again: half of a client's
/// processor time in large reads (1 MiB at a time, 8 in flight: 330 us each without, 175 with). For programs whose main
/// business is an image; nothing happens with another allocator.
pub fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    for (option, value) in [
        // So much free memory at the end of the heap goes back to the kernel.
        (libc::M_TRIM_THRESHOLD, 64 << 20),
        // From this size on the kernel is asked for memory for one block; the most that glibc allows.
        (libc::M_MMAP_THRESHOLD, 32 << 20),
    ] {
        // SAFETY: mallopt takes the allocator's lock and only changes numbers that later calls look at; these are options
        // of every version of glibc.
        let is_known = unsafe { libc::mallopt(option, value) };
        debug_assert_eq!(is_known, 1);
    }
}
