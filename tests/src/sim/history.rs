//! What one half of one block may hold: its writes in the order in which they take effect, and what is
//! known of each.
//!
//! Order: sessions take effect in the order of their first epochs (fencing), and within a session,
//! overlapping requests in the order in which they were made (rule I13). So a read that returns a write
//! says that this write took effect and that earlier requests placed after it never will.

use brick_wire::{Epoch, Timestamp};

use super::content::Tag;

/// A request's place: the first epoch of its session, then its number there.
pub type Order = (Epoch, u64);

/// A write of this half.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its bytes.
    pub tag: Tag,
    order: Order,
    made_at: Timestamp,
    /// It was reported as done.
    completed_at: Option<Timestamp>,
    /// Whoever reads later sees this or something placed after it.
    certain_at: Option<Timestamp>,
    /// It never took effect: a later request saw something placed before it.
    void_at: Option<Timestamp>,
    /// A completed flush covers it: from then on not even a loss of power undoes it.
    flushed: bool,
    /// It was void when a flush completed: it can't come back even after a loss of power.
    gone: bool,
}

/// The writes of one half of a block.
#[derive(Clone, Debug)]
pub struct History {
    entries: Vec<Entry>,
    /// The last time that a loss of power may have undone completed writes.
    reverted_at: Option<Timestamp>,
    /// Every copy refused a write and none has completed since: the copies may differ until they are made
    /// equal (rule I9), so reads prove nothing.
    refused: Option<Order>,
}

/// What is wrong with a value.
pub type Complaint = String;

impl Default for History {
    fn default() -> History {
        let zero = Entry {
            tag: 0,
            order: (Epoch::ZERO, 0),
            made_at: Timestamp::ZERO,
            completed_at: Some(Timestamp::ZERO),
            certain_at: Some(Timestamp::ZERO),
            void_at: None,
            flushed: true,
            gone: false,
        };
        History { entries: vec![zero], reverted_at: None, refused: None }
    }
}

impl History {
    /// A write was asked for.
    pub fn begin(&mut self, now: Timestamp, order: Order, tag: Tag) {
        let entry = Entry {
            tag,
            order,
            made_at: now,
            completed_at: None,
            certain_at: None,
            void_at: None,
            flushed: false,
            gone: false,
        };
        let place = self.entries.partition_point(|other| other.order < order);
        self.entries.insert(place, entry);
    }

    /// A write was reported as done.
    pub fn complete(&mut self, now: Timestamp, tag: Tag, flushed: bool) -> Result<(), Complaint> {
        let reverted_at = self.reverted_at;
        let index = self.index(tag).expect("completed writes were begun");
        let entry = &mut self.entries[index];
        entry.completed_at = Some(now);
        entry.flushed |= flushed;
        if entry.gone || (entry.void_at.is_some() && reverted_at.is_none_or(|at| at < entry.made_at)) {
            return Err(format!("write {tag:#x} completed after a read had proved that it wasn't done"));
        }
        // A loss of power meanwhile may have undone it before its last answer arrived.
        if flushed || reverted_at.is_none_or(|at| at < entry.made_at) {
            entry.certain_at.get_or_insert(now);
        }
        let order = entry.order;
        if self.refused.is_some_and(|refused| refused < order) {
            self.refused = None;
        }
        Ok(())
    }

    /// Every copy refused a write: it may be on some, in part.
    pub fn refuse(&mut self, tag: Tag) {
        let index = self.index(tag).expect("refused writes were begun");
        let order = self.entries[index].order;
        self.refused = Some(self.refused.map_or(order, |other| other.max(order)));
    }

