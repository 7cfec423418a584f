//! What happened, for people and for the determinism test.
//!
//! Every event goes into a hash. Text is made only when somebody will read it.

use std::fmt;

use brick_wire::Timestamp;

/// What becomes of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recording {
    /// None is made.
    Hash,
    /// It is printed, line by line.
    Print,
    /// It is hashed like the events.
    Text,
}

/// The log of one run.
#[derive(Debug)]
pub struct Log {
    recording: Recording,
    hash: u64,
}

impl Log {
    /// An empty log.
    pub fn new(recording: Recording) -> Log {
        Log { recording, hash: 0xcbf2_9ce4_8422_2325 }
    }

    /// Two runs with the same hash did the same.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// Whether [`Log::line`] makes any text.
    pub fn is_text(&self) -> bool {
        self.recording != Recording::Hash
    }

    /// Puts a number into the hash.
    pub fn note(&mut self, number: u64) {
        self.hash = (self.hash ^ number).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(29);
    }

    /// Somebody did something.
    pub fn line(&mut self, now: Timestamp, who: fmt::Arguments<'_>, what: fmt::Arguments<'_>) {
        match self.recording {
            Recording::Hash => {}
            Recording::Print => {
                println!("{:>12.6} {:<10} {what}", now.0 as f64 / 1e9, who.to_string());
            }
            Recording::Text => {
                for byte in format!("{now:?} {who} {what}").bytes() {
                    self.note(u64::from(byte));
                }
            }
        }
    }
}
