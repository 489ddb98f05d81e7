//! One sender, one receiver: a byte ring of variable-length records whose commit word is in
//! line with the record, so that a small message and its signal travel in one cache line.
//!
//! ```text
//! record:  | commit word | payload, padded to 8 bytes |        word = len << 8 | flags, or 0
//! ring:    … released | record | record | 0 | free …           positions ever grow
//! ```
//!
//! **Send**: with room for the record *and* the word behind it, write the payload, zero the
//! word behind, then release-store this record's word. A kill leaves the whole record or
//! nothing. Where the word behind is in the next line, such stores go forth and back between
//! two lines, and a processor that has to fetch both does one after the other. So who sends
//! small messages **clears** several lines ahead at once, as far as the receiver has left
//! them, and then only writes payloads and words, ever forward. **Receive**: poll the word
//! at one's own position; not zero, it is a record. **Release**: store the position behind it
//! for the sender to see.
//!
//! **Batch**: write all records and the zero behind the last one, and the word of the first
//! one last. Until then that word is the zero behind what was committed before, so the
//! batch appears whole.
//!
//! The ring is mapped twice in a row, so that no record is split and none is padded: the
//! longest message is the capacity less 16 (its own word and the one behind it).
//!
//! Both ends keep a [`Ledger`]. The receiver's is what the sender polls for room, so it is
//! written at each release, and a successor starts where it says: what a dying receiver
//! held is delivered again. The sender's is for its successor and for those who [`look`].
//! It is written at every [`RECORD_EVERY`]th message only, because stores are what a small
//! message costs. From the further of both ledgers one walks the records that were
//! committed since: each has its length, and behind the last one is a zero.
//!
//! Such a walk finds every word as it was committed: the sender overwrites nothing behind
//! which the receiver isn't, and the receiver changes no words. A successor of the sender
//! walks beside a live receiver, but there is nobody who could overwrite. Somebody who
//! looks while both go on has seen what there was if the receiver's ledger is the same
//! after.
//!
//! Positions would wrap after 2^64 bytes, 58 years at 10 GB/s; they are refused from 2^63.
//!
//! Denser layouts were measured, in bare loops and by turns, with messages of 8 bytes: this one
//! takes 4.6 ns a message; a word of 4 bytes instead of 8, 4.7 to 5.2; one word for all 7 that a
//! line then has room for, 3.8. An endpoint's own instructions are more than the difference, so
//! what is done with each message is kept in line and short. And one word for several stands in
//! the way of a message nearly as long as the ring, until the receiver has looked past it.
//!
//! In the manner of Aeron's ring buffers (length in front of the record, stored last), but
//! zeroing what is ahead instead of the whole record after it was read.

mod reader;
mod walk;
mod writer;

use super::{Corrupt, ledger, memory::Memory};
use std::{num::NonZeroU64, sync::atomic::Ordering::Acquire};

#[cfg(test)]
pub(crate) use walk::glance;
pub(crate) use {
    reader::Reader,
    walk::{is_empty, look},
    writer::Writer,
};

/// What a record takes up besides its payload, and the word that has to fit behind it.
pub(crate) const OVERHEAD_BYTES: u64 = 16;

const WORD: u64 = 8;
const COMMITTED: u64 = 1;
const END: u64 = 2;
const LEN_SHIFT: u32 = 8;

/// After how many messages the sender's ledger is written: often enough that the walk of a
/// successor takes microseconds, seldom enough that the three stores don't count. It is the
/// records that a walk takes time for, not the bytes. A batch is not interrupted for it.
pub(crate) const RECORD_EVERY: u64 = 64;

/// What processors move from one to the other.
const LINE_BYTES: usize = 64;

/// Where the parts of a ring are, as byte offsets in the segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    /// The sender's ledger.
    pub(crate) sender_ledger: usize,
    /// The counts of the receiver's ledger.
    pub(crate) receiver_ledger: usize,
    /// The position of the receiver's ledger, which the sender polls when the ring looks
    /// full.
    pub(crate) released: usize,
    /// The first byte of the data area.
    pub(crate) data: usize,
    /// The length of the data area: a multiple of 8, at least 16.
    pub(crate) capacity: u64,
}

impl Geometry {
    /// The longest message, in bytes.
    pub(crate) fn max_message_len(&self) -> usize {
        (self.capacity - OVERHEAD_BYTES) as usize
    }

    /// Behind the data area.
    #[inline]
    fn end(&self) -> usize {
        self.data + self.capacity as usize
    }

    fn sender(&self) -> ledger::Place {
        ledger::Place::at(self.sender_ledger)
    }

    fn receiver(&self) -> ledger::Place {
        ledger::Place { position: self.released, counts: self.receiver_ledger }
    }

    fn check(&self, whose: &str, position: u64) -> Result<(), Corrupt> {
        if position % WORD == 0 && position < 1 << 63 {
            return Ok(());
        }
        Err(Corrupt(format!("the {whose}'s position is {position}")))
    }

