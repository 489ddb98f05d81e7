//! An allocator over a segment's data area, whose changes are undone unless they are whole.
//!
//! ```text
//! data:   log length · heads of the lists of free blocks · log · root · heap
//! heap:   block | block | block | …                             up to the end, without gaps
//! block:  mark 16 · size/16 41 · slack 6 · used 1 | size of the block before it | payload
//! free:   the payload begins with the next and the previous block of its list
//! ```
//!
//! Whoever has the lock changes words in place, but notes what was there before: first an entry
//! of the log (where, what), then the log's length, then the word. To commit is to store a
//! length of 0. So at any moment the entries, undone from the last to the first, lead back to
//! the last commit; the next one with the lock does that if the length isn't 0, and can die
//! at it too: nothing is noted meanwhile, so the next one does the same again. A write-ahead
//! log that only undoes ("steal, force"; Mohan et al., "ARIES", 1992, without its redo).
//!
//! Nothing need be noted of memory that was free at the last commit, apart from the words of
//! its block's header and list: whatever is there means nothing when it is free again. So what
//! is freed is given to nobody before the commit, which frees it.
//!
//! Free blocks are never neighbours (boundary tags; Knuth, "The Art of Computer Programming", 1,
//! 2.5), and are kept in a list for each power of two.

use super::{Corrupt, memory::Memory, state};
use std::sync::atomic::Ordering::{Relaxed, Release};

mod blocks;
mod session;
#[cfg(test)]
mod tests;

pub(crate) use session::Session;

/// The most words of what exists that one transaction changes.
pub(crate) const MOST_CHANGES: u64 = 1024;

/// Payloads begin at multiples of this.
pub(crate) const ALIGNMENT_BYTES: u64 = 16;
const HEADER_BYTES: u64 = 16;
/// A header, and the two links of a free one.
const LEAST_BYTES: u64 = 32;

/// Where things are, from the data area's start.
const LOG: usize = 0;
const BINS: usize = 64;
const BIN_COUNT: usize = 44;
const ENTRIES: usize = 512;
const ENTRY_BYTES: usize = 16;
const ROOT: u64 = (ENTRIES + MOST_CHANGES as usize * ENTRY_BYTES) as u64;

const MARK: u64 = 0x6172 << 48;
const MARK_MASK: u64 = 0xffff << 48;
const UNITS_SHIFT: u32 = 7;
const SLACK_MASK: u64 = 0x3f;

/// What of the data area isn't heap.
pub(crate) fn overhead_bytes(root_bytes: u64) -> u64 {
    root_bytes.saturating_add(ROOT).saturating_add(63) / 64 * 64
}

/// The smallest data area there can be.
pub(crate) fn least_bytes(root_bytes: u64) -> u64 {
    overhead_bytes(root_bytes).saturating_add(LEAST_BYTES)
}

/// What of a data area is heap.
pub(crate) fn heap_bytes(data_bytes: u64, root_bytes: u64) -> u64 {
    data_bytes.saturating_sub(overhead_bytes(root_bytes)) / ALIGNMENT_BYTES * ALIGNMENT_BYTES
}

/// What a data area of so many bytes, a multiple of 64, begins with: a root, and one free block.
pub(crate) fn first_contents(root: &[u8], data_bytes: u64) -> Vec<u8> {
    let heap = overhead_bytes(root.len() as u64) as usize;
    let size = data_bytes - heap as u64;
    let mut bytes = vec![0; heap + HEADER_BYTES as usize];
    let head = BINS + 8 * bin_of(size);
    bytes[head..head + 8].copy_from_slice(&HEADER_BYTES.to_ne_bytes());
    bytes[ROOT as usize..][..root.len()].copy_from_slice(root);
    bytes[heap..heap + 8].copy_from_slice(&header_word(size, 0, false).to_ne_bytes());
    bytes
}

