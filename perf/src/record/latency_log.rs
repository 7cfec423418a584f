//! A line for each request, as `write_lat_log` of fio writes them.
//!
//! `PREFIX_lat.N.log` is fio's name for the log of the N-th job, and its lines hold time (ms since the first
//! request), latency (ns), direction, block size, offset (bytes) and priority, which is always 0. Reads are 0,
//! writes 1, 2 is fio's trim. fio writes no lines for syncs; here they are 3, as in fio's source.
//!
//! Lines of one worker are in the order of time; those of several come in chunks, each with its worker's clock.
//!
//! Recorders collect lines in chunks, and a thread writes each chunk that is full. If the disk of the log
//! doesn't keep up and [`CHUNKS_MAX`] chunks wait, the next chunk is left out, so that the log never slows
//! down what it measures; how many lines that were is said at the end.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::thread::{self, JoinHandle};

use tracing::warn;

use super::RecordError;
use crate::pattern::{Kind, Request};

/// Lines that are handed on at once.
pub const CHUNK_LINES: usize = 16 * 1024;
/// Most chunks that wait for the disk: 2^20 lines, 40 MB, some seconds of the fastest disks.
pub const CHUNKS_MAX: usize = 64;

/// One request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line {
    /// When it completed, since its worker's first request that counts.
    pub(super) time_ns: u64,
    pub(super) latency_ns: u64,
    pub(super) request: Request,
}

/// A log that is being written.
#[derive(Debug)]
pub(super) struct LatencyLog {
    path: PathBuf,
    writer: JoinHandle<io::Result<()>>,
    chunks: SyncSender<Vec<Line>>,
    left_out: Arc<AtomicU64>,
}

/// A recorder's end of it.
#[derive(Debug)]
pub(super) struct Lines {
    chunk: Vec<Line>,
    chunks: SyncSender<Vec<Line>>,
    left_out: Arc<AtomicU64>,
}

/// The file of a job, which is the N-th of its run, from 1.
pub fn path(prefix: &Path, job_number: usize) -> PathBuf {
    let mut name = prefix.as_os_str().to_owned();
    name.push(format!("_lat.{job_number}.log"));
    name.into()
}

impl LatencyLog {
    pub(super) fn create(path: PathBuf) -> Result<LatencyLog, RecordError> {
        let failed = |source| RecordError::Write { path: path.clone(), source };
        let file = BufWriter::new(File::create(&path).map_err(failed)?);
        let (chunks, received) = mpsc::sync_channel(CHUNKS_MAX);
        let writer = thread::Builder::new()
            .name("latency-log".into())
            .spawn(move || write(file, &received))
            .map_err(RecordError::Thread)?;
        Ok(LatencyLog { path, writer, chunks, left_out: Arc::default() })
    }

    /// Where one recorder puts its lines.
    pub(super) fn lines(&self) -> Lines {
        let (chunks, left_out) = (self.chunks.clone(), self.left_out.clone());
        Lines { chunk: Vec::with_capacity(CHUNK_LINES), chunks, left_out }
    }

    /// Waits until everything is written. No [`Lines`] may be left.
    pub(super) fn finish(self) -> Result<(), RecordError> {
        drop(self.chunks);
        let written = self.writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let left_out = self.left_out.load(Ordering::Relaxed);
        // Who fails to write takes nothing any more; that says it all.
        if left_out > 0 && written.is_ok() {
            warn!(
                "{}: {left_out} lines are left out, because they came faster than they could be written; \
                 put the log on another disk, or in memory",
                self.path.display()
            );
        }
        written.map_err(|source| RecordError::Write { path: self.path, source })
    }
}

impl Lines {
    pub(super) fn push(&mut self, line: Line) {
        self.chunk.push(line);
        if self.chunk.len() == CHUNK_LINES {
            let full = std::mem::replace(&mut self.chunk, Vec::with_capacity(CHUNK_LINES));
            if let Err(TrySendError::Full(lost) | TrySendError::Disconnected(lost)) =
                self.chunks.try_send(full)
            {
                self.left_out.fetch_add(lost.len() as u64, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        // The measurement is over: now it may take its time. Whoever has hung up says why himself.
        let _sent = self.chunks.send(std::mem::take(&mut self.chunk));
    }
}

fn write(mut file: impl Write, chunks: &Receiver<Vec<Line>>) -> io::Result<()> {
    for line in chunks.iter().flatten() {
        let Request { kind, offset_bytes, length_bytes } = line.request;
        let (time_ms, direction) = (line.time_ns / 1_000_000, direction(kind));
        writeln!(file, "{time_ms}, {}, {direction}, {length_bytes}, {offset_bytes}, 0", line.latency_ns)?;
    }
    file.flush()
}

fn direction(kind: Kind) -> u8 {
    match kind {
        Kind::Read => 0,
        Kind::Write => 1,
        _ => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(number: u64) -> Line {
        let request = Request { kind: Kind::Write, offset_bytes: number * 512, length_bytes: 512 };
        Line { time_ns: number * 1_000_000, latency_ns: 77, request }
    }

    #[test]
    fn lines_are_fios() {
        let directory = tempfile::tempdir().unwrap();
        let path = path(&directory.path().join("log"), 2);
        assert!(path.ends_with("log_lat.2.log"));
        let log = LatencyLog::create(path.clone()).unwrap();
        let mut lines = log.lines();
        lines.push(line(3));
        let request = Request { kind: Kind::Read, offset_bytes: 8192, length_bytes: 4096 };
        lines.push(Line { time_ns: 12_999_999, latency_ns: 136_005, request });
        lines.push(Line { time_ns: 13_000_000, latency_ns: 5, request: Request::SYNC });
        drop(lines);
        log.finish().unwrap();
        let text = std::fs::read_to_string(path).unwrap();
        assert_eq!(text, "3, 77, 1, 512, 1536, 0\n12, 136005, 0, 4096, 8192, 0\n13, 5, 3, 0, 0, 0\n");
    }

    /// A queue that nobody empties.
    #[test]
    fn what_is_too_much_is_left_out_and_counted() {
        let (chunks, received) = mpsc::sync_channel(2);
        let left_out = Arc::new(AtomicU64::new(0));
        let mut lines = Lines { chunk: Vec::new(), chunks, left_out: left_out.clone() };
        for number in 0..4 * CHUNK_LINES as u64 {
            lines.push(line(number));
        }
        assert_eq!(left_out.load(Ordering::Relaxed), 2 * CHUNK_LINES as u64);
        let rest = thread::spawn(move || drop(lines));
        let mut text = Vec::new();
        write(&mut text, &received).unwrap();
        rest.join().unwrap();
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text.lines().count(), 2 * CHUNK_LINES, "the first ones are there");
        assert!(size_of::<Line>() * CHUNK_LINES * CHUNKS_MAX <= 48 << 20, "as promised");
    }

    #[test]
    fn a_log_that_cannot_be_written_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        let error = LatencyLog::create(directory.path().join("none/log")).unwrap_err().to_string();
        assert!(error.contains("none/log: can't write the log: No such file"), "{error}");
        if Path::new("/dev/full").exists() {
            let log = LatencyLog::create("/dev/full".into()).unwrap();
            drop(log.lines());
            let mut lines = log.lines();
            lines.push(line(1));
            drop(lines);
            let error = log.finish().unwrap_err().to_string();
            assert!(error.starts_with("/dev/full: can't write the log: No space"), "{error}");
        }
    }
}
