//! A position and a count that change together, whatever a kill leaves half done, and that
//! others may read meanwhile.
//!
//! Two counts, and the position in a word whose lowest bit says which count belongs to it.
//! The owner writes the other count, then the word; a process that is killed in between
//! leaves the old pair in force. Whoever finds the word as it was, after it has read the
//! count, has read a pair: positions only grow, so the word is not an old one come again.
//! (As in a sequence lock, with the position as the sequence; Boehm, "Can seqlocks get
//! along with programming language memory models?", says which orderings it takes.)

use super::memory::Memory;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};

/// How much memory a ledger takes, in bytes.
#[cfg_attr(not(test), expect(dead_code, reason = "documents the layout"))]
pub(crate) const LEDGER_LEN_BYTES: usize = 3 * 8;

/// What positions must be multiples of: these bits of the word are free.
pub(crate) const POSITION_UNIT: u64 = 8;

/// The bit that says which count belongs to the position.
const SELECTOR: u64 = 1;

/// Where the words of a ledger are, as byte offsets in the segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// The position and the selector.
    pub(crate) position: usize,
    /// The two counts.
    pub(crate) counts: usize,
}

impl Place {
    /// All of its words, from this offset on.
    pub(crate) fn at(offset: usize) -> Self {
        Self { position: offset, counts: offset + 8 }
    }
}

/// What a ledger says, to its owner or somebody else.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ledger {
    place: Place,
    word: u64,
    count: u64,
}

/// How far an endpoint has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Bytes of the ring, ever-growing.
    pub(crate) position: u64,
    /// Messages.
    pub(crate) count: u64,
}

impl Ledger {
    /// What the ledger there says. While its owner lives and is somebody else, position and
    /// count are of one moment only if it [is current](Self::is_current) after.
    pub(crate) fn open(memory: &impl Memory, place: Place) -> Self {
        // Acquire: pairs with the Release of the word in `write`; the count is there.
        let word = memory.load(place.position, Acquire);
        // Acquire: pairs with the Release of the count in `write`; if this one belongs to a
        // later word, `is_current` sees that ours is no longer in force.
        let count = memory.load(count_at(place, word), Acquire);
        Self { place, word, count }
    }

    /// Whether its owner has not written since.
    pub(crate) fn is_current(&self, memory: &impl Memory) -> bool {
        memory.load(self.place.position, Relaxed) == self.word
    }

    /// How far the owner has come.
    #[inline]
    pub(crate) fn progress(&self) -> Progress {
        Progress { position: position_of(self.word), count: self.count }
    }

    /// Records what counts from now on.
    #[inline]
    pub(crate) fn write(&mut self, memory: &impl Memory, progress: Progress) {
        self.put(memory, progress.position | (!self.word & SELECTOR), progress.count);
    }

    /// Records that the owner has come further by so many bytes, a multiple of
    /// [`POSITION_UNIT`], and messages.
    #[inline]
    pub(crate) fn advance(&mut self, memory: &impl Memory, bytes: u64, messages: u64) {
        self.put(memory, self.word.wrapping_add(bytes) ^ SELECTOR, self.count.wrapping_add(messages));
    }

    #[inline]
    fn put(&mut self, memory: &impl Memory, word: u64, count: u64) {
        // Release: pairs with the Acquire of the count in `open`; and the count out of force
        // isn't touched before the last word is there, wherever a kill cuts.
        memory.store(count_at(self.place, word), count, Release);
        // Release: pairs with the Acquire of the word in `open`, and of who polls it.
        memory.store(self.place.position, word, Release);
        self.word = word;
        self.count = count;
    }
}

/// The position in a ledger's word.
#[inline]
pub(crate) fn position_of(word: u64) -> u64 {
    word & !SELECTOR
}

#[inline]
fn count_at(place: Place, word: u64) -> usize {
    place.counts + 8 * (word & SELECTOR) as usize
}