    /// How much lies between the receiver and the sender.
    #[inline]
    fn used(&self, head: u64, released: u64) -> Result<u64, Corrupt> {
        match head.checked_sub(released) {
            Some(used) if used <= self.capacity && used % WORD == 0 => Ok(used),
            _ => Err(out_of_step(head, released)),
        }
    }
}

/// Says that the way here is seldom taken, so that the other one is kept short.
#[cold]
#[inline(never)]
fn seldom() {}

#[cold]
fn out_of_step(head: u64, released: u64) -> Corrupt {
    Corrupt(format!("the sender is at {head}, the receiver at {released}"))
}

/// A position, as where that is in the ring and the position of the ring's first byte in its
/// lap: so the word is found without a computation, and it takes one store to go on within a
/// lap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cursor {
    /// The offset of the word here.
    word: usize,
    lap: u64,
}

impl Cursor {
    fn at(geometry: &Geometry, position: u64) -> Self {
        let place = position % geometry.capacity;
        Self { word: geometry.data + place as usize, lap: position - place }
    }

    #[inline]
    fn position(&self, geometry: &Geometry) -> u64 {
        self.lap + self.place(geometry)
    }

    /// How far from the ring's first byte, in bytes.
    #[inline]
    fn place(&self, geometry: &Geometry) -> u64 {
        (self.word - geometry.data) as u64
    }

    /// The offset of the payload of the record here.
    #[inline]
    fn payload(&self) -> usize {
        self.word + WORD as usize
    }

    /// Goes on, by less than the ring's length.
    #[inline]
    fn advance(&mut self, geometry: &Geometry, size: u64) {
        self.word += size as usize;
        if self.word >= geometry.end() {
            *self = self.turned(geometry);
        }
    }

    /// Once in a lap: apart, so that what is done with each message is small enough to be inlined.
    #[cold]
    #[inline(never)]
    fn turned(self, geometry: &Geometry) -> Self {
        Self { word: self.word - geometry.capacity as usize, lap: self.lap + geometry.capacity }
    }

    /// The cursor `size` bytes further on.
    #[inline]
    fn ahead(mut self, geometry: &Geometry, size: u64) -> Self {
        self.advance(geometry, size);
        self
    }

    /// The message here, if one is committed and there is nothing special about it.
    #[inline]
    fn message(&self, memory: &impl Memory, geometry: &Geometry) -> Option<Record> {
        // Acquire: pairs with the Release of the record's word in `Writer`.
        Record::of_message(memory.load(self.word, Acquire), geometry)
    }

    /// The record here, if it is committed.
    #[inline]
    fn record(&self, memory: &impl Memory, geometry: &Geometry) -> Result<Option<Record>, Corrupt> {
        // Acquire: pairs with the Release of the record's word in `Writer`.
        match NonZeroU64::new(memory.load(self.word, Acquire)) {
            None => Ok(None),
            Some(word) if Record(word).is_possible(geometry) => Ok(Some(Record(word))),
            Some(word) => Err(self.bad_word(geometry, word.get())),
        }
    }

    #[cold]
    fn bad_word(&self, geometry: &Geometry, word: u64) -> Corrupt {
        let place = self.place(geometry);
        Corrupt(format!("the record at byte {place} of the ring starts with {word:#x}"))
    }
}

/// A record found in the ring: its word, which was loaded once and checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Record(NonZeroU64);

impl Record {
    /// What a word says, if that is a message and there is nothing special about it.
    #[inline]
    fn of_message(word: u64, geometry: &Geometry) -> Option<Self> {
        NonZeroU64::new(word).map(Self).filter(|record| record.is_message(geometry))
    }

    #[inline]
    fn is_possible(self, geometry: &Geometry) -> bool {
        self.flags() & !END == COMMITTED && self.fits(geometry)
    }

    /// The same, and no end mark.
    #[inline]
    fn is_message(self, geometry: &Geometry) -> bool {
        self.flags() == COMMITTED && self.fits(geometry)
    }

    #[inline]
    fn flags(self) -> u64 {
        self.0.get() & ((1 << LEN_SHIFT) - 1)
    }

    #[inline]
    fn fits(self, geometry: &Geometry) -> bool {
        // All of its bits, also where a length in memory has fewer.
        self.0.get() >> LEN_SHIFT <= geometry.capacity - OVERHEAD_BYTES
    }

    /// The payload's length, in bytes.
    #[inline]
    pub(crate) fn len(self) -> usize {
        (self.0.get() >> LEN_SHIFT) as usize
    }

    /// Whether it is no message but the mark of a stream's end.
    #[inline]
    pub(crate) fn is_end(self) -> bool {
        self.0.get() & END != 0
    }

    /// What it takes up in the ring, in bytes.
    #[inline]
    pub(crate) fn size(self) -> u64 {
        record_size(self.len() as u64)
    }
}

#[inline]
fn record_size(len: u64) -> u64 {
    // As `next_multiple_of`, which doesn't know that there is no overflow.
    WORD + ((len + WORD - 1) & !(WORD - 1))
}

#[inline]
fn committed(len: usize) -> u64 {
    (len as u64) << LEN_SHIFT | COMMITTED
}
