//! A position and a count that change together, whatever a kill leaves half done.
//!
//! Two entries and a word that says which one counts. The owner writes the other entry,
//! then the word; a process that is killed in between leaves the old entry in force. Only
//! the owner's successor and the curious read it, so its line stays with its owner.

use super::memory::Memory;
use std::sync::atomic::{
    Ordering::{Acquire, Relaxed, Release},
    compiler_fence,
};

/// How much memory a ledger takes, in bytes.
#[cfg_attr(not(test), expect(dead_code, reason = "documents the layout"))]
pub(crate) const LEDGER_LEN_BYTES: usize = 5 * 8;

/// Where a ledger is, and which of its entries counts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ledger {
    offset: usize,
    current: u64,
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
    /// The ledger at this byte offset, and what it says.
    pub(crate) fn open(memory: &impl Memory, offset: usize) -> (Self, Progress) {
        // Acquire: pairs with the Release in `write`. Its owner is dead or ourselves (the
        // kernel's lock said so), or we only look.
        let ledger = Self { offset, current: memory.load(offset, Acquire) & 1 };
        let entry = ledger.entry(ledger.current);
        let position = memory.load(entry, Relaxed);
        let count = memory.load(entry + 8, Relaxed);
        (ledger, Progress { position, count })
    }

    /// Records what counts from now on.
    #[inline]
    pub(crate) fn write(&mut self, memory: &impl Memory, progress: Progress) {
        // What is out of force mustn't be touched before the last change of that is made: a
        // kill cuts between instructions, so the compiler is all that has to keep to it.
        compiler_fence(Release);
        let next = self.current ^ 1;
        let entry = self.entry(next);
        memory.store(entry, progress.position, Relaxed);
        memory.store(entry + 8, progress.count, Relaxed);
        // Release: pairs with the Acquire in `open`.
        memory.store(self.offset, next, Release);
        self.current = next;
    }

    #[inline]
    fn entry(&self, which: u64) -> usize {
        self.offset + 8 + 16 * which as usize
    }
}