    /// A read made at `made_at` returned `tag`.
    pub fn read(
        &mut self,
        now: Timestamp,
        order: Order,
        made_at: Timestamp,
        tag: Tag,
    ) -> Result<(), Complaint> {
        let Some(index) = self.index(tag) else {
            return Err(format!("{tag:#x} was never written here; {}", self.describe()));
        };
        let entry = &self.entries[index];
        let complain = |what: &str| Err(format!("read {tag:#x}: {what}; {}", self.describe()));
        if entry.order.0 > order.0 {
            return complain("a session that had been replaced read its successor's write");
        }
        if entry.gone {
            return complain("it had been proved not done before a flush");
        }
        let flushed = self.entries.iter().rposition(|entry| entry.flushed).unwrap_or(0);
        let reverted = self.reverted_at.is_some_and(|at| at >= made_at);
        if self.refused.is_some() || reverted {
            let bounded = index >= flushed || self.entries[flushed].certain_at.is_none_or(|at| at > made_at);
            return if bounded { Ok(()) } else { complain("it is older than the last flush") };
        }
        if entry.void_at.is_some() {
            return complain("an earlier read had proved that it wasn't done");
        }
        for other in &self.entries[index + 1..] {
            let known = other.certain_at.is_some_and(|at| at <= made_at);
            let own_past = other.certain_at.is_some() && other.order < order;
            if known || own_past {
                return complain("stale, a later write had taken effect");
            }
        }
        self.entries[index].certain_at.get_or_insert(now);
        for other in &mut self.entries[index + 1..] {
            if other.order < order && other.void_at.is_none() {
                other.void_at = Some(now);
            }
        }
        Ok(())
    }

    /// A flush made at `made_at` completed. It covers what had been completed then.
    pub fn flush(&mut self, now: Timestamp, order: Order, made_at: Timestamp) {
        if let Some(index) = self.covered(order, made_at) {
            self.entries[index].flushed = true;
            self.entries[index].certain_at.get_or_insert(now);
        }
        for entry in &mut self.entries {
            entry.gone |= entry.void_at.is_some_and(|at| at <= made_at) && entry.completed_at.is_none();
        }
    }

    /// The place of the last write that a flush made at `made_at` covers.
    pub fn covered(&self, order: Order, made_at: Timestamp) -> Option<usize> {
        let covers = |entry: &Entry| {
            let own = entry.order.0 == order.0 && entry.completed_at.is_some_and(|at| at <= made_at);
            entry.order < order && (own || entry.certain_at.is_some_and(|at| at <= made_at))
        };
        self.entries.iter().rposition(covers)
    }

    /// Power was lost where it mattered: what no flush covers may be undone.
    pub fn revert(&mut self, now: Timestamp) {
        self.reverted_at = Some(now);
        let flushed = self.entries.iter().rposition(|entry| entry.flushed).unwrap_or(0);
        for entry in &mut self.entries[flushed + 1..] {
            entry.certain_at = None;
            if !entry.gone {
                entry.void_at = None;
            }
        }
    }

    /// Whether a loss of power can change nothing here: no write after the last flush.
    pub fn is_settled(&self) -> bool {
        self.entries[self.flushed() + 1..].iter().all(|entry| entry.gone)
    }

    /// The place of the last write that is known to have taken effect.
    pub fn certain(&self) -> usize {
        self.entries.iter().rposition(|entry| entry.certain_at.is_some()).unwrap_or(0)
    }

    /// The place of the last write that a completed flush covers.
    pub fn flushed(&self) -> usize {
        self.entries.iter().rposition(|entry| entry.flushed).unwrap_or(0)
    }

    /// Whether every copy refused a write and none completed since.
    pub fn is_refused(&self) -> bool {
        self.refused.is_some()
    }

    /// The place of a write.
    pub fn index(&self, tag: Tag) -> Option<usize> {
        self.entries.iter().rposition(|entry| entry.tag == tag)
    }

    /// The writes, for a complaint.
    pub fn describe(&self) -> String {
        let mut text = String::from("writes in order:");
        for entry in self.entries.iter().rev().take(8).rev() {
            text += &format!(" {:#x}@{}", entry.tag, entry.order.0);
            for (flag, name) in [
                (entry.completed_at.is_some(), "done"),
                (entry.certain_at.is_some(), "certain"),
                (entry.void_at.is_some(), "void"),
                (entry.flushed, "flushed"),
                (entry.gone, "gone"),
            ] {
                if flag {
                    text += "+";
                    text += name;
                }
            }
        }
        text
    }
}
