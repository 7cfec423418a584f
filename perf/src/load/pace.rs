//! When reads and writes of a rated job are due: evenly, by their bytes, from its start on.
//!
//! A job that fell behind catches up, as fio's does: what is due doesn't move because something else was late.

use crate::job::Rates;
use crate::pattern::Kind;

#[derive(Clone, Debug)]
pub(super) struct Pace {
    read: Option<Line>,
    write: Option<Line>,
    start_ns: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Line {
    bytes_per_second: u64,
    started_bytes: u64,
}

/// What a job may start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// One of that kind, which was due at that time; without a limit now.
    Now { kind: Kind, due_ns: u64 },
    /// Nothing before that time.
    At(u64),
}

impl Pace {
    pub fn new(rates: &Rates) -> Pace {
        let line = |bytes_per_second: u64| Line { bytes_per_second, started_bytes: 0 };
        Pace { read: rates.read.map(line), write: rates.write.map(line), start_ns: None }
    }

    /// Whether a request of a kind may start. If not, a mixed job starts one of the other kind, as in fio.
    pub fn poll(&mut self, kind: Kind, mixed: bool, now_ns: u64) -> Due {
        let start_ns = *self.start_ns.get_or_insert(now_ns);
        let due_ns = |kind| self.line(kind).map_or(now_ns, |line| line.due_ns(start_ns));
        let wanted_ns = due_ns(kind);
        if wanted_ns <= now_ns {
            return Due::Now { kind, due_ns: wanted_ns };
        }
        if !mixed {
            return Due::At(wanted_ns);
        }
        let other = if kind == Kind::Read { Kind::Write } else { Kind::Read };
        match due_ns(other) {
            due_ns if due_ns <= now_ns => Due::Now { kind: other, due_ns },
            due_ns => Due::At(due_ns.min(wanted_ns)),
        }
    }

    /// A request of a kind starts.
    pub fn start(&mut self, kind: Kind, length_bytes: u64) {
        let line = if kind == Kind::Read { &mut self.read } else { &mut self.write };
        if let Some(line) = line {
            line.started_bytes = line.started_bytes.saturating_add(length_bytes);
        }
    }

    fn line(&self, kind: Kind) -> Option<Line> {
        if kind == Kind::Read { self.read } else { self.write }
    }
}

impl Line {
    /// When the next request is due.
    fn due_ns(&self, start_ns: u64) -> u64 {
        let since = u128::from(self.started_bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        start_ns.saturating_add(u64::try_from(since).unwrap_or(u64::MAX))
    }
}
