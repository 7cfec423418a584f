//! The table of open shard files of one core: what is in each slot, and how to name it to the ring.

use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use io_uring::squeue::Entry;
use io_uring::types::{Fd, Fixed};

use crate::engine::FileSlot;

/// Slots, chosen and kept apart by the engine: a slot used in a way its state doesn't allow is a bug and
/// panics.
#[derive(Debug)]
pub struct Files {
    slots: Vec<Slot>,
}

#[derive(Debug, Default)]
enum Slot {
    #[default]
    Empty,
    /// An open is in flight.
    Opening,
    Open {
        file: OwnedFd,
        /// It also stands in the ring's table, at the slot's index: cheaper to use there.
        registered: bool,
    },
}

/// How the ring knows a file.
#[derive(Clone, Copy, Debug)]
pub enum FileName {
    /// By its place in the registered table.
    Registered(u32),
    /// By descriptor.
    Plain(RawFd),
}

impl Files {
    /// A table of `count` empty slots.
    pub fn new(count: u32) -> Files {
        Files { slots: (0..count).map(|_| Slot::Empty).collect() }
    }

    /// Reserves an empty slot for an open in flight.
    pub fn reserve(&mut self, slot: FileSlot) {
        let place = self.place(slot);
        assert!(matches!(place, Slot::Empty), "{slot:?} is in use");
        *place = Slot::Opening;
    }

    /// Gives a reserved slot up: the open failed.
    pub fn abandon(&mut self, slot: FileSlot) {
        let place = self.place(slot);
        assert!(matches!(place, Slot::Opening), "{slot:?} isn't being opened");
        *place = Slot::Empty;
    }

    /// Fills a reserved slot.
    pub fn install(&mut self, slot: FileSlot, file: OwnedFd, registered: bool) {
        let place = self.place(slot);
        assert!(matches!(place, Slot::Opening), "{slot:?} isn't being opened");
        *place = Slot::Open { file, registered };
    }

    /// Empties an open slot.
    pub fn take(&mut self, slot: FileSlot) -> OwnedFd {
        match std::mem::take(self.place(slot)) {
            Slot::Open { file, .. } => file,
            other => panic!("{slot:?} isn't open but {other:?}"),
        }
    }

    /// How to name the file of an open slot.
    pub fn name(&self, slot: FileSlot) -> FileName {
        match &self.slots[slot.0 as usize] {
            Slot::Open { registered: true, .. } => FileName::Registered(slot.0),
            Slot::Open { file, .. } => FileName::Plain(file.as_raw_fd()),
            other => panic!("{slot:?} isn't open but {other:?}"),
        }
    }

    fn place(&mut self, slot: FileSlot) -> &mut Slot {
        &mut self.slots[slot.0 as usize]
    }
}

impl FileName {
    /// Builds an entry for this file from the form that fits its name.
    pub fn entry(self, registered: impl FnOnce(Fixed) -> Entry, plain: impl FnOnce(Fd) -> Entry) -> Entry {
        match self {
            FileName::Registered(index) => registered(Fixed(index)),
            FileName::Plain(descriptor) => plain(Fd(descriptor)),
        }
    }
}