/// Where things are, as byte offsets in the segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Bytes of blocks in use, and how many: the state's own words.
    used: usize,
    objects: usize,
    data: usize,
    root_bytes: usize,
    heap: usize,
    heap_bytes: u64,
}

impl Place {
    /// In a data area of `data_bytes`.
    pub(crate) fn of(place: &state::Place, data_bytes: u64, root_bytes: u64) -> Result<Self, Corrupt> {
        if data_bytes < least_bytes(root_bytes) {
            return Err(Corrupt(format!("{data_bytes} bytes are too few for a root of {root_bytes}")));
        }
        Ok(Self {
            used: place.own[0],
            objects: place.own[1],
            data: place.data,
            root_bytes: root_bytes as usize,
            heap: place.data + overhead_bytes(root_bytes) as usize,
            heap_bytes: heap_bytes(data_bytes, root_bytes),
        })
    }

    pub(crate) fn root(&self) -> usize {
        self.data + ROOT as usize
    }

    /// More blocks than there can be.
    pub(crate) fn most_objects(&self) -> u64 {
        self.heap_bytes / LEAST_BYTES
    }

    fn bin(&self, bin: usize) -> usize {
        self.data + BINS + 8 * bin
    }

    fn entry(&self, number: u64) -> usize {
        self.data + ENTRIES + number as usize * ENTRY_BYTES
    }

    fn word(&self, start: u64) -> usize {
        self.heap + start as usize
    }

    /// Whether a transaction changes the word there.
    fn is_changeable(&self, at: u64) -> bool {
        let Ok(at) = usize::try_from(at) else { return false };
        let bins = self.bin(0)..self.bin(BIN_COUNT);
        let rest = self.root()..self.heap + self.heap_bytes as usize;
        at % 8 == 0 && (at == self.used || at == self.objects || bins.contains(&at) || rest.contains(&at))
    }
}

/// Why something wasn't done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Nothing has changed.
    Full {
        asked_bytes: u64,
        free_bytes: u64,
        largest_bytes: u64,
    },
    TooManyChanges,
    Corrupt(String),
}

impl From<Corrupt> for Refused {
    fn from(corrupt: Corrupt) -> Self {
        Self::Corrupt(corrupt.0)
    }
}

fn corrupt<T>(what: String) -> Result<T, Refused> {
    Err(Refused::Corrupt(what))
}

/// How much there is of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Figures {
    pub(crate) capacity_bytes: u64,
    pub(crate) used_bytes: u64,
    pub(crate) objects: u64,
    pub(crate) largest_bytes: u64,
}

/// Undoes what the last one left unfinished, if it did.
pub(crate) fn undo(memory: &impl Memory, place: &Place) -> Result<(), Corrupt> {
    // Relaxed: whoever calls this has the lock.
    let len = memory.load(place.data + LOG, Relaxed);
    if len == 0 {
        return Ok(());
    }
    if len > MOST_CHANGES {
        return Err(Corrupt(format!("its log has {len} entries")));
    }
    let entry = |number| {
        let at = place.entry(number);
        let (at, old) = (memory.load(at, Relaxed), memory.load(at + 8, Relaxed));
        match place.is_changeable(at) {
            true => Ok((at as usize, old)),
            false => Err(Corrupt(format!("its log has an entry for byte {at}"))),
        }
    };
    (0..len).try_for_each(|number| entry(number).map(drop))?;
    for number in (0..len).rev() {
        let (at, old) = entry(number)?;
        memory.store(at, old, Relaxed);
    }
    // Release: all is undone before the log is empty, for who comes after our death.
    memory.store(place.data + LOG, 0, Release);
    Ok(())
}

/// The list for free blocks of so many bytes.
fn bin_of(size: u64) -> usize {
    (size.max(LEAST_BYTES).ilog2() - LEAST_BYTES.ilog2()) as usize
}

fn header_word(size: u64, slack: u64, is_used: bool) -> u64 {
    MARK | (size / ALIGNMENT_BYTES) << UNITS_SHIFT | slack << 1 | u64::from(is_used)
}
